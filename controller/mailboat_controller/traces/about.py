"""Which release an entry of the audit log is about."""

from dataclasses import asdict, dataclass

from mailboat_controller.store import releases, rollouts
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseName:
    model: str
    version: str
    digest: str

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def release_of(tx: Transaction, row: AuditRow) -> ReleaseName | None:
    """None: about no release, about several, or about one that was never accepted here."""
    noun = row.action.partition(".")[0]
    if noun == "rollout":
        try:
            rollout = rollouts.get(tx, row.subject).rollout
        except NotFound:
            return None
        return ReleaseName(model=rollout.model, version=rollout.version, digest=rollout.digest)
    if noun == "release":
        return _named(tx, row.subject)
    if noun == "assignment":
        model = row.subject.partition("/")[2]
        return _named(tx, f"{model}@{row.details.get('to') or ''}")
    named = row.details.get("releases")
    if noun == "submission" and isinstance(named, list) and len(named) == 1:
        return _named(tx, str(named[0]))
    return None


def _named(tx: Transaction, text: str) -> ReleaseName | None:
    model, _, version = text.partition("@")
    found = releases.by_version(tx, model, version)
    if found is None:
        return None
    return ReleaseName(model=found.model, version=found.version, digest=found.digest)
