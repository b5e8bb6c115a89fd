"""What the device, or its processors, have used of energy, where the host tells.

One source for a device, the first of: a sensor on its supply (Jetson and others name the rail
VDD_IN), the counters of its processors (RAPL), the battery it runs on. None is the usual case.

Source: Linux, Documentation/hwmon/sysfs-interface (millivolts, milliamperes), power/powercap
(microjoules), ABI/testing/sysfs-class-power (microwatts).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

SYS = Path("/sys")
SUPPLY_RAILS = frozenset({"VDD_IN", "POM_5V_IN"})
CHANNELS_MAX = 32
GAP_SECONDS_MAX = 300.0  # between two readings; what a sleeping device used is not guessed
WATTS_MAX = 10_000.0  # a reading beyond it is a counter that was set back


class EnergyMeter:
    """`read` now and then; gives what was used since the last time."""

    def __init__(self, root: Path = SYS) -> None:
        self._watts = _watts_reader(root)
        self._zones = [] if self._watts else _rapl_zones(root)
        if not self._zones and self._watts is None:
            self._watts = _battery_reader(root)
        self._before: tuple[float, float] | None = None  # monotonic, and watts or joules

    @property
    def is_known(self) -> bool:
        return self._watts is not None or bool(self._zones)

    def read(self, monotonic: float) -> tuple[float, float] | None:
        """Joules and over how many seconds; None the first time and where nothing can be said."""
        reading = self._watts() if self._watts is not None else _joules(self._zones)
        before, self._before = self._before, None if reading is None else (monotonic, reading)
        if reading is None or before is None:
            return None
        seconds = monotonic - before[0]
        if not 0 < seconds <= GAP_SECONDS_MAX:
            return None
        used = (reading + before[1]) / 2 * seconds if self._watts else reading - before[1]
        # A counter wraps about once an hour; that one reading is left out.
        return (used, seconds) if 0 <= used <= WATTS_MAX * seconds else None


def _watts_reader(root: Path) -> Callable[[], float | None] | None:
    for label in _sorted(root / "class" / "hwmon", "hwmon*/in*_label"):
        if _text(label) in SUPPLY_RAILS:
            number = label.name.removeprefix("in").removesuffix("_label")
            volts = label.with_name(f"in{number}_input")
            amperes = label.with_name(f"curr{number}_input")
            return lambda: _product(_number(volts), _number(amperes), 1e-6)
    return None


def _battery_reader(root: Path) -> Callable[[], float | None] | None:
    for supply in _sorted(root / "class" / "power_supply", "*/power_now"):
        if _text(supply.with_name("type")) == "Battery":
            return lambda: (
                _product(_number(supply), 1.0, 1e-6)
                if _text(supply.with_name("status")) == "Discharging"
                else None
            )
    return None


def _rapl_zones(root: Path) -> list[Path]:
    """Of whole packages: their parts are counted in them."""
    found = _sorted(root / "class" / "powercap", "intel-rapl:*/energy_uj")
    return [z for z in found if z.parent.name.count(":") == 1 and _number(z) is not None]


def _joules(zones: Iterable[Path]) -> float | None:
    read = [_number(zone) for zone in zones]
    known = [value for value in read if value is not None]
    return sum(known) * 1e-6 if known and len(known) == len(read) else None


def _product(one: float | None, other: float | None, unit: float) -> float | None:
    return None if one is None or other is None else abs(one * other) * unit


def _sorted(directory: Path, pattern: str) -> list[Path]:
    with suppress(OSError):
        return sorted(directory.glob(pattern))[:CHANNELS_MAX]
    return []


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError), path.open("rb") as file:
        return file.read(64).decode().strip()
    return ""


def _number(path: Path) -> float | None:
    with suppress(ValueError):
        return float(int(_text(path)))
    return None
