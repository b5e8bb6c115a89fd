"""One line of a story, of a rollout's as of a device's."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class TimelineEntry(BaseModel):
    """``at`` is the controller's clock; ``threshold`` what tripped. ``resumed``: what serves on a
    device that left the release (``version``; None: nothing), and after how many ``seconds`` by
    its own clock, if it told."""

    at: datetime
    what: str
    who: str
    subject: str
    because: str
    threshold: str
    resumed: dict[str, Any] | None
    details: dict[str, Any]
