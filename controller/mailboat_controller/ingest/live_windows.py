"""Telemetry windows that tell of live traffic, of releases that were accepted here."""

from collections.abc import Iterable
from dataclasses import dataclass

from mailboat_controller.store import releases
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.reports import TelemetryWindow


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveWindow:
    hardware_class: str
    window: TelemetryWindow

    @property
    def key(self) -> tuple[str, str, str]:
        return self.hardware_class, self.window.model, self.window.version


class LiveWindows:
    """Gathered over one batch of messages."""

    def __init__(self) -> None:
        self._told: list[LiveWindow] = []

    def add(self, hardware_class: str, windows: Iterable[TelemetryWindow]) -> None:
        self._told += [
            LiveWindow(hardware_class=hardware_class, window=window)
            for window in windows
            if _tells_of_live_traffic(window)
        ]

    def accepted(self, tx: Transaction) -> tuple[LiveWindow, ...]:
        """Those of releases that are what they say: a device may name anything."""
        told = {each.window.digest for each in self._told}
        known = releases.known(tx, told) if told else {}
        return tuple(
            each
            for each in self._told
            if known.get(each.window.digest) == (each.window.model, each.window.version)
        )


def _tells_of_live_traffic(window: TelemetryWindow) -> bool:
    figures = (window.counters, window.values, window.shifts, window.degraded, window.shadow)
    return any(figures)
