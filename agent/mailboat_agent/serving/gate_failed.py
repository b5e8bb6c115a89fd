"""A gate of the trial that closed, and how much may be said of it."""

from collections.abc import Mapping
from typing import Any

from mailboat_schemas.errors import TrialFailed

EVIDENCE_ITEMS_MAX = 16
EVIDENCE_CHARS_MAX = 1000  # of one text


class GateFailed(TrialFailed):
    """A gate of the trial closed.

    ``evidence`` is small, and plain enough for any encoding. ``detail`` is more, for the device
    alone.
    """

    def __init__(
        self,
        reason: str,
        what: str,
        evidence: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(reason, what)
        self.evidence = dict(evidence or {})
        self.detail = dict(detail or {})
