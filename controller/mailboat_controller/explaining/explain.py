"""`explain`: what one device is told, what it makes of it, and on what evidence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mailboat_controller.explaining.checks import Explained, explain_release
from mailboat_controller.explaining.device_config import DeviceConfigs
from mailboat_controller.explaining.device_facts import KnownDevice, known_device, way_back
from mailboat_controller.explaining.prediction import Named, Prediction, predict
from mailboat_controller.explaining.staleness import stale_words
from mailboat_controller.releases.fleet_documents import in_force_by_digest
from mailboat_controller.store import devices, manifests, overrides, releases
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.overrides import OverrideRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_schemas.class_budgets import NO_BUDGETS
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import Assignment, DesiredState, ManifestBundle, ReleaseRef
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.eligibility import Candidate
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.errors import NotFound
from mailboat_schemas.policy_rules import PolicyRule
from mailboat_schemas.reports import ModelPhase, ReportedModel
from mailboat_schemas.signed_policy import SignedPolicy, signed_policy
from mailboat_schemas.trust import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRelease:
    """``role``: offered, current, pinned or asked."""

    role: str
    ref: ReleaseRef
    explained: Explained
    emergency: str = ""  # why an approver signed its plan as one


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedModel:
    model: str
    serving: ReleaseRef | None
    releases: tuple[ExplainedRelease, ...]
    prediction: Prediction
    stale: tuple[str, ...] = ()  # in words: further behind than policy allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``counter`` is of the newest manifest of its class; 0: there is none."""

    known: KnownDevice
    counter: int
    models: tuple[ExplainedModel, ...]


@dataclass
class Evidence:
    """What the controller holds, read from one state of the database and read once."""

    tx: Transaction
    now: datetime
    trust: HeldTrust = field(init=False)
    _documents: dict[str, ReleaseDocument | None] = field(default_factory=dict)
    _standings: dict[tuple[str, str], Standing | None] = field(default_factory=dict)
    _desired: dict[str, DesiredState | None] = field(default_factory=dict)
    _policies: dict[tuple[str, str], SignedPolicy] = field(default_factory=dict)
    _bundled: dict[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trust = held_trust.read(self.tx)
        self._configs = DeviceConfigs(self.tx)

    def document(self, digest: str) -> ReleaseDocument | None:
        if digest not in self._documents:
            row = releases.by_digest(self.tx, digest)
            self._documents[digest] = None if row is None else row.parsed()
        return self._documents[digest]

    def standing(self, model: str, version: str) -> Standing | None:
        if (model, version) not in self._standings:
            self._standings[model, version] = self.trust.standing(model, version)
        return self._standings[model, version]

    def desired(self, hardware_class: str) -> DesiredState | None:
        """What the newest manifest tells the class; None while there is none."""
        if hardware_class not in self._desired:
            row = manifests.of_class(self.tx, hardware_class)
            found, self._bundled[hardware_class] = None, frozenset()
            if row is not None:
                bundle = decode(ManifestBundle, row.bundle)
                self._bundled[hardware_class] = frozenset(bundle.documents)
                found = decode(DesiredState, decode(Envelope, bundle.desired).payload)
            self._desired[hardware_class] = found
        return self._desired[hardware_class]

    def can_read(self, known: KnownDevice, digest: str) -> bool:
        """Whether the device has the document: from its manifest, or since it had the release."""
        self.desired(known.row.hardware_class)
        return digest in self._bundled[known.row.hardware_class] or known.holds(digest)

    def assignments(self, hardware_class: str) -> Mapping[str, Assignment]:
        desired = self.desired(hardware_class)
        return {} if desired is None else {each.model: each for each in desired.assignments}

    def device(self, row: DeviceRow, rows: Iterable[OverrideRow]) -> KnownDevice:
        known = known_device(
            row,
            rows,
            self.standing,
            self.document,
            self.now,
            self.rules(row.hardware_class),
            self.policy(row.hardware_class, row.site),
            NO_BUDGETS if (told := self.desired(row.hardware_class)) is None else told.budgets,
        )
        policy = (known.facts.policy_version, known.facts.policy_ranges)
        config = self._configs.choice(row, known.report, self.document, *policy)
        return replace(known, facts=replace(known.facts, config=config))

    def policy(self, hardware_class: str, site: str) -> SignedPolicy:
        """What was signed for a class and a site."""
        place = (hardware_class, site)
        if place not in self._policies:
            documents = in_force_by_digest(self.tx)
            self._policies[place] = signed_policy(
                self.trust.view, documents, hardware_class=hardware_class, site=site
            )
        return self._policies[place]

    def rules(self, hardware_class: str) -> tuple[PolicyRule, ...]:
        desired = self.desired(hardware_class)
        return () if desired is None else desired.rules

    def candidate(
        self, model: str, ref: ReleaseRef, assignment: Assignment | None, *, offered: bool
    ) -> Candidate:
        standing = self.standing(model, ref.version)
        return Candidate(
            model=model,
            version=ref.version,
            digest=ref.digest,
            standing=standing or _unlisted(model, ref.version),
            document=self.document(ref.digest),
            offer=assignment.offer if offered and assignment is not None else None,
            retry_epoch=0 if assignment is None else assignment.retry_epoch,
        )


def explain_device(
    evidence: Evidence, device: str, *, model: str | None = None, version: str | None = None
) -> Explanation:
    """
    Args:
        model: this one alone; else every model the device has to do with.
        version: a release to ask about besides.

    Raises:
        NotFound: no such device, model or release.
    """
    row = devices.get(evidence.tx, device)
    known = evidence.device(row, overrides.of_device(evidence.tx, device))
    desired = evidence.desired(row.hardware_class)
    told = () if known.report is None else known.report.models
    models = {*evidence.assignments(row.hardware_class), *(each.model for each in told)}
    if model is not None:
        if version is None and model not in models:
            raise NotFound(
                f"Device {device} has nothing to do with a model {model}.",
                next_step=f"its models: {', '.join(sorted(models)) or 'none yet'}.",
            )
        models = {model}
    return Explanation(
        known=known,
        counter=0 if desired is None else desired.counter,
        models=tuple(
            explain_model(evidence, known, each, _asked(evidence, each, version))
            for each in sorted(models)
        ),
    )


def explain_model(
    evidence: Evidence, known: KnownDevice, model: str, asked: ReleaseRef | None = None
) -> ExplainedModel:
    assignment = evidence.assignments(known.row.hardware_class).get(model)
    offer = None if assignment is None else assignment.offer
    pin = known.facts.pin_of(model, evidence.now)
    pinned = None if pin is None else ReleaseRef(version=pin.version, digest=pin.digest)

    def explained(ref: ReleaseRef, offered: bool) -> Explained:
        candidate = evidence.candidate(model, ref, assignment, offered=offered)
        if not evidence.can_read(known, ref.digest):
            candidate = replace(candidate, document=None)
        return explain_release(known, candidate, evidence.now)

    named: list[tuple[str, ReleaseRef | None]] = [
        ("pinned", pinned),
        ("offered", None if offer is None else offer.release),
        ("current", None if assignment is None else assignment.current),
        ("asked", asked),
    ]
    found: dict[str, ExplainedRelease] = {}
    for role, ref in named:
        if ref is not None and ref.digest not in found:
            offered = offer is not None and offer.release.digest == ref.digest
            found[ref.digest] = ExplainedRelease(
                role=role,
                ref=ref,
                explained=explained(ref, offered),
                emergency=_emergency(evidence.standing(model, ref.version)),
            )
    told = known.model(model)
    serving = None if told is None else _ref(told.serving_version, told.serving_digest)
    # What policy stops is not gone: it answers nobody, and what comes next is decided as ever.
    stopped = None if told is None else _ref(told.stopped_version, told.stopped_digest)
    runs = serving or stopped
    prediction = predict(
        Named(
            assignment=assignment,
            serving=runs,
            installing=_installing(told),
            serving_approved=runs is None or _may_serve(evidence, model, runs),
            pinned=pinned,
            previous=_previous(evidence, known, model),
            explain=explained,
        )
    )
    return ExplainedModel(
        model=model,
        serving=serving,
        releases=tuple(found.values()),
        prediction=prediction,
        stale=() if told is None else stale_words(evidence.trust.view, known, told, evidence.now),
    )


def _emergency(standing: Standing | None) -> str:
    plan = None if standing is None else standing.plan
    return (plan.reason or "") if plan is not None and plan.is_emergency else ""


def _installing(told: ReportedModel | None) -> ReleaseRef | None:
    if told is None or told.phase not in (ModelPhase.TRIAL, ModelPhase.SOAK):
        return None
    tried = _ref(told.target_version, told.target_digest)
    return tried or _ref(told.serving_version, told.serving_digest)


def _previous(evidence: Evidence, known: KnownDevice, model: str) -> ReleaseRef | None:
    told = known.model(model)

    def may_serve(version: str, digest: str) -> bool:
        return _may_serve(evidence, model, ReleaseRef(version=version, digest=digest))

    return None if told is None else way_back(told, may_serve)


def _may_serve(evidence: Evidence, model: str, ref: ReleaseRef) -> bool:
    standing = evidence.standing(model, ref.version)
    return standing is not None and standing.may_serve(ref.digest)


def _asked(evidence: Evidence, model: str, version: str | None) -> ReleaseRef | None:
    if version is None:
        return None
    row = releases.by_version(evidence.tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return ReleaseRef(version=row.version, digest=row.digest)


def _ref(version: str | None, digest: str | None) -> ReleaseRef | None:
    if version is None or digest is None:
        return None
    return ReleaseRef(version=version, digest=digest)


def _unlisted(model: str, version: str) -> Standing:
    return Standing(
        model=model, version=version, released_digest=None, approved_digest=None, plan=None
    )
