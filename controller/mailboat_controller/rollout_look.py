"""One rollout as a person looks at it before they order something: its counts, the figures of its
gate, and what each order would do. Reads; decides and writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mailboat_controller import rollout_facts
from mailboat_controller.rollout.prospects import GateFigures, Prospect, gate_figures, prospects
from mailboat_controller.rollout_facts import Classes
from mailboat_controller.store import artifact_life, rollouts
from mailboat_controller.store.rollouts import RolloutRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLook:
    """``status`` is what the API says of it. ``goes_back_to``: by class, what its devices would
    serve without it; None: nothing that is approved."""

    at: datetime
    row: RolloutRow
    status: Mapping[str, Any]
    gate: GateFigures | None
    goes_back_to: Mapping[str, str | None]
    prospects: tuple[Prospect, ...]


def look(tx: Transaction, name: str, now: datetime) -> RolloutLook:
    """Reads every device of its classes, as `rollout_facts.status` does.

    Raises:
        NotFound: no such rollout.
    """
    row = rollouts.get(tx, name)
    classes = Classes(tx)
    of_model = rollouts.every(tx, row.rollout.model)
    covered = {
        each.rollout.name: rollout_facts.covered_classes(tx, each.rollout) for each in of_model
    }
    members = rollout_facts.load(tx, row.rollout, covered[name], classes, everybody=True)
    facts = replace(
        rollout_facts.facts(row, members, held_trust.read(tx), of_model, covered),
        shown=rollout_facts.shown_by(tx, row),
    )
    retired = artifact_life.retired(tx)
    back: dict[str, str | None] = {}
    for hardware_class in covered[name]:
        covering = [each for each in of_model if hardware_class in covered[each.rollout.name]]
        standing = rollout_facts.standing_releases(covering, row.rollout.model, retired)
        others = [each.version for each in standing if each.digest != row.rollout.digest]
        back[hardware_class] = others[0] if others else None
    return RolloutLook(
        at=now,
        row=row,
        status=rollout_facts.counted(tx, row, members),
        gate=gate_figures(row.rollout, members, now),
        goes_back_to=back,
        prospects=prospects(row.rollout, facts, back, now),
    )
