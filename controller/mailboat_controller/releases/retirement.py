"""Retiring a release: from then on nothing keeps its files, and it is never offered again.

An operator does it, not an approver: it gives no device anything to run and takes nothing from
what may run; it says that the store need not keep the bytes. (An approver's tool is the withdrawal,
which every device obeys.) Devices that hold the release keep it.
"""

from collections.abc import Iterator
from datetime import datetime

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.rollout.state import OFFERED, Phase
from mailboat_controller.store import artifact_life, audit, devices, manifests, releases, rollouts
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import Conflict

RETIRE = "release.retire"
REINSTATE = "release.reinstate"
RUNNING_NAMED_MAX = 3
_AHEAD = OFFERED | {Phase.PLANNED}


class ReleaseInUse(Conflict):
    """Something still needs the files of the release that was to be retired."""

    code = "E-RELEASE-IN-USE"


class ReleaseRetired(Conflict):
    """Nobody keeps the files of this release any more."""

    code = "E-RELEASE-RETIRED"


def retired_release(model: str, version: str) -> ReleaseRetired:
    return ReleaseRetired(
        f"{model} {version} is retired.",
        next_step="release the model anew under a higher version, or take the retirement back: "
        f"`mailboat release retire {model} {version} --undo`.",
    )


def retire(
    tx: Transaction, row: ReleaseRow, *, actor: str, reason: str, force: bool, now: datetime
) -> None:
    """
    Args:
        force: although a class keeps it at hand, it is a fallback, or devices run it.

    Raises:
        ReleaseInUse: something needs it; names everything that does.
        ReleaseRetired: it is already.
    """
    if row.digest in artifact_life.retired(tx):
        raise retired_release(row.model, row.version)
    needed = list(_needed(tx, row))
    useful = [] if force else list(_useful(tx, row))
    if needed or useful:
        raise ReleaseInUse(
            f"{row.model} {row.version} is in use: {'; '.join((*needed, *useful))}.",
            next_step="bring another release to them first."
            if needed
            else "wait until they have moved on, or add --force: they would find its files "
            "missing if they needed them again.",
        )
    artifact_life.retire(tx, row.digest, actor=actor, reason=reason, at=now)
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=RETIRE,
        subject=f"{row.model}@{row.version}",
        reason=reason,
        details={"digest": row.digest, "force": force},
    )


def reinstate(
    tx: Transaction,
    row: ReleaseRow,
    artifacts: ArtifactStore,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> None:
    """Take a retirement back.

    Raises:
        Conflict: it is not retired, or some of its files are gone.
    """
    if row.digest not in artifact_life.retired(tx):
        raise Conflict(
            f"{row.model} {row.version} is not retired.", next_step="nothing has to be done."
        )
    missing = artifacts.missing(row.parsed().files())
    if missing:
        raise ReleaseRetired(
            f"{len(missing)} files of {row.model} {row.version} are gone, {missing[0]} for one.",
            next_step="upload them from the build with `mailboat release submit`, which then "
            "says that the release is there, and try again.",
        )
    artifact_life.reinstate(tx, row.digest)
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=REINSTATE,
        subject=f"{row.model}@{row.version}",
        reason=reason,
        details={"digest": row.digest},
    )


def _needed(tx: Transaction, row: ReleaseRow) -> Iterator[str]:
    """What no --force overrules: devices are told to fetch it."""
    for assignment in rollouts.assignments(tx):
        if assignment.current is not None and assignment.current.digest == row.digest:
            yield f"it is current in class {assignment.hardware_class}"
    for each in rollouts.every(tx, row.model):
        if each.rollout.digest == row.digest and each.rollout.phase in _AHEAD:
            yield f"rollout {each.rollout.name} is {each.rollout.phase}"


def _useful(tx: Transaction, row: ReleaseRow) -> Iterator[str]:
    """What may come to need it."""
    for manifest in manifests.every(tx):
        if row.digest in decode(ManifestBundle, manifest.bundle).documents:
            yield f"class {manifest.hardware_class} keeps it to go back to"
    gone = artifact_life.retired(tx)
    for other in releases.every(tx, row.model):
        if other.digest not in gone and other.parsed().fallback == row.version:
            yield f"{other.version} declares it as its fallback"
    running = devices.serving(tx, row.digest)
    if running:
        some = ", ".join(running[:RUNNING_NAMED_MAX])
        more = f" and {len(running) - RUNNING_NAMED_MAX} more" * (len(running) > RUNNING_NAMED_MAX)
        yield f"{some}{more} run it"
