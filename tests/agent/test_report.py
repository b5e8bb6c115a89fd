"""The report says what runs, is signed, and is not sent for nothing."""

from mailboat_agent.report import says_the_same
from mailboat_schemas.reports import ReportedState


def report(observed_at: int = 0, counter: int = 1) -> ReportedState:
    return ReportedState(
        fleet="demo",
        device="kiosk-1",
        hardware_class="kiosk-x86",
        site="-",
        session=1,
        observed_at=observed_at,
        manifest_counter=counter,
    )


def test_a_report_that_differs_in_its_time_alone_says_the_same() -> None:
    assert says_the_same(report(observed_at=1), report(observed_at=2))


def test_a_report_with_other_contents_does_not_say_the_same() -> None:
    assert not says_the_same(report(counter=1), report(counter=2))
    assert not says_the_same(None, report())
