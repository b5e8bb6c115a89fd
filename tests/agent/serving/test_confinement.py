"""What code that has taken over a worker can still do. It runs here, in a process so confined."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

from mailboat_agent.serving import landlock, seccomp, seccomp_program
from mailboat_agent.serving.confinement import Layer, user_id
from mailboat_agent.serving.external_data import refers_to_other_files
from mailboat_agent.serving.process import InferenceFailed, ModelAltered, Worker, WorkerOptions
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.serving.smallest_model import SMALLEST_MODEL

CPU = WorkerOptions(providers=("CPUExecutionProvider",), threads=1, memory_limit_bytes=512 << 20)

ATTACKS: dict[str, str] = {
    "read a file": "open('/etc/hostname').read()",
    "read the agent's key": "open(KEY).read()",
    "write a file": "open('/tmp/mailboat-attack', 'w')",
    "list a directory": "os.listdir('/')",
    "remove a file": "os.unlink(KEY)",
    "open a file to everybody": "os.chmod(KEY, 0o777)",
    "make a directory": "os.mkdir('/tmp/mailboat-attack')",
    "link a file": "os.link(KEY, '/tmp/mailboat-attack')",
    "start a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "open a TCP socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "open a UDP socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a local socket": "socket.socket(socket.AF_UNIX)",
    "kill the agent": "os.kill(PARENT, 0)",
    "take the agent's descriptors": "os.pidfd_open(PARENT)",
    "become root": "os.setuid(0)",
    "change the agent's limits": "resource.prlimit(PARENT, resource.RLIMIT_NOFILE, (1, 1))",
    "trace the agent": "libc_call('ptrace', 16, PARENT, 0, 0)",
    "read the agent's memory": "libc_call('process_vm_readv', PARENT, 0, 0, 0, 0, 0)",
    "leave for another namespace": "libc_call('unshare', 0x10000000)",
    "mount something": "libc_call('mount', b'none', b'/tmp', b'tmpfs', 0, 0)",
    "make memory executable": "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "raise its own limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "load a kernel program": "raw_call(321 if MACHINE == 'x86_64' else 280, 0, 0, 0)",
    "use io_uring": "raw_call(425, 1, 0)",
    "use a call newer than the list": "raw_call(466, 0, 0, 0)",
    "leave shared memory behind": "libc_call('shmget', 0, 4096, 0o1600)",
    "leave a message queue behind": "libc_call('msgget', 0, 0o1600)",
    "leave semaphores behind": "libc_call('semget', 0, 1, 0o1600)",
    "leave a POSIX message queue behind": "libc_call('mq_open', b'/x', 0o102, 0o600, 0)",
    "stall the disk": "raw_call(162 if MACHINE == 'x86_64' else 81)",
    "name the agent as a socket's owner": "fcntl.fcntl(SOCKET, fcntl.F_SETOWN, PARENT)",
    "name it by structure": "libc_call('fcntl', SOCKET.fileno(), 15, struct.pack('2i', 1, PARENT))",
    "name it by ioctl": "fcntl.ioctl(SOCKET, 0x8901, struct.pack('i', PARENT))",
    "name it by another ioctl": "fcntl.ioctl(SOCKET, 0x8902, struct.pack('i', PARENT))",
    "choose the signal": "fcntl.fcntl(SOCKET, 10, 9)",
    "hold a lease on a file": "fcntl.fcntl(FILE, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "live on without the agent": "libc_call('prctl', 1, 0, 0, 0, 0)",
    "take memory that nobody counts": "mmap.mmap(-1, 1 << 20)",
    "take a stack of any size": "mmap.mmap(-1, 1 << 20, flags=0x122)",
    "have the kernel keep endless tables": "mmap.mmap(-1, 1 << 40, flags=0x4022, prot=1)",
    "start a thread": "_thread.start_new_thread(int, ())",
}

_PRISONER = """
import _thread, ctypes, errno, fcntl, json, mmap, os, platform, resource, socket, struct, sys
from mailboat_agent.serving.confinement import at_start, before_its_code, before_the_model
SOCKET, FILE = socket.socketpair()[0], open(sys.argv[1])
PARENT, KEY, MACHINE = os.getppid(), sys.argv[2], platform.machine()
libc = ctypes.CDLL(None, use_errno=True)

def libc_call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def raw_call(number, *arguments):
    libc_call("syscall", number, *arguments)

attacks = json.load(open(sys.argv[1]))
user = None if sys.argv[3] == "none" else sys.argv[3]
layers = at_start(user=user, parent_uid=0)
layers += before_the_model(opens_files=False, memory_limit_bytes=1 << 29)
layers += before_its_code(opens_files=False)
found = {}
for name, code in attacks.items():
    try:
        exec(code)
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
    except (ValueError, RuntimeError):  # what resource and _thread make of it
        found[name] = "EPERM"
    else:
        found[name] = "done"
print(json.dumps({"attacks": found, "layers": [[l.name, l.holds, l.detail] for l in layers]}))
"""


@cache
def imprisoned(directory: Path, user: str) -> dict[str, Any]:
    (directory / "attacks.json").write_text(json.dumps(ATTACKS))
    (directory / "device.key").write_text("secret")
    arguments = [str(directory / "attacks.json"), str(directory / "device.key"), user]
    done = subprocess.run(
        [sys.executable, "-c", _PRISONER, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agent")


@pytest.mark.parametrize("user", ["none", "nobody"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_code_in_a_worker_cannot(attack: str, user: str, directory: Path) -> None:
    """Also without a user of its own: each layer stands on its own feet."""
    answer = imprisoned(directory, user)["attacks"][attack]

    assert answer in ("EPERM", "EACCES", "EMFILE", "ENOSYS", "ENOMEM")


ALONE: dict[str, tuple[str, str, str]] = {
    "landlock": (
        "c._gain_no_privileges(); landlock.reach_no_path()",
        "open('/etc/hostname')",
        "EACCES",
    ),
    "limits": ("c._write_nothing()", "os.write(os.memfd_create('x'), b'x')", "EFBIG"),
    "files, by their number": (
        "seccomp.refuse_files = lambda: 0; c._open_no_more_files()",
        "open('/etc/hostname')",
        "EMFILE",
    ),
    "files, by the filter": (
        "c._gain_no_privileges(); seccomp.refuse_files()",
        "os.chmod('/nonexistent', 0)",
        "EPERM",
    ),
    "system_calls": (
        "c._gain_no_privileges(); seccomp.refuse_reaching_out()",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "EPERM",
    ),
    "a signal by way of a file, by the filter": (
        "mine = os.pipe()[0]; c._gain_no_privileges(); seccomp.refuse_reaching_out()",
        "fcntl.fcntl(mine, fcntl.F_SETOWN, os.getppid())",
        "EPERM",
    ),
    "lifeline": (
        "c.die_with_parent(); c._gain_no_privileges(); c._live_no_longer(None)",
        "c._prctl_done(c._PR_SET_PDEATHSIG, 0)",
        "EPERM",
    ),
    "lifeline of a unit, closed": (
        "mine = os.pipe()[0]; c._gain_no_privileges(); c._live_no_longer(mine)",
        "os.close(mine)",
        "EPERM",
    ),
    "lifeline of a unit, covered": (
        "mine = os.pipe()[0]; c._gain_no_privileges(); c._live_no_longer(mine)",
        "os.dup2(0, mine)",
        "EPERM",
    ),
    "lifeline of a unit, made deaf": (
        "mine = os.pipe()[0]; c._gain_no_privileges(); c._live_no_longer(mine)",
        "fcntl.fcntl(mine, fcntl.F_SETFL, 0)",
        "EPERM",
    ),
    "addresses": (
        "c._limit_addresses(1 << 20)",
        "mmap.mmap(-1, 1 << 40, flags=0x4022, prot=1)",
        "ENOMEM",
    ),
    "memory that could be shared": (
        "c._gain_no_privileges(); seccomp.refuse_files()",
        "mmap.mmap(-1, 1 << 20)",
        "EPERM",
    ),
    "code": (
        "c._prctl_done(c._PR_SET_MDWE, c._PR_MDWE_REFUSE_EXEC_GAIN)",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)",
        "EACCES",
    ),
    "network": (
        "c._leave_the_network()",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))",
        "ENETUNREACH",
    ),
    "user": ("c._become('nobody', 0)", "os.setuid(0)", "EPERM"),
    "capabilities": ("c._drop_capabilities()", "os.chown('/', 0, 0); os.setuid(1)", "EPERM"),
}


@pytest.mark.parametrize("name", ALONE)
def test_each_layer_holds_alone(name: str) -> None:
    """The others would hide it if one of them were hollow."""
    if os.getuid() != 0 and name in ("network", "user", "capabilities"):
        pytest.skip("only root has this to give up, or is sure to be able to")
    apply, attack, refusal = ALONE[name]
    script = (
        "import errno, fcntl, mmap, os, socket\n"
        "from mailboat_agent.serving import confinement as c, landlock, seccomp\n"
        f"{apply}\n"
        f"try: {attack}\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=120)

    assert said.strip() == refusal


def test_nothing_is_refused_that_is_not_confined(directory: Path) -> None:
    """The attacks are real ones: where nothing is given up, they succeed."""
    harmless = ("read a file", "list a directory", "open a UDP socket", "kill the agent", "fork")
    script = "import os, socket; PARENT = os.getppid()\n" + "\n".join(
        f"r = {ATTACKS[name]}" if name != "fork" else "os.fork() or os._exit(0)"
        for name in harmless
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_layer_says_how_it_holds_or_why_not(directory: Path) -> None:
    layers = [Layer(*each) for each in imprisoned(directory, "none")["layers"]]

    assert [layer.name for layer in layers] == [
        "oom",
        "limits",
        "user",
        "capabilities",
        "no_new_privs",
        "not_dumpable",
        "network",
        "system_calls",
        "memory",
        "lifeline",
        "addresses",
        "landlock",
        "code",
        "files",
        "threads",
    ]
    assert all(layer.detail for layer in layers)
    if os.getuid() == 0:
        user = next(layer for layer in layers if layer.name == "user")
        assert not user.holds
        assert user.detail == "it runs as root, as the agent does"


def test_a_provider_that_opens_files_gives_up_the_rest_and_says_so() -> None:
    script = (
        "from mailboat_agent.serving.confinement import at_start, before_the_model as b;"
        "at_start(user='nobody', parent_uid=0);"
        "print([(l.name, l.holds) for l in b(opens_files=True, memory_limit_bytes=1 << 28)])"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=120)

    assert said.strip() == str(
        [
            ("memory", True),
            ("lifeline", True),
            ("addresses", False),
            ("files", False),
            ("landlock", False),
            ("code", False),
        ]
    )


def test_a_second_thread_makes_landlock_refuse_rather_than_bind_one_of_two() -> None:
    script = (
        "import threading, time\n"
        "from mailboat_agent.serving import landlock\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "try: landlock.reach_no_path()\n"
        "except OSError as error: print(error)\n"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=120)

    assert "2 threads run already" in said


def test_a_worker_is_one_thread_until_its_model_comes(bench: Any, models: Any) -> None:
    """The runtime starts none of its own on import: none escapes, and none calls home."""
    worker = Worker.start(bench.open(models.affine()))
    threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))
    worker.close()

    assert threads == 1


def test_a_session_with_threads_of_its_own_gets_no_more_of_them(bench: Any, models: Any) -> None:
    worker = Worker.start(bench.open(models.affine()))
    options = replace(CPU, threads=4)
    worker.load(options, deadline_seconds=60)
    layers = {layer.name: layer for layer in worker.facts.confinement}
    threads = len(list(Path(f"/proc/{worker.pid}/task").iterdir()))
    filters = {
        line.split()[1]
        for task in Path(f"/proc/{worker.pid}/task").iterdir()
        for line in (task / "status").read_text(encoding="ascii").splitlines()
        if line.startswith("Seccomp_filters:")
    }
    worker.close()

    assert layers["threads"].holds
    assert threads >= 4
    assert len(filters) == 1  # every filter binds every thread, also those that came before it


def test_a_device_knows_how_its_workers_are_confined() -> None:
    layers = {layer.name: layer for layer in runtime_facts().confinement}

    assert layers["system_calls"].holds
    assert layers["network"].holds
    assert layers["files"].holds
    assert layers["user"].holds == (os.getuid() == 0)


def test_a_user_is_a_name_or_a_number() -> None:
    assert user_id("1234") == (1234, 1234)
    assert user_id("root") == (0, 0)
    with pytest.raises(OSError, match="there is no user 'nobody-we-know'"):
        user_id("nobody-we-know")


def test_a_filter_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")

    with pytest.raises(OSError, match="no list of system calls for vax"):
        seccomp.refuse_files()


def test_every_jump_of_the_filter_stays_inside_it() -> None:
    refused = seccomp_program.Refused(argument=1, value=7)
    for machine in seccomp_program.MACHINES.values():
        code = seccomp_program.program([1, 2, 3], [(4, refused), (5, refused)], machine)
        lines = [code[at : at + 8] for at in range(0, len(code), 8)]
        for index, line in enumerate(lines):
            operation, if_true, if_false = line[0], line[2], line[3]
            if operation in (0x15, 0x25, 0x45):
                assert index + 1 + max(if_true, if_false) < len(lines)
        assert lines[-1][0] == 0x06


def test_the_abi_of_landlock_is_a_number_or_an_error() -> None:
    try:
        assert landlock.abi() >= 1
    except OSError as error:
        assert error.errno


# --- external data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "w.bin",
        "../w.bin",
        "/etc/passwd",
        "etc/passwd",
        "link.bin",
        "hard.bin",
        "/dev/zero",
        "/proc/self/fd/4",
        "*/_ORT_MEM_ADDR_/*",
        "",
    ],
)
@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph", "sparse", "function"])
def test_external_data_is_refused_wherever_it_hides(location: str, place: str) -> None:
    assert refers_to_other_files(_external(location, place))


def _external(location: str, place: str) -> bytes:
    from onnx import TensorProto, helper

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([constant, add], "g", [x], [y])
    functions = []
    match place:
        case "initializer":
            graph = helper.make_graph([add], "g", [x], [y], [weight])
        case "subgraph":
            inner = helper.make_graph([constant, add], "inner", [], [y])
            node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
            graph = helper.make_graph([node], "g", [x], [y])
        case "sparse":
            graph = helper.make_graph([add], "g", [x], [y])
            graph.sparse_initializer.add().values.CopyFrom(weight)
        case "function":
            imports = [helper.make_opsetid("", 17)]
            functions = [helper.make_function("d", "f", ["x"], ["y"], [constant, add], imports)]
            graph = helper.make_graph(
                [helper.make_node("f", ["x"], ["y"], domain="d")], "g", [x], [y]
            )
    model = helper.make_model(graph, functions=functions, ir_version=9)
    return bytes(model.SerializeToString())


def test_a_model_that_only_speaks_of_locations_is_taken(bench: Any, models: Any) -> None:
    model = onnx.load_from_string(models.affine())
    model.doc_string = "the location of the sensor"
    content = model.SerializeToString()
    worker = Worker.start(bench.open(content))
    worker.load(CPU, deadline_seconds=20)
    worker.close()

    assert not refers_to_other_files(content)


def test_a_model_with_external_data_is_refused_before_the_runtime_sees_it(
    bench: Any, models: Any
) -> None:
    worker = Worker.start(bench.open(models.with_external_data("etc/hostname")))

    with pytest.raises(InferenceFailed, match="keeps values in another file") as failed:
        worker.load(CPU, deadline_seconds=20)
    worker.close()

    assert failed.value.kind == "external_data"


@pytest.mark.parametrize(
    "content",
    [b"\x3b location", b"\x3a\xff\xff\xff\xff\x7f location", b"\x3a" + b"\xff" * 12 + b"location"],
    ids=["group", "beyond the end", "endless number"],
)
def test_bytes_that_are_no_protobuf_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|ends within|64 bits"):
        refers_to_other_files(content)


def test_endless_nesting_is_refused() -> None:
    content = b"location"
    for field in (b"\x32", b"\x2a", b"\x0a") * 70:  # graph of an attribute of a node
        size = len(content)
        varint = bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
        content = field + varint + content
    with pytest.raises(ValueError, match="deeper"):
        refers_to_other_files(
            b"\x3a"
            + bytes(
                [0x80 | len(content) & 0x7F, len(content) >> 7 & 0x7F | 0x80, len(content) >> 14]
            )
            + content
        )


def test_the_smallest_model_is_what_it_says() -> None:
    model = onnx.load_from_string(SMALLEST_MODEL)
    onnx.checker.check_model(model)

    assert [node.op_type for node in model.graph.node] == ["Identity"]


# --- bytes that change after they were verified --------------------------------------------------


def test_a_file_that_changes_after_it_was_verified_is_not_loaded(bench: Any, models: Any) -> None:
    good = models.affine(2.0)
    model_fd = bench.open_file(good)
    (bench.directory / "model.onnx").write_bytes(models.affine(3.0))
    worker = Worker.start(model_fd)
    options = WorkerOptions(
        providers=CPU.providers,
        threads=1,
        memory_limit_bytes=512 << 20,
        model_sha256=hashlib.sha256(good).hexdigest(),
    )

    with pytest.raises(ModelAltered, match="its sha256 is"):
        worker.load(options, deadline_seconds=20)
    worker.close()
