"""One fleet state twice: in a controller that explains it, and on devices that decide in it.

The controller is real but for its network, the device's trust, manifest, store and view are real
but for the process around them. What the controller knows of a device is its report, made from the
same facts and state and rounded as reports are.
"""

import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controller_core import PPM, Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.facts import Device, Look
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.acknowledgement import AckReader
from mailboat_agent.model_view import ModelView
from mailboat_agent.serving.process import RuntimeFacts
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.staleness_watch import judge
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.counter import Counter
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.decide import decide
from mailboat_agent.update.situation import Situation
from mailboat_agent.update.state import DeviceState, Installed, ModelState
from mailboat_agent.update.steps import GoBack, Keep, Stage, StartTrial, Step
from mailboat_controller.explaining.explain import Evidence, Explanation, explain_device
from mailboat_controller.overrides.orders import Overrides
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import device_signs, devices, outbox, rollouts
from mailboat_schemas.codec import encode
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.documents.fleet_document import document_digest
from mailboat_schemas.errors import Conflict
from mailboat_schemas.plan import Plan
from mailboat_schemas.reports import DISK_STEP_BYTES, ModelPhase, ReportedModel, ReportedState
from mailboat_schemas.site_orders import ReportedSiteOrder, SiteHold, SiteRollback
from mailboat_schemas.staleness import Action
from mailboat_schemas.submission import Submission
from mailboat_schemas.topics import parse
from signed_policies import policy_document, sign_policy

MODEL = "vad"
VERSIONS = ("1.0.0", "1.1.0", "1.2.0")
MIB = 1 << 20
ZONES = ("north", "south")
TIME_ZONES = ("Europe/Berlin", "America/New_York", "Mars/Olympus")


class ExplainedFleet:
    """``devices`` names of one class; `arrive` puts one into a random state."""

    def __init__(self, directory: Path, rng: random.Random, devices: int) -> None:
        self.rng = rng
        self.now = datetime.now(UTC)  # python-tuf reads the wall clock
        self.base = directory
        self.core = Core(directory / "controller", now=self.now)
        self.labels = {f"dev-{n}": self._labels() for n in range(devices)}
        self.core.add_class(CLASS, rules=self._rules())
        for name, labels in self.labels.items():
            self.core.fleet.enrol(name, labels=labels)
        self.digests = self._release_all()
        self._sign_a_policy()
        self.overrides = Overrides(
            self.core.store, self.core.reconciler, FLEET, now=lambda: self.now, queued=lambda: None
        )
        self._order_some()
        self.core.run()
        self._agent(directory / "agent")

    def _aside(self, name: str) -> random.Random:
        """For what came later: it moves no other choice."""
        return random.Random(f"{self.base.name} {name}")

    def _labels(self) -> dict[str, str]:
        own = {"time-zone": self.rng.choice(TIME_ZONES)} if self.rng.random() < 0.3 else {}
        return {"zone": self.rng.choice(ZONES), **own}

    def _rules(self) -> list[dict[str, object]]:
        """Windows that are open or closed now, by where a device is; how often it may switch."""
        rng = self.rng
        found: list[dict[str, object]] = []
        for zone in ZONES:
            window = {
                "start": f"{rng.randrange(24):02}:00",
                "length_minutes": 60 * rng.randint(4, 23),
            }
            rule = {"devices": f"zone={zone}", "windows": [window]}
            found += [rule] if rng.random() < 0.3 else []
        found += [{"days_between": rng.choice((1, 30))}] if rng.random() < 0.3 else []
        aside = self._aside("rules")
        if aside.random() < 0.2:
            found.append({"devices": f"zone={aside.choice(ZONES)}", "hold": "inventory"})
        return [*found, {"download": rng.choice(("in-window", "anytime"))}]

    def _sign_a_policy(self) -> None:
        """Of some fleets: which releases it is for, and how far behind a device may be."""
        rng = self.rng
        if rng.random() < 0.5:
            return
        staleness = {
            "minor_versions_behind_max": rng.choice((0, 1)),
            "enforce": rng.choice(("report", "warn", "stop", "stop")),
            "grace_hours": rng.choice((0, 24)),
        }
        wanted = rng.choice(({}, {"models": {MODEL: rng.choice(("<1.2", ">=1.1", "<1.1"))}}))
        document = policy_document({"staleness": staleness}, compatible=wanted)
        sign_policy(self.core.trust, document)
        content = encode(
            Submission(
                fleet=FLEET,
                roles={"policy": self.core.trust.roles["policy"]},
                documents={document_digest(document.canonical_bytes()): document.canonical_bytes()},
                reason="a test",
            )
        )
        reply = self.core.admission.submit(content, "approver:ana", self.core.now)
        assert reply.status == "accepted", reply.reasons
        self.core.run()

    # --- the fleet -------------------------------------------------------------------------------

    def _release_all(self) -> dict[str, str]:
        rng, core, found = self.rng, self.core, {}
        for number, version in enumerate(VERSIONS):
            variant = core.trust and {
                "hardware_classes": [CLASS],
                "files": [{"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}],
                "runtime": {"version": rng.choice((">=1.18", ">=1.18", ">=1.21"))},
                "peak_memory": rng.choice((1, 64, 256)) * MIB,
                "health": {},
            }
            digest = core.trust.release(
                version,
                self._plan(number),
                variants=[variant],
                security_version=rng.choice((0, 0, number)),
            )
            assert core.submit(f"release-{MODEL}", f"approval-{MODEL}").status == "accepted"
            core.run()
            if number == 0 or rng.random() < 0.3:
                self._complete(f"r{number}")
            found[version] = digest
        for version in VERSIONS:
            if rng.random() < 0.25:
                core.trust.withdraw(version)
                core.submit(f"approval-{MODEL}")
            elif rng.random() < 0.1:
                core.trust.unlist(version)
                core.submit(f"release-{MODEL}")
        if rng.random() < 0.2:
            self._order_rollout("r2", Trigger.PAUSE)
        return found

    def _plan(self, number: int) -> Plan:
        rng = self.rng
        everybody = {"count_ppm": PPM, "cap_ppm": PPM}
        if number == 0:
            return plan("r0", everybody)  # type: ignore[arg-type]
        wave = rng.choice(
            (
                everybody,
                {"count_ppm": PPM // 2, "cap_ppm": PPM},
                {"count_ppm": PPM // 4, "cap_ppm": rng.choice((PPM, PPM // 3))},
                {"pilots": ["dev-0", "dev-1"]},
                everybody | {"ring": {"zone": "north"}},
            )
        )
        last = everybody | {"earliest": rng.choice((0, int(self.now.timestamp()) + 3600))}
        expires = rng.choice((0, 0, int(self.now.timestamp()) + 60))
        urgent = {"urgency": "emergency", "reason": "CVE"} if rng.random() < 0.2 else {}
        return Plan.model_validate(
            {"rollout": f"r{number}", "waves": [wave, last], "expires": expires, **urgent}
        )

    def _complete(self, name: str) -> None:
        """As if every device had brought good news of it."""
        with self.core.store.transaction() as tx:
            row = rollouts.get(tx, name)
            if row.rollout.phase not in (Phase.RUNNING, Phase.COMPLETED):
                return
            opened = tuple(OfferWave(upto="f" * 16, roster=10**6) for _ in row.rollout.plan.waves)
            done = replace(row.rollout, phase=Phase.COMPLETED, opened={CLASS: opened})
            number = rollouts.next_number(tx)
            rollouts.save(
                tx,
                replace(row, rollout=done, completed_at=self.now, completion_number=number),
                self.now,
            )

    def _order_rollout(self, name: str, trigger: Trigger) -> None:
        with suppress(Conflict):  # it is not in a phase for it
            self.core.reconciler.order(name, trigger, actor="a", reason="r", now=self.now)

    def _order_some(self) -> None:
        rng = self.rng
        valid = timedelta(hours=1)
        for name in self.labels:
            who = {"actor": "operator:ana", "reason": "a test", "valid": valid}
            if rng.random() < 0.1:
                self.overrides.hold(name, rng.choice((None, MODEL, "other")), **who)  # type: ignore[arg-type]
            if rng.random() < 0.2:
                with suppress(Conflict):  # withdrawn
                    self.overrides.pin(name, MODEL, rng.choice(VERSIONS), **who)  # type: ignore[arg-type]
        with self.core.store.read() as tx:
            self.orders = {
                parse(row.topic)["device"]: row.payload
                for row in outbox.pending(tx, 10_000)
                if row.topic.endswith("/desired")
            }

    # --- the devices -----------------------------------------------------------------------------

    def _agent(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        root = (self.core.trust_directory / "1.root.json").read_bytes()
        # What every device of the class has accepted is the same; checked once, read back by each.
        self.trust = TrustStore(directory, root)
        self._base = self._manifest(ReleaseStore(directory))
        self.hear()
        self.settled: dict[str, tuple[Device, ModelState, ReleaseStore, Look]] = {}
        self.journal = Journal(directory / "journal.db", self.rng)
        self.ledger = Ledger(StateFile(directory), self.journal, now=self.now, rng=self.rng)

    def hear(self) -> None:
        """The newest manifest comes."""
        self._base.take(self.core.manifest().bundle, [MODEL], Counter(0, ""))

    def decides(self, name: str) -> Step:
        """What a device that has arrived does now, on the newest manifest that came."""
        device, state, store, look = self.settled[name]
        manifest = self._manifest(store)
        assert manifest.open([MODEL]) is None
        return decide(self._situation(device, state, store, manifest, look), self.now)

    def _disk(self, name: str, state: ModelState) -> tuple[ReleaseStore, Manifest]:
        """What the device keeps: what it ran, and the newest manifest."""
        store = ReleaseStore(self.directory / name)
        for release in (state.active, *state.predecessors):
            if release is not None:
                store.put(self.core.trust.documents[release.digest])
        if state.active or self.rng.random() < 0.5:
            store.path("ab" * 32).write_bytes(b"onnx")
        manifest = self._manifest(store)
        assert manifest.open([MODEL]) is None
        return store, manifest

    def _manifest(self, store: ReleaseStore) -> Manifest:
        return Manifest(trust=self.trust, store=store, fleet=FLEET, hardware_class=CLASS)

    def close(self) -> None:
        self.journal.close()
        self.core.store.close()

    def arrive(self, name: str) -> tuple[Situation, Step, Explanation]:
        """A random device: what it decides on, what it decides, and how it is explained."""
        rng = self.rng
        with self.core.store.read() as tx:
            row = devices.get(tx, name)
        state = self._state()
        store, manifest = self._disk(name, state)
        device = Device(
            device=name,
            fleet=FLEET,
            hardware_class=CLASS,
            site="-",
            labels=self.labels[name],
            enrolment_number=row.enrolment_number,
            memory_budget_bytes=rng.choice((32, 128, 512)) * MIB,
            disk_budget_bytes=rng.choice((None, None, 3 * MIB, 6 * MIB, 20 * MIB)),
            arch="x86_64",
            agent_version="0",
            runtime=RuntimeFacts(rng.choice(("1.20.0", "1.22.0")), ("CPUExecutionProvider",)),
        )
        look = Look(
            now=self.now,
            monotonic=0.0,
            clock_trusted=rng.random() > 0.05,
            trust_fresh=rng.random() > 0.05,
        )
        if name in self.orders:
            reader = AckReader(device=name, manifest=manifest, ledger=self.ledger)
            site = SiteOrders(self.directory / name, device, manifest, self.ledger)
            orders = DeviceOrders(self.directory / name, device, reader, manifest, site)
            order = reader.open_order(self.orders[name])
            assert order is not None
            orders.take(order, self.orders[name])
        device.site_order = self._site_order(name)
        if judge(device, manifest, MODEL, state, look).action is Action.STOP and state.serving:
            device.stopped[MODEL] = state.serving
        self.settled[name] = (device, state, store, look)
        situation = self._situation(device, state, store, manifest, look)
        step = decide(situation, self.now)
        view = ModelView(MODEL, device=device, ledger=self.ledger, manifest=manifest, store=store)
        self._report(device, state, view, store, look)
        with self.core.store.read() as tx:
            explanation = explain_device(Evidence(tx, self.now), name)
        return situation, step, explanation

    def _site_order(self, name: str) -> ReportedSiteOrder | None:
        """As if the device's site had ordered something, in a quarter of all cases."""
        rng, expires = self._aside(name), int(self.now.timestamp()) + 3600
        if rng.random() > 0.25:
            return None
        item = {"reason": "a test", "expires": expires}
        hold = SiteHold(model=rng.choice((None, MODEL, "other")), **item)  # type: ignore[arg-type]
        back = SiteRollback(model=MODEL, version=rng.choice((*VERSIONS, "0.1.0")), **item)  # type: ignore[arg-type]
        return ReportedSiteOrder(
            site="harbour",
            counter=1,
            key="desk",
            holds=(hold,) if rng.random() < 0.3 else (),
            rollbacks=(back,) if rng.random() < 0.8 else (),
        )

    def _situation(
        self,
        device: Device,
        state: ModelState,
        store: ReleaseStore,
        manifest: Manifest,
        look: Look,
    ) -> Situation:
        self.ledger.state = DeviceState(models={MODEL: state})
        view = ModelView(MODEL, device=device, ledger=self.ledger, manifest=manifest, store=store)
        return view.situation(
            look,
            attempt_running=False,
            trial_passed=False,
            shadow_over=False,
            in_memory="",
            cannot_fetch="",
        )

    def _state(self) -> ModelState:
        rng = self.rng
        found = ModelState(security_version=rng.choice((0, 0, 0, 1)))
        for version in VERSIONS:
            if rng.random() < 0.15:
                found = found.with_failed(self.digests[version], 0)
        if rng.random() < 0.25:
            return found
        names = rng.sample(VERSIONS, 3)
        active, *before = (Installed(version=v, digest=self.digests[v]) for v in names)
        found = found.before(*before[: rng.choice((0, 1, 2, 2))])
        return replace(
            found,
            switched_at=rng.choice((0, 0, 1, int(self.now.timestamp()) - 2 * 86_400)),
            phase=ModelPhase.COMMITTED,
            stale_since=rng.choice((0, int(self.now.timestamp()) - 2 * 86_400)),
            active=active,
            install=1,
        )

    def _report(
        self, device: Device, state: ModelState, view: ModelView, store: ReleaseStore, look: Look
    ) -> None:
        facts = device.reported(store)
        steps = facts.disk_free_bytes // DISK_STEP_BYTES
        notes = device.order_notes(self.now)
        notes += [] if look.clock_trusted else ["clock_untrusted"]
        notes += [] if look.trust_fresh else ["trust_stale"]
        active, previous, stopped = state.active, state.previous, device.stopped.get(MODEL)
        spare = state.spare
        serving = None if stopped else active
        report = ReportedState(
            fleet=FLEET,
            device=device.device,
            hardware_class=CLASS,
            site="-",
            session=1,
            observed_at=int(self.now.timestamp() * 1000),
            manifest_counter=self.core.manifest().counter,
            models=(
                ReportedModel(
                    model=MODEL,
                    phase=state.phase,
                    serving_version=None if serving is None else serving.version,
                    serving_digest=None if serving is None else serving.digest,
                    stale_since=state.stale_since,
                    stopped_version=None if stopped is None else stopped.version,
                    stopped_digest=None if stopped is None else stopped.digest,
                    security_version=state.security_version,
                    switched_at=state.switched_at,
                    previous_version=None if previous is None else previous.version,
                    previous_digest=None if previous is None else previous.digest,
                    spare_version=None if spare is None else spare.version,
                    spare_digest=None if spare is None else spare.digest,
                    whole=view.whole_releases(),
                ),
            ),
            failed=dict(state.failed),
            facts=facts.model_copy(update={"disk_free_bytes": steps * DISK_STEP_BYTES}),
            notes=tuple(notes),
            site_order=device.reported_site_order,
        )
        with self.core.store.transaction() as tx:
            device_signs.set_report(tx, report, at=self.now)


def move_of(step: Step) -> tuple[str, str]:
    """A step in the words of an explanation: what it does, and towards which digest."""
    match step:
        case Stage() if "fetched ahead" in step.because:
            return "fetches", step.candidate.digest
        case Stage() | StartTrial():
            return "takes", step.candidate.digest
        case GoBack():
            if step.code == "withdrawn":
                return "leaves", ""
            return "takes", "" if step.to is None else step.to.digest
        case Keep():
            return "stays", ""
    raise AssertionError(step)
