"""Where a site's order lets a device go back to. Pure.

To what ran here before and is at hand, or to stay with what runs: never forward, never to what is
not approved, never below the security version that the device has reached. Where the centre or a
Policy holds the device, it stays with what runs.
"""

from datetime import datetime

from mailboat_agent.update.refuge import fall_back_to
from mailboat_agent.update.situation import Situation, may_serve
from mailboat_schemas.device_orders import Pin
from mailboat_schemas.site_orders import ReportedSiteOrder, goes_back, pins_of


def site_pins(
    situation: Situation, said: ReportedSiteOrder | None, now: datetime
) -> tuple[Pin, ...]:
    """Of the situation's model; none where the device has nothing to go back to."""

    def way_back(model: str, version: str) -> str | None:
        return _way_back(situation, version, now) if model == situation.model else None

    return pins_of(said, way_back)


def _way_back(situation: Situation, version: str, now: datetime) -> str | None:
    serving = situation.state.serving
    if serving is None or serving.digest == situation.stopped:
        return None  # nothing serves that could be better or worse
    if not goes_back(version, serving.version):
        return None
    if serving.version == version:
        return serving.digest if may_serve(situation, serving) else None
    if situation.facts.centre_holds(situation.model, now):
        return None
    before = fall_back_to(situation)
    known = situation.of(before)
    if before is None or before.version != version or known is None or known.document is None:
        return None
    reached = situation.state.security_version
    return before.digest if known.document.security_version >= reached else None
