"""How `mailboat top` draws a look at the fleet. From afar comes plain text, never markup."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mailboat_controller.cli.forms import printable
from mailboat_controller.glance import DEVICES_MAX, Glance

BAR_CHARS = 24
# Shape before colour: each state has a mark of its own.
_MARKS = {
    "running": ("▶", "green"),
    "planned": ("○", "cyan"),
    "paused": ("Ⅱ", "yellow"),
    "halted": ("■", "bold red"),
}
_PLACES = (
    ("ok", "█", "green"),
    ("failed", "x", "bold red"),
    ("in_progress", "▒", "cyan"),
    ("waiting", "·", "yellow"),
    ("not_open", " ", "dim"),
)
_LISTED = {
    "stale": "`mailboat device list --stale`",
    "offline": "`mailboat device list -l presence=offline`",
}


@dataclass(frozen=True, slots=True)
class Item:
    """What a cursor can stand on: a noun of the command line, and its name."""

    noun: str
    name: str


def items(glance: Glance) -> list[Item]:
    """In the order in which they are drawn."""
    return [
        *(Item("rollout", each["name"]) for each in glance.rollouts),
        *(Item("site", each["name"]) for each in glance.sites_cut),
        *(Item("device", each["device"]) for each in glance.devices),
    ]


def picture(
    glance: Glance, at: datetime, *, problem: str = "", chosen: Item | None = None, keys: bool
) -> RenderableType:
    """Everything from top to bottom, most urgent first within each part."""
    parts: list[RenderableType] = [_head(glance, at)]
    if problem:
        parts.append(Text(printable(problem), style="bold red"))
    parts += [_counts(glance), _health(glance)]
    parts += _rollouts(glance, chosen)
    if glance.sites:
        parts += _sites(glance, chosen)
    parts += _devices(glance, chosen)
    if keys:
        parts += [Text(), Text("↑ ↓ choose   enter look at it   q end", style="dim")]
    return Group(*parts)


def _head(glance: Glance, at: datetime) -> Text:
    return Text.assemble(
        ("mailboat ", "bold"), (printable(glance.fleet), "bold cyan"), f"   {at:%H:%M:%S} UTC\n"
    )


def _counts(glance: Glance) -> Text:
    counts = glance.counts
    words = [f"{counts.get('devices', 0):,} devices"]
    words += [f"{counts.get(name, 0):,} {name}" for name in ("online", "offline", "unknown")]
    if counts.get("revoked"):
        words.append(f"{counts['revoked']:,} revoked")
    bar = _bar(
        [
            ("█", "green", counts.get("online", 0)),
            ("░", "yellow", counts.get("offline", 0)),
            ("?", "dim", counts.get("unknown", 0)),
        ]
    )
    return Text.assemble("fleet     ", bar, "  ", ", ".join(words))


def _health(glance: Glance) -> Text:
    rates = glance.rates
    told = [
        f"{'-' if rates[name] is None else f'{rates[name]:,.1f}'} {words} a second"
        for name, words in (("events", "events"), ("windows", "telemetry windows"))
    ]
    wrong = [
        f"{name.replace('_', ' ')} {word}"
        for name, word in glance.health.items()
        if name != "status" and word not in ("ok", "held")
    ]
    text = Text(f"ingest    {', '.join(told)}\ncontrol   ")
    if wrong:
        text.append(f"! {printable(', '.join(wrong))}; see mailboat doctor", style="bold yellow")
    else:
        text.append("nothing wrong with the controller")
    return text


def _rollouts(glance: Glance, chosen: Item | None) -> list[RenderableType]:
    title = f"\nROLLOUTS  {len(glance.rollouts)} under way, {glance.ended} ended"
    if not glance.rollouts:
        return [Text(title, style="bold"), Text("  none; `mailboat release approve` plans one")]
    table = _table()
    for each in glance.rollouts:
        mark, style = _MARKS.get(each["phase"], ("?", ""))
        is_chosen = chosen == Item("rollout", each["name"])
        counts = ", ".join(
            f"{each[name]:,} {name.replace('_', ' ')}" for name, _, _ in _PLACES if each.get(name)
        )
        wave = f"wave {each.get('wave', each['waves_open'])}/{each['waves']}"
        table.add_row(
            Text(">" if is_chosen else " "),
            Text.assemble((mark, style), f" {printable(each['name'])}", style=_chosen(is_chosen)),
            Text(f"{printable(each['model'])}@{printable(each['version'])}"),
            Text(each["phase"], style=style),
            Text(wave),
            _bar([(char, kind, each.get(name, 0)) for name, char, kind in _PLACES]),
            Text(counts or "nobody"),
        )
    because = [
        Text(f"  {printable(each['name'])}: {printable(each['because'])}", style="dim")
        for each in glance.rollouts
        if each["because"]
    ]
    return [Text(title, style="bold"), table, *because]


def _sites(glance: Glance, chosen: Item | None) -> list[RenderableType]:
    cut = glance.sites_cut
    title = Text(f"\nSITES     {len(cut)} of {len(glance.sites)} cut off", style="bold")
    table = _table()
    for each in cut:
        is_chosen = chosen == Item("site", each["name"])
        expected = "expected" if each["cut_is_expected"] else "not expected"
        table.add_row(
            Text(">" if is_chosen else " "),
            Text(f"✂ {printable(each['name'])}", style=_chosen(is_chosen)),
            Text(f"since {_minute(each['link_since'])}"),
            Text(expected, style="" if each["cut_is_expected"] else "bold red"),
            Text(f"{each['devices']:,} devices"),
        )
    return [title, table] if cut else [title]


def _devices(glance: Glance, chosen: Item | None) -> list[RenderableType]:
    title = Text("\nDEVICES   to look at", style="bold")
    if not glance.devices:
        return [title, Text("  none is offline or too far behind")]
    table = _table()
    for each in glance.devices:
        is_chosen = chosen == Item("device", each["device"])
        table.add_row(
            Text(">" if is_chosen else " "),
            Text(f"! {printable(each['device'])}", style=_chosen(is_chosen)),
            Text(printable(each["hardware_class"])),
            Text(printable(each["site"])),
            Text(each["reason"]),
            Text(f"heard {_minute(each['last_seen_at'])}"),
            Text(printable(each["presence_because"]), style="dim"),
        )
    per_reason = Counter(each["reason"] for each in glance.devices)
    more = [
        Text(f"  the first {count} that are {reason}; {_LISTED[reason]} has all", style="dim")
        for reason, count in per_reason.items()
        if count >= DEVICES_MAX
    ]
    return [title, table, *more]


def _table() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(7):
        table.add_column(no_wrap=True, overflow="ellipsis")
    return table


def _bar(parts: Sequence[tuple[str, str, int]]) -> Text:
    """Shares of a whole; whatever is there at all gets a character."""
    total = sum(count for _, _, count in parts)
    text = Text()
    if not total:
        return text.append("-" * BAR_CHARS, style="dim")
    for char, style, count in parts:
        if count:
            text.append(char * max(1, round(BAR_CHARS * count / total)), style=style)
    text.truncate(BAR_CHARS, pad=True)
    return text


def _chosen(is_chosen: bool) -> str:
    return "reverse" if is_chosen else ""


def _minute(instant: str | None) -> str:
    return "never" if instant is None else f"{instant[:16].replace('T', ' ')} UTC"
