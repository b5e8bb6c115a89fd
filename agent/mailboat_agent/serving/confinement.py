"""What a worker gives up before it sees a model: a bug in the runtime is then worth very little.

Every layer is tried, tells whether it holds and otherwise why not, and none depends on another:
hosts differ. `at_start` comes once everything is imported; `before_the_model` when it is known
which provider will run it, because a graphics card is reached through files. The model's bytes are
read after that; `before_its_code` comes when the model stands and its release's code has not run.
Applied to the whole process, irrevocable, and a few milliseconds in all.

Source: prctl(2), credentials(7), capabilities(7), network_namespaces(7), landlock(7), seccomp(2).
"""

import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailboat_agent.serving import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP = 1, 4, 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES_MAX = 64  # of the kernel's bit set; numbers it does not know are refused
SIGNALS_PENDING_MAX = 64  # and timers; the kernel counts them for the user, so others' too
# What the mappings that no limit of memory counts may add up to. The kernel's own tables for them
# take a 512th of it, 32 MiB; a thread's arena, which is reserved and not used, 64 MiB of it.
UNCOUNTED_ADDRESSES_MAX = 16 << 30
NOBODY = 65534  # Linux's overflow uid: owns nothing
DETAIL_CHARS_MAX = 200
_OPENS_DEVICES = "the model's provider opens device files"
_WITHOUT_FILES = ("addresses", "files", "landlock", "code")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Layer:
    """One thing given up. ``detail`` says how it is held, or why it is not."""

    name: str
    holds: bool
    detail: str


def _layer(name: str, apply: Callable[[], str]) -> Layer:
    try:
        return Layer(name, True, apply())
    except (OSError, ValueError) as error:  # resource.setrlimit raises the latter
        reason = getattr(error, "strerror", None) or str(error)
        return Layer(name, False, reason[:DETAIL_CHARS_MAX])


def at_start(*, user: str | None, parent_uid: int | None) -> list[Layer]:
    """Everything that does not depend on the model. Call it once, from the only thread.

    ``user`` is whom to become when this is root; ``parent_uid`` the agent's, to compare with.
    """
    found = [
        _layer("oom", _be_the_first_to_go),
        _layer("limits", _write_nothing),
    ]
    namespace = _layer("network", _leave_the_network)
    found += [
        _layer("user", lambda: _become(user, parent_uid)),
        _layer("capabilities", _drop_capabilities),
        _layer("no_new_privs", _gain_no_privileges),
        _layer("not_dumpable", lambda: _prctl_done(_PR_SET_DUMPABLE, 0)),
    ]
    calls = _layer("system_calls", lambda: f"{seccomp.refuse_reaching_out()} refused")
    if calls.holds and not namespace.holds:
        detail = f"sockets are refused by seccomp; no namespace of its own: {namespace.detail}"
        namespace = Layer("network", True, detail)
    return [*found, namespace, calls]


def before_the_model(
    *, opens_files: bool, memory_limit_bytes: int, lifeline: int | None = None
) -> list[Layer]:
    """What is left, once the provider is known. The memory limit is the caller's to name.

    ``lifeline`` is the descriptor at whose end the kernel kills a worker that is nobody's child.
    """
    found = [
        _layer("memory", lambda: _limit_memory(memory_limit_bytes)),
        _layer("lifeline", lambda: _live_no_longer(lifeline)),
    ]
    if opens_files:
        why = _OPENS_DEVICES
        return [*found, *(Layer(name, False, why) for name in _WITHOUT_FILES)]
    return [
        *found,
        _layer("addresses", lambda: _limit_addresses(memory_limit_bytes)),
        _layer("landlock", lambda: f"no path at all, ABI {landlock.reach_no_path()}"),
        _layer("code", lambda: _prctl_done(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN)),
        _layer("files", _open_no_more_files),
    ]


def before_its_code(*, opens_files: bool) -> list[Layer]:
    """What a session needs to come up and the code around it does not."""
    if opens_files:
        return [Layer("threads", False, _OPENS_DEVICES)]
    return [_layer("threads", lambda: f"no new ones, {seccomp.refuse_threads()} call refused")]


def die_with_parent() -> None:
    """Have the kernel send SIGKILL when the thread that started this process ends.

    A change of user takes it back: call it again after `at_start`. Source: PR_SET_PDEATHSIG(2).
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def user_id(user: str) -> tuple[int, int]:
    """uid and gid of a name or number.

    Raises:
        OSError: there is no such user.
    """
    if user.isdecimal():
        return int(user), int(user)
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if user == "nobody":  # a minimal image without a user database
            return NOBODY, NOBODY
        raise OSError(f"there is no user {user!r}") from None
    return entry.pw_uid, entry.pw_gid


# --- the layers ----------------------------------------------------------------------------------


def _be_the_first_to_go() -> str:
    """When memory runs out the kernel takes a worker, which is restarted, and not the agent."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    return "first to go when memory runs out"


def _write_nothing() -> str:
    """No core file, which would hold the model, and no growth of any file.

    RLIMIT_NPROC is left alone: it counts all processes of the user, those of other workers and
    services too, and would turn their number into a verdict on a model. New processes are refused
    by the filter on system calls, new threads once the model stands.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (SIGNALS_PENDING_MAX, SIGNALS_PENDING_MAX))
    return "no core file, no file grows, no message waits"


def _leave_the_network() -> str:
    """Into a network namespace without interfaces, in a user namespace of its own if need be."""
    if _only_loopback():
        return "nothing but loopback in the namespace it was started in"
    if _libc.unshare(_CLONE_NEWNET) == 0:
        return "an empty network namespace"
    if os.geteuid() != 0 and _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        return "an empty network namespace, in a user namespace of its own"
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error))


def _only_loopback() -> bool:
    """As systemd's PrivateNetwork= leaves it. Source: proc_net(5), dev."""
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines} <= {"lo"}


def _become(user: str | None, parent_uid: int | None) -> str:
    """Another user than the agent's, so that the agent's files and processes are somebody else's.

    Raises:
        OSError: this is not root, and was not started as another user either.
    """
    uid = os.getuid()
    if uid == 0 and user is not None:
        uid, gid = user_id(user)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid == 0:
        raise OSError("it runs as root, as the agent does")
    if uid == parent_uid:
        raise OSError(f"it runs as uid {uid}, as the agent does; only root can give it its own")
    return f"uid {uid}"


def _drop_capabilities() -> str:
    """All of them, also those that a user namespace gave, and those a program could inherit."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    sets = dict(line.split(":\t", 1) for line in status.splitlines() if line.startswith("Cap"))
    if all(int(sets[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")):
        return "none to begin with"  # a unit's filter may refuse even to give up nothing
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(CAPABILITIES_MAX):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # needs one itself; without it none is left
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, empty) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return "none left"


def _gain_no_privileges() -> str:
    _prctl_done(_PR_SET_NO_NEW_PRIVS, 1)
    if _libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1:
        raise OSError("the kernel did not keep it")
    return "set"


def _limit_memory(limit_bytes: int) -> str:
    """A hard limit on what this process may allocate.

    RLIMIT_DATA counts private writable pages (heap and anonymous mappings, since Linux 4.7).
    RLIMIT_AS would count the address space too: shared libraries, reserved arenas and a GPU's
    mappings, gigabytes that nobody uses. RLIMIT_RSS has no effect since Linux 2.4.30.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    return f"{limit_bytes} bytes"


def _live_no_longer(lifeline: int | None) -> str:
    return f"dies with the agent, {seccomp.refuse_living_on(lifeline)} ways out of it refused"


def _limit_addresses(memory_bytes: int) -> str:
    """What `_limit_memory` does not count is bounded too: pages that are only read have tables."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    mapped_bytes = pages * os.sysconf("SC_PAGE_SIZE")
    limit_bytes = mapped_bytes + memory_bytes + UNCOUNTED_ADDRESSES_MAX
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    return f"{limit_bytes} bytes of them"


def _open_no_more_files() -> str:
    """From here on open(2) fails: a model reads nothing but itself.

    The limit is on the number of a new descriptor, and every number below ``lowest`` is taken. Code
    that closes one of them would have a number again, so that takes the filter, or Landlock. The
    filter is also there for what needs no descriptor: modes, owners, names.
    """
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
    try:
        return f"none can be opened, {seccomp.refuse_files()} calls refused"
    except OSError as error:
        return f"none can be opened; no filter: {error.strerror or error}"


def _prctl_done(option: int, value: int) -> str:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return "set"
