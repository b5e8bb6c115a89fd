from dataclasses import replace

from mailboat_agent.degraded.cache import ENTRY_BYTES, INPUT_BYTES_MAX, Cache, key_of
from mailboat_agent.serving.answering import Answered, Asked
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.degraded_policy import AnswerCache

RELEASE = "a" * 64
POLICY = AnswerCache(bytes_max=4096, seconds_max=60)


def asked(data: bytes = b"\x01", name: str = "x") -> Asked:
    tensor = Tensor(name, "UINT8", (len(data),), data)
    return Asked(model="m", version=None, inputs=(tensor,), outputs=(), deadline=0.0)


def answered(size_bytes: int = 1) -> Answered:
    output = Tensor("y", "UINT8", (size_bytes,), bytes(size_bytes))
    return Answered(model="m", version="1.0.0", digest=RELEASE, outputs=(output,))


def test_the_same_inputs_find_the_answer_and_others_do_not() -> None:
    cache = Cache()
    cache.put(POLICY, key_of(RELEASE, asked(b"\x01")), answered(), 0.0)

    assert cache.get(POLICY, key_of(RELEASE, asked(b"\x01")), 1.0) == answered()
    assert cache.get(POLICY, key_of(RELEASE, asked(b"\x02")), 1.0) is None
    assert cache.get(POLICY, key_of(RELEASE, asked(b"\x01", name="z")), 1.0) is None
    assert cache.get(POLICY, key_of("b" * 64, asked(b"\x01")), 1.0) is None


def test_shape_and_type_are_part_of_what_is_asked() -> None:
    flat = asked(b"\x01\x02")
    tall = replace(flat, inputs=(Tensor("x", "UINT8", (2, 1), b"\x01\x02"),))
    signed = replace(flat, inputs=(Tensor("x", "INT8", (2,), b"\x01\x02"),))
    one_output = replace(flat, outputs=("y",))

    keys = {key_of(RELEASE, each) for each in (flat, tall, signed, one_output)}

    assert len(keys) == 4


def test_the_order_of_the_inputs_is_not() -> None:
    x, z = Tensor("x", "UINT8", (1,), b"\x01"), Tensor("z", "UINT8", (1,), b"\x02")

    assert key_of(RELEASE, replace(asked(), inputs=(x, z))) == key_of(
        RELEASE, replace(asked(), inputs=(z, x))
    )


def test_an_old_answer_is_none() -> None:
    cache, key = Cache(), key_of(RELEASE, asked())
    cache.put(POLICY, key, answered(), 0.0)

    assert cache.get(POLICY, key, 60.0) is not None
    assert cache.get(POLICY, key, 60.1) is None
    assert cache.size_bytes == 0


def test_the_oldest_make_room_and_the_bound_is_kept() -> None:
    cache = Cache()
    keys = [key_of(RELEASE, asked(bytes([number]))) for number in range(20)]
    for number, key in enumerate(keys):
        cache.put(POLICY, key, answered(100), float(number))
        assert cache.size_bytes <= POLICY.bytes_max

    kept = [key for key in keys if cache.get(POLICY, key, 20.0)]
    assert kept == keys[-(4096 // (ENTRY_BYTES + 100)) :]


def test_what_is_too_large_is_not_kept() -> None:
    cache = Cache()
    cache.put(POLICY, key_of(RELEASE, asked()), answered(POLICY.bytes_max), 0.0)

    assert cache.size_bytes == 0
    assert key_of(RELEASE, asked(bytes(INPUT_BYTES_MAX + 1))) is None


def test_an_answer_is_kept_whatever_becomes_of_the_memory_it_stood_in() -> None:
    cache, key, memory = Cache(), key_of(RELEASE, asked()), bytearray(b"\x07")
    view = replace(answered(), outputs=(Tensor("y", "UINT8", (1,), memoryview(memory)),))
    cache.put(POLICY, key, view, 0.0)

    memory[0] = 9

    found = cache.get(POLICY, key, 1.0)
    assert found is not None
    assert found.outputs[0].data == b"\x07"
