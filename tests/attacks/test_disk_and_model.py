"""Who can write to the device's disk, and who may sign a model that does more than compute."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from attack_siege import FACTOR, Siege
from mailboat_agent import sealed_memory
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.documents.release import ReleaseDocument, document_digest
from mailboat_schemas.errors import MailboatError
from mailboat_schemas.events import EventKind
from model_fleet import MODEL, affine, looping

# In `make test-all` and `pytest tests/attacks`; the quick suite tests each defence in its own room.
pytestmark = pytest.mark.slow

# --- the disk ------------------------------------------------------------------------------------


async def damaged(siege: Siege, damage: Callable[[Path], None]) -> None:
    """Stop the device, do something to a file, and start it again."""
    await siege.box.stop()
    damage(siege.box.directory)
    siege.box.start()


def model_digest(siege: Siege) -> str:
    document = siege.box.manifest.document(siege.current.digest)
    assert document is not None
    return document.variants[0].model_file.sha256


def told_damage(siege: Siege) -> list[str]:
    return [event.code for event in siege.alarms() if event.kind is EventKind.STORAGE_DAMAGED]


async def test_a_model_exchanged_on_the_disk(siege: Siege) -> None:
    digest = model_digest(siege)

    def exchange(data: Path) -> None:
        path = data / "store" / digest
        path.chmod(0o600)
        path.write_bytes(affine(66.0))

    await damaged(siege, exchange)
    await siege.until_served()  # fetched again
    assert told_damage(siege) == [MODEL]
    await siege.assert_serves()


async def test_a_model_exchanged_between_being_hashed_and_being_used(siege: Siege) -> None:
    """What was hashed is what is read: the name on the disk is not asked again."""
    digest = model_digest(siege)
    descriptor = siege.box.store.open_verified(digest)
    path = siege.box.store.path(digest)
    evil = path.with_name("evil")
    evil.write_bytes(affine(66.0))
    evil.replace(path)
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == affine(FACTOR)
    with pytest.raises(MailboatError) as refused:
        siege.box.store.open_verified(digest)
    assert refused.value.code == "E-DIGEST"
    await siege.assert_serves()


async def test_a_model_exchanged_between_being_verified_and_being_loaded(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too large for memory stays a file: the worker hashes the very bytes that it loads."""
    monkeypatch.setattr(sealed_memory, "IN_MEMORY_BYTES_MAX", 0)
    digest, verified = model_digest(siege), ReleaseStore.open_verified
    exchanges = iter([True])

    def open_then_exchange(store: ReleaseStore, which: str) -> int:
        descriptor = verified(store, which)
        if which == digest and next(exchanges, False):
            path = store.path(digest)
            path.chmod(0o600)
            path.write_bytes(affine(66.0))
        return descriptor

    monkeypatch.setattr(ReleaseStore, "open_verified", open_then_exchange)
    await damaged(siege, lambda _: None)
    await siege.until_served()  # set aside, and fetched again
    await siege.assert_refused("E-MODEL-ALTERED")


async def test_a_symlink_in_the_place_of_a_model(siege: Siege) -> None:
    digest = model_digest(siege)
    target = siege.directory / "elsewhere"
    target.write_bytes(affine(FACTOR))  # even with the very bytes

    def link(data: Path) -> None:
        path = data / "store" / digest
        path.unlink()
        path.symlink_to(target)

    await damaged(siege, link)
    await siege.until_served()
    assert told_damage(siege) == [MODEL]
    assert not siege.box.store.path(digest).is_symlink()
    await siege.assert_serves()


async def test_a_device_file_in_the_place_of_a_model(siege: Siege) -> None:
    digest = model_digest(siege)

    def link(data: Path) -> None:
        path = data / "store" / digest
        path.unlink()
        os.mkfifo(path)  # reading it would wait for ever

    await damaged(siege, link)
    await siege.until_served()
    await siege.assert_serves()


async def test_a_hard_link_to_a_model_through_which_it_is_changed(siege: Siege) -> None:
    digest = model_digest(siege)
    path = siege.box.store.path(digest)
    outside = siege.directory / "outside"
    outside.hardlink_to(path)
    outside.chmod(0o600)
    with outside.open("r+b") as file:
        file.write(b"\0" * 16)
    await siege.assert_serves()  # what serves was verified when it was loaded
    await damaged(siege, lambda _: None)
    await siege.until_served()
    assert told_damage(siege) == [MODEL]
    await siege.assert_serves()


async def test_a_symlink_in_the_place_of_a_download(siege: Siege) -> None:
    second = siege.fleet.model_release("1.1.0", factor=3.0)
    document = ReleaseDocument.parse(siege.fleet.documents[second.digest])
    precious = siege.directory / "precious"
    precious.write_bytes(b"keep me")
    part = siege.box.store.staging_path(document.variants[0].model_file.sha256)
    part.symlink_to(precious)
    siege.box.take(siege.fleet.offered(second, siege.current))
    await siege.box.until(lambda: siege.box.reconciler.loops[MODEL]._staging.trouble != "")
    assert precious.read_bytes() == b"keep me"
    await siege.assert_serves()


async def test_trust_metadata_exchanged_on_the_disk(siege: Siege) -> None:
    def exchange(data: Path) -> None:
        for path in (data / "trust").rglob("approval-vad.json"):
            path.write_bytes(path.read_bytes().replace(b"1000000", b"1000001"))

    await damaged(siege, exchange)
    assert "trust" in told_damage(siege)
    await siege.until_served()  # healed from the kept manifest, which proves itself
    await siege.assert_serves()


async def test_trust_metadata_set_back_to_an_older_set(siege: Siege) -> None:
    """With everything else that would remember: only the marks beside the set are left."""
    older = siege.directory / "older"
    newest = max((siege.box.directory / "trust").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.copytree(newest, older)
    yesterday = siege.fleet.current(siege.current)
    siege.fleet.resign()
    today = siege.fleet.current(siege.current)
    await siege.advance(today)

    def set_back(data: Path) -> None:
        for path in (data / "trust").glob("[0-9]*"):
            shutil.rmtree(path)
        shutil.copytree(older, data / "trust" / "9")
        shutil.rmtree(data / "manifests")
        for name in ("state.json", "state.json.prev"):
            (data / name).unlink()

    await damaged(siege, set_back)
    await siege.offer(yesterday)
    assert "E-ROLLBACK" in [event.code for event in siege.alarms()]
    assert siege.box.manifest.desired is None
    siege.box.take(today)
    await siege.until_served()
    await siege.assert_serves()


async def test_a_record_of_zeros_after_a_power_cut(siege: Siege) -> None:
    def zero(data: Path) -> None:
        path = data / "state.json"
        path.write_bytes(bytes(path.stat().st_size))

    await damaged(siege, zero)
    await siege.until_served()
    await siege.looks()
    assert siege.box.ledger.state.manifest_counter == siege._counter


async def test_records_deleted_to_make_a_device_forget_what_it_accepted(siege: Siege) -> None:
    yesterday = siege.fleet.current(siege.current)
    siege.fleet.resign()
    await siege.advance(siege.fleet.current(siege.current))

    def delete(data: Path) -> None:
        for name in ("state.json", "state.json.prev"):
            (data / name).unlink()

    await damaged(siege, delete)
    await siege.offer(yesterday)
    assert "E-ROLLBACK" in [event.code for event in siege.alarms()]


# --- the model -----------------------------------------------------------------------------------


async def tried(siege: Siege, model: bytes, **health: object) -> str:
    """The device tries a model that two roles signed; the reason why it went no further."""
    evil = siege.fleet.model_release("6.6.6", model=model, health=health)
    siege.box.take(siege.fleet.offered(evil, siege.current))
    await siege.box.until(lambda: "trial_failed 6.6.6" in siege.box.told())
    await siege.until_served()
    await siege.assert_serves()
    (event,) = (each for each in siege.alarms() if each.kind is EventKind.TRIAL_FAILED)
    return event.code


def with_weights_at(location: str) -> bytes:
    """y = weights * x, the weights in a file that the graph names."""
    weights = numpy_helper.from_array(np.zeros(4, np.float32), "weights")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    return graph_of([helper.make_node("Mul", ["x", "weights"], ["y"])], [weights])


def graph_of(
    nodes: list[NodeProto], initializers: list[TensorProto] | None = None, domain: str = ""
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "evil",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        initializers or [],
    )
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def bait(tmp_path: Path) -> Path:
    """A file outside the release, which a model would like to read."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.full(4, 42, np.float32).tobytes())
    return path


async def test_external_data_at_an_absolute_path(siege: Siege, bait: Path) -> None:
    assert await tried(siege, with_weights_at(str(bait))) == "external_data"


async def test_external_data_by_path_traversal(siege: Siege, bait: Path) -> None:
    upwards = "../" * 12 + str(bait).lstrip("/")
    assert await tried(siege, with_weights_at(upwards)) == "external_data"


async def test_external_data_from_the_store_of_another_release(siege: Siege) -> None:
    assert await tried(siege, with_weights_at(model_digest(siege))) == "external_data"


async def test_an_operator_of_ones_own_in_a_shared_library(siege: Siege) -> None:
    node = helper.make_node("Exfiltrate", ["x"], ["y"], domain="evil.example")
    assert await tried(siege, graph_of([node], domain="evil.example")) == "load_failed"


async def test_a_model_that_never_ends(siege: Siege) -> None:
    assert await tried(siege, looping(), deadline_seconds=1) == "hung"


async def test_a_model_that_takes_all_memory(siege: Siege) -> None:
    shape = numpy_helper.from_array(np.array([1 << 16, 1 << 16, 4], np.int64), "shape")
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["top"], keepdims=0),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    code = await tried(siege, graph_of(nodes, [shape]))
    assert code in {"memory_exceeded", "crashed", "load_failed", "no_golden_output"}


async def test_a_model_that_is_no_model(siege: Siege) -> None:
    assert await tried(siege, os.urandom(4096)) == "load_failed"


@pytest.mark.parametrize(
    "path",
    ["../state.json", "/etc/passwd", "a/../../b", "weights\0.bin", "..", "x" * 300, "a\\..\\b"],
)
async def test_path_traversal_in_the_name_of_a_file_of_a_release(siege: Siege, path: str) -> None:
    document = json.loads(siege.fleet.documents[siege.current.digest])
    document["version"] = "6.6.6"
    document["variants"][0]["files"][0]["path"] = path
    forged = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(MailboatError) as refused:
        ReleaseDocument.parse(forged)
    assert refused.value.code in {"E-PAYLOAD-MALFORMED", "E-DOCUMENT"}
    siege.fleet._sign("6.6.6", forged, approve=True)
    ref = ReleaseRef(version="6.6.6", digest=document_digest(forged))
    await siege.offer(siege.fleet.offered(ref, siege.current))
    await siege.assert_refused("class_matches", trust_moves=True)
