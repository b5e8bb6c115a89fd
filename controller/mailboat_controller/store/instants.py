"""Instants in the database: integer milliseconds since 1970 UTC, which sort and travel anywhere."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def to_ms(instant: datetime) -> int:
    return (instant - _EPOCH) // _MS


def from_ms(instant_ms: int) -> datetime:
    return _EPOCH + instant_ms * _MS
