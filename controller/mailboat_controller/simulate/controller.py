"""The controller of a simulated fleet: takes in, decides, and tells each class. One model.

As `mailboat_controller.reconcile`, over values in memory: `rollout.decide` decides,
`publication.wish_for` says what a class is told, and nothing is published that was told before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mailboat_controller.reconcile import PASSES_MAX
from mailboat_controller.releases.publication import wish_for
from mailboat_controller.rollout.decide import Decision, Facts, Rollout, decide
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.rollout.state import FINAL, Phase, Trigger, move
from mailboat_controller.rollout_facts import AWAITS_BAD_NEWS, NOT_STARTED
from mailboat_controller.rollout_moves import decided
from mailboat_controller.simulate.as_member import has_failed, member_of
from mailboat_controller.simulate.network import Network
from mailboat_controller.simulate.registry import Enrolled, FoldedOutcome, Registry
from mailboat_controller.simulate.releases import MODEL, SimulatedRelease
from mailboat_controller.simulate.settled import same
from mailboat_controller.simulate.signed_documents import (
    NOTHING_BROUGHT,
    Brought,
    SignedDocuments,
)
from mailboat_controller.simulate.told import AUTHORITY, Manifest, Roles, known_as
from mailboat_controller.store.rollouts import AssignmentRow, RolloutRow
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.plan import Plan
from mailboat_schemas.topics import Channel

TIMESTAMP_SECONDS = 7 * 86_400.0
LOOKS_ON = Callable[[Rollout, Decision], None]


class SimulatedController:
    """``now`` is a function: virtual seconds since 1970, UTC."""

    def __init__(self, network: Network, now: Callable[[], float], classes: Sequence[str]) -> None:
        self._network = network
        self._now = now
        self.classes = tuple(classes)
        self.registry = Registry()
        self.members: dict[str, list[Enrolled]] = {name: [] for name in classes}
        self.releases: dict[str, SimulatedRelease] = {}
        self.rollouts: dict[str, RolloutRow] = {}
        self.assignments: dict[str, AssignmentRow] = {}
        self.manifests: dict[str, Manifest] = {}
        self.roles = Roles(version=1, signer=AUTHORITY, director="director-1", issued=int(now()))
        self.timestamp_seconds = TIMESTAMP_SECONDS
        self.reconciles = 0
        self.on_decision: LOOKS_ON = _nobody_looks_on
        self._numbers = 0
        self._covers: dict[str, tuple[str, ...]] = {}  # classes by rollout: its plan never changes
        self._held: dict[str, dict[str, tuple[Member, ...]]] = {}  # members by rollout and class
        self._told: dict[str, tuple[object, ...]] = {}
        self._seen: dict[str, tuple[object, ...]] = {}  # what a rollout was decided from last
        self._published_from: tuple[object, ...] = ()
        self._brought = NOTHING_BROUGHT
        self._budgets: dict[str, ClassBudgets] = {}

    # --- what people do ---------------------------------------------------------------------------

    def enrol(self, entry: Enrolled) -> None:
        self.registry.enrol(entry)
        self.members[entry.hardware_class].append(entry)
        self._held.clear()

    def approve(self, release: SimulatedRelease, plan: Plan, *, retry_epoch: int = 0) -> None:
        """A release with its signed plan, and the rollout that follows from it."""
        self.releases[release.digest] = release
        self._sign(release, plan)
        rollout = Rollout(
            name=plan.rollout,
            model=MODEL,
            version=release.version,
            digest=release.digest,
            plan=plan,
            phase=Phase.PLANNED,
            retry_epoch=retry_epoch,
        )
        at = self._utc()
        self.rollouts[plan.rollout] = RolloutRow(
            rollout=rollout,
            created_at=at,
            started_at=None,
            completed_at=None,
            updated_at=at,
            start_number=None,
            completion_number=None,
        )

    def complete(self, name: str) -> None:
        """A rollout from before the simulation began."""
        for phase in (Phase.RUNNING, Phase.COMPLETED):
            self._decided(name, Decision(phase=phase, because="before the simulation"))

    def withdraw(self, release: SimulatedRelease) -> None:
        self._sign(release, None)

    def sign_documents(self, documents: SignedDocuments) -> None:
        """What config and policy list from now on."""
        self._brought = Brought(documents.brought())
        self.roles = replace(
            self.roles,
            version=self.roles.version + 1,
            issued=int(self._now()),
            documents=documents,
        )

    def allow(self, hardware_class: str, budgets: ClassBudgets) -> None:
        """What the class allows each release from now on."""
        self._budgets[hardware_class] = budgets

    def _sign(self, release: SimulatedRelease, plan: Plan | None) -> None:
        known = {**self.roles.known, release.digest: known_as(release, plan)}
        self.roles = replace(
            self.roles, version=self.roles.version + 1, issued=int(self._now()), known=known
        )

    def order(self, name: str, trigger: Trigger) -> None:
        """
        Raises:
            Conflict: the rollout cannot do that in its phase.
        """
        phase = move(name, self.rollouts[name].rollout.phase, trigger)
        self._decided(name, Decision(phase=phase, because=f"{trigger} by a person"))

    def rotate_director(self) -> None:
        """A new key, delegated to by new roles; it counts anew."""
        number = int(self.roles.director.rpartition("-")[2]) + 1
        self.roles = replace(
            self.roles, version=self.roles.version + 1, director=f"director-{number}"
        )
        self.manifests = {
            name: replace(manifest, counter=0) for name, manifest in self.manifests.items()
        }
        self._told.clear()
        self._published_from = ()

    # --- take in ----------------------------------------------------------------------------------

    def take(
        self, device: str, channel: Channel, payload: bytes, dies: Callable[[], bool]
    ) -> tuple[bytes, bool]:
        """The ack, and whether any outcome changed. ``dies``: in the moment before the commit.

        Raises:
            ControllerDied: nothing of it was stored.
        """
        entry = self.registry.devices[device]
        held = self.manifests.get(entry.hardware_class)
        counter = 0 if held is None else held.counter
        take = self.registry.take_hello if channel is Channel.HELLO else self.registry.take_events
        reached = take(device, payload, counter, self._now())
        if dies():
            raise ControllerDied
        changed = self.registry.commit(reached, self._now())
        if changed:
            self._held.clear()
        return encode(reached.ack), bool(changed)

    def redeem(self, device: str, digest: str) -> None:
        """A device begins to fetch a release, over HTTPS. As `releases.redemption`."""
        manifest = self.manifests.get(self.registry.devices[device].hardware_class)
        assignment = None if manifest is None else manifest.assignment
        if assignment is None or assignment.offer is None:
            return
        if assignment.offer.release.digest == digest and self.registry.redeem(
            device, digest, assignment.retry_epoch, self._now()
        ):
            self._held.clear()

    # --- decide, record, tell ---------------------------------------------------------------------

    def reconcile(self) -> None:
        self.reconciles += 1
        now = self._utc()
        for _ in range(PASSES_MAX):
            # All of them, the newest first: it supersedes the older ones.
            moved = [name for name in reversed(self.rollouts) if self._decide(name, now)]
            if not moved:
                break
        # What a class is told follows from these alone: with no other object nothing is new.
        now_from = (self.roles, *self.rollouts.values(), *self._budgets.values())
        if not same(now_from, self._published_from):
            for hardware_class in self.classes:
                self._publish(hardware_class)
            self._published_from = now_from

    def renew(self) -> None:
        """Sign the timestamps again, and assert what the broker should retain."""
        for manifest in self.manifests.values():
            self._tell(replace(manifest, expires=self._now() + self.timestamp_seconds))

    def _decide(self, name: str, now: datetime) -> bool:
        row = self.rollouts[name]
        if row.rollout.phase in FINAL or self._no_news_of(row.rollout):
            return False
        facts = self.facts(row)
        decision = decide(row.rollout, facts, now)
        moved = decision.phase is not row.rollout.phase or decision.opens is not None
        if moved:
            self.on_decision(row.rollout, decision)
        if moved or decision.because != row.rollout.because:
            self._decided(name, decision)
        return moved

    def _no_news_of(self, rollout: Rollout) -> bool:
        """Of one that only bad news moves: nothing that was told, and no approval, is new."""
        if rollout.phase not in AWAITS_BAD_NEWS or rollout.terms is not None:
            return False
        seen = (rollout, self._members(rollout), self.roles)
        known = same(seen, self._seen.get(rollout.name, ()))
        self._seen[rollout.name] = seen
        return known

    def _decided(self, name: str, decision: Decision) -> None:
        self.rollouts[name] = decided(self.rollouts[name], decision, self._next(), self._utc())

    def facts(self, row: RolloutRow) -> Facts:
        mine = row.rollout
        newer = [
            other
            for other in self.rollouts.values()
            if other.rollout.name != mine.name
            and other.rollout.phase not in NOT_STARTED
            and other.rollout.waves_open > 0
            and (other.start_number or 0) > (row.start_number or 0)
            and any(other.rollout.plan.covers(name) for name in self._covered(mine))
        ]
        newest = max(newer, key=lambda other: other.start_number or 0, default=None)
        members = self._members(mine)
        return Facts(
            members=members,
            ok_elsewhere=self._ok_elsewhere(mine),
            approved=self.roles.approves(mine.digest),
            superseded_by=None if newest is None else newest.rollout.name,
        )

    def _covered(self, rollout: Rollout) -> tuple[str, ...]:
        found = self._covers.get(rollout.name)
        if found is None:
            document = self.releases[rollout.digest].document
            found = self._covers[rollout.name] = tuple(
                name
                for name in self.classes
                if rollout.plan.covers(name) and document.variant_for(name) is not None
            )
        return found

    def _members(self, rollout: Rollout) -> Mapping[str, tuple[Member, ...]]:
        """As `rollout_facts.load`: read again when an outcome has changed."""
        bad_news_only = rollout.phase in AWAITS_BAD_NEWS
        key = f"{rollout.name}:{bad_news_only}"
        if key not in self._held:
            outcomes = self.outcomes_of(rollout)
            redeemed = self.registry.redeemed_of(rollout.digest, since_epoch=rollout.retry_epoch)
            self._held[key] = {
                name: tuple(
                    member_of(entry, outcomes.get(entry.device), redeemed.get(entry.device))
                    for entry in self.members[name]
                    if not bad_news_only or has_failed(outcomes.get(entry.device))
                )
                for name in self._covered(rollout)
            }
        return self._held[key]

    def _ok_elsewhere(self, rollout: Rollout) -> int:
        """Good verdicts of devices that are not loaded."""
        if rollout.phase not in AWAITS_BAD_NEWS:
            return 0
        return sum(one.outcome is Outcome.OK for one in self.outcomes_of(rollout).values())

    def outcomes_of(self, rollout: Rollout) -> Mapping[str, FoldedOutcome]:
        return self.registry.outcomes_of(rollout.digest, since_epoch=rollout.retry_epoch)

    def _publish(self, hardware_class: str) -> None:
        assignment = self._assignment(hardware_class)
        budgets = self._budgets.get(hardware_class, NO_BUDGETS)
        told = (assignment, self.roles.version, budgets)
        if self._told.get(hardware_class) == told:
            return
        self._told[hardware_class] = told
        held = self.manifests.get(hardware_class)
        self._tell(
            Manifest(
                hardware_class=hardware_class,
                counter=(0 if held is None else held.counter) + 1,
                director=self.roles.director,
                roles=self.roles,
                assignment=assignment,
                expires=self._now() + self.timestamp_seconds,
                brought=self._brought,
                budgets=budgets,
            )
        )

    def _tell(self, manifest: Manifest) -> None:
        self.manifests[manifest.hardware_class] = manifest
        self._network.publish(manifest)

    def _assignment(self, hardware_class: str) -> Assignment | None:
        covering = [
            row for row in self.rollouts.values() if hardware_class in self._covered(row.rollout)
        ]
        started = [row for row in covering if row.started_at is not None]
        if not started:
            return None
        completed = [row for row in covering if row.rollout.phase is Phase.COMPLETED]
        newest = max(completed, key=lambda row: row.completion_number or 0, default=None)
        held = self.assignments.get(hardware_class)
        epochs = [row.rollout.retry_epoch for row in started]
        row = AssignmentRow(
            hardware_class=hardware_class,
            model=MODEL,
            current=None
            if newest is None
            else ReleaseRef(version=newest.rollout.version, digest=newest.rollout.digest),
            retry_epoch=max([0 if held is None else held.retry_epoch, *epochs]),
        )
        self.assignments[hardware_class] = row
        started.sort(key=lambda each: each.start_number or 0, reverse=True)
        return wish_for(hardware_class, [row], started, {}).assignments[0]

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _utc(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)


class ControllerDied(Exception):
    """Before the commit: nothing of it happened."""


def _nobody_looks_on(rollout: Rollout, decision: Decision) -> None:
    del rollout, decision
