"""The report says what runs, is signed, and is not sent for nothing."""

from mailboat_agent.report import says_the_same
from mailboat_schemas.reports import (
    ANSWERED_STEP_SECONDS,
    ModelPhase,
    ReportedModel,
    ReportedState,
)


def report(
    observed_at: int = 0, counter: int = 1, answered: tuple[int | None, ...] = ()
) -> ReportedState:
    return ReportedState(
        fleet="demo",
        device="kiosk-1",
        hardware_class="kiosk-x86",
        site="-",
        session=1,
        observed_at=observed_at,
        manifest_counter=counter,
        models=tuple(
            ReportedModel(model=f"m{number}", phase=ModelPhase.COMMITTED, answered_at=at)
            for number, at in enumerate(answered)
        ),
    )


def test_a_report_that_differs_in_its_time_alone_says_the_same() -> None:
    assert says_the_same(report(observed_at=1), report(observed_at=2))


def test_a_report_with_other_contents_does_not_say_the_same() -> None:
    assert not says_the_same(report(counter=1), report(counter=2))
    assert not says_the_same(None, report())


def test_every_answer_is_not_worth_a_report_and_one_an_hour_later_is() -> None:
    noon = 1_795_262_400
    before = report(answered=(noon, noon))

    assert says_the_same(before, report(answered=(noon, noon + ANSWERED_STEP_SECONDS - 1)))
    assert not says_the_same(before, report(answered=(noon, noon + ANSWERED_STEP_SECONDS)))


def test_the_first_answer_and_the_first_after_a_start_are_told() -> None:
    assert not says_the_same(report(answered=(0,)), report(answered=(1_795_262_400,)))
    assert not says_the_same(report(answered=(1_795_262_400,)), report(answered=(0,)))
    assert not says_the_same(report(answered=(None,)), report(answered=(0,)))
    assert not says_the_same(report(answered=(7,)), report(answered=(7, 7)))
