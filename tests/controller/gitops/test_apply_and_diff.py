"""`mailboat diff` and `mailboat apply`: a directory of documents beside a real controller."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from command_line import Said, mailboat
from mailboat_controller.cli import apply as apply_command
from mailboat_controller.cli import output
from mailboat_controller.gitops import applying, device_orders
from mailboat_controller.store import audit, classes, overrides, sites
from running_api import RunningApi

UNTIL = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)

CLASS_DOCUMENT = """\
apiVersion: mailboat/v1
kind: HardwareClass
metadata: {name: turnstile}
spec: {arch: aarch64, memory_budget: 256MiB, disk_budget: 1GiB}
"""
SITE = """\
apiVersion: mailboat/v1
kind: Site
metadata: {name: harbour}
spec: {broker_host: broker.harbour.example, policy: normal, labels: {country: nl}}
"""
HOLD = f"""\
apiVersion: mailboat/v1
kind: Hold
metadata: {{name: exhibition}}
spec: {{selector: "device in (dev-1,dev-2)", reason: an exhibition, until: {UNTIL.isoformat()}}}
"""


pytestmark = pytest.mark.usefixtures("as_alice")


@pytest.fixture
def fleet(tmp_path: Path, api: RunningApi) -> Iterator[Path]:
    """A directory of documents; what was applied of it is pruned afterwards."""
    place = tmp_path / "fleet"
    place.mkdir()
    yield place
    for file in place.rglob("*.yaml"):
        file.unlink()
    (place / "one.yaml").write_text(CLASS_DOCUMENT)
    mailboat("apply", "-f", place, "--prune", "--yes")


def results(said: Said) -> dict[str, str]:
    return {f"{each['kind']} {each['name']}": each["result"] for each in said.json["results"]}


def held(api: RunningApi) -> dict[str, str]:
    with api.store.read() as tx:
        return {device: rows[0].reason for device, rows in overrides.every(tx).items()}


def test_what_is_declared_comes_to_stand_and_then_nothing_differs(
    api: RunningApi, fleet: Path
) -> None:
    (fleet / "classes.yaml").write_text(CLASS_DOCUMENT + "---\n" + SITE)
    (fleet / "holds").mkdir()
    (fleet / "holds" / "exhibition.yml").write_text(HOLD)

    before = mailboat("diff", "-f", fleet, "-o", "json")
    assert before.code == output.EXIT_DIFFERENT
    assert set(results(before).values()) == {"created"}

    done = mailboat("apply", "-f", fleet, "--reason", "spring", "--commit", "a" * 40, "--json")
    assert (done.code, results(done)) == (0, results(before))
    assert list(results(done)) == [
        "HardwareClass turnstile",
        "Site harbour",
        "Hold exhibition",
    ]
    assert held(api) == {"dev-1": "an exhibition", "dev-2": "an exhibition"}
    after = mailboat("diff", "-f", fleet, "--prune", "--json")
    assert (after.code, set(results(after).values())) == (0, {"unchanged"})
    assert mailboat("apply", "-f", fleet, "--json").json["generation"] == done.json["generation"]
    with api.store.read() as tx:
        told = audit.newest(tx, "set:fleet", "gitops.apply")
        assert told is not None
        assert (told.actor, told.reason) == ("operator:alice", "spring")
        assert told.details["commit"] == "a" * 40
        site = audit.newest(tx, "site:harbour", "site.add")
        assert site is not None
        assert site.reason == f"spring (set fleet at {'a' * 40})"


def test_a_change_is_shown_field_by_field_with_its_place(fleet: Path) -> None:
    (fleet / "site.yaml").write_text(SITE)
    mailboat("apply", "-f", fleet)
    (fleet / "site.yaml").write_text(SITE.replace("policy: normal", "policy: error"))

    said = mailboat("diff", "-f", fleet)
    assert said.code == output.EXIT_DIFFERENT
    assert f"changed  Site harbour ({fleet}/site.yaml:1)" in said.out
    assert "    spec.policy: normal → error" in said.out
    markdown = mailboat("diff", "-f", fleet, "-o", "markdown").out
    assert "| changed | Site harbour | spec.policy | normal | error |" in markdown
    assert "result: changed" in mailboat("diff", "-f", fleet, "-o", "yaml").out
    assert mailboat("apply", "-f", fleet, "--dry-run").code == output.EXIT_DIFFERENT
    assert mailboat("apply", "-f", fleet).code == 0
    assert mailboat("diff", "-f", fleet).code == 0


def test_pruning_takes_what_apply_made_and_nothing_else(api: RunningApi, fleet: Path) -> None:
    by_hand = {"name": "by-hand", "broker_host": "x.example"}
    assert api.ask("POST", "/v1/sites", by="alice", body=by_hand).status == 201
    (fleet / "class.yaml").write_text(CLASS_DOCUMENT)
    (fleet / "site.yaml").write_text(
        SITE + "---\n" + SITE.replace("harbour", "by-hand").replace("normal", "error")
    )
    (fleet / "hold.yaml").write_text(HOLD)
    assert mailboat("apply", "-f", fleet).code == 0
    (fleet / "site.yaml").unlink()
    (fleet / "hold.yaml").unlink()

    assert mailboat("diff", "-f", fleet).code == 0, "without --prune nobody asks"
    said = mailboat("apply", "-f", fleet, "--prune", "--json")
    assert results(said) == {
        "HardwareClass turnstile": "unchanged",
        "Site harbour": "pruned",
        "Site by-hand": "left",
        "Hold exhibition": "pruned",
    }
    assert held(api) == {}
    with api.store.read() as tx:
        assert [row.name for row in sites.every(tx)] == ["by-hand"]
        assert "turnstile" in classes.names(tx)


def test_one_file_does_not_prune_the_others(fleet: Path) -> None:
    (fleet / "class.yaml").write_text(CLASS_DOCUMENT)

    assert mailboat("apply", "-f", fleet / "class.yaml", "--prune").code == output.EXIT_USAGE


def test_a_refused_document_stops_itself_and_the_pruning(api: RunningApi, fleet: Path) -> None:
    (fleet / "hold.yaml").write_text(HOLD)
    assert mailboat("apply", "-f", fleet).code == 0
    assert mailboat("device", "hold", "dev-3", "--reason", "a visit").code == 0
    (fleet / "hold.yaml").unlink()
    (fleet / "site.yaml").write_text(SITE)
    (fleet / "other.yaml").write_text(
        HOLD.replace("exhibition", "other").replace("device in (dev-1,dev-2)", "device=dev-3")
    )

    said = mailboat("apply", "-f", fleet, "--prune", "--json")
    assert said.code == output.EXIT_CONFLICT
    assert results(said) == {"Site harbour": "created", "Hold other": "refused"}
    assert "A hold by operator:alice stands for device dev-3: a visit." in said.out
    assert set(held(api)) == {"dev-1", "dev-2", "dev-3"}, "nothing was pruned"
    assert mailboat("device", "release-hold", "dev-3", "--reason", "over").code == 0


def test_a_hold_follows_its_selector_and_is_put_back(api: RunningApi, fleet: Path) -> None:
    (fleet / "hold.yaml").write_text(HOLD)
    mailboat("apply", "-f", fleet)
    mailboat("device", "release-hold", "dev-1", "--reason", "by hand")
    said = mailboat("diff", "-f", fleet)
    assert "devices: ['dev-2'] → ['dev-1', 'dev-2']" in said.out

    (fleet / "hold.yaml").write_text(HOLD.replace("dev-2)", "dev-3)"))
    assert mailboat("apply", "-f", fleet).code == 0
    assert set(held(api)) == {"dev-1", "dev-3"}
    ended = HOLD.replace(UNTIL.isoformat(), "2020-01-01T00:00:00Z")
    (fleet / "hold.yaml").write_text(ended)
    assert mailboat("apply", "-f", fleet).code == 0
    assert held(api) == {}
    assert "it ended at 2020" in mailboat("diff", "-f", fleet).out


def test_a_hold_that_somebody_put_in_its_place_is_theirs(api: RunningApi, fleet: Path) -> None:
    """It is neither overwritten nor taken back, though the set once ordered one there."""
    (fleet / "hold.yaml").write_text(HOLD)
    mailboat("apply", "-f", fleet)
    mailboat("device", "release-hold", "dev-1", "--reason", "by hand")
    assert mailboat("device", "hold", "dev-1", "--reason", "a visit").code == 0

    said = mailboat("apply", "-f", fleet)
    assert said.code == output.EXIT_CONFLICT
    assert "A hold by operator:alice stands for device dev-1: a visit." in said.out
    (fleet / "hold.yaml").unlink()
    (fleet / "class.yaml").write_text(CLASS_DOCUMENT)
    assert mailboat("apply", "-f", fleet, "--prune").code == 0
    assert held(api) == {"dev-1": "a visit"}
    assert mailboat("device", "release-hold", "dev-1", "--reason", "over").code == 0


def test_a_hold_that_is_given_another_name_goes_on(api: RunningApi, fleet: Path) -> None:
    (fleet / "hold.yaml").write_text(HOLD)
    mailboat("apply", "-f", fleet)
    (fleet / "hold.yaml").write_text(HOLD.replace("name: exhibition", "name: renamed"))

    said = mailboat("apply", "-f", fleet, "--prune", "--json")
    assert results(said).items() >= {"Hold renamed": "created", "Hold exhibition": "pruned"}.items()
    assert set(held(api)) == {"dev-1", "dev-2"}
    assert mailboat("diff", "-f", fleet, "--prune").code == 0


def test_a_hold_for_one_model_leaves_the_one_for_all(api: RunningApi, fleet: Path) -> None:
    (fleet / "hold.yaml").write_text(HOLD)
    mailboat("apply", "-f", fleet)
    (fleet / "hold.yaml").write_text(HOLD.replace("reason:", "model: vad, reason:"))
    assert mailboat("apply", "-f", fleet).code == 0

    with api.store.read() as tx:
        models = {row.model for rows in overrides.every(tx).values() for row in rows}
    assert models == {"vad"}


def test_what_another_set_declares_is_not_touched(fleet: Path) -> None:
    (fleet / "site.yaml").write_text(SITE)
    assert mailboat("apply", "-f", fleet).code == 0

    said = mailboat("apply", "-f", fleet, "--set", "another")
    assert said.code == output.EXIT_CONFLICT
    assert "Site harbour is declared by set fleet" in said.out


def test_of_two_that_apply_at_once_one_wins_and_the_other_is_told(
    api: RunningApi, fleet: Path
) -> None:
    (fleet / "site.yaml").write_text(SITE)
    seen = mailboat("diff", "-f", fleet, "--json").json["generation"]
    assert mailboat("apply", "-f", fleet).code == 0

    body = {"documents": [], "generation": seen}
    answer = api.ask("POST", "/v1/gitops/fleet/apply", by="alice", body=body)
    assert (answer.status, answer.json["code"]) == (409, "E-GITOPS-CHANGED")


def test_much_at_once_is_asked_about(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_command, "UNASKED_MAX", 1)
    (fleet / "all.yaml").write_text(CLASS_DOCUMENT.replace("1GiB", "2GiB") + "---\n" + SITE)

    said = mailboat("apply", "-f", fleet)
    assert said.code == output.EXIT_USAGE
    assert "2 documents would be created, changed or pruned" in said.err
    assert mailboat("apply", "-f", fleet, "--yes").code == 0


def test_a_viewer_compares_and_an_operator_applies(
    api: RunningApi, fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "site.yaml").write_text(SITE)
    with monkeypatch.context() as patch:
        patch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("vera")))
        assert mailboat("diff", "-f", fleet).code == output.EXIT_DIFFERENT
        assert mailboat("apply", "-f", fleet).code == output.EXIT_NOT_PERMITTED


def test_a_site_that_has_devices_is_not_pruned(api: RunningApi, fleet: Path) -> None:
    (fleet / "class.yaml").write_text(CLASS_DOCUMENT)
    (fleet / "site.yaml").write_text(SITE.replace("harbour", "lived-in"))
    mailboat("apply", "-f", fleet)
    token = api.kit(site="lived-in")["token"]
    assert api.enrol("dev-9", token=token).status == 201
    (fleet / "site.yaml").unlink()

    said = mailboat("apply", "-f", fleet, "--prune")
    assert said.code == output.EXIT_CONFLICT
    assert "1 devices are enrolled at site lived-in" in said.out
    body = {"reason": "over"}
    assert api.ask("POST", "/v1/devices/dev-9/revoke", by="alice", body=body).status == 200


def test_more_holds_than_a_set_takes_are_refused(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "DEVICE_DOCUMENTS_MAX", 0)
    (fleet / "hold.yaml").write_text(HOLD)
    assert "more than 0 Holds and Pins" in mailboat("diff", "-f", fleet).err


def test_a_hold_that_names_too_many_or_stands_too_long_is_refused(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "hold.yaml").write_text(HOLD.replace(UNTIL.isoformat(), "2099-01-01T00:00:00Z"))
    assert "which is more than 366 days" in mailboat("diff", "-f", fleet).out
    monkeypatch.setattr(device_orders, "DEVICES_MAX", 1)
    (fleet / "hold.yaml").write_text(HOLD)
    assert "names more than 1 devices" in mailboat("diff", "-f", fleet).out
