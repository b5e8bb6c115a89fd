"""Large tensors between agent and worker: memory that both see, so no byte goes through a socket.

The agent makes the memory, sized by what is asked of it, and hands the worker a descriptor. Neither
side can make it shorter afterwards, so a worker that a model has taken over cannot have the agent
end with SIGBUS; and what the agent reads of it, it copies out before it looks at it. What the
memory holds the agent knows: places of inputs are its own, places of outputs are checked.

Small tensors stay in the frame: a page of shared memory costs more than a copy of them.

Source: memfd_create(2), F_ADD_SEALS in fcntl(2), unix(7) SCM_RIGHTS.
"""

import ctypes
import fcntl
import mmap
import os
import socket
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailboat_agent.serving.descriptor_passing import receive_descriptor, send_descriptor
from mailboat_agent.serving.tensors import Buffer, Tensor, tensor_of_wire

SHARED_BYTES_MIN = 32 << 10  # of one tensor
REGION_BYTES_MIN = 1 << 20
REGION_BYTES_MAX = 64 << 20  # as a frame: two of the largest tensors
ALIGNMENT_BYTES = 64  # of each tensor: what onnxruntime's kernels would otherwise copy for
SLOTS = 2
INPUTS, OUTPUTS = "inputs", "outputs"  # of a slot, by its number
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3


@dataclass(frozen=True, slots=True)
class JoinedTensor:
    """One tensor in parts that lie in different places, such as the rows of several requests."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parts: tuple[Buffer, ...]


class Region:
    """Shared memory of a fixed size. Made by the agent; `descriptor` is closed once it is sent."""

    def __init__(self, size_bytes: int) -> None:
        """
        Raises:
            OSError: no memory to be had. All of it is reserved now: later there is only SIGBUS.
        """
        self.size_bytes = size_bytes
        self.descriptor = _new_memory()
        try:
            os.posix_fallocate(self.descriptor, 0, size_bytes)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            self.memory = mmap.mmap(self.descriptor, size_bytes)
        except BaseException:
            os.close(self.descriptor)
            raise

    def send(self, sock: socket.socket) -> None:
        send_descriptor(sock, self.descriptor)

    def close_descriptor(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _new_memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("mailboat-tensors", flags | _MFD_NOEXEC_SEAL)
    except OSError:  # an older kernel refuses the flag
        return os.memfd_create("mailboat-tensors", flags)


class SharedTensors:
    """The agent's side for one worker: two slots, for a request that runs and one that follows."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._output_bytes = 0  # that the last answer would have taken
        self._given_up = False
        self._under_way: deque[int] = deque()  # slots of requests without an answer
        self._second_lacked = False

    def lacking(self, inputs: Sequence[Tensor | JoinedTensor]) -> dict[str, int]:
        """The regions that have to be made, or made larger, before this request: size by name."""
        if self._given_up:
            return {}
        slots = {self._free_slot(), *(range(SLOTS) if self._second_lacked else ())}
        needed = {INPUTS: _shared_bytes(inputs), OUTPUTS: self._output_bytes}
        return {
            f"{name}{slot}": region_bytes(size)
            for slot in sorted(slots)
            for name, size in needed.items()
            if self._held_bytes(f"{name}{slot}") < size <= REGION_BYTES_MAX
        }

    def frame_bytes(self, inputs: Sequence[Tensor | JoinedTensor]) -> int:
        """How much of this request would travel in the frame as things are."""
        sizes = list(map(_size_bytes, inputs))
        needed = _shared_bytes(inputs)
        if self._held_bytes(f"{INPUTS}{self._free_slot()}") >= needed:
            return sum(size for size in sizes if not _is_large(size))
        self._second_lacked = True  # the next time nobody is being answered it is made
        return sum(sizes)

    def hold(self, name: str, region: Region) -> None:
        """From now on the worker sees this one."""
        region.close_descriptor()
        self.forget(name)
        self._regions[name] = region

    def forget(self, name: str) -> None:
        if (old := self._regions.pop(name, None)) is not None:
            old.memory.close()

    def give_up(self) -> None:
        """No memory, or a worker that cannot have it: frames carry everything from now on."""
        self._given_up = True
        self.close()

    def close(self) -> None:
        for name in tuple(self._regions):
            self.forget(name)

    def put(self, inputs: Sequence[Tensor | JoinedTensor]) -> tuple[int, list[list[Any]]]:
        """Place the inputs in a slot, and say in the frame where they are."""
        slot = self._free_slot()
        region = self._regions.get(f"{INPUTS}{slot}")
        wire, offset = [], 0
        for tensor in inputs:
            size = _size_bytes(tensor)
            data: Any
            if region is None or not _is_large(size) or offset + size > region.size_bytes:
                data = b"".join(tensor.parts) if isinstance(tensor, JoinedTensor) else tensor.data
            else:
                data = [offset, size]
                _write(region.memory, offset, tensor)
                offset += _aligned(size)
            wire.append([tensor.name, tensor.datatype, list(tensor.shape), data])
        return slot, wire

    def note_sent(self) -> None:
        """What was put is with the worker; its slot is taken."""
        self._under_way.append(self._free_slot())

    def next_answered(self) -> int:
        """The slot of the oldest request that is not answered."""
        return self._under_way.popleft()

    def take(self, slot: int, answer: dict[str, Any]) -> tuple[Tensor, ...]:
        """The outputs of an answer, copied out of the memory before anything of them is read.

        Raises:
            ValueError, KeyError, TypeError: nonsense.
        """
        wanted = answer.get("output_bytes", 0)
        if type(wanted) is not int:
            raise ValueError("not a size")
        self._output_bytes = max(0, wanted)
        region = self._regions.get(f"{OUTPUTS}{slot}")
        left = 0 if region is None else region.size_bytes
        outputs = []
        for item in answer["outputs"]:
            copied, size = _copied_out(item, region)
            left -= size
            if left < 0:  # places overlap: few bytes could be copied any number of times
                raise ValueError("more outputs than the shared memory holds")
            outputs.append(tensor_of_wire(copied))
        return tuple(outputs)

    def _free_slot(self) -> int:
        return 0 if 0 not in self._under_way else 1

    def _held_bytes(self, name: str) -> int:
        region = self._regions.get(name)
        return 0 if region is None else region.size_bytes


def _copied_out(item: Any, region: Region | None) -> tuple[Any, int]:
    """A tensor of a frame with its bytes, and how many of them were copied."""
    if not isinstance(item, list) or len(item) != 4 or not isinstance(item[3], list):
        return item, 0
    match item[3]:
        case [int(offset), int(size)] if region is not None:
            if not 0 <= offset <= offset + size <= region.size_bytes:
                raise ValueError("an output outside of the shared memory")
        case _:
            raise ValueError("not a place in the shared memory")
    return [*item[:3], region.memory[offset : offset + size]], size


def region_bytes(needed: int) -> int:
    """The next power of two, so that requests of about the same size find it made."""
    return max(REGION_BYTES_MIN, 1 << (needed - 1).bit_length())


def _size_bytes(tensor: Tensor | JoinedTensor) -> int:
    if isinstance(tensor, JoinedTensor):
        return sum(map(len, tensor.parts))
    return len(tensor.data)


def _shared_bytes(inputs: Sequence[Tensor | JoinedTensor]) -> int:
    return sum(map(_aligned, filter(_is_large, map(_size_bytes, inputs))))


def _is_large(size_bytes: int) -> bool:
    return size_bytes >= SHARED_BYTES_MIN


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _write(memory: mmap.mmap, offset: int, tensor: Tensor | JoinedTensor) -> None:
    parts = tensor.parts if isinstance(tensor, JoinedTensor) else (tensor.data,)
    for part in parts:
        memory[offset : offset + len(part)] = part
        offset += len(part)


# --- the worker's side ---------------------------------------------------------------------------


class Flat(Protocol):
    """What numpy's arrays are here: bytes in one piece."""

    @property
    def nbytes(self) -> int: ...

    @property
    def data(self) -> memoryview: ...


class SharedByAgent:
    """What the agent has handed over. The worker believes the agent."""

    def __init__(self, sock: socket.socket) -> None:
        """Before the worker gives up opening files: one descriptor's number is kept for later."""
        self._sock = sock
        self._kept_number = os.dup(sock.fileno())
        self._memory: dict[str, memoryview] = {}
        self._slot = self._position = 0
        self.output_bytes = 0  # that the outputs of this answer take, or would take

    def receive(self, name: str, size_bytes: int) -> None:
        """
        Raises:
            OSError: no descriptor came, or it cannot be mapped.
        """
        os.close(self._kept_number)
        descriptor = receive_descriptor(self._sock)
        self._memory.pop(name, None)
        try:
            self._memory[name] = _mapped(descriptor, size_bytes)
        finally:
            os.dup2(self._sock.fileno(), descriptor, inheritable=False)
            self._kept_number = descriptor

    def begin_answer(self, slot: int) -> None:
        self._slot = slot
        self._position = self.output_bytes = 0

    def view(self, data: Any) -> Any:
        """The bytes of an input, wherever they are."""
        if not isinstance(data, list):
            return data
        offset, size = data
        return self._memory[f"{INPUTS}{self._slot}"][offset : offset + size]

    def place(self, content: Flat) -> list[int] | None:
        """Where an output has been written to; None if it belongs in the frame."""
        size = content.nbytes
        if size < SHARED_BYTES_MIN:
            return None
        self.output_bytes += _aligned(size)
        memory, offset = self._memory.get(f"{OUTPUTS}{self._slot}"), self._position
        if memory is None or offset + size > len(memory):
            return None
        memory[offset : offset + size] = content.data.cast("B")
        self._position += _aligned(size)
        return [offset, size]


def _mapped(descriptor: int, size_bytes: int) -> memoryview:
    """Memory behind a descriptor, without Python's own `mmap`, which would keep a second one.

    It stays mapped as long as anything looks at it, an array that a model's code has kept too.
    """
    address = _libc.mmap(None, size_bytes, _PROT_READ | _PROT_WRITE, _MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    buffer = (ctypes.c_char * size_bytes).from_address(address)
    weakref.finalize(buffer, _libc.munmap, address, size_bytes).atexit = False
    return memoryview(buffer).cast("B")


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *(ctypes.c_int,) * 3,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_PROT_READ, _PROT_WRITE, _MAP_SHARED = 1, 2, 1
_MAP_FAILED = ctypes.c_void_p(-1).value
