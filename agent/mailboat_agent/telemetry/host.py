"""The machine under the agent: processors, memory, disk, heat, battery, energy.

The only module that imports psutil. What the host does not tell is absent, never 0.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from mailboat_agent.degraded.pressure import read_senses
from mailboat_agent.telemetry.energy import SYS, EnergyMeter
from mailboat_schemas.host_figures import Gauge, HostFigures

if TYPE_CHECKING:
    from mailboat_agent.degraded.pressure import Senses

# A sensor that is gone, a container without /proc or a driver's error cost one figure.
UNREADABLE = (psutil.Error, OSError, ValueError, RuntimeError, AttributeError, NotImplementedError)


class Host:
    """`sample` now and then, by one thread; `take` gives what was sampled since, and forgets it."""

    def __init__(self, data_dir: Path, root: Path = SYS) -> None:
        self._data_dir = data_dir
        self._root = root
        self._energy = EnergyMeter(root)
        self._process: psutil.Process | None = None
        with suppress(*UNREADABLE):
            self._process = psutil.Process()
        self._taken: HostFigures | None = None
        # The first answer of psutil is of no span at all.
        with suppress(*UNREADABLE):
            psutil.cpu_percent(interval=None)

    def sample(self, monotonic: float) -> HostFigures:
        """Read it all once. Never raises: a host that tells nothing has no figures."""
        senses: Senses = read_senses(self._root)
        used = self._energy.read(monotonic)
        figures = HostFigures(
            cpu_percent=_gauge(lambda: psutil.cpu_percent(interval=None)),
            load_1m=_gauge(lambda: psutil.getloadavg()[0]),
            memory_available_bytes=_gauge(lambda: psutil.virtual_memory().available),
            memory_total_bytes=_total_memory_bytes(),
            disk_free_bytes=_gauge(lambda: psutil.disk_usage(str(self._data_dir)).free),
            agent_resident_bytes=_gauge(self._resident_bytes),
            celsius=None if senses.celsius is None else Gauge.of(senses.celsius),
            battery_percent=(
                None if senses.battery_percent is None else Gauge.of(senses.battery_percent)
            ),
            energy_joules=None if used is None else used[0],
            energy_seconds=None if used is None else used[1],
        )
        self._taken = figures if self._taken is None else self._taken.plus(figures)
        return figures

    def take(self) -> HostFigures | None:
        """None when nothing was sampled since the last time."""
        taken, self._taken = self._taken, None
        return taken

    @property
    def was_sampled(self) -> bool:
        """Since it was last taken."""
        return self._taken is not None

    def put_back(self, figures: HostFigures | None) -> None:
        """What could not be written goes into the next window."""
        if figures is not None:
            self._taken = figures if self._taken is None else figures.plus(self._taken)

    def _resident_bytes(self) -> float | None:
        return None if self._process is None else self._process.memory_info().rss


def _gauge(read: Callable[[], float | None]) -> Gauge | None:
    with suppress(*UNREADABLE):
        value = read()
        return None if value is None else Gauge.of(float(value))
    return None


def _total_memory_bytes() -> int | None:
    with suppress(*UNREADABLE):
        return int(psutil.virtual_memory().total)
    return None
