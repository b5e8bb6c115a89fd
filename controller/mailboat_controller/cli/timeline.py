"""``mailboat timeline``: a rollout's or a device's story: who, what, which threshold."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

_COLUMNS = {
    "after": "AFTER",
    "what": "WHAT",
    "who": "WHO",
    "subject": "SUBJECT",
    "because": "BECAUSE",
    "threshold": "THRESHOLD",
    "resumed": "SERVES NOW",
}
_DEVICE_COLUMNS = {
    "at": "AT",
    **{name: title for name, title in _COLUMNS.items() if name != "after"},
}
BECAUSE_CHARS_MAX = 80
ENTRIES_DEFAULT = 100
PAGE_ENTRIES = 500


def timeline(
    name: Annotated[str, typer.Argument(help="A rollout, or a device.")],
    of_device: Annotated[
        bool, typer.Option("--device", help="It is a device, though a rollout has that name.")
    ] = False,
    entries: Annotated[
        int, typer.Option("--entries", min=0, help="Of a device: the newest so many; 0: all.")
    ] = ENTRIES_DEFAULT,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Tell a story in order: who did what, what tripped, what resumed service."""
    with options.client(connection) as client:
        found = None if of_device else _of_rollout(client, name)
        if found is None:
            _show_device(_of_device(client, name, entries), as_json)
        else:
            _show_rollout(found, as_json)


def _of_rollout(client: "ApiClient", name: str) -> dict[str, Any] | None:
    """None: no rollout has that name, so it is a device's."""
    from mailboat_schemas.errors import NotFound

    try:
        found: dict[str, Any] = client.get(f"/v1/rollouts/{name}/timeline")
    except NotFound:
        return None
    return found


def _show_rollout(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json(found)
        return
    entries = found.pop("entries")
    resumed = found.pop("resumed")
    found["resumed"] = ", ".join(f"{count} on {version}" for version, count in resumed.items())
    output.show_fields(found, as_json=False)
    print()
    output.show_rows(_told(entries), _COLUMNS, as_json=False)


def _of_device(client: "ApiClient", device: str, count: int) -> dict[str, Any]:
    """Its newest entries, put together from pages."""
    path, wanted = f"/v1/devices/{device}/timeline", count or PAGE_ENTRIES
    found: dict[str, Any] = client.get(path, limit=min(wanted, PAGE_ENTRIES))
    while found["earlier"] is not None and (count == 0 or len(found["entries"]) < count):
        left = PAGE_ENTRIES if count == 0 else count - len(found["entries"])
        page = client.get(path, before=found["earlier"], limit=min(left, PAGE_ENTRIES))
        found |= {"earlier": page["earlier"], "entries": page["entries"] + found["entries"]}
    return found


def _show_device(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.show_json(found)
        return
    entries, earlier = found.pop("entries"), found.pop("earlier")
    output.show_fields(found, as_json=False)
    print()
    output.show_rows([_plain(entry) for entry in entries], _DEVICE_COLUMNS, as_json=False)
    if earlier is not None:
        output.remark("There is more before that: --entries 0 shows all of it.")


def _told(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for entry in entries:
        passed = datetime.fromisoformat(entry["at"]) - datetime.fromisoformat(entries[0]["at"])
        rows.append({**_plain(entry), "after": f"+{passed.total_seconds():.1f} s"})
    return rows


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    because = entry["because"][:BECAUSE_CHARS_MAX]
    return {**entry, "because": because, "resumed": _service(entry["resumed"])}


def _service(resumed: dict[str, Any] | None) -> str:
    if resumed is None:
        return ""
    seconds = resumed["seconds"]
    after = "" if seconds is None else f" after {seconds:.1f} s"
    return f"{resumed['version'] or 'nothing'}{after}"
