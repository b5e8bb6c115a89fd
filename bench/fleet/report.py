"""What was measured, as tables of a page. Pure but for `write`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bench.ingest.report import PAGE, replace
from bench.serving.bar import Held

__all__ = ["PAGE", "table", "write"]
_BEGIN, _END = "<!-- measured: fleet -->", "<!-- end: fleet -->"


class Measured(Protocol):
    """`bench.fleet.__main__.Phase`."""

    name: str
    seconds: float
    controller_cpu_seconds: float
    broker_cpu_seconds: float
    controller_mib: float


def table(phases: Sequence[Measured]) -> str:
    head = "| phase | seconds | controller, CPU s | broker, CPU s | controller, MiB at most |\n"
    head += "|---|--:|--:|--:|--:|\n"
    return head + "".join(
        f"| {each.name} | {each.seconds:.1f} | {each.controller_cpu_seconds:.1f} "
        f"| {each.broker_cpu_seconds:.1f} | {each.controller_mib:.0f} |\n"
        for each in phases
    )


def write(
    directory: Path,
    phases: Sequence[Measured],
    held: Sequence[Held],
    figures: Mapping[str, object],
    machine: str,
    devices: int,
) -> None:
    lines = [
        f"{devices} devices on {machine}, without TLS on their side.",
        "",
        table(phases),
        "| figure | |",
        "|---|--:|",
        *(f"| {name} | {value:.2f} |" for name, value in figures.items()),
        "",
        "| bar | measured | bound | held |",
        "|---|--:|--:|---|",
        *(
            f"| {each.name} | {each.value:.2f} | {each.bound:g} | {'yes' if each.ok else 'no'} |"
            for each in held
        ),
    ]
    replace(directory / PAGE, _BEGIN, _END, "\n".join(lines) + "\n")
