"""Every format through the decoder's own process, within the memory that its patch declares."""

import asyncio
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.delta.choice import Offered
from mailboat_agent.delta.decoding import Decoding, decode_into
from mailboat_agent.delta.delivery import Tally
from mailboat_agent.delta.failure import DeltaFailed, Reason
from mailboat_agent.delta.room import DeltaRoom
from mailboat_agent.identity.device_key import tls_context
from mailboat_controller.deltas import portfolio
from mailboat_controller.deltas.portfolio import Candidate
from mailboat_schemas.deltas import DeliveryOutcome, delivery_of
from mailboat_schemas.patch_formats import WITHOUT_BASE
from model_fleet import ArtifactServer, Certificates
from patched_fleet import sha256
from weights import fine_tuned, safetensors, weights

MIB = 1 << 20
BEFORE = weights(numbers=200_000)
BASE, TARGET = safetensors(BEFORE), safetensors(fine_tuned(BEFORE))
FORMS = sorted(portfolio.FORMATS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    scratch = tmp_path_factory.mktemp("scratch")
    return {each.format: each for each in portfolio.build(BASE, TARGET, scratch).candidates}


def decode(
    tmp_path: Path, base: bytes, target: bytes, candidate: Candidate, memory_bytes: int
) -> bytes:
    (tmp_path / "base").write_bytes(base)
    whole = candidate.format in WITHOUT_BASE
    base_fd = None if whole else os.open(tmp_path / "base", os.O_RDONLY)
    patch_fd = os.open(candidate.patch, os.O_RDONLY)
    bounds = Decoding(
        base_fd=base_fd,
        base_length=0 if whole else len(base),
        patch_fd=patch_fd,
        target_length=len(target),
        memory_bytes=memory_bytes,
        format=candidate.format,
    )
    try:
        decode_into(tmp_path / "made", bounds, threading.Event())
    finally:
        os.close(patch_fd)
        if base_fd is not None:
            os.close(base_fd)
    return (tmp_path / "made").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_it_makes_the_target_within_the_declared_memory(
    tmp_path: Path, built: dict[str, Candidate], form: str
) -> None:
    candidate = built[form]

    assert decode(tmp_path, BASE, TARGET, candidate, candidate.memory_bytes) == TARGET


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype",
    [
        np.float32,
        np.float16,
        np.float64,
    ],
)
def test_the_declared_memory_is_enough_for_a_large_file_and_a_mebibyte_is_not(
    tmp_path: Path, dtype: type
) -> None:
    before = weights(numbers=(3 * MIB) // np.dtype(dtype).itemsize, dtype=dtype)
    base, target = safetensors(before), safetensors(fine_tuned(before, scale=3e-4))
    candidate = portfolio.build(base, target, tmp_path, {"tensor-delta/1"}).candidates[0]

    assert candidate.memory_bytes < 40 * MIB
    assert decode(tmp_path, base, target, candidate, candidate.memory_bytes) == target
    with pytest.raises(DeltaFailed) as raised:
        decode(tmp_path, base, target, candidate, 1 * MIB)
    assert raised.value.reason is Reason.DECODER_OVER_MEMORY


@pytest.mark.parametrize("form", FORMS)
def test_the_room_brings_it_into_the_store(
    tmp_path: Path, built: dict[str, Candidate], form: str
) -> None:
    candidate = built[form]
    delta = portfolio.describe(candidate, BASE, TARGET)
    certificates = Certificates(tmp_path / "pki")
    server = ArtifactServer(certificates, {delta.patch: candidate.patch.read_bytes()})
    store, tally = ReleaseStore(tmp_path / "device"), Tally()
    if delta.base is not None:
        store.put(BASE)

    async def bring() -> bool:
        source = HttpsSource(server.url, tls_context(certificates.ca_path))
        try:
            room = DeltaRoom(store=store, source=lambda: source, memory_budget_bytes=64 * MIB)
            offered = Offered("director:1", (delta,))
            return await room.bring(sha256(TARGET), len(TARGET), offered, tally, lambda _: None)
        finally:
            await source.close()

    try:
        assert asyncio.run(bring())
    finally:
        server.close()
    assert store.path(sha256(TARGET)).read_bytes() == TARGET
    delivery = delivery_of(tally.evidence())
    assert delivery is not None
    assert delivery.fetched_bytes == candidate.size_bytes
    # A whole file that came compressed is not called a delta.
    is_delta = form not in WITHOUT_BASE
    assert delivery.outcome is (DeliveryOutcome.DELTA if is_delta else DeliveryOutcome.FULL)
