"""What the benchmarks of serving say of their own figures."""

import json
import math
from xml.etree import ElementTree as ET

from bench.serving import bar, report, swaps
from bench.serving.report import Line


def line(what: str, server: str, per_second: float) -> Line:
    return Line(what, 1, 1, 1, server, per_second, 1.0, 2.0, bare_per_second=100.0)


def test_a_bar_that_is_missed_or_was_not_measured_does_not_pass() -> None:
    held, missed = bar.at_most("a", 1.0, 1.0), bar.at_least("b", 0.79, 0.8)
    unknown = bar.above("c", math.nan, 1.0)

    assert [bar.status(each) for each in ([held], [held, unknown], [missed, unknown])] == [0, 2, 1]
    assert missed.told.endswith("MISSED")
    assert json.loads(bar.as_json([unknown]))["held"][0]["value"] is None


def test_a_single_failed_request_misses_the_bar_of_the_swaps() -> None:
    figures = {"p99_before_ms": 10.0, "requests_during": 9, "swap_seconds_max": 0.5}
    counts = {"requests": 99, "swaps": 50, "rollbacks": 20, "rollback_seconds_max": 0.1}

    def status(failed: int, p99_ms: float) -> int:
        result = swaps.Result(
            failed=failed,
            failures=(),
            p99_during_ms=p99_ms,
            **figures,  # type: ignore[arg-type]
            **counts,  # type: ignore[arg-type]
        )
        return bar.status(swaps.judge(result))

    assert (status(0, 30.0), status(1, 30.0), status(0, 30.1)) == (0, 1, 1)


def test_the_plot_has_a_bar_for_each_line_of_the_table_and_keeps_it_within() -> None:
    lines = [line("a < b", report.OURS, 93.0), line("a < b", "peer", 0.0), line("c", "peer", 900.0)]
    svg = ET.fromstring(report.plot(lines))  # noqa: S314 - our own
    bars = [each for each in svg.iter() if each.tag.endswith("rect")][1:]
    widths = [float(each.attrib["width"]) for each in bars]

    assert len(widths) == len(lines)
    assert widths[1] < widths[0] < widths[2] <= report.WIDTH - report.LEFT
