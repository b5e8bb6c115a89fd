"""The artifact store in numbers, from what the last collection and the last scrub wrote down: a
scrape must not list a bucket."""

from collections.abc import Iterator
from datetime import datetime

from mailboat_controller.artifacts import garbage
from mailboat_controller.artifacts.scrub import Pass
from mailboat_controller.store import artifact_life
from mailboat_controller.store.transaction import Transaction


def of(tx: Transaction) -> tuple[tuple[str, str, float], ...]:
    """Name, explanation, value; without what is not known yet."""
    return (*_counts(tx), *_scrub(tx))


def _counts(tx: Transaction) -> Iterator[tuple[str, str, float]]:
    yield (
        "mailboat_artifacts_damaged",
        "Artifacts that were found damaged and not uploaded again.",
        len(artifact_life.damaged(tx)),
    )
    counted = artifact_life.job(tx, garbage.JOB)
    if counted is None:
        return
    yield "mailboat_artifacts", "Artifacts held, at the last collection.", counted["artifacts"]
    yield "mailboat_artifacts_bytes", "Their size.", counted["bytes"]
    yield (
        "mailboat_artifacts_missing",
        "Artifacts that a release names and that were not there, at the last collection.",
        counted["missing"],
    )


def _scrub(tx: Transaction) -> Iterator[tuple[str, str, float]]:
    newest = Pass.read(tx)
    if newest is None:
        return
    yield (
        "mailboat_artifact_scrub_checked_bytes",
        "What the newest check of everything has read.",
        newest.checked_bytes,
    )
    if newest.finished_at is not None:
        yield (
            "mailboat_artifact_scrub_finished_timestamp_seconds",
            "When everything was last read again and compared with its name.",
            datetime.fromisoformat(newest.finished_at).timestamp(),
        )
