"""Heat and power as this host tells them, and what that means. Only what a bound is set for counts.

Source: Linux, Documentation/ABI/testing/sysfs-class-thermal (millidegrees Celsius) and
sysfs-class-power (capacity in per cent).
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mailboat_agent.degraded.settings import PressureSetting

SYS = Path("/sys")
SENSORS_MAX = 64  # of one kind; a host has about ten
VALUE_BYTES_MAX = 64
# A bound that was passed counts until it is undercut by this much: no to and fro at the edge.
CELSIUS_BACK = 5.0
PERCENT_BACK = 5.0
CELSIUS_RANGE = (-60.0, 200.0)  # what lies outside is a sensor that is not connected


class Pressure(IntEnum):
    NONE = 0
    RAISED = 1  # what can wait is refused, less is accepted at once
    SEVERE = 2  # and smaller models answer where they are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """None where the host does not say. ``battery_percent`` counts only while it is drained."""

    celsius: float | None = None
    battery_percent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """``word`` is for headers, ``because`` for people; both empty without pressure."""

    pressure: Pressure = Pressure.NONE
    word: str = ""
    because: str = ""


def judge(setting: PressureSetting, senses: Senses, before: Reading) -> Reading:
    """How it stands now; the worse of heat and power. Pure.

    A sensor that says nothing brings no pressure and takes none away by itself: what was felt
    before by the other stays, what it had said itself is over.
    """
    heat = _above(senses.celsius, setting, before)
    power = _below(senses.battery_percent, setting, before)
    if heat is Pressure.NONE and power is Pressure.NONE:
        return Reading()
    if heat >= power:
        because = f"{senses.celsius:.0f} °C in the hottest zone"
        return Reading(pressure=heat, word="thermal", because=because)
    because = f"on battery with {senses.battery_percent:.0f} % left"
    return Reading(pressure=power, word="power", because=because)


def _above(celsius: float | None, setting: PressureSetting, before: Reading) -> Pressure:
    if celsius is None:
        return Pressure.NONE
    held = before.pressure if before.word == "thermal" else Pressure.NONE
    bounds = ((Pressure.SEVERE, setting.celsius_severe), (Pressure.RAISED, setting.celsius_max))
    for level, bound in bounds:
        if bound is not None and celsius >= bound - (CELSIUS_BACK if held >= level else 0):
            return level
    return Pressure.NONE


def _below(percent: float | None, setting: PressureSetting, before: Reading) -> Pressure:
    if percent is None:
        return Pressure.NONE
    held = before.pressure if before.word == "power" else Pressure.NONE
    bounds = (
        (Pressure.SEVERE, setting.battery_percent_severe),
        (Pressure.RAISED, setting.battery_percent_min),
    )
    for level, bound in bounds:
        if bound is not None and percent <= bound + (PERCENT_BACK if held >= level else 0):
            return level
    return Pressure.NONE


class Gauge:
    """Reads now and then, by one thread; ``reading`` may be looked at by any."""

    def __init__(self, setting: PressureSetting, root: Path = SYS) -> None:
        self._setting = setting
        self._root = root
        self.reading = Reading()

    @property
    def smaller_models(self) -> Mapping[str, str]:
        return self._setting.smaller_models

    @property
    def watches(self) -> bool:
        return self._setting.watches

    @property
    def check_seconds(self) -> float:
        return self._setting.check_seconds

    def look(self) -> Reading:
        """Read the sensors. Never raises: a host that tells nothing is not under pressure."""
        self.reading = judge(self._setting, read_senses(self._root), self.reading)
        return self.reading


def read_senses(root: Path = SYS) -> Senses:
    return Senses(
        celsius=_hottest(root / "class" / "thermal"),
        battery_percent=_emptiest(root / "class" / "power_supply"),
    )


def _hottest(directory: Path) -> float | None:
    low, high = CELSIUS_RANGE
    read = [_number(zone / "temp") for zone in _sensors(directory, "thermal_zone*")]
    celsius = [value / 1000 for value in read if value is not None]
    return max((value for value in celsius if low <= value <= high), default=None)


def _emptiest(directory: Path) -> float | None:
    """Of the batteries of the device itself that are being drained; a mouse has one too."""
    percents = []
    for supply in _sensors(directory, "*"):
        is_ours = _text(supply / "scope") != "Device"
        if _text(supply / "type") == "Battery" and is_ours:
            percent = _number(supply / "capacity")
            if _text(supply / "status") == "Discharging" and percent is not None:
                percents.append(percent)
    return min((percent for percent in percents if 0 <= percent <= 100), default=None)


def _sensors(directory: Path, pattern: str) -> Iterable[Path]:
    with suppress(OSError):
        return sorted(directory.glob(pattern))[:SENSORS_MAX]
    return ()


def _text(path: Path) -> str:
    # A sensor may be gone, or answer with an error of its driver.
    with suppress(OSError, UnicodeDecodeError), path.open("rb") as file:
        return file.read(VALUE_BYTES_MAX).decode().strip()
    return ""


def _number(path: Path) -> float | None:
    with suppress(ValueError):
        return float(int(_text(path)))
    return None
