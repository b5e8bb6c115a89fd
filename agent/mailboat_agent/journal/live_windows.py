"""What is told of live traffic besides counts and latencies, until it stands in a window."""

from datetime import datetime

from mailboat_agent.serving.live_view import LiveFigures, LiveView
from mailboat_agent.update.events import milliseconds
from mailboat_schemas.reports import TelemetryWindow
from mailboat_schemas.window_merge import merge_windows


class LiveWindows:
    """`take` what is new, then `put_into` the windows of what serves, then write the `rest`.

    What could not be written is still here the next time.
    """

    def __init__(self, live: LiveView) -> None:
        self._live = live
        self._untold: dict[tuple[str, str], TelemetryWindow] = {}  # by model and digest

    def take(self, model: str, began: datetime) -> None:
        for digest, figures in self._live.drain(model).items():
            window = _window(model, digest, began, figures)
            untold = self._untold.get((model, digest))
            both = window if untold is None else merge_windows(untold, window)
            self._untold[model, digest] = both.model_copy(update={"merged": 1})

    def put_into(self, window: TelemetryWindow) -> TelemetryWindow:
        """The window with what is told of its release."""
        untold = self._untold.get((window.model, window.digest))
        if untold is None:
            return window
        # What is told of is no window of its own.
        return merge_windows(untold, window).model_copy(update={"merged": window.merged})

    def told(self, window: TelemetryWindow) -> None:
        """This window has been written."""
        self._untold.pop((window.model, window.digest), None)

    def rest(self, seconds: float) -> list[TelemetryWindow]:
        """Of candidates that were mirrored to, and what was said late of a release that is gone."""
        return [each.model_copy(update={"seconds": seconds}) for each in self._untold.values()]


def _window(model: str, digest: str, began: datetime, figures: LiveFigures) -> TelemetryWindow:
    """It lasts no time: the window of what serves covers it."""
    return TelemetryWindow(
        sequence=1,  # the journal gives the real one
        model=model,
        version=figures.version,
        digest=digest,
        started_at=milliseconds(began),
        seconds=0,
        requests_ok=0,
        requests_error=0,
        counters=dict(figures.posted.counters),
        values=dict(figures.posted.values),
        shifts=figures.shifts,
        shadow=figures.shadow,
    )
