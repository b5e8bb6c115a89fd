from pathlib import Path

import pytest

from mailboat_agent.degraded.pressure import (
    Gauge,
    Pressure,
    Reading,
    Senses,
    judge,
    read_senses,
)
from mailboat_agent.degraded.settings import PressureSetting

SETTING = PressureSetting(
    celsius_max=80, celsius_severe=90, battery_percent_min=30, battery_percent_severe=10
)


def zone(root: Path, number: int, text: str) -> None:
    directory = root / "class" / "thermal" / f"thermal_zone{number}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "temp").write_text(text)


def battery(root: Path, *, percent: str, status: str = "Discharging", **more: str) -> None:
    directory = root / "class" / "power_supply" / "BAT0"
    directory.mkdir(parents=True, exist_ok=True)
    files = {"type": "Battery", "capacity": percent, "status": status} | more
    for name, text in files.items():
        (directory / name).write_text(text + "\n")


def test_the_hottest_zone_counts_and_broken_sensors_do_not(tmp_path: Path) -> None:
    zone(tmp_path, 0, "45000\n")
    zone(tmp_path, 1, "61500\n")
    zone(tmp_path, 2, "-274000\n")
    zone(tmp_path, 3, "not a number")
    (tmp_path / "class" / "thermal" / "thermal_zone4").mkdir()

    assert read_senses(tmp_path) == Senses(celsius=61.5)


def test_a_battery_counts_while_it_is_drained_and_that_of_a_mouse_never(tmp_path: Path) -> None:
    battery(tmp_path, percent="55")
    assert read_senses(tmp_path).battery_percent == 55

    battery(tmp_path, percent="55", status="Charging")
    assert read_senses(tmp_path).battery_percent is None

    battery(tmp_path, percent="5", scope="Device")
    assert read_senses(tmp_path).battery_percent is None


def test_a_host_that_tells_nothing_is_not_under_pressure(tmp_path: Path) -> None:
    assert Gauge(SETTING, tmp_path / "nothing").look() == Reading()


@pytest.mark.parametrize(
    ("senses", "expected"),
    [
        (Senses(celsius=79.9), (Pressure.NONE, "")),
        (Senses(celsius=80.0), (Pressure.RAISED, "thermal")),
        (Senses(celsius=90.0), (Pressure.SEVERE, "thermal")),
        (Senses(battery_percent=30.0), (Pressure.RAISED, "power")),
        (Senses(battery_percent=10.0), (Pressure.SEVERE, "power")),
        (Senses(celsius=85.0, battery_percent=5.0), (Pressure.SEVERE, "power")),
    ],
)
def test_the_worse_of_heat_and_power_counts(senses: Senses, expected: tuple[Pressure, str]) -> None:
    reading = judge(SETTING, senses, Reading())

    assert (reading.pressure, reading.word) == expected


def test_it_does_not_come_and_go_at_the_edge() -> None:
    hot = judge(SETTING, Senses(celsius=80.0), Reading())

    assert judge(SETTING, Senses(celsius=75.0), hot).pressure is Pressure.RAISED
    assert judge(SETTING, Senses(celsius=74.9), hot).pressure is Pressure.NONE
    assert judge(SETTING, Senses(celsius=75.0), Reading()).pressure is Pressure.NONE
    severe = judge(SETTING, Senses(celsius=90.0), Reading())
    assert judge(SETTING, Senses(celsius=85.0), severe).pressure is Pressure.SEVERE
    assert judge(SETTING, Senses(celsius=84.0), severe).pressure is Pressure.RAISED


def test_what_no_bound_is_set_for_is_not_watched() -> None:
    assert not PressureSetting().watches
    assert judge(PressureSetting(), Senses(celsius=150, battery_percent=0), Reading()) == Reading()
