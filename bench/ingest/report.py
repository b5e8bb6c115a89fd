"""What was measured, as a table and a page. Pure but for `write`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.serving.bar import Held

PAGE = "ingest-results.md"
_BEGIN, _END = "<!-- measured: ingest -->", "<!-- end: ingest -->"


class Measured(Protocol):
    """`bench.ingest.__main__.Run`."""

    who: str
    load: str
    messages: int
    events: int
    seconds: float
    cpu_us_per_message: float
    broker_cpu_us_per_message: float
    payload_bytes: int
    per_second: float


def table(runs: Sequence[Measured]) -> str:
    head = (
        "| load | who | messages | bytes each | events | events/s | CPU µs/message | broker's |\n"
    )
    head += "|---|---|--:|--:|--:|--:|--:|--:|\n"
    return head + "".join(
        f"| {run.load} | {run.who} | {run.messages} | {run.payload_bytes} | {run.events} "
        f"| {run.per_second:.0f} | {run.cpu_us_per_message:.0f} "
        f"| {run.broker_cpu_us_per_message:.0f} |\n"
        for run in runs
    )


def section(
    runs: Sequence[Measured], held: Sequence[Held], by_minute: Sequence[float], machine: str
) -> str:
    lines = [
        f"On {machine}.",
        "",
        table(runs),
        "Resident memory of the taking process by minute of the long run, MiB: "
        + ", ".join(f"{mib:.0f}" for mib in by_minute)
        + ".",
        "",
        "| bar | measured | bound | held |",
        "|---|--:|--:|---|",
        *(
            f"| {each.name} | {each.value:.2f} | {each.bound:g} | {'yes' if each.ok else 'no'} |"
            for each in held
        ),
    ]
    return "\n".join(lines) + "\n"


def write(
    directory: Path,
    runs: Sequence[Measured],
    held: Sequence[Held],
    by_minute: Sequence[float],
    machine: str,
) -> None:
    replace(directory / PAGE, _BEGIN, _END, section(runs, held, by_minute, machine))


def replace(path: Path, begin: str, end: str, content: str) -> None:
    """Between two marks of a page that is otherwise written by hand."""
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n{content}{end}{after}", encoding="utf-8")
