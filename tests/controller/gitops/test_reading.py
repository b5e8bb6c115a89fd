"""What a directory may hold, and how it is told where a mistake is."""

from pathlib import Path

import pytest

from mailboat_controller.gitops import reading
from mailboat_controller.gitops.differences import DIFFERENCES_MAX, Difference, differences
from mailboat_controller.gitops.reading import as_sent, read_tree
from mailboat_schemas.errors import DocumentInvalid

SITE = """\
apiVersion: mailboat/v1
kind: Site
metadata: {name: harbour}
spec: {broker_host: broker.example}
"""
MISSPELT = SITE.replace("broker_host", "broker_hots")
HEAD = "apiVersion: mailboat/v1\n"
HOLD = HEAD + "kind: Hold\nmetadata: {name: h}\nspec:\n  reason: r\n  until: 2031-01-01T00:00:00Z\n"
ROLLOUT = (
    HEAD
    + "kind: Rollout\nmetadata: {name: r}\nspec:\n"
    + "  release: {model: vad, version: 1.0.0}\n  waves:\n"
)


def problem(directory: Path, text: str | bytes) -> str:
    (directory / "fleet.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DocumentInvalid) as caught:
        read_tree(directory)
    return str(caught.value).replace(f"{directory}/", "")


def test_documents_come_in_the_order_they_are_applied(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(HOLD + "  selector: site=x\n---\n" + SITE)
    (tmp_path / "c.yml").write_text("---\n---\n" + SITE.replace("harbour", "airport"))
    (tmp_path / "notes.txt").write_text("no document")
    (tmp_path / ".hidden.yaml").write_text("no document")

    found = read_tree(tmp_path)

    assert [each.key for each in found] == [("Site", "airport"), ("Site", "harbour"), ("Hold", "h")]
    assert found[1].place == f"{tmp_path}/b.yaml:9"
    assert as_sent(found)[1]["spec"] == {"broker_host": "broker.example"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MISSPELT, "fleet.yaml:4:8: unknown key 'spec.broker_hots'"),
        (MISSPELT, "did you mean 'broker_host'?"),
        (SITE.replace("kind: Site", "kind: Sight"), "yaml:2:7: there is no kind 'Sight' here"),
        (SITE.replace("kind: Site", "kind: Sight"), "did you mean 'Site'?"),
        (HEAD + "metadata: {name: x}", "has no kind"),
        (SITE + "---\n" + SITE, "Site harbour stands in fleet.yaml:1 already"),
        (SITE + "kind: Site\n", "fleet.yaml:5:1: key 'kind' stands twice"),
        (HEAD + "kind: Site\nmetadata: &m {name: x}\nspec: *m\n", "is used by an alias"),
        (HEAD + "kind: Site\nspec: !!python/object:os.system x\n", "fleet.yaml:3:7"),
        (b"kind: \xff\xfe", "is not UTF-8 at byte 6"),
        ("", "is empty"),
        (SITE + "x: " + "[" * 40 + "]" * 40, "is nested too deep"),
        (SITE.replace("{broker", "{expected_until: 2026-13-45T00:00:00Z, broker"), "4:24"),
        (SITE.replace("{broker", "{expected_until: 2031-01-01T00:00:00Z, broker"), "'expected'"),
        (HOLD + "  selector: presence=online\n", "asks for 'presence', which passes"),
        (HOLD + "  selector: stale=vad\n", "asks for 'stale', which passes"),
        (HOLD + "  selector: 'class='\n", "lacks a value at character 7"),
        (HOLD + "  selector: ' '\n", "names every device"),
        (
            HOLD.replace("  until: 2031-01-01T00:00:00Z", "  selector: a=b"),
            "'spec.until' is missing",
        ),
        (HOLD.replace("  reason: r", "  selector: a=b"), "'spec.reason' is missing"),
        (HOLD.replace("2031-01-01T00:00:00Z", "2031-01-01") + "  selector: a=b\n", "spec.until"),
        (ROLLOUT + "  - {percent: 50}\n  - {percent: 10}\n", "who is in stays in"),
        (ROLLOUT + "  - {percent: 50, gate: {kind: perhaps}}\n", "spec.waves.0.gate.kind"),
        (ROLLOUT + "  - {percent: 50, gate: {kind: statistical, p0: .nan}}\n", "waves.0.gate.p0"),
        (ROLLOUT + "  - {percent: 100}\n---\n" + SITE, "is a Rollout beside other documents"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in problem(tmp_path, text)


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text(SITE)
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    (fleet / "one.yaml").symlink_to(tmp_path / "outside.yaml")

    with pytest.raises(DocumentInvalid, match="leads out of the directory"):
        read_tree(fleet)
    (fleet / "one.yaml").unlink()
    (fleet / "one.yaml").symlink_to("two.yaml")
    (fleet / "two.yaml").write_text(SITE)
    with pytest.raises(DocumentInvalid, match="already"):
        read_tree(fleet)


def test_what_is_no_file_or_no_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "pipe.yaml").mkdir()
    with pytest.raises(DocumentInvalid, match="holds no documents"):
        read_tree(tmp_path)
    with pytest.raises(DocumentInvalid, match="is no file"):
        read_tree(tmp_path / "missing.yaml")


@pytest.mark.parametrize("bound", ["FILES_MAX", "DOCUMENTS_MAX", "BYTES_MAX", "DIRECTORIES_MAX"])
def test_more_than_a_set_takes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(reading, bound, 1)
    (tmp_path / "sub").mkdir()
    for name in ("a", "b"):
        (tmp_path / "sub" / f"{name}.yaml").write_text(SITE.replace("harbour", name))

    with pytest.raises(DocumentInvalid, match="over what one set takes"):
        read_tree(tmp_path)


def test_what_the_controller_would_not_take_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(SITE)
    found = read_tree(tmp_path)
    monkeypatch.setattr(reading, "SENT_BYTES_MAX", 100)

    with pytest.raises(DocumentInvalid, match="over what one set takes"):
        as_sent(found)


def test_differences_are_told_by_path() -> None:
    before = {"a": 1, "b": {"c": [1, 2]}, "waves": [{"percent": 5}]}
    after = {"b": {"c": [1, 3]}, "d": None, "waves": [{"percent": 10}, {"percent": 100}]}

    assert differences(before, after) == (
        Difference(field="a", before=1, after=None),
        Difference(field="b.c", before=[1, 2], after=[1, 3]),
        Difference(field="d", before=None, after=None),
        Difference(field="waves[0].percent", before=5, after=10),
        Difference(field="waves[1]", before=None, after={"percent": 100}),
    )
    many = differences({}, {str(n): n for n in range(DIFFERENCES_MAX + 5)})
    assert (len(many), many[-1].after) == (DIFFERENCES_MAX + 1, "and 5 more")
