"""Whether news of a site's devices can come to us."""

from collections.abc import Collection
from datetime import datetime

from mailboat_controller.presence import Reach
from mailboat_controller.sites.link_state import Link
from mailboat_controller.store import sites
from mailboat_controller.store.transaction import Transaction


def reach_by_site(tx: Transaction, names: Collection[str], now: datetime) -> dict[str, Reach]:
    """Of those of these sites that are cut off; the others stand in nobody's way."""
    return {
        each.row.name: Reach(away_since=each.state.since, name=f"the link to site {each.row.name}")
        for each in sites.standings(tx, now, names=names)
        if each.state.link is Link.CUT
    }
