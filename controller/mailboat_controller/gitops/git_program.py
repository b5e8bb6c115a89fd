"""The system's ``git``: no shell, nobody's configuration, bounded in time and room."""

import os
import resource
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mailboat_controller.gitops.git_access import GitAccess
from mailboat_schemas.errors import ConfigurationInvalid, ServerUnavailable

SECONDS_MAX = 120.0  # of one call, a fetch among them
FILE_BYTES_MAX = 256 << 20  # of one file that git writes: what a fetch may bring
SAID_BYTES_MAX = 4 << 20
MEMORY_BYTES_MAX = 4 << 30
PROTOCOLS = "https:ssh:file"

# Whatever a machine or a repository is set to, these hold.
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.sshCommand=ssh -oBatchMode=yes",
    "fetch.fsckObjects=true",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.followRedirects=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.ssh.allow=always",
    "protocol.file.allow=always",
    "gpg.format=ssh",
    "gpg.ssh.program=ssh-keygen",
    "gpg.ssh.revocationFile=",
    "gpg.minTrustLevel=fully",
    # A signature of another kind is checked by a program that never says yes.
    "gpg.program=false",
    "gpg.x509.program=false",
)
_NOBODY = GitAccess()
_KEPT_ENVIRONMENT = ("PATH", "HOME", "SSH_AUTH_SOCK", "TMPDIR")


class GitFailed(ServerUnavailable):
    code = "E-GIT"


def run(
    words: Sequence[str],
    directory: Path,
    *,
    signers: Path,
    access: GitAccess = _NOBODY,
    speaks_on_error: bool = False,
) -> bytes:
    """What it says; with ``speaks_on_error`` what it says on standard error.

    Args:
        directory: a bare repository, or an empty directory to make one in.
        access: where the words lead to another machine.

    Raises:
        GitFailed: it ended with an error, said too much or took too long.
        ConfigurationInvalid: there is no git, or no credential where one was named.
    """
    settings = [*_SETTINGS, *access.settings(), f"gpg.ssh.allowedSignersFile={signers}"]
    environment = _environment(directory) | access.environment()
    command = ["git", *(part for each in settings for part in ("-c", each)), *words]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # so that its helpers end with it
                preexec_fn=_bound,  # noqa: PLW1509  the loop has one thread
            )
        except OSError as error:
            raise ConfigurationInvalid(
                f"git cannot be run: {error.strerror}.", next_step="install git 2.34 or newer."
            ) from error
        try:
            said = _read(process)
        finally:
            _end(process)
        errors.seek(0)
        complaint = errors.read(SAID_BYTES_MAX)
    if process.returncode != 0:
        raise failed(" ".join(complaint.decode(errors="replace").split())[-300:])
    return complaint if speaks_on_error else said


def _read(process: "subprocess.Popen[bytes]") -> bytes:
    out = process.stdout
    if out is None:
        return b""
    said = bytearray()
    ends = time.monotonic() + SECONDS_MAX
    with out, selectors.DefaultSelector() as ready:
        ready.register(out, selectors.EVENT_READ)
        while True:
            left = ends - time.monotonic()
            if left <= 0 or not ready.select(left):
                raise failed(f"it took more than {SECONDS_MAX:g} s")
            chunk = os.read(out.fileno(), 65536)
            if not chunk:
                break
            said += chunk
            if len(said) > SAID_BYTES_MAX:
                raise failed(f"it said more than {SAID_BYTES_MAX} bytes")
    try:
        process.wait(max(0.1, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise failed(f"it took more than {SECONDS_MAX:g} s") from None
    return bytes(said)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def failed(what: str) -> GitFailed:
    return GitFailed(
        f"git could not do it: {what or 'it says nothing'}.",
        next_step="see that the repository and its branch can be reached from this machine and "
        "are as small as a set of documents; it is tried again.",
    )


def _environment(directory: Path) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return environment | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_DIR": str(directory),
        "LC_ALL": "C",
    }
