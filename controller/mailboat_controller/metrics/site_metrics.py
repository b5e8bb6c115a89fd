"""How the links to sites stand, for dashboards and for alerts that know when to expect a cut."""

from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from mailboat_controller.metrics import described
from mailboat_controller.sites.link_state import Link
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import credentials, sites
from mailboat_controller.store.engine import Store
from mailboat_controller.store.sites import SiteStanding
from mailboat_schemas.enrolment import Kind


class SiteMetrics(Collector):
    """A series for each site that the controller knows, and one for each policy of it."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def describe(self) -> list[Metric]:
        return []  # else registering would already read the database

    def collect(self) -> Iterator[Metric]:
        now = self._now()
        with self._store.read() as tx:
            standings = sites.standings(tx, now)
            ends = credentials.ends_by_name(tx, Kind.SITE)
        connected = described.gauges("mailboat_site_connected")
        seconds = described.gauges("mailboat_site_disconnected_seconds")
        expected = described.gauges("mailboat_site_disconnect_expected")
        policy = described.gauges("mailboat_site_disconnect_policy")
        expires = described.gauges("mailboat_site_certificate_expires_timestamp_seconds")
        for each in standings:
            name = each.row.name
            # A bridge that was never here is being set up; nothing is cut yet.
            if each.state.link is not Link.NEVER:
                connected.add_metric([name], float(each.state.link is not Link.CUT))
                seconds.add_metric([name], _cut_seconds(each, now))
            expected.add_metric([name], float(each.cut_is_expected))
            for kind in Policy:
                policy.add_metric([name, kind], float(kind is each.row.policy))
            if name in ends:
                expires.add_metric([name], ends[name].timestamp())
        yield from (connected, seconds, expected, policy, expires)


def _cut_seconds(standing: SiteStanding, now: datetime) -> float:
    state = standing.state
    if state.link is not Link.CUT or state.since is None:
        return 0.0
    return max(0.0, (now - state.since).total_seconds())
