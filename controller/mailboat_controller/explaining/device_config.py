"""The config of a device as the controller sees it: what it says is in force, what is signed for
it, and by the device's own rule what it makes of both."""

from collections.abc import Callable, Iterable, Sequence

from mailboat_controller.store import fleet_documents
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.fleet_documents import CONFIG_ROLE, Listed, Place
from mailboat_schemas.overlays import (
    ConfigChoice,
    EffectiveConfig,
    Layer,
    Running,
    choose,
    effective,
    places_of,
)
from mailboat_schemas.policy_rules import PolicyRange
from mailboat_schemas.reports import ReportedLayer, ReportedState

NOTHING = EffectiveConfig()


class DeviceConfigs:
    """Of one state of the database; each document is read once, however many devices have it."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._listed: dict[Place, Listed] | None = None
        self._layers: dict[Listed, Layer | None] = {}

    def choice(
        self,
        row: DeviceRow,
        report: ReportedState | None,
        document_of: Callable[[str], ReleaseDocument | None],
        policy_version: str | None = None,
        ranges: Sequence[PolicyRange] = (),
    ) -> ConfigChoice:
        """What is in force once the device has heard of everything that is signed for it."""
        in_force = self._reported(row, report)
        wanted = self._wanted(row)
        return choose(
            in_force if wanted is None else wanted,
            in_force,
            (),
            _running(report, document_of),
            policy_version,
            ranges,
        )

    def _wanted(self, row: DeviceRow) -> EffectiveConfig | None:
        """None: signed, and no device could use it."""
        if self._listed is None:
            self._listed = fleet_documents.in_force(self._tx, CONFIG_ROLE)
        places = _places(row)
        layers = [self._layer(self._listed[place]) for place in places if place in self._listed]
        return _effective(layers)

    def _reported(self, row: DeviceRow, report: ReportedState | None) -> EffectiveConfig:
        told: Iterable[ReportedLayer] = ()
        if report is not None and report.config is not None:
            told = report.config.layers
        places = {place.level: place for place in _places(row)}
        found = fleet_documents.by_digests(self._tx, [each.digest for each in told]) if told else []
        listed = [
            Listed(
                place=places[each.place.level],
                digest=each.digest,
                length=len(each.document),
                epoch=each.epoch,
            )
            for each in found
            if each.place == places[each.place.level]
        ]
        return _effective([self._layer(each) for each in listed]) or NOTHING

    def _layer(self, listed: Listed) -> Layer | None:
        if listed not in self._layers:
            row = fleet_documents.by_digest(self._tx, listed.digest)
            try:
                self._layers[listed] = (
                    None
                    if row is None
                    else Layer(
                        listed=listed,
                        document=ConfigDocument.parse(row.document),
                        content=row.document,
                    )
                )
            except MailboatError:
                self._layers[listed] = None
        return self._layers[listed]


def _places(row: DeviceRow) -> tuple[Place, ...]:
    return places_of(
        CONFIG_ROLE, hardware_class=row.hardware_class, site=row.site, device=row.device
    )


def _effective(layers: Iterable[Layer | None]) -> EffectiveConfig | None:
    found = list(layers)
    try:
        return None if None in found else effective(each for each in found if each is not None)
    except MailboatError:
        return None


def _running(
    report: ReportedState | None, document_of: Callable[[str], ReleaseDocument | None]
) -> list[Running]:
    found = []
    for each in () if report is None else report.models:
        document = None if each.serving_digest is None else document_of(each.serving_digest)
        if document is not None and each.serving_version is not None:
            ranges = document.compatibility
            found.append(
                Running(model=each.model, version=each.serving_version, compatibility=ranges)
            )
    return found
