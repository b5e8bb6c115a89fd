"""Which config is in force on this device: looked at each time, recorded, then shown.

Level-based like everything here: from the signed documents that are held, what is recorded, and
what runs, the same choice follows each time (`mailboat_schemas.overlays.choose`). So a crash at any
step is repaired by the next look, a device without a network goes by what it has, and a config
comes back by itself with the model that it went with.
"""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.facts import Device
from mailboat_agent.overlays.documents import FleetDocuments, same
from mailboat_agent.overlays.record import ConfigRecord, Recorded
from mailboat_agent.overlays.shown import Shown, write_file
from mailboat_agent.overlays.wanted import wanted_config
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.update.state import Installed
from mailboat_schemas.errors import DiskFull, MailboatError
from mailboat_schemas.fleet_documents import CONFIG_ROLE
from mailboat_schemas.overlays import ConfigChoice, EffectiveConfig, Running, choose
from mailboat_schemas.reports import ReportedConfig, ReportedLayer

BECAUSE_CHARS_MAX = 500
_log = logging.getLogger(__name__)


class ConfigInForce:
    """`open` once, then `look` as often as one likes; ``device.config`` is the choice."""

    def __init__(
        self, data_dir: Path, device: Device, manifest: Manifest, *, file: Path | None = None
    ) -> None:
        """Args: file: where the application reads the values; None: nowhere."""
        self._record = ConfigRecord(data_dir)
        self._recorded = Recorded()
        self._device = device
        self._manifest = manifest
        self._documents = FleetDocuments(manifest, device)
        self._file = file
        self._looked_at: tuple[object, ...] = ()
        self._looked_for: tuple[object, ...] = ()
        self._file_lacks = False  # a write of it failed
        self.problem: MailboatError | None = None  # why what is listed is not even considered
        self.shown = Shown.of(EffectiveConfig())

    def open(self) -> str:
        """Show what was in force; what is wrong with its record, if anything."""
        self._recorded, problem = self._record.load()
        if problem:
            _log.warning("The config's record is damaged: %s", problem)
            with suppress(DiskFull, DiskFailing):
                self._record.save(self._recorded)
        self._device.config = ConfigChoice(in_force=self._recorded.current)
        self._show()
        return problem

    def look(self, running: Sequence[Running]) -> bool:
        """Whether another config is in force now than before.

        A disk that refuses the record changes nothing; the next look tries again.
        """
        if self._file_lacks:
            self._show()
        device = self._device
        models = tuple((each.model, each.version) for each in running)
        for_now = (models, device.policy_version, device.policy_ranges)
        token = self._documents.token()
        if same(token, self._looked_at) and for_now == self._looked_for:
            return False
        was_refused = isinstance(self.problem, DiskFull | DiskFailing)
        choice = self._choose(running)
        try:
            changed = self._apply(choice)
        except (DiskFull, DiskFailing) as error:
            if not was_refused:  # it is tried again at every look
                _log.warning("The config could not be recorded: %s", error)
            self.problem = error
            return False
        self._looked_at, self._looked_for = token, for_now
        return changed

    def peek(self, running: Sequence[Running]) -> None:
        """As `open` and `look`, and nothing is written."""
        self._recorded, _ = self._record.load()
        self._device.config = self._choose(running)

    def _choose(self, running: Sequence[Running]) -> ConfigChoice:
        recorded = self._recorded
        wanted, problem = self._wanted()
        if problem is not None and str(problem) != str(self.problem):
            _log.warning("The config that is listed is not taken: %s", problem)
        self.problem = problem
        return choose(
            recorded.current if wanted is None else wanted,
            recorded.current,
            recorded.earlier,
            running,
            self._device.policy_version,
            self._device.policy_ranges,
        )

    def _wanted(self) -> tuple[EffectiveConfig | None, MailboatError | None]:
        """What is listed for this device, or why that cannot be said."""
        if self._manifest.view is None:
            return None, None  # nothing can be vouched for; what is in force stays
        try:
            listed = self._documents.listed(CONFIG_ROLE)
            brought = self._documents.brought()
            return wanted_config(listed, brought, self._recorded.layers()), None
        except MailboatError as error:
            return None, error

    def _apply(self, choice: ConfigChoice) -> bool:
        """Record, then show. Raises DiskFull, DiskFailing."""
        before = self._recorded.current
        changed = not choice.in_force.has_the_layers_of(before)
        if changed:
            recorded = self._recorded.followed_by(choice.in_force)
            self._record.save(recorded)
            self._recorded = recorded
            _log.info("Config in force: %s (before: %s).", choice.in_force.titles, before.titles)
        if choice.waiting is not None and choice != self._device.config:
            _log.warning("Config %s waits: %s.", choice.waiting.titles, choice.because)
        self._device.config = choice
        if changed:
            self._show()
        return changed

    def _show(self) -> None:
        self.shown = Shown.of(self._recorded.current)
        if self._file is not None:
            written = write_file(self._file, self.shown.content, again=self._file_lacks)
            self._file_lacks = not written

    # --- what is told of it ----------------------------------------------------------------------

    def notes(self) -> list[str]:
        found = []
        choice = self._device.config
        if choice.waiting is not None:
            found.append("config_waits")
        elif choice.because:
            found.append("config_unfit")
        if self.problem is not None:
            found.append(f"config_refused:{self.problem.code}")
        return found

    def reported(self) -> ReportedConfig | None:
        """None while nobody signed a config for this device, and none was in force."""
        choice = self._device.config
        in_force, waiting = choice.in_force, choice.waiting
        if not in_force.layers and waiting is None and self.problem is None:
            return None
        because = choice.because or ("" if self.problem is None else self.problem.what)
        return ReportedConfig(
            digest=self.shown.digest,
            layers=_told(in_force),
            waiting=() if waiting is None else _told(waiting),
            because=because[:BECAUSE_CHARS_MAX],
        )


def running(
    serving: Iterable[tuple[str, Installed | None]], manifest: Manifest
) -> tuple[Running, ...]:
    """What should serve, by model, with the ranges it was signed with."""
    found = []
    for model, release in serving:
        document = None if release is None else manifest.document(release.digest)
        if release is not None and document is not None:
            ranges = document.compatibility
            found.append(Running(model=model, version=release.version, compatibility=ranges))
    return tuple(found)


def _told(config: EffectiveConfig) -> tuple[ReportedLayer, ...]:
    return tuple(
        ReportedLayer(
            level=layer.listed.place.level,
            name=layer.document.metadata.name,
            version=layer.document.metadata.version,
            digest=layer.listed.digest,
        )
        for layer in config.layers
    )
