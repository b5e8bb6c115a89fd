"""The bench of the gate judges by the controller's own decision and says what promise it misses."""

from dataclasses import replace
from random import Random

import pytest
from bench.gate import report, traces
from bench.gate.__main__ import cells_of
from bench.gate.rules import Came, Verdict, by_decide, ours
from bench.gate.traces import NEVER, TRACES, Device

GOOD = report.Cell(
    rule="mailboat",
    trace="reference",
    devices=200,
    broken=0.1,
    runs=10_000,
    promoted=20,
    promoted_in_a_day=20,
    halted=1000,
    halted_hours=2.0,
)


@pytest.mark.parametrize("broken", [0.01, 0.3])
def test_the_quick_form_ends_as_the_controllers_decision_does(broken: float) -> None:
    for seed, trace in enumerate(TRACES):
        wave = traces.run(trace, 40, broken, Random(seed))

        assert ours(wave) == by_decide(wave)


def test_devices_that_go_silent_halt_when_they_are_overdue() -> None:
    wave = [Device(0.5, NEVER, failed=True)] * 6

    assert ours(wave) == by_decide(wave) == Came(Verdict.HALTED, 24.5)


def test_every_rule_is_tried_on_the_same_waves() -> None:
    cells = cells_of(("reference", 30, 0.4, 3, 0, 1))

    assert len({cell.rule for cell in cells}) == len(cells) > 3
    assert {cell.runs for cell in cells} == {3}


def test_a_promise_is_kept_only_if_the_bound_keeps_it() -> None:
    assert report.missed([GOOD]) == []
    assert report.missed([replace(GOOD, promoted=90)])  # 0.9 %, but up to 1.2 % by its bound
    assert report.missed([replace(GOOD, runs=100, promoted=0)])  # too few runs to say so
    healthy = replace(GOOD, broken=0.005, halted=0, promoted_in_a_day=9600)
    assert report.missed([healthy]) == []
    assert report.missed([replace(healthy, promoted_in_a_day=9500)])
    assert report.missed([replace(healthy, halted=95)])
    bad = replace(GOOD, broken=0.4, promoted=0, halted=10_000)
    assert report.missed([bad]) == []
    assert report.missed([replace(bad, halted_hours=3.0)])
    assert report.missed([replace(bad, halted=9_900)])
