"""What the loop that pulls a repository told of its newest turn; a change of it is audited."""

from dataclasses import dataclass, replace
from datetime import datetime

from mailboat_controller.store import audit, gitops
from mailboat_controller.store.gitops import PullState, SetRow
from mailboat_controller.store.transaction import Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """``differences`` None: it could not compare, so what was known of them stays."""

    repository: str
    branch: str
    commit: str
    signer: str
    state: PullState
    because: str
    differences: int | None


def record(tx: Transaction, set_name: str, pull: Pull, *, actor: str, now: datetime) -> SetRow:
    held = gitops.find_set(tx, set_name)
    row = replace(
        held,
        repository=pull.repository,
        branch=pull.branch,
        pulled_commit=pull.commit or held.pulled_commit,
        signer=pull.signer,
        state=pull.state,
        because=pull.because,
        differences=held.differences if pull.differences is None else pull.differences,
        pulled_at=now,
    )
    gitops.put_set(tx, row)
    if (held.state, held.because) != (row.state, row.because):
        audit.append(
            tx,
            at=now,
            actor=actor,
            action="gitops.state",
            subject=f"set:{set_name}",
            reason=row.because,
            details={
                "from": str(held.state),
                "to": str(row.state),
                "commit": pull.commit,
                "signer": pull.signer,
                "differences": row.differences,
            },
        )
    return row
