"""The config that the newest verified metadata lists for this device. Nothing is written here."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from mailboat_schemas.documents.config import ConfigDocument
from mailboat_schemas.errors import RollbackRefused, Transient
from mailboat_schemas.fleet_documents import Listed, Place, content_of, is_older
from mailboat_schemas.overlays import ConfigRefused, EffectiveConfig, Layer, effective

_DOCUMENTS_REMEMBERED = 16  # a device goes by three, and by three before


class ConfigOnItsWay(Transient):
    """A document is listed and has not come yet: with the next manifest, or the device's order."""

    code = "E-CONFIG-ON-ITS-WAY"


def wanted_config(
    listed: Mapping[Place, Listed], brought: Mapping[str, bytes], recorded: Iterable[Layer]
) -> EffectiveConfig:
    """
    Args:
        brought: documents by digest; those of ``recorded`` are at hand besides.
        recorded: what was in force here, now and before; nothing older is taken unless its signers
            say that they mean it.

    Raises:
        ConfigOnItsWay: a document has not come yet.
        ConfigRefused, MalformedPayload, RollbackRefused: signed, and yet not to be applied.
    """
    known = tuple(recorded)
    at_hand = {**brought, **{layer.listed.digest: layer.content for layer in known}}
    return effective(_layer(each, at_hand, known) for each in listed.values())


def _layer(listed: Listed, at_hand: Mapping[str, bytes], known: tuple[Layer, ...]) -> Layer:
    content = content_of(listed, at_hand)
    if content is None:
        raise ConfigOnItsWay(
            f"The config for {listed.place} has not come yet.",
            next_step="nothing: it comes with the next manifest, or the device's next order.",
        )
    document = _parsed(content)
    about = document.metadata
    if (about.level, about.target) != (listed.place.level, listed.place.target):
        raise ConfigRefused(
            f"The config for {about.level} {about.target} is listed for {listed.place}.",
            next_step="sign it again with `mailboat config approve`, which lists it where it is "
            "for.",
        )
    for layer in known:
        held = (layer.listed.epoch, layer.document.metadata.version)
        if layer.listed.place == listed.place and is_older((listed.epoch, about.version), held):
            raise RollbackRefused(
                f"Config {about.name} {about.version} for {listed.place} is older than "
                f"{held[1]}, which was in force here.",
                next_step="to go back, sign it as that: `mailboat config rollback`.",
            )
    return Layer(listed=listed, document=document, content=content)


@lru_cache(maxsize=_DOCUMENTS_REMEMBERED)
def _parsed(content: bytes) -> ConfigDocument:
    """The same bytes are asked for again with every new manifest. Raises MalformedPayload."""
    return ConfigDocument.parse(content)
