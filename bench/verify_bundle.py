"""Verifying one retained manifest: 10 models × 20 approved releases, on one core.

The device's own entry points: `TrustStore.accept` (python-tuf's client workflow, durable on disk),
the director's signature over the desired state, and the standing of every release. The pure part
(`accept_trust`, without the disk) is measured beside it. Memory is the growth of the peak resident
size of a fresh process that does it once, libraries already loaded.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

MODELS, RELEASES = 10, 20
MILLISECONDS_MAX = 50.0
MEBIBYTES_MAX = 20.0
ROUNDS = 15
FLEET, CLASS = "bench", "kiosk"


def make_bundle(directory: Path) -> None:
    """``bundle.bin`` and ``root.json`` in ``directory``."""
    from tuf.api.metadata import Metadata, Targets

    from mailboat_controller.authority import roles
    from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
    from mailboat_controller.authority.keys import load_key
    from mailboat_controller.authority.online import OnlineKeys
    from mailboat_controller.trust.bundle import compose_bundle
    from mailboat_schemas.desired import Assignment, DesiredState, ReleaseRef
    from mailboat_schemas.documents.release import document_digest
    from mailboat_schemas.plan import Plan, PlanWave

    now = datetime.now(UTC)
    models = tuple(f"model-{number}" for number in range(MODELS))
    one = Quorum(threshold=1, keys=1)
    two = Quorum(threshold=2, keys=2)
    ceremony = directory / "ceremony"
    hold(Ceremony(models=models, root=two, targets=two, approval=one), ceremony, now)
    trust = ceremony / "controller" / "trust"
    held = {p.stem: p.read_bytes() for p in trust.glob("*.json") if p.name != "1.root.json"}
    plan = Plan(
        rollout="bench", waves=(PlanWave(cap_ppm=1_000_000, count_ppm=1_000_000),)
    ).to_custom()
    assignments, documents = [], {}
    for model in models:
        ci = load_key(ceremony / "ci" / f"{model}.pem")
        approver = load_key(ceremony / "approver" / f"{model}.pem")
        for number in range(RELEASES):
            version, content = f"1.{number}.0", release_document(model, f"1.{number}.0")
            about = {"model": model, "version": version, "document": content, "now": now}
            name = f"release-{model}"
            held[name] = roles.add_release(held[name], ci, **about)
            name = f"approval-{model}"
            held[name] = roles.add_approval(held[name], [approver], plan=plan, **about)
        digest = document_digest(content)
        documents[digest] = content
        assignments.append(
            Assignment(model=model, current=ReleaseRef(version=version, digest=digest))
        )
    online = OnlineKeys.load(ceremony / "controller" / "keys")
    versions = {
        name: Metadata[Targets].from_bytes(content).signed.version
        for name, content in held.items()
        if name not in {"snapshot", "timestamp"}
    }
    held["snapshot"] = online.sign_snapshot(held["snapshot"], versions, now=now)
    held["timestamp"] = online.sign_timestamp(held["timestamp"], held["snapshot"], now=now)
    desired = DesiredState(
        fleet=FLEET,
        hardware_class=CLASS,
        counter=1,
        issued=int(now.timestamp()),
        assignments=tuple(assignments),
    )
    root = (trust / "1.root.json").read_bytes()
    bundle = compose_bundle(
        fleet=FLEET,
        hardware_class=CLASS,
        counter=1,
        roles=held,
        roots=[root],
        documents=documents,
        desired=online.sign_desired(desired),
    )
    (directory / "bundle.bin").write_bytes(bundle)
    (directory / "root.json").write_bytes(root)


def release_document(model: str, version: str) -> bytes:
    from mailboat_schemas.documents.release import ReleaseDocument

    tensor = {"name": "x", "dtype": "float32", "shape": [-1, 4]}
    return ReleaseDocument.model_validate(
        {
            "model": model,
            "version": version,
            "security_version": 0,
            "interface": {"inputs": [tensor], "outputs": [tensor]},
            "variants": [
                {
                    "hardware_classes": [CLASS],
                    "files": [
                        {"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}
                    ],
                    "runtime": {"version": ">=1.18"},
                    "peak_memory": 1 << 20,
                    "health": {},
                }
            ],
            "compatibility": {},
            "provenance": {},
        }
    ).canonical_bytes()


def device(directory: Path) -> tuple[Callable[[], None], Callable[[], None]]:
    """What a device does on its disk, and the same without the disk."""
    from mailboat_agent.trust.trust_store import TrustStore
    from mailboat_schemas.codec import decode
    from mailboat_schemas.desired import ManifestBundle
    from mailboat_schemas.trust import TrustView, accept_trust, open_desired

    payload = (directory / "bundle.bin").read_bytes()
    root = (directory / "root.json").read_bytes()
    models = [f"model-{number}" for number in range(MODELS)]

    def judge(bundle: ManifestBundle, view: TrustView) -> None:
        desired = open_desired(bundle, view, fleet=FLEET, hardware_class=CLASS)
        assert len(desired.assignments) == MODELS
        for model in models:
            for number in range(RELEASES):
                standing = view.standing(model, f"1.{number}.0")
                assert standing.approved_digest is not None
                assert standing.may_install(standing.approved_digest)

    def on_disk() -> None:
        with tempfile.TemporaryDirectory(dir=directory) as data:
            bundle = decode(ManifestBundle, payload)
            judge(bundle, TrustStore(Path(data), root).accept(bundle.trust, models))

    def in_memory() -> None:
        # python-tuf insists on a directory; /dev/shm is one without a disk under it.
        with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
            bundle = decode(ManifestBundle, payload)
            held = accept_trust(
                bundle.trust, factory_root=root, held={}, models=models, scratch=Path(scratch)
            )
            judge(bundle, TrustView(root, held))

    return on_disk, in_memory


def median_ms(action: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def peak_growth_mib(directory: Path) -> float:
    """In a process of its own: the peak before is that of the loaded libraries."""
    on_disk, _ = device(directory)
    before = high_water_kib()
    on_disk()
    return (high_water_kib() - before) / 1024


def high_water_kib() -> int:
    """Peak resident size. Not ``ru_maxrss``: that one is inherited from whoever started us."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("this kernel tells no VmHWM")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core
    if options.memory_of is not None:
        print(peak_growth_mib(options.memory_of))
        return 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_bundle(directory)
        on_disk, in_memory = device(directory)
        on_disk()  # the first one compiles validators
        child = [sys.executable, __file__, "--memory-of", name]
        memory = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
        found = {
            "models": MODELS,
            "releases": MODELS * RELEASES,
            "bundle_bytes": (directory / "bundle.bin").stat().st_size,
            "verify_ms": round(median_ms(in_memory, ROUNDS), 1),
            "verify_and_keep_ms": round(median_ms(on_disk, ROUNDS), 1),
            "verify_ms_max": MILLISECONDS_MAX,
            "peak_growth_mib": round(memory, 1),
            "peak_growth_mib_max": MEBIBYTES_MAX,
        }
    ok = found["verify_ms"] <= MILLISECONDS_MAX and memory <= MEBIBYTES_MAX
    if options.json:
        print(json.dumps(found | {"ok": ok}))
    else:
        print(
            f"{MODELS} models × {RELEASES} releases, {found['bundle_bytes']} bytes in one message"
        )
        print(f"verify              {found['verify_ms']:6.1f} ms   of {MILLISECONDS_MAX:.0f}")
        print(f"verify and keep     {found['verify_and_keep_ms']:6.1f} ms   (with the disk)")
        print(f"peak memory growth  {memory:6.1f} MiB  of {MEBIBYTES_MAX:.0f}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
