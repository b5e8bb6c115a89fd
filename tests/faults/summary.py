"""What a run of all harnesses came to: for people, for scripts, and for docs/reliability.md."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.jobs import HARNESSES, Result
from tests.faults.mutants import MUTANTS
from tests.faults.scenes import SCENES

DOCS = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- written by make test-faults -->", "<!-- end of what is written -->"
KILL_POINTS_MIN = 1000
POWER_STATES_MIN = 20_000


@dataclass(slots=True)
class Summary:
    counted: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    caught: dict[tuple[str, str], str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # of the run itself
    seconds: float = 0.0
    complete: bool = True  # all harnesses, so that the bounds hold

    def add(self, result: Result) -> None:
        self.counted.update(result.counted)
        self.violations += result.violations
        self.caught |= result.caught

    @property
    def mutants(self) -> list[str]:
        return [each.name for each in MUTANTS if any(name == each.name for name, _ in self.caught)]

    @property
    def survivors(self) -> list[str]:
        return [name for name in self.mutants if not self.caught_by(name)]

    def caught_by(self, mutant: str) -> str:
        """The harnesses that saw it, such as "AC"."""
        return "".join(each for each in HARNESSES if self.caught.get((mutant, each)))

    @property
    def faults(self) -> list[str]:
        """Why this run is no success."""
        found = [*self.violations, *self.problems]
        found += [f"no harness saw the planted defect: {name}" for name in self.survivors]
        if self.complete:
            if self.kill_points < KILL_POINTS_MIN:
                found.append(f"only {self.kill_points} kill points, {KILL_POINTS_MIN} are asked")
            if self.counted["C states"] < POWER_STATES_MIN:
                found.append(
                    f"only {self.counted['C states']} states, {POWER_STATES_MIN} are asked"
                )
        return found

    @property
    def kill_points(self) -> int:
        return self.counted["A kills"] + self.counted["B signal=KILL"]

    def lines(self) -> list[str]:
        caught = len(self.mutants) - len(self.survivors)
        return [
            self._line_of_a(),
            self._line_of_b(),
            self._line_of_c(),
            f"{len(self.violations)} violations in {len(SCENES)} scenes",
            f"{caught} of {len(self.mutants)} planted defects seen",
            f"{self.seconds:.0f} s",
        ]

    def _line_of_a(self) -> str:
        count = self.counted
        return (
            f"A, in process: {count['A points']} points, {count['A kills']} of them kills "
            f"({count['A killed twice']} crashed again while starting); at {count['A stopped']} a "
            f"refusing disk stopped the story; {_rate(count['A points'], count['A ms'])}"
        )

    def _line_of_b(self) -> str:
        count = self.counted
        return (
            f"B, strace: {count['B points']} points, {count['B signal=KILL']} of them kills; "
            f"{count['B agent points']} more on the real agent; "
            f"{_rate(count['B points'], count['B ms'])}"
        )

    def _line_of_c(self) -> str:
        count = self.counted
        return (
            f"C, power cuts: {count['C states']} states started, {count['C fully']} of them to the "
            f"end of their story, out of {count['C distinct']} distinct ones; "
            f"{_rate(count['C states'], count['C ms'])}"
        )

    def as_json(self) -> str:
        return json.dumps(
            {
                "kill_points": self.kill_points,
                "power_states": self.counted["C states"],
                "violations": len(self.violations),
                "mutants": len(self.mutants),
                "mutants_caught": len(self.mutants) - len(self.survivors),
                "caught_by": {name: self.caught_by(name) for name in self.mutants},
                "seconds": round(self.seconds, 1),
                "counted": dict(sorted(self.counted.items())),
                "faults": self.faults,
            }
        )

    def table(self) -> list[str]:
        lines = ["| planted defect | A | B | C |", "|---|---|---|---|"]
        for name in self.mutants:
            marks = ["seen" if each in self.caught_by(name) else "–" for each in HARNESSES]
            lines.append(f"| {name} | {' | '.join(marks)} |")
        return lines

    def write_docs(self) -> None:
        text = DOCS.read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        counts = [f"* {line}" for line in self.lines()]
        written = "\n".join([BEGIN, "", *counts, "", *self.table(), "", END])
        DOCS.write_text(before + written + after)


def _rate(number: int, milliseconds: int) -> str:
    """By the time that its own processes took, of which two run at once."""
    return f"{number / milliseconds * 1000:.0f} a second on each core" if milliseconds else "none"
