"""Patches on their way: built by a real controller, applied by real agents, and what goes wrong."""

from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.demo.fleet import until
from mailboat_controller.demo.models import MODEL_NAME, Series, made_series, write_release_sources
from mailboat_controller.releases.build import Build
from mailboat_schemas.deltas import DeliveryOutcome
from real_fleet import CONVERGE_SECONDS_MAX, RealFleet, running_fleet

OLD, NEW = "6.2.0", "6.2.1"
PAIR = ("release", "delta", MODEL_NAME, "--from", OLD, "--to", NEW)


def sources(fleet: RealFleet) -> dict[str, Path]:
    series: Series = made_series()
    return write_release_sources(series, fleet.fleet.directory / "series", soak_seconds=0.1)


def starts_with_old(fleet: RealFleet) -> Build:
    """Everybody runs the older release, and the newer one is handed in."""
    paths = sources(fleet)
    for path in paths.values():
        path.write_text(path.read_text().replace("requests_min: 5", "requests_min: 0"))
    fleet.publisher.publish("a", paths["A"], waves="- percent: 100")
    fleet.wait_for(OLD)
    return fleet.publisher.hand_in("b", paths["B"])


def explained(fleet: RealFleet) -> list[dict[str, Any]]:
    operator = ("--connection", str(fleet.fleet.operator))
    return list(fleet.fleet.command(*PAIR, "--explain", *operator)["rows"])


def models_of(fleet: RealFleet) -> list[dict[str, Any]]:
    return [file for file in explained(fleet) if file["role"] == "model"]


def came(fleet: RealFleet) -> dict[str, int]:
    rows = fleet.fleet.get(f"/v1/releases/{MODEL_NAME}/{NEW}/standing")["deliveries"]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["outcome"]] = counts.get(row["outcome"], 0) + row["count"]
    return counts


@pytest.mark.slow
def test_a_patch_altered_in_the_store_costs_that_patch_and_is_counted(tmp_path: Path) -> None:
    with running_fleet(tmp_path, devices_per_class=1) as fleet:
        built = starts_with_old(fleet)
        explained(fleet)
        # Devices of a class are told of its patches together, once all of them are built.
        until(
            "the patches are offered",
            lambda: all(file["delta"]["offered"] for file in models_of(fleet)),
            CONVERGE_SECONDS_MAX,
        )
        models = models_of(fleet)
        victim = next(f for f in models if f["hardware_class"] == "kiosk-x86")["delta"]["patch"]
        stored = fleet.fleet.data / "artifacts" / victim[:2] / victim
        content = bytearray(stored.read_bytes())
        content[len(content) // 2] ^= 1
        stored.chmod(0o644)
        stored.write_bytes(content)

        fleet.publisher.approve("b", built, waves="- percent: 100")
        fleet.wait_for(NEW)
        fleet.wait_for_confirmation()

        assert came(fleet) == {
            DeliveryOutcome.DELTA: 1,
            DeliveryOutcome.DELTA_FAILED_THEN_FULL: 1,
        }


@pytest.mark.slow
def test_a_controller_killed_while_it_builds_goes_on_when_it_starts_again(tmp_path: Path) -> None:
    with running_fleet(tmp_path, devices_per_class=1) as fleet:
        starts_with_old(fleet)
        operator = ("--connection", str(fleet.fleet.operator))
        fleet.fleet.command(*PAIR, "--build", *operator)
        until(
            "something is being built",
            lambda: fleet.fleet.get("/v1/deltas", state="building"),
            CONVERGE_SECONDS_MAX,
        )
        fleet.fleet.controller.kill()
        fleet.fleet.start_controller()

        files = explained(fleet)

        assert {file["delta"]["state"] for file in files} == {"built"}
        until(
            "nothing is left to build",
            lambda: {row["state"] for row in fleet.fleet.get("/v1/deltas")} == {"built"},
            CONVERGE_SECONDS_MAX,
        )
        assert list((fleet.fleet.data / "scratch" / "deltas").iterdir()) == []
