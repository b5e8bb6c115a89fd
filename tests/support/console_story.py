"""A controller with something on every page: two models, a rollout that halted, one that runs and
one that waits for a person, devices that tell, a site that is cut off, and names that attack."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from enrolled_fleet import EnrolledDevice
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import device_certificates, devices, sites
from mailboat_schemas.codec import encode
from mailboat_schemas.documents.rollout_gate import Gate
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.events import RECOVERY_SECONDS, EventKind
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import ReportedModel, TelemetryBatch, TelemetryWindow
from mailboat_schemas.submission import Submission, SubmissionReply
from mailboat_schemas.topics import Channel
from running_api import RunningApi
from trust_fleet import CLASS, FLEET, MODEL

PPM = 1_000_000
EVERYBODY = PlanWave(count_ppm=PPM, cap_ppm=PPM)
WEIGHED = EVERYBODY.model_copy(
    update={"gate": terms_of(Gate.model_validate({"kind": "statistical"}))}
)
HOSTILE = "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>'\"&"
SITE = "harbour"
DEVICES = tuple(f"kiosk-{n}" for n in range(1, 9))
FAILED = "kiosk-3"
BECAUSE = "5 of 20 requests failed"
CARD = "# vad\n\nHears a voice.\n" + "\u202e" + "hidden\n"
X = {"name": "x", "dtype": "float32", "shape": [-1, 4]}


@dataclass
class ConsoleStory:
    """Told to a `RunningApi` once; ``digests`` by version. ``hostile`` is put wherever somebody
    else chooses the words."""

    api: RunningApi
    hostile: str = HOSTILE
    digests: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    enrolled: dict[str, EnrolledDevice] = field(default_factory=dict)

    def tell(self) -> "ConsoleStory":
        self._place_site()
        for number, name in enumerate(DEVICES):
            self._enrol(name, site=SITE if number >= len(DEVICES) - 2 else "-")
        card = self._card()
        self._release("1.0.0", Plan(rollout="first", waves=(EVERYBODY,)), card=card)
        for name in DEVICES:
            self._event(name, EventKind.COMMITTED, "1.0.0")
        self._run()
        self._bad_release(card)
        self._release("1.2.0", Plan(rollout="third", waves=(WEIGHED,), manual_start=True))
        self._release("1.3.0", None)
        self._report_and_measure()
        self._hold()
        return self

    def _place_site(self) -> None:
        now = self.api.now()
        with self.api.store.transaction() as tx:
            sites.put(
                tx,
                SITE,
                policy=Policy.ERROR,
                expected_until=None,
                windows=(),
                broker_host="10.0.0.7",
                broker_port=8883,
                cache_url="",
                labels={"note": self.hostile[:60]},
                at=now,
            )
            sites.note_link(tx, SITE, connected=True, retained=False, at=now - timedelta(hours=5))
            sites.note_link(tx, SITE, connected=False, retained=False, at=now - timedelta(hours=2))

    def _enrol(self, name: str, *, site: str) -> None:
        device = self.enrolled[name] = EnrolledDevice(name, site=site)
        with self.api.store.transaction() as tx:
            devices.enrol(
                tx,
                device=name,
                hardware_class=CLASS,
                site=site,
                labels={"hall": (self.hostile or "south") if name == FAILED else "north"},
                public_key=device.public_key,
                at=self.api.now(),
            )
            device_certificates.record(
                tx,
                name,
                serial=f"c-{name}",
                public_key=device.public_key,
                issued_at=self.api.now(),
                expires_at=self.api.now() + timedelta(days=90),
            )

    def _card(self) -> dict[str, Any]:
        content = (CARD + self.hostile).encode()
        digest = hashlib.sha256(content).hexdigest()
        upload = self.api.artifacts.begin(digest, len(content))
        with upload:
            upload.write(content)
            upload.commit()
        return {"path": "card.md", "role": "model-card", "sha256": digest, "length": len(content)}

    def _release(
        self, version: str, plan: Plan | None, *, card: dict[str, Any] | None = None, **more: Any
    ) -> None:
        path = self.api.artifacts.path("ab" * 32)  # type: ignore[attr-defined]  # a directory
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")
        files = [{"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}]
        variant = {
            "hardware_classes": [CLASS],
            "files": [*files, *([card] if card else [])],
            "runtime": {"version": ">=1.18"},
            "peak_memory": (1 + len(self.digests)) << 20,
            "health": {"latency_p95_ms_max": 10.0 + len(self.digests)},
        }
        more = {"variants": [variant], "description": f"Release {version}. {self.hostile}"} | more
        trust = self.api.trust
        given = {} if plan is None else {"plan": plan}
        digest = trust.release(version, **given, approve=plan is not None, **more)
        names = ["release-vad", *(["approval-vad"] if plan is not None else [])]
        roles = {name: trust.roles[name] for name in names}
        content = encode(
            Submission(fleet=FLEET, roles=roles, documents={digest: trust.documents[digest]})
        )
        headers = {"Content-Type": "application/vnd.msgpack"}
        answer = self.api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)
        reply = SubmissionReply.model_validate_json(answer.content)
        assert reply.status == "accepted", reply
        self.digests[version] = digest

    def _bad_release(self, card: dict[str, Any]) -> None:
        """It passes its canary and fails on the second wave: a device reports, it halts."""
        waves = (PlanWave(pilots=("kiosk-1",)), EVERYBODY)
        self._release("1.1.0", Plan(rollout="second", waves=waves), card=card)
        self._run()
        self._event("kiosk-1", EventKind.TRIAL_STARTED, "1.1.0")
        self._event("kiosk-1", EventKind.COMMITTED, "1.1.0")
        self._run()
        for name in ("kiosk-2", FAILED):
            self._event(name, EventKind.SOAK_STARTED, "1.1.0")
        self._event(
            FAILED,
            EventKind.ROLLED_BACK,
            "1.1.0",
            serving_version="1.0.0",
            code="error_rate",
            because=f"{BECAUSE} {self.hostile}",
            evidence={RECOVERY_SECONDS: 0.4},
        )
        self._run()
        for name in ("kiosk-1", "kiosk-2"):
            self._event(name, EventKind.RETURNED, "1.1.0", serving_version="1.0.0")
        self._run()

    def _report_and_measure(self) -> None:
        now = self.api.now()
        for number, name in enumerate(DEVICES[:5]):
            model = ReportedModel(
                model=MODEL,
                phase="committed",
                serving_version="1.0.0",
                serving_digest=self.digests["1.0.0"],
                whole=(self.digests["1.0.0"],),
            )
            report = self.enrolled[name].report(
                observed_at=int((now.timestamp() + 90 * (number == 2)) * 1000),
                models=[model.model_dump()],
                manifest_counter=1,
                failed={self.digests["1.1.0"]: 0} if name == FAILED else {},
                facts={
                    "agent_version": "0.9",
                    "arch": "x86_64",
                    "runtime_version": "1.20.0",
                    "providers": ["CPUExecutionProvider"],
                    "memory_budget_bytes": 256 << 20,
                    "disk_free_bytes": 3 << 30,
                    "enrolment_number": 1 + number,
                    "labels": {
                        "hall": (self.hostile[:40] or "south") if name == FAILED else "north"
                    },
                },
            )
            self._take(self.enrolled[name].presence(1, online=True), report)
        self._take(self._windows(FAILED))
        self._take(self._report_of_a_site_that_acts_alone())

    def _report_of_a_site_that_acts_alone(self) -> Incoming:
        """Of a device that is held by its site, and too far behind to go on."""
        until = {"expires": int(self.api.now().timestamp()) + 3600}
        digest = self.digests["1.0.0"]
        stopped = ReportedModel(
            model=MODEL, phase="absent", stopped_version="1.0.0", stopped_digest=digest
        )
        order = {
            "site": SITE,
            "counter": 3,
            "key": "foreman",
            "holds": [{"reason": f"the crane is at work {self.hostile}"[:100], **until}],
            "rollbacks": [{"model": MODEL, "version": "1.0.0", "reason": "noise", **until}],
        }
        return self.enrolled["kiosk-7"].report(models=[stopped.model_dump()], site_order=order)

    def _windows(self, name: str) -> Incoming:
        began = int((self.api.now() - timedelta(minutes=50)).timestamp() * 1000)
        device = self.enrolled[name]
        windows = tuple(
            TelemetryWindow(
                sequence=n,
                model=MODEL,
                version="1.0.0",
                digest=self.digests["1.0.0"],
                started_at=began + n * 60_000,
                seconds=60,
                requests_ok=90 + 7 * (n % 5),
                requests_error=n % 7 == 3,
                peak_memory_bytes=(80 + n) << 20,
                latency={  # type: ignore[arg-type]
                    "relative_accuracy": 0.01,
                    "offset": 100 + n % 9,
                    "bins": [40, 30, 20],
                    "count": 90,
                    "sum_ms": 660.0,
                },
            )
            for n in range(1, 48)
        )
        batch = TelemetryBatch(device=name, epoch=device.epoch, first=1, windows=windows)
        payload = device.sealed(PayloadType.TELEMETRY_BATCH, batch)
        return Incoming(topic=device.topic(Channel.TELEMETRY), payload=payload)

    def _hold(self) -> None:
        body = {"reason": f"an exhibition {self.hostile[:40]}", "hours": 12}
        assert self.api.ask("POST", "/v1/devices/kiosk-4/hold", by="alice", body=body).status == 200

    def _event(self, name: str, kind: EventKind, version: str, **more: object) -> None:
        self.sequences[name] = self.sequences.get(name, 0) + 1
        about = {"digest": self.digests[version], "version": version, **more}
        self._take(self.enrolled[name].tells(self.sequences[name], kind, **about))

    def _take(self, *messages: Incoming) -> None:
        with self.api.store.device_transaction() as tx:
            taken = ingest(tx, messages, fleet=FLEET, now=self.api.now())
        assert not taken.quarantined, taken

    def _run(self) -> None:
        self.api.reconciler.run(self.api.now())
