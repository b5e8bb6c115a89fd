"""A machine whose PID 1 is a real systemd: this host's own files, in namespaces of their own.

What it writes goes to an overlay in memory. The kernel's knobs are read-only to it, it may not set
the clock or load modules, and of this host's services it starts none. It shares the network, so
that it reaches servers on loopback.
"""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SYSTEMD = Path("/lib/systemd/systemd")
PYTHON = Path("/usr/bin/python3")  # the system's; ours may lie where a unit may not look
PROGRAMS = Path("/opt/mailboat")
BOOT_SECONDS_MAX = 60
STOP_SECONDS_MAX = 10
COMMAND_SECONDS_MAX = 120
POLL_SECONDS = 0.2

_ENTER = ("nsenter", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd")
_NAMESPACES = ("--pid", "--fork", "--kill-child=KILL", "--mount", "--uts", "--ipc", "--cgroup")
_PATH = f"PATH={PROGRAMS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# $1 is an empty directory; $2 what the programs need beside themselves.
_INSIDE = r"""
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mkdir -p old opt/mailboat dependencies
mount --bind "$2" dependencies
mount -o remount,bind,ro dependencies
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
[ ! -e proc/sysrq-trigger ] || mount --bind /dev/null proc/sysrq-trigger
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755,nosuid tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs tmpfs var/log
mkdir var/log/journal
# Nothing of this host's own is started, and none of its disks is mounted.
mount -t tmpfs -o mode=755 tmpfs etc/systemd/system
: > etc/fstab
rm -f etc/machine-id
echo 0123456789abcdef0123456789abcdef > etc/machine-id
for unit in lib/systemd/system/*.target.wants/*; do
  case ${unit##*/} in
    systemd-journald.*|systemd-journald-dev-log*|systemd-tmpfiles-setup.service) ;;
    *) ln -sf /dev/null "etc/systemd/system/${unit##*/}" ;;
  esac
done
printf '[Unit]\nRequires=basic.target\nAllowIsolate=yes\n' > etc/systemd/system/machine.target
hostname machine
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-syslog,-audit_control,-mac_admin \
  /lib/systemd/systemd --system --unit=machine.target --show-status=no --log-target=journal
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """``pid`` is its PID 1, as this host counts."""

    pid: int

    @property
    def root(self) -> Path:
        """Its files, from here."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, *words: str, ok: bool = True) -> str:
        """What a command in it prints, as root; stderr too unless it has to succeed."""
        done = subprocess.run(
            [*_ENTER, f"--target={self.pid}", "--", "env", "-i", _PATH, "LANG=C.UTF-8", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert done.returncode == 0 or not ok, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout if ok else done.stdout + done.stderr

    def property_of(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", unit, "--value", f"--property={name}").strip()

    def units(self, pattern: str) -> list[str]:
        """Those that are active."""
        lines = self.run(
            *("systemctl", "list-units", "--plain", "--no-legend", "--state=active", pattern)
        ).splitlines()
        return [line.split()[0] for line in lines]

    def journal(self, *words: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", *words)

    def until(self, what: str, holds: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n" + self.journal(
                "--lines=40"
            )
            time.sleep(POLL_SECONDS)


@contextmanager
def systemd_machine(directory: Path) -> Iterator[Machine]:
    """Booted, with this project's wheel in ``/opt/mailboat``. Skips, with the reason, where it
    cannot be."""
    cgroup = _cgroup_or_skip()
    directory.mkdir()
    log = (directory.parent / "machine.log").open("wb")
    # Into its group first: what a new namespace sees of groups begins where its maker stands.
    enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
    process = subprocess.Popen(
        [
            *("sh", "-euc", enter, "sh", str(cgroup)),
            *("unshare", *_NAMESPACES, "--"),
            *("sh", "-euc", _INSIDE, "sh", str(directory), str(_dependencies())),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        with log:
            machine = Machine(_first_child(process, Path(log.name)))
        _wait_until_booted(machine, process, Path(log.name))
        _install_programs(machine, directory.parent)
        yield machine
    finally:
        process.kill()  # its child, PID 1, goes with it, and with that all the others
        process.wait()
        _remove(cgroup)


def _cgroup_or_skip() -> Path:
    if os.geteuid() != 0:
        pytest.skip("a machine of its own needs root")
    missing = [name for name in ("unshare", "nsenter", "setpriv") if shutil.which(name) is None]
    if missing or not SYSTEMD.exists():
        pytest.skip(f"not installed: {', '.join(missing) or 'systemd'}")
    if not PYTHON.exists() or _version_of(PYTHON) != list(sys.version_info[:2]):
        pytest.skip(f"{PYTHON} is not of this Python's version, and cannot use its packages")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    groups = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    if not groups:
        pytest.skip("this host has no cgroup2 to give it")
    cgroup = groups[0] / f"mailboat-machine-{os.getpid()}"
    try:
        cgroup.mkdir()
        probe = ["unshare", "--pid", "--fork", "--mount", "--cgroup", "true"]
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        with suppress(OSError):
            cgroup.rmdir()
        pytest.skip(f"namespaces or control groups are not allowed here: {error}")
    return cgroup


def _version_of(python: Path) -> list[int]:
    command = [str(python), "-c", "import sys; print(*sys.version_info[:2])"]
    return [int(part) for part in subprocess.check_output(command, text=True).split()]


def _dependencies() -> Path:
    """Where pip put what this project needs."""
    return Path(pytest.__file__).parents[1]


def _first_child(process: "subprocess.Popen[bytes]", log: Path) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + BOOT_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(POLL_SECONDS / 10)
    raise AssertionError(f"no PID 1 in {BOOT_SECONDS_MAX} s: {log.read_text()}")


def _wait_until_booted(machine: Machine, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + BOOT_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:  # an overlay or a mount is not to be had
            pytest.skip(f"no machine of its own here: {log.read_text()}")
        if Path(f"/proc/{machine.pid}/comm").read_text().strip() == "systemd":
            state = machine.run("systemctl", "is-system-running", ok=False).strip()
            if state in ("running", "degraded"):
                return
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"not booted in {BOOT_SECONDS_MAX} s: {log.read_text()}")


def _install_programs(machine: Machine, directory: Path) -> None:
    """The wheel as anybody would get it; what it needs is borrowed from this Python."""
    wheels = directory / "wheels"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
            *("--wheel-dir", str(wheels), str(REPOSITORY)),
        ],
        check=True,
        capture_output=True,
        timeout=COMMAND_SECONDS_MAX,
    )
    machine.run(str(PYTHON), "-m", "venv", "--without-pip", str(PROGRAMS))
    [packages] = (machine.root / "opt/mailboat/lib").glob("python*/site-packages")
    [wheel] = wheels.glob("mailboat-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
        [names] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        scripts = EntryPoints._from_text_for(archive.read(names).decode(), None)
    (packages / "dependencies.pth").write_text("/dependencies\n")
    for script in scripts.select(group="console_scripts"):
        path = machine.root / "opt/mailboat/bin" / script.name
        path.write_text(
            f"#!{PROGRAMS}/bin/python\nimport sys\n"
            f"from {script.module} import {script.attr}\nsys.exit({script.attr}())\n"
        )
        path.chmod(0o755)


def _remove(cgroup: Path) -> None:
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        for group in sorted((p for p in cgroup.rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                group.rmdir()
        with suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(POLL_SECONDS)
