"""Which config is in force, and which were before: made durable before anybody is shown it.

``config-record.json`` holds the documents themselves, so that what is in force needs neither a
network nor the manifest that brought it. A checksum stands in front. ``config-record.copy`` is the
same again, for the day the first is damaged; of the two, the first counts.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mailboat_agent.atomic_file import replace_durably
from mailboat_agent.ballast import give_up_ballast
from mailboat_agent.trust.kept_manifests import read_bounded
from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.documents.fleet_document import document_digest
from mailboat_schemas.errors import DiskFull, MailboatError
from mailboat_schemas.fleet_documents import Listed, place_of
from mailboat_schemas.overlays import NO_CONFIG, EffectiveConfig, Layer, effective

RECORD, COPY = "config-record.json", "config-record.copy"
# Beside the one in force. A device that goes back over more releases than that, each with a config
# of its own, keeps the one it has and says that it does not go with what runs.
EARLIER_MAX = 3
RECORD_BYTES_MAX = 4 << 20  # twelve documents of 80 KiB, every character of them escaped
_log = logging.getLogger(__name__)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)

    path: str
    epoch: int
    document: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    current: tuple[_Kept, ...]
    earlier: tuple[tuple[_Kept, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """``earlier`` are where a rollback of a model may bring this device back to, newest first."""

    current: EffectiveConfig = NO_CONFIG.in_force
    earlier: tuple[EffectiveConfig, ...] = ()

    def layers(self) -> Iterator[Layer]:
        for config in (self.current, *self.earlier):
            yield from config.layers

    def followed_by(self, config: EffectiveConfig) -> "Recorded":
        """With another in force, and the newest `EARLIER_MAX` of those that were, each once."""
        others = (
            each for each in (self.current, *self.earlier) if not each.has_the_layers_of(config)
        )
        return Recorded(current=config, earlier=tuple(islice(others, EARLIER_MAX)))


class ConfigRecord:
    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def load(self) -> tuple[Recorded, str]:
        """What was recorded, and what is wrong with the files, if anything. Never raises for what
        it finds on the disk."""
        problems: list[str] = []
        for name in (RECORD, COPY):
            try:
                content = read_bounded(self._data_dir / name, RECORD_BYTES_MAX)
                return _decode(content), "; ".join(problems)
            except FileNotFoundError:
                if name == RECORD:
                    problems.append(f"{name}: missing")
            # A file after a crash can be anything: zero-filled, it raises UnicodeDecodeError.
            except Exception as error:  # noqa: BLE001
                problems.append(f"{name}: {str(error)[:200] or type(error).__name__}")
        is_new = problems == [f"{RECORD}: missing"]
        return Recorded(), "" if is_new else "; ".join(problems)

    def save(self, recorded: Recorded) -> None:
        """
        Raises:
            DiskFull: also after giving up the ballast; what was recorded stands.
            DiskFailing: likewise.
        """
        content = _encode(recorded)
        try:
            replace_durably(self._data_dir / RECORD, content)
        except DiskFull:
            give_up_ballast(self._data_dir)
            replace_durably(self._data_dir / RECORD, content)
        try:
            replace_durably(self._data_dir / COPY, content)
        except MailboatError as error:
            _log.warning("The copy of the config's record could not be written: %s", error)


def _encode(recorded: Recorded) -> bytes:
    body = (
        _Record(current=_kept(recorded.current), earlier=tuple(map(_kept, recorded.earlier)))
        .model_dump_json()
        .encode()
    )
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(content: bytes) -> Recorded:
    """Raises ValueError, MailboatError."""
    digest, _, body = content.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its checksum does not hold")
    record = _Record.model_validate_json(body)
    return Recorded(
        current=effective(map(_layer, record.current)),
        earlier=tuple(effective(map(_layer, each)) for each in record.earlier[:EARLIER_MAX]),
    )


def _kept(config: EffectiveConfig) -> tuple[_Kept, ...]:
    return tuple(
        _Kept(
            path=layer.listed.place.path, epoch=layer.listed.epoch, document=layer.content.decode()
        )
        for layer in config.layers
    )


def _layer(kept: _Kept) -> Layer:
    place = place_of(kept.path)
    if place is None:
        raise ValueError(f"{kept.path!r} is no place")
    content = kept.document.encode()
    listed = Listed(
        place=place, digest=document_digest(content), length=len(content), epoch=kept.epoch
    )
    return Layer(listed=listed, document=ConfigDocument.parse(content), content=content)
