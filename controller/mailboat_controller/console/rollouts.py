"""Rollouts: how far each is and why, what an order would do, and giving it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response

from mailboat_controller.api.context import Context
from mailboat_controller.console import confirm as confirmation
from mailboat_controller.console.asked import EmptyIsNone, PageNumber
from mailboat_controller.console.auth import Operator, Viewer
from mailboat_controller.console.flash import Flash, see_other
from mailboat_controller.console.render import page, query
from mailboat_controller.console.rollout_looks import RolloutLooks
from mailboat_controller.console.rollout_view import shown_waves, shown_whole
from mailboat_controller.console.session import PREFIX
from mailboat_controller.rollout.state import FINAL, Phase, Trigger
from mailboat_controller.store import rollouts
from mailboat_controller.traces import timeline
from mailboat_schemas.documents.rollout import WAVES_MAX
from mailboat_schemas.names import Label, ModelName

ROWS = 50  # of a page
ENTRIES = 100  # of a timeline, the newest

router = APIRouter()


@router.get("/rollouts")
def list_rollouts(
    request: Request,
    _viewer: Viewer,
    context: Context,
    model: Annotated[ModelName | None, EmptyIsNone] = None,
    phase: Annotated[Phase | None, EmptyIsNone] = None,
    number: PageNumber = 1,
) -> Response:
    """The newest first."""
    with context.store.read() as tx:
        every = rollouts.every(tx, model)
    found = [row for row in reversed(every) if phase is None or row.rollout.phase is phase]
    first = (number - 1) * ROWS
    more = len(found) > first + ROWS
    kept = {"model": model, "phase": phase}
    return page(
        request,
        "rollouts.html",
        rows=found[first : first + ROWS],
        total=len(found),
        everything=len(every),
        models=sorted({row.rollout.model for row in every}),
        phases=list(Phase),
        model=model,
        phase=phase,
        newer=query(**kept, page=number - 1) if number > 1 else None,
        older=query(**kept, page=number + 1) if more else None,
    )


@router.get("/rollouts/{name}")
def show_rollout(
    name: Label,
    request: Request,
    _viewer: Viewer,
    context: Context,
    every: bool = False,
) -> Response:
    """``every``: the whole timeline, which is bounded like a trace."""
    looks: RolloutLooks = request.app.state.looks
    found = looks.of(context.store, name, context.now())
    with context.store.read() as tx:
        story = timeline.read(tx, name)
    entries = story.entries if every else story.entries[-ENTRIES:]
    return page(
        request,
        "rollout.html",
        look=found,
        row=found.row,
        rollout=found.row.rollout,
        whole=shown_whole(found),
        waves=shown_waves(found),
        story=story,
        entries=tuple(reversed(entries)),
        left_out=len(story.entries) - len(entries),
        final=found.row.rollout.phase in FINAL,
    )


@router.post("/rollouts/{name}/{verb}")
def order_rollout(
    name: Label,
    verb: Literal["start", "promote", "pause", "resume", "abort", "undo"],
    operator: Operator,
    context: Context,
    confirm: Annotated[str, Form(max_length=128)] = "",
    reason: Annotated[str, Form(max_length=2 * confirmation.REASON_CHARS_MAX)] = "",
    wave: Annotated[int | None, Form(ge=0, le=WAVES_MAX)] = None,
) -> Response:
    """The very order of the API.

    Args:
        wave: the newest open one of the page that was looked at, 0 where none was; to promote takes
            it, or a wave that opened meanwhile by itself would be followed by one more.

    Raises:
        NotConfirmed: also a promotion that does not say of which wave.
    """
    said = confirmation.check(confirm, name, reason)
    if verb == "promote" and wave is None:
        raise confirmation.NotConfirmed(
            "This order does not say which wave was looked at; nothing was done.",
            next_step="open the rollout's page again, and promote it there.",
        )
    context.order(name, Trigger(verb), str(operator), said, wave)
    context.wake()
    with context.store.read() as tx:
        after = rollouts.get(tx, name).rollout
    told = f"{verb} was ordered: {name} is {after.phase}. {after.because}"
    return see_other(f"{PREFIX}/rollouts/{name}", Flash("ok", told))
