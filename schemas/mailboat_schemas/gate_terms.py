"""The statistical gate as an approver signs it: shares in millionths, times in whole seconds.

Every figure is required. A gate that lacks one, or whose figures make no sense together, is no
readable plan: nothing runs on it. Nobody fills in what an approver did not sign.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mailboat_schemas.cohort import PPM
from mailboat_schemas.documents.rollout_gate import HOURS_MAX, LOOKS_MAX, Gate, GateKind

SECONDS_MAX = HOURS_MAX * 3600
HALF_PPM = PPM // 2
RATIO_PPM_MAX = 1000 * PPM

VERDICT_HOURS = 24
SOAK_HOURS = 12
_HOUR_SECONDS = 3600
_PPM_OF_PERCENT = PPM // 100

Ppm = Annotated[int, Field(gt=0, lt=HALF_PPM)]
Seconds = Annotated[int, Field(ge=0, le=SECONDS_MAX)]


class StatisticalGate(BaseModel):
    """What is promised of a wave: see DESIGN section 8 and docs/gate.md."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Literal["statistical"]
    p0_ppm: Ppm  # may fail of a healthy release
    q_ppm: Annotated[int, Field(gt=0, lt=PPM)]  # fail of a release to halt early
    p1_ppm: Ppm  # not promoted when as many fail
    alpha_ppm: Ppm  # chance of halting a healthy one, for each of the two e-processes
    beta_ppm: Ppm  # chance of promoting one that breaks p1, over all looks
    silence_ppm: Ppm  # overdue devices that are usual
    verdict_seconds: Annotated[int, Field(gt=0, le=SECONDS_MAX)]
    soak_seconds: Seconds
    look_seconds: Annotated[int, Field(gt=0, le=SECONDS_MAX)]
    looks: Annotated[int, Field(ge=1, le=LOOKS_MAX)]
    control: bool
    latency_ratio_ppm: Annotated[int, Field(ge=0, le=RATIO_PPM_MAX)]  # 0 = not asked

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if not self.p0_ppm < self.p1_ppm:
            raise ValueError("'p0' has to be below 'p1': no release could be healthy and promoted")
        if not self.p0_ppm <= self.silence_ppm < self.q_ppm:
            raise ValueError("'silence' has to lie between 'p0' and 'q'")
        if not self.p0_ppm < self.q_ppm:
            raise ValueError("'p0' has to be below 'q'")
        if 0 < self.latency_ratio_ppm <= PPM:
            raise ValueError("'latency_p95_ratio_max' has to be above 1")
        return self

    @property
    def promises(self) -> tuple[int, ...]:
        """The figures that hold for a whole rollout, so that all of its waves share them."""
        return (
            self.p0_ppm,
            self.q_ppm,
            self.p1_ppm,
            self.alpha_ppm,
            self.beta_ppm,
            self.silence_ppm,
            self.verdict_seconds,
        )


def terms_of(gate: Gate) -> StatisticalGate | None:
    """The terms of a gate as it was written, what it leaves out filled in; None of another kind.

    Raises:
        ValueError: its figures make no sense together.
    """
    if gate.rule is not GateKind.STATISTICAL:
        return None
    try:
        return StatisticalGate(
            kind="statistical",
            p0_ppm=_ppm(gate.p0, 1),
            q_ppm=_ppm(gate.q, 30),
            p1_ppm=_ppm(gate.p1, 10),
            alpha_ppm=_ppm(gate.alpha, 1),
            beta_ppm=_ppm(gate.beta, 1),
            silence_ppm=_ppm(gate.silence, 7),
            verdict_seconds=seconds_of(gate.verdict_within_hours, VERDICT_HOURS),
            soak_seconds=seconds_of(gate.soak_hours, _soak_hours(gate)),
            look_seconds=seconds_of(gate.look_every_hours, 6),
            looks=5 if gate.looks is None else gate.looks,
            control=bool(gate.control),
            latency_ratio_ppm=round((gate.latency_p95_ratio_max or 0) * PPM),
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {message}" if where else message) from error


def check_gates(gates: Sequence[StatisticalGate | None]) -> None:
    """The gates of a rollout's waves, in their order.

    Raises:
        ValueError: they contradict each other.
    """
    first = next((index for index, gate in enumerate(gates) if gate is not None), len(gates))
    rest = gates[first:]
    if any(gate is None for gate in rest):
        # A failure that one wave allowed for would halt the next.
        raise ValueError("after a wave with a statistical gate every wave has one")
    if len({gate.promises for gate in rest if gate is not None}) > 1:
        raise ValueError(
            "statistical gates of one rollout share p0, q, p1, alpha, beta, silence and "
            "verdict_within: its evidence adds up over the waves"
        )


def seconds_of(hours: float | None, default: float = 0) -> int:
    """Whole seconds; what was asked for is never rounded to nothing."""
    hours = default if hours is None else hours
    return 0 if hours == 0 else max(1, round(hours * _HOUR_SECONDS))


def _soak_hours(gate: Gate) -> float:
    """A control group is compared by who was silent for as long as a verdict takes, so the first
    look has to be later than that."""
    return SOAK_HOURS + (gate.verdict_within_hours or VERDICT_HOURS if gate.control else 0)


def _ppm(percent: float | None, default: float) -> int:
    # A share too small for a millionth is one millionth: 0 would promise the impossible.
    return max(1, round((default if percent is None else percent) * _PPM_OF_PERCENT))
