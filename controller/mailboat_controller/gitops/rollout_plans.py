"""A declared Rollout beside the plan that an approver signed. Nothing here signs: a difference
waits for somebody who holds the approver's key."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mailboat_controller.gitops.differences import Difference, Verb, differences
from mailboat_controller.releases.build import plan_of
from mailboat_controller.releases.standing import ReleaseStanding, standings
from mailboat_controller.rollout.state import FINAL, Phase
from mailboat_controller.store import releases, rollouts
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_schemas.cohort import PPM
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotFound
from mailboat_schemas.plan import Plan

# What an approver may still say yes to.
_OPEN = frozenset({ReleaseStanding.RELEASED, ReleaseStanding.APPROVED})

Outcome = tuple[Verb, tuple[Difference, ...], str, str]


def compare_rollout(
    tx: Transaction,
    document: Rollout,
    declared: Mapping[str, tuple[Rollout, ...]],
    now: datetime,
) -> Outcome:
    """Verb, differences, because and next step.

    Raises:
        NotFound: no such release. Conflict: the release may not run, or the name is taken, or
            another rollout of the model is declared. ConfigurationInvalid: no plan can be made.
    """
    name, wanted = document.metadata.name, document.spec.release
    # Caps depend on the size of a class, which the approval says; they are not compared.
    plan = plan_of(document, 1)
    after = _spoken(wanted.model, wanted.version, plan)
    held = rollouts.find(tx, name)
    before: Mapping[str, Any] = {}
    if held is not None:
        rollout = held.rollout
        before = _spoken(rollout.model, rollout.version, rollout.plan)
        if before == after:
            return (Verb.UNCHANGED, (), f"{rollout.phase}: {rollout.because}", "")
        if before["release"] != after["release"] or _is_over(rollout.phase):
            raise Conflict(
                f"Rollout {name} of {before['release']} is {rollout.phase} and keeps its plan.",
                next_step="write what you want now as a rollout of another name.",
            )
    _refuse_unfit(tx, _released(tx, document), document)
    _refuse_several(tx, document, declared[wanted.model])
    if plan.expires and now.timestamp() >= plan.expires:
        raise ConfigurationInvalid(
            f"The plan of rollout {name} has expired; no device would install it.",
            next_step="give it a later 'expires', or remove the document.",
        )
    command = f"mailboat release approve {wanted.model} {wanted.version} --rollout FILE --key KEY"
    found = differences(before, after)
    return (Verb.NEEDS_APPROVAL, found, "an approver has to sign it", command)


def _released(tx: Transaction, document: Rollout) -> ReleaseRow:
    wanted = document.spec.release
    release = releases.by_version(tx, wanted.model, wanted.version)
    if release is None:
        raise NotFound(
            f"There is no release {wanted.model} {wanted.version}.",
            next_step="submit it first: `mailboat release submit`.",
        )
    return release


def _refuse_unfit(tx: Transaction, release: ReleaseRow, document: Rollout) -> None:
    found = standings(tx, held_trust.read(tx), [release])[release.digest].standing
    if found not in _OPEN:
        raise Conflict(
            f"Release {release.model} {release.version} is {found}.",
            next_step="roll out another release; `mailboat release show` says who decided so.",
        )
    named = {name for each in release.parsed().variants for name in each.hardware_classes}
    missing = sorted(set(document.spec.hardware_classes) - named)
    if missing:
        raise Conflict(
            f"Release {release.model} {release.version} has no variant for class {missing[0]}.",
            next_step="take the class out of 'hardware_classes', or release a variant for it.",
        )


def _refuse_several(tx: Transaction, document: Rollout, of_model: tuple[Rollout, ...]) -> None:
    """A directory keeps the rollouts that are over; of a model one alone may be to come."""
    name = document.metadata.name
    others = sorted(each.metadata.name for each in of_model if each.metadata.name != name)
    for other in others:
        held = rollouts.find(tx, other)
        if held is None or not _is_over(held.rollout.phase):
            raise Conflict(
                f"Rollouts {name} and {other} of {document.spec.release.model} are both declared.",
                next_step="keep the one that you want; two of one model would undo each other.",
            )


def _is_over(phase: Phase) -> bool:
    return phase in FINAL or phase is Phase.COMPLETED


def _spoken(model: str, version: str, plan: Plan) -> Mapping[str, Any]:
    """A plan in the words of the document it was made of."""
    return {
        "release": f"{model}@{version}",
        "hardware_classes": sorted(plan.hardware_classes),
        "start": "manual" if plan.manual_start else "automatic",
        "expires": _instant(plan.expires),
        "waves": [
            {
                "pilots": sorted(wave.pilots),
                "devices": wave.count or None,
                "percent": wave.count_ppm * 100 / PPM or None,
                "ring": wave.ring,
                "earliest": _instant(wave.earliest),
                "gate": {
                    "ok_min": wave.ok_min or None,
                    "wait_max_hours": wave.wait_max / 3600 or None,
                    "clean_restarts": wave.restarts_min,
                    "rollback_drills": wave.drills_min,
                    **({} if wave.gate is None else wave.gate.model_dump(mode="json")),
                },
            }
            for wave in plan.waves
        ],
    }


def _instant(seconds: int) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None
