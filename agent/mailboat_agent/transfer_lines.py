"""The figures of `transfers` for people. Imports nothing heavy: `status` is for slow devices."""

from typing import Any


def describe_transfers(status: dict[str, Any]) -> list[str]:
    """Room, budget and downloads, line by line."""
    disk, metered = status["disk"], status["metered"]
    of = f"of {mib(disk['budget'])}" if disk["budget"] is not None else "without a budget"
    lines = [f"disk      {mib(disk['used'])} {of} used by releases, {mib(disk['free'])} free"]
    if disk.get("gives_way"):
        lines.append(f"          {mib(disk['gives_way'])} more of releases that go if need be")
    if metered is not None:
        per_day = metered["per_day"]
        used = f", {mib(metered['used'])} of {mib(per_day)} a day used" if per_day else ""
        lines.append(f"link      metered{used}")
    return [*lines, *(_describe(each) for each in status["downloads"])]


def _describe(each: dict[str, Any]) -> str:
    percent = 100 * each["staged_bytes"] // max(1, each["total_bytes"])
    line = f"fetching  {each['model']} {each['version']}: {percent} % of {mib(each['total_bytes'])}"
    if each["source"]:
        line += f", {each['form'] or 'done'} from {each['source'].replace('_', ' ')}"
    if each["bytes_per_second"]:
        line += f", {each['bytes_per_second'] / 1000:.1f} kB/s"
    if each["seconds_left"] is not None:
        minutes, seconds = divmod(each["seconds_left"], 60)
        line += f", {minutes} min {seconds} s left" if minutes else f", {seconds} s left"
    if each["resumed"] or each["retried"]:
        line += f", resumed {each['resumed']} times, begun anew {each['retried']}"
    return line


def mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
