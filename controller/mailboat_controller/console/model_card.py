"""Model cards, as plain text: what somebody wrote about a model is never markup here."""

from collections.abc import Iterator
from dataclasses import dataclass

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_schemas.documents.release import File, FileRole, ReleaseDocument
from mailboat_schemas.errors import MailboatError

CARD_BYTES_MAX = 64 * 1024  # shown; the whole is in the release
CARDS_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """``text`` is empty where ``because`` says why there is none to show."""

    path: str
    text: str
    because: str = ""


def model_cards(document: ReleaseDocument, store: ArtifactStore) -> list[ModelCard]:
    """One for each different card of its variants, read from the artifact store."""
    cards = {
        file.sha256: file
        for variant in document.variants
        for file in variant.files
        if file.role is FileRole.MODEL_CARD
    }
    return [_card(file, store) for file in list(cards.values())[:CARDS_MAX]]


def _card(file: File, store: ArtifactStore) -> ModelCard:
    if file.sealed is not None:
        return ModelCard(path=file.path, text="", because="it is encrypted with the release")
    try:
        content = b"".join(_beginning(file, store))
    except MailboatError as error:
        return ModelCard(path=file.path, text="", because=error.what)
    text = content.decode("utf-8", errors="replace")
    cut = f"the first {CARD_BYTES_MAX // 1024} KiB" if file.length > CARD_BYTES_MAX else ""
    return ModelCard(path=file.path, text=_printable(text), because=cut)


def _beginning(file: File, store: ArtifactStore) -> Iterator[bytes]:
    yield from store.read(file.artifact_digest, 0, min(file.length, CARD_BYTES_MAX))


def _printable(text: str) -> str:
    """Without what could turn the direction of text, or hide in it."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in text)
