"""Documents people write, and errors that point at the place."""

from pathlib import Path

import pytest

from mailboat_schemas.documents import HardwareClass, Rollout
from mailboat_schemas.documents.yaml_source import DOCUMENT_BYTES_MAX, load_document, parse_document
from mailboat_schemas.errors import DocumentInvalid

CLASS = """\
apiVersion: mailboat/v1
kind: HardwareClass
metadata: {name: kiosk-x86}
spec:
  arch: x86_64
  memory_budget: 512MiB
  disk_budget: 2GiB
"""
ROLLOUT = """\
apiVersion: mailboat/v1
kind: Rollout
metadata: {name: vad-6-2-0}
spec:
  release: {model: vad, version: 6.2.0}
  waves:
    - pilots: [dev-1]
    - percent: 100
"""


def refusal(
    text: str, kind: type[HardwareClass] | type[Rollout] = HardwareClass
) -> DocumentInvalid:
    with pytest.raises(DocumentInvalid) as caught:
        parse_document(text.encode(), kind, source="class.yaml")
    return caught.value


def test_a_hardware_class_reads_its_sizes_in_bytes() -> None:
    document = parse_document(CLASS.encode(), HardwareClass, source="class.yaml")

    assert document.spec.memory_budget == 512 * 1024 * 1024


def test_a_misspelt_key_is_pointed_at_with_the_nearest_valid_one() -> None:
    error = refusal(CLASS.replace("memory_budget", "memory_bugdet"))

    assert error.where == "class.yaml:6:3"
    assert "memory_bugdet" in error.problem
    assert error.next_step == "did you mean 'memory_budget'?"


def test_a_key_far_from_any_other_gets_the_list_of_valid_ones() -> None:
    assert "apiVersion, kind, metadata, spec" in refusal(CLASS + "zzzz: 1\n").next_step


def test_a_missing_key_is_named_where_it_belongs() -> None:
    error = refusal(CLASS.replace("  arch: x86_64\n", ""))

    assert error.where == "class.yaml:4:1"
    assert "'spec.arch' is missing" in error.problem


def test_a_wrong_value_is_pointed_at() -> None:
    error = refusal(CLASS.replace("512MiB", "512QiB"))

    assert error.where == "class.yaml:6:3"
    assert "is not a size" in error.problem


def test_broken_yaml_is_pointed_at() -> None:
    assert refusal("spec: [1, 2").where == "class.yaml:1:12"


def test_a_key_that_stands_twice_is_refused() -> None:
    assert "stands twice" in refusal(CLASS + "kind: HardwareClass\n").problem


def test_aliases_are_refused_because_a_few_expand_to_gigabytes() -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"

    assert "alias" in refusal(bomb).problem


@pytest.mark.parametrize("text", ["", "- 1", "just text", "a: 1", "? [1]\n: 2", "[" * 1500])
def test_what_is_no_document_is_refused_in_words(text: str) -> None:
    assert refusal(text).next_step


def test_another_kind_of_document_is_refused() -> None:
    assert "kind" in refusal(ROLLOUT).problem or "unknown key" in refusal(ROLLOUT).problem


def test_a_file_over_the_bound_is_refused_unread() -> None:
    assert "over the limit" in refusal("#" * (DOCUMENT_BYTES_MAX + 1)).problem


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentInvalid, match="cannot be read"):
        load_document(tmp_path / "none.yaml", HardwareClass)


def test_a_wave_says_who_it_is_for() -> None:
    error = refusal(ROLLOUT.replace("percent: 100", "name: rest"), Rollout)

    assert error.where == "class.yaml:8:7"
    assert "'pilots', 'devices' or 'percent'" in error.problem


def test_a_rollout_reads() -> None:
    rollout = parse_document(ROLLOUT.encode(), Rollout, source="r.yaml")

    assert rollout.spec.waves[0].pilots == ("dev-1",)
