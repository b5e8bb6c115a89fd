"""What bench.ingest and bench.fleet are made of, apart from the measuring."""

from pathlib import Path

from bench import mqtt_wire as wire
from bench.ingest import report
from bench.process_figures import ResidentMemory
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.lists(st.tuples(st.text("ab/", min_size=1), st.binary(max_size=300)), max_size=5),
    st.integers(1, 40),
)
def test_packets_come_whole_however_the_network_cuts_them(
    messages: list[tuple[str, bytes]], size: int
) -> None:
    sent = b"".join(wire.publish(*each, mid) for mid, each in enumerate(messages, start=1))
    reader = wire.Reader()

    packets = [p for at in range(0, len(sent), size) for p in reader.feed(sent[at : at + size])]

    found = [wire.read_publish(first, body) for first, body in packets]
    assert found == [(*each, mid) for mid, each in enumerate(messages, start=1)]


def test_memory_that_only_warms_up_has_not_grown() -> None:
    memory = ResidentMemory(1)
    memory.seen = [(float(second), min(100.0, 50 + 10 * second)) for second in range(60)]
    assert memory.grown_mib() == 0
    memory.seen = [(float(second), 50.0 + second) for second in range(61)]
    assert memory.grown_mib() == 40
    assert memory.by_minute() == [109, 110]


def test_a_page_keeps_what_people_wrote_around_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- b -->\nafter\n")

    report.replace(page, "<!-- a -->", "<!-- b -->", "new\n")

    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- b -->\nafter\n"
