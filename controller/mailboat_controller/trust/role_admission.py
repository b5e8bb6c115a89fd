"""Taking roles that people signed: judged, recorded and acted on in one transaction."""

import time
from collections.abc import Mapping
from datetime import datetime

import structlog

from mailboat_controller.access.rate_limits import AuditBound
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.store import audit, trust_roles
from mailboat_controller.store.engine import Store
from mailboat_controller.trust.role_intake import TakenRoles, judge_roles
from mailboat_schemas.errors import MailboatError, OperatorNeeded, ReleaseRejected

REFUSALS_AUDITED_PER_MINUTE = 20  # of each sender
ROLES_NAMED_MAX = 8  # in the audit entry of a refusal; the names come from afar

_log = structlog.get_logger(__name__)


class RoleAdmission:
    """What people signed about keys and roles, of one fleet."""

    def __init__(self, store: Store, reconciler: Reconciler) -> None:
        self._store = store
        self._reconciler = reconciler
        self._refusals = AuditBound(per_minute=REFUSALS_AUDITED_PER_MINUTE)

    def take(
        self, roles: Mapping[str, bytes], *, actor: str, reason: str, now: datetime
    ) -> TakenRoles:
        """All of it or nothing. Snapshot and timestamp are signed again and manifests queued in
        the same transaction, by the keys that the new root names.

        Raises:
            ReleaseRejected, OperatorNeeded: refused, with the cause as its leaf; that is recorded.
            Transient: the database cannot take it now; nothing was kept.
        """
        try:
            with self._store.transaction() as tx:
                taken = judge_roles(roles, trust_roles.newest(tx), now)
                for role, content in taken.roles.items():
                    trust_roles.put(tx, role, taken.versions[role], content, now)
                audit.append(
                    tx,
                    at=now,
                    actor=actor,
                    action="trust.submit",
                    subject=_subject(taken.versions),
                    reason=reason,
                    details={"versions": dict(taken.versions), "changes": list(taken.changes)},
                )
                # Reads everything back from the factory root down, as a device would.
                self._reconciler.reconcile(tx, now)
        except (ReleaseRejected, OperatorNeeded) as error:
            self._record_refusal(roles, error, actor=actor, now=now)
            raise
        _log.info("roles taken", actor=actor, versions=dict(taken.versions))
        return taken

    def _record_refusal(
        self, roles: Mapping[str, bytes], error: MailboatError, *, actor: str, now: datetime
    ) -> None:
        _log.warning("roles refused", actor=actor, code=error.code, problem=error.what)
        more = self._refusals.details(actor, time.monotonic())
        if more is None:
            return
        with self._store.transaction() as tx:
            audit.append(
                tx,
                at=now,
                actor=actor,
                action="trust.refuse",
                subject=", ".join(sorted(roles)[:ROLES_NAMED_MAX]),
                reason=error.what,
                details={"code": error.code, **more},
            )


def _subject(versions: Mapping[str, int]) -> str:
    return ", ".join(f"{role} {version}" for role, version in sorted(versions.items()))
