"""Words and limits that the command line has for itself, so that it need not load the contract."""

from typing import get_args

from mailboat_controller import data_directory
from mailboat_controller.cli import data, drill, site, site_order
from mailboat_controller.sites import policy
from mailboat_schemas import drills, site_orders


def test_what_may_be_chosen_is_what_the_contract_has() -> None:
    assert set(get_args(data.Issuable)) == {each.value for each in data_directory.ISSUABLE}
    assert set(get_args(drill.Outcome)) == {each.value for each in drills.DrillOutcome}
    assert set(get_args(site.Policy)) == {each.value for each in policy.Policy}
    assert site_order.COUNTER_MAX == site_orders.COUNTER_MAX
    assert site_order.HOURS_MAX == site_orders.LASTS_DAYS_MAX * 24
