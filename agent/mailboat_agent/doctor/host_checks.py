"""What the host gives: the runtime, the layers around a worker, memory, and somebody to restart."""

from pathlib import Path

from mailboat_agent.config import AgentConfig
from mailboat_agent.doctor.unit_view import UNIT
from mailboat_agent.serving.confinement import Layer
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import WorkerNotStarted
from mailboat_agent.serving.runtime_facts import runtime_facts
from mailboat_agent.status import read_status
from mailboat_schemas.errors import NotFound
from mailboat_schemas.finding import Findings, fail, ok, skip, warn

AGENT_BYTES = 128 << 20  # of the agent itself, and what a small system needs beside it

_UNIT = "install the units (`mailboat-agent install-service`): a worker gets a user of its own."
_KERNEL = "use a kernel with it, or accept that the other layers have to hold."
# What a layer is worth, and how a host gets it.
_LAYERS = {
    "oom": ("the kernel may take the agent first when memory runs out", _KERNEL),
    "limits": ("a model could leave a core file", _KERNEL),
    "user": ("a model that breaks out of the runtime is the agent's user", _UNIT),
    "capabilities": ("a model's process keeps privileges of root", _UNIT),
    "no_new_privs": ("a model's process could gain privileges from a program", _KERNEL),
    "not_dumpable": ("other processes of its user can look into it", _KERNEL),
    "network": ("a model that breaks out can talk to the network", _UNIT),
    "system_calls": ("a model that breaks out can ask the whole kernel", _KERNEL),
    "memory": ("a model can take all memory", _KERNEL),
    "lifeline": ("a model that breaks out can live on without the agent", _KERNEL),
    "addresses": ("a model that breaks out can have the kernel keep endless tables", _KERNEL),
    "landlock": (
        "files are kept from it by limits and a filter alone",
        "boot with Landlock (Linux 5.13 or newer, lsm=landlock,…).",
    ),
    "code": ("a model that breaks out can make new code (needs Linux 6.3)", _KERNEL),
    "files": ("a model that breaks out can open files of its user", _KERNEL),
    "threads": ("a release's code can start as many threads as its user may", _KERNEL),
}


def check_workers(config: AgentConfig) -> Findings:
    """One worker, as a release would get it: the runtime, then each layer around it."""
    launch = Launch(worker_socket=config.worker_socket, user=config.worker_user)
    try:
        facts = runtime_facts(launch)
    except WorkerNotStarted as error:
        fix = "install the agent extra: pip install 'mailboat[agent]'."
        if config.worker_socket is not None:
            fix = f"is {config.worker_socket} listened on? systemctl status mailboat-worker.socket"
        yield fail("runtime", error.what, fix)
        yield skip("confinement", "No worker stands.")
        return
    yield ok("runtime", f"onnxruntime {facts.version} with {', '.join(facts.providers)}.")
    for layer in facts.confinement:
        yield from _check_layer(layer)


def _check_layer(layer: Layer) -> Findings:
    check = f"confinement.{layer.name}"
    if layer.holds:
        yield ok(check, f"{layer.detail[:1].upper()}{layer.detail[1:]}.")
        return
    worth, fix = _LAYERS.get(layer.name, ("a layer is missing", _KERNEL))
    yield warn(check, f"Not held: {layer.detail}; {worth}.", fix)


def check_memory(config: AgentConfig) -> Findings:
    limit, where = _memory_limit()
    needed = 2 * config.memory_budget + AGENT_BYTES  # during a trial two releases are loaded
    sizes = f"{limit >> 20} MiB ({where}) for a memory_budget of {config.memory_budget >> 20} MiB"
    if config.memory_budget > limit:
        yield fail("memory", f"{sizes}: not even one release fits.", "lower memory_budget.")
    elif needed > limit:
        yield warn(
            "memory",
            f"{sizes}: too little for two releases at their peak, as during a trial.",
            "lower memory_budget if releases come near it, or give the device more memory.",
        )
    else:
        yield ok("memory", f"{sizes}.")


def _memory_limit() -> tuple[int, str]:
    """The lower of what the machine has and what the control group may use."""
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii").split()
    limit, where = int(meminfo[meminfo.index("MemTotal:") + 1]) * 1024, "of the machine"
    for path in _limit_files():
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < limit:
            limit, where = int(text), "of its control group"
    return limit, where


def _limit_files() -> list[Path]:
    """Of this process's group and those above it. Source: cgroups(7), v2 and v1."""
    files = []
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            base, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            base, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        here = base / group.lstrip("/")
        files += [each / name for each in (here, *here.parents) if each.is_relative_to(base)]
    return files


def check_service(config: AgentConfig) -> Findings:
    running = _is_running(config.data_dir)
    state = "The agent is running" if running else "No agent is running"
    if not Path("/run/systemd/system").is_dir():
        yield warn(
            "service",
            f"{state}; systemd does not run this host.",
            "have something start it again when it ends, and watch it.",
        )
    elif not UNIT.exists():
        yield warn(
            "service",
            f"{state}; its unit is not installed.",
            "mailboat-agent install-service",
        )
    elif not running:
        yield fail(
            "service", f"{state}.", "systemctl status mailboat-agent; journalctl -u mailboat-agent"
        )
    else:
        yield ok("service", f"{state}, under systemd.")


def _is_running(data_dir: Path) -> bool:
    try:
        read_status(data_dir)
    except NotFound:
        return False
    return True
