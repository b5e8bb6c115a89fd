"""`mailboat simulate`: exposure, halts and convergence of a made-up fleet."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailboat_controller.cli import app
from mailboat_controller.rollout.state import Phase
from mailboat_controller.simulate import report
from mailboat_controller.simulate.exposure import allowed
from mailboat_controller.simulate.plot import exposure_plot
from mailboat_controller.simulate.running import Ran, simulate
from mailboat_controller.simulate.scenario import Simulation
from mailboat_schemas.plan import Plan, PlanWave


def ran(devices: int, **spec: object) -> Ran:
    return simulate(
        Simulation.model_validate(
            {
                "apiVersion": "mailboat/v1",
                "kind": "Simulation",
                "metadata": {"name": "test"},
                "spec": {"devices": devices, **spec},
            }
        )
    )


def test_a_bad_release_halts_and_reaches_no_more_devices_than_the_waves_name() -> None:
    bad = ran(300, offline=0.3, release={"broken": 0.4}, days=3)

    assert bad.rollout.phase is Phase.HALTED
    assert bad.exposure.above == []
    assert 0 < bad.exposure.reached_devices <= 30
    assert bad.exposure.bad
    assert report.halted_seconds(bad) is not None


def test_a_good_release_reaches_everybody_whom_the_network_reaches() -> None:
    good = ran(100, offline=0.0, days=3)

    assert good.rollout.phase is Phase.COMPLETED
    assert len(good.exposure.good) == 100
    assert report.converged_seconds(good)["99%"] is not None
    assert good.manifests <= 1 + len(good.plan.waves) + 2  # not one for each device
    assert good.downloaded_bytes >= 100 * (20 << 20)


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (report.as_json(ran(60, offline=0.5, days=2, seed=7)) for _ in range(2))

    assert first == second


def test_what_the_waves_name_is_added_up_by_ring_and_pilots_come_on_top() -> None:
    plan = Plan(
        rollout="r",
        waves=(
            PlanWave(pilots=("a", "b")),
            PlanWave(count=3, cap_ppm=1, ring={"ring": "canary"}),
            PlanWave(count_ppm=100_000, cap_ppm=1),
            PlanWave(count_ppm=1_000_000, cap_ppm=1),
        ),
    )
    sizes = {0: {"kiosk": 95}, 1: {"kiosk": 2}, 2: {"kiosk": 95}, 3: {"kiosk": 95}}

    assert [allowed(plan, waves, sizes)["kiosk"] for waves in (1, 2, 3, 4)] == [2, 4, 14, 99]


def test_the_command_writes_a_report_and_a_picture(tmp_path: Path) -> None:
    scenario, rollout = tmp_path / "scenario.yaml", tmp_path / "rollout.yaml"
    scenario.write_text(
        "apiVersion: mailboat/v1\nkind: Simulation\nmetadata: {name: storm}\nspec: {devices: 9}\n"
    )
    rollout.write_text(
        "apiVersion: mailboat/v1\nkind: Rollout\nmetadata: {name: mine}\n"
        "spec:\n  release: {model: vad, version: 2.0.0}\n"
        "  waves: [{pilots: [kiosk-1]}, {percent: 100}]\n"
    )
    told, picture = tmp_path / "report.json", tmp_path / "plot.svg"
    command = ["simulate", "-f", str(scenario), "--rollout", str(rollout), "--devices", "40"]
    more = ["--offline", "0", "--days", "2", "--out", str(told), "--plot", str(picture)]

    result = CliRunner().invoke(app, [*command, *more])

    assert result.exit_code == 0, result.output
    assert "never above it" in result.output
    content = json.loads(told.read_text())
    assert content["exposure"]["never_above"]
    assert content["exposure"]["devices"] == 40
    assert content["scenario"]["metadata"]["name"] == "storm"
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize("option", [["--devices", "0"], ["--offline", "1.5"], ["--broken", "2"]])
def test_what_is_out_of_bounds_is_refused(option: list[str]) -> None:
    assert CliRunner().invoke(app, ["simulate", *option]).exit_code != 0


def test_an_exposure_that_is_too_wide_is_counted_and_shown() -> None:
    found = ran(20, offline=0.0, days=1)
    found.exposure.allowed = {"simulated": 3}
    found.exposure.exposed("stranger", "simulated", found.rollout.digest)

    assert len(found.exposure.above) == 1
    assert "ABOVE" in report.as_text(found)
    assert "stranger" in report.as_json(found)["exposure"]["above"][0]
    assert exposure_plot(found)
