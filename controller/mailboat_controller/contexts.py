"""Which controllers a person works with: ``~/.config/mailboat/config.toml``.

A context is a name for a connection file. No secret is in it: tokens and keys stay in files of
their own beside the connection file, readable by their owner alone.
"""

import fcntl
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mailboat_controller.connection_file import load_connection, refuse_changeable
from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotFound
from mailboat_schemas.names import Label

FILE_NAME = "config.toml"
FILE_BYTES_MAX = 64 * 1024
LOCK_NAME = "config.toml.lock"
# A change takes milliseconds. Who waits for so long waits for one that was stopped (Ctrl-Z).
LOCK_PAUSE_SECONDS = 0.05
LOCK_ATTEMPTS_MAX = 200
CONTEXTS_MAX = 200  # one person's controllers; a file of more is nobody's hand-made file


class Contexts(BaseModel):
    """``current`` is the name used where none is given; it may name none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    current: Label | None = None
    contexts: dict[Label, str] = {}  # name -> path of a connection file

    def path(self, name: str) -> Path:
        """
        Raises:
            NotFound: no such context.
        """
        if name not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none yet"
            raise NotFound(
                f"There is no context {name!r}; there is: {known}.",
                next_step="`mailboat context add NAME CONNECTION` makes one.",
            )
        return Path(self.contexts[name])


def config_directory(environment: Mapping[str, str]) -> Path:
    """Of a person's settings, as the XDG base directory specification has it."""
    base = environment.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "mailboat"


def load_contexts(directory: Path) -> Contexts:
    """What stands there; nothing where there is no file.

    Raises:
        ConfigurationInvalid: unreadable, one that anybody may change, or not what belongs there.
    """
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            refuse_changeable(file, path)
            content = file.read(FILE_BYTES_MAX)
        return Contexts.model_validate(tomllib.loads(content.decode()))
    except FileNotFoundError:
        return Contexts()
    except (OSError, ValueError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise ConfigurationInvalid(
            f"The contexts in {path} cannot be used: {problem}.",
            next_step="mend that file, or move it away and `mailboat context add` again.",
        ) from error


def change_contexts(directory: Path, change: Callable[[Contexts], Contexts]) -> Contexts:
    """Put what ``change`` makes of them in the place of what stands there; what stands there then.

    Of two at once each changes what the other has left.

    Raises:
        Conflict: another change does not come to its end. ConfigurationInvalid: what stands there
            cannot be used, or nothing can be written beside it. And whatever ``change`` raises.
    """
    with _alone(directory):
        changed = change(load_contexts(directory))
        _save(directory, changed)
    return changed


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While nobody else changes them. The lock is a file of its own: theirs is replaced."""
    path = directory / LOCK_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_written(directory, error) from error
    try:
        _take(lock, path)
        yield
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    for attempt in range(LOCK_ATTEMPTS_MAX):
        if attempt:
            time.sleep(LOCK_PAUSE_SECONDS)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except OSError as error:  # a file system without locks
            raise _not_written(path.parent, error) from error
        return
    raise Conflict(
        f"Another `mailboat context` is changing the contexts, and holds {path}.",
        next_step="let it come to its end, or stop it (`fuser` on that file says which it is); "
        "then try again.",
    )


def _not_written(directory: Path, error: OSError) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The contexts in {directory} cannot be changed: {error.strerror}.",
        next_step="make that directory yours to write to, or name another above it in "
        "XDG_CONFIG_HOME.",
    )


def _save(directory: Path, contexts: Contexts) -> None:
    """Readable by their owner alone."""
    lines = [] if contexts.current is None else [f"current = {json.dumps(contexts.current)}", ""]
    lines.append("[contexts]")
    # A JSON string is a TOML basic string.
    lines += [f"{name} = {json.dumps(path)}" for name, path in sorted(contexts.contexts.items())]
    replace_durably(directory / FILE_NAME, ("\n".join(lines) + "\n").encode())


def with_context(contexts: Contexts, name: str, connection: Path) -> Contexts:
    """With one more, or another connection under that name; the first becomes the current one.

    Raises:
        ConfigurationInvalid: no usable connection file, or too many contexts.
    """
    path = connection.absolute()  # not resolved: a link may lead elsewhere tomorrow
    load_connection(path)
    held = {**contexts.contexts, name: str(path)}
    if len(held) > CONTEXTS_MAX:
        raise ConfigurationInvalid(
            f"{CONTEXTS_MAX} contexts are the most there can be.",
            next_step="remove those that nobody uses: `mailboat context remove NAME`.",
        )
    return Contexts(current=contexts.current or name, contexts=held)


def with_current(contexts: Contexts, name: str) -> Contexts:
    """
    Raises:
        NotFound: no such context.
    """
    contexts.path(name)
    return contexts.model_copy(update={"current": name})


def without_context(contexts: Contexts, name: str) -> Contexts:
    """
    Raises:
        NotFound: no such context.
    """
    contexts.path(name)
    held = {each: path for each, path in contexts.contexts.items() if each != name}
    current = None if contexts.current == name else contexts.current
    return Contexts(current=current, contexts=held)
