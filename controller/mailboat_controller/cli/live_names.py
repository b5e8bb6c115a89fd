"""Names for the shell's completion, as the controller has them now.

Whoever presses the tab key wants an answer at once or none: one short question, no second try, and
what was answered is kept for a moment. Whatever goes wrong, nothing is completed and nothing said.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

ANSWER_SECONDS_MAX = 1.5
FRESH_SECONDS = 20.0  # an answer of nothing too: nobody is asked at each key
NAMES_MAX = 1000
CACHE_BYTES_MAX = 1 << 20
_PREFIX = re.compile(r"[a-z0-9-]{0,63}")  # as the API takes it
_KEYS = (
    *("class=", "site=", "device=", "presence=", "running="),
    *("held", "pinned=", "stale", "condition="),
)
_PRESENCE = ("online", "offline", "unknown")
# Written out: a completion must not wait for what reads devices to be imported.
_CONDITIONS = ("disk-low", "clock-wrong", "doubled", "silent")

Told = Callable[[Any], str]


def devices(ctx: typer.Context, incomplete: str) -> list[str]:
    if _PREFIX.fullmatch(incomplete) is None:
        return []
    found = _names(ctx, "/v1/devices", lambda row: row["device"], prefix=incomplete)
    return _beginning(incomplete, found)


def pending(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, _names(ctx, "/v1/devices/pending", lambda row: row["device"]))


def rollouts(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, _names(ctx, "/v1/rollouts", lambda row: row["name"]))


def sites(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, _names(ctx, "/v1/sites", lambda row: row["name"]))


def webhooks(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, _names(ctx, "/v1/webhooks", lambda row: row["name"]))


def classes(ctx: typer.Context, incomplete: str) -> list[str]:
    found = _names(ctx, "/v1/hardware-classes", lambda row: row["metadata"]["name"])
    return _beginning(incomplete, found)


def releases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Written like vad@1.2.0."""
    found = _names(ctx, "/v1/releases", lambda row: f"{row['model']}@{row['version']}")
    return _beginning(incomplete, found)


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    return _beginning(incomplete, (each.partition("@")[0] for each in releases(ctx, "")))


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the model that was named before."""
    model = ctx.params.get("model") or ctx.params.get("target")
    found = (each.partition("@") for each in releases(ctx, ""))
    return _beginning(incomplete, (last for name, _, last in found if model in (None, name)))


def selectors(ctx: typer.Context, incomplete: str) -> list[str]:
    """The last requirement: its key, or the values of some keys."""
    before, comma, last = incomplete.rpartition(",")
    key, equals, value = last.partition("=")
    known: dict[str, Callable[[], list[str]]] = {
        "class": lambda: classes(ctx, value),
        "site": lambda: sites(ctx, value),
        "device": lambda: devices(ctx, value),
        "running": lambda: releases(ctx, value),
        "pinned": lambda: releases(ctx, value),
        "presence": lambda: [each for each in _PRESENCE if each.startswith(value)],
        "condition": lambda: [each for each in _CONDITIONS if each.startswith(value)],
    }
    if not equals:
        return [f"{before}{comma}{each}" for each in _KEYS if each.startswith(last)]
    found = known[key]() if key in known else []
    return [f"{before}{comma}{key}={each}" for each in found]


def contexts(incomplete: str) -> list[str]:
    from mailboat_controller.contexts import config_directory, load_contexts

    try:
        known = load_contexts(config_directory(os.environ)).contexts
    except Exception:  # noqa: BLE001 - see `_names`
        return []
    return sorted(name for name in known if name.startswith(incomplete))


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [each for each in dict.fromkeys(names) if each.startswith(incomplete)]


def _names(ctx: typer.Context, path: str, told: Told, *, prefix: str = "") -> list[str]:
    """Names in a list of the API, as they are or were a moment ago; none where that fails.

    Args:
        prefix: what they begin with, where the API looks for that.
    """
    try:
        connection = _connection(ctx)
        names = None
        for length in range(len(prefix) + 1):
            names = _kept(_place(connection, path, prefix[:length]))
            if names is not None and (length == len(prefix) or len(names) < NAMES_MAX):
                break  # all that begin with less hold all that begin with more
            names = None
        if names is None:
            names = _asked(connection, path, told, prefix)
            _keep(_place(connection, path, prefix), names)
        return [name for name in names if name.isprintable()]
    except Exception:  # noqa: BLE001 - whatever it is, a tab key is no place to say it
        return []


def _place(connection: Path, path: str, prefix: str) -> Path:
    """Where an answer is kept."""
    named = hashlib.sha256(f"{connection}\n{path}\n{prefix}".encode()).hexdigest()
    return _cache_directory() / named


def _connection(ctx: typer.Context) -> Path:
    from mailboat_controller.cli import options

    context = ctx.params.get("context") or os.environ.get(options.CONTEXT_VARIABLE)
    given = ctx.params.get("connection") or os.environ.get(options.CONNECTION_VARIABLE)
    with options.of_context(None if given else context):
        return options.connection_path(Path(given) if given else None)


def _asked(connection: Path, path: str, told: Told, prefix: str) -> list[str]:
    """Nothing, where nobody answers: and then nobody is asked again for a while."""
    from mailboat_controller.client import ApiClient, Patience  # loads the HTTP library
    from mailboat_schemas.errors import MailboatError

    patience = Patience(
        attempts_max=1, connect_seconds=ANSWER_SECONDS_MAX, answer_seconds=ANSWER_SECONDS_MAX
    )
    limited: dict[str, Any] = {"limit": NAMES_MAX} if path.startswith("/v1/devices") else {}
    limited |= {"prefix": prefix} if prefix else {}
    try:
        with ApiClient.open(connection, patience=patience) as client:
            return [told(row) for row in client.get(path, **limited)[-NAMES_MAX:]]
    except MailboatError:
        return []


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mailboat" / "names"


def _kept(path: Path) -> list[str] | None:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(CACHE_BYTES_MAX))
        names: list[str] = content["names"]
        # A clock that was put back must not make it fresh for ever.
        return names if 0 <= time.time() - content["at"] <= FRESH_SECONDS else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, names: list[str]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for held in path.parent.iterdir():  # each prefix has one: those that are old go
        with contextlib.suppress(OSError):
            if not 0 <= time.time() - held.stat().st_mtime <= FRESH_SECONDS:
                held.unlink()
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.touch(mode=0o600)
    new.write_text(json.dumps({"at": time.time(), "names": names}))
    new.replace(path)
