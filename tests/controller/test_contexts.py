"""Changes of a person's contexts come one after the other, and none takes another back."""

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mailboat_controller import contexts
from mailboat_controller.contexts import Contexts, change_contexts, load_contexts
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotFound


def named(name: str) -> Callable[[Contexts], Contexts]:
    return lambda held: Contexts(contexts={**held.contexts, name: f"/{name}/connection.toml"})


def test_of_two_that_are_added_at_once_none_is_lost(tmp_path: Path) -> None:
    other = threading.Thread(target=change_contexts, args=(tmp_path, named("depot")))

    def add_while_another_does(held: Contexts) -> Contexts:
        other.start()
        other.join(0.3)  # it is through by then where nothing keeps it waiting
        return named("harbour")(held)

    change_contexts(tmp_path, add_while_another_does)
    other.join()

    assert sorted(load_contexts(tmp_path).contexts) == ["depot", "harbour"]


def test_a_change_that_is_refused_changes_nothing_and_keeps_nobody_waiting(
    tmp_path: Path,
) -> None:
    change_contexts(tmp_path, named("harbour"))

    with pytest.raises(NotFound):
        change_contexts(tmp_path, lambda held: contexts.with_current(held, "depot"))

    changed = change_contexts(tmp_path, named("yard"))
    assert sorted(changed.contexts) == ["harbour", "yard"]


def test_who_waits_for_one_that_never_ends_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "LOCK_ATTEMPTS_MAX", 2)
    with (tmp_path / contexts.LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match=r"holds .*config\.toml\.lock"):
            change_contexts(tmp_path, named("harbour"))

    assert load_contexts(tmp_path) == Contexts()


def test_what_cannot_be_written_is_said_with_its_place(tmp_path: Path) -> None:
    place = tmp_path / "mailboat"
    place.write_text("a file where the directory belongs")

    with pytest.raises(ConfigurationInvalid, match=str(place)):
        change_contexts(place, named("harbour"))
