"""A PKCS#11 token in software, one for the whole process.

A module is loaded once and keeps the settings it was initialised with, so whoever uses a token
initialises the module again: other tests have tokens of their own.
"""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
LABEL, PIN = "mailboat-test", "648219"


def use_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the module see our token during a test. Skips where there is no SoftHSM."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    pkcs11 = pytest.importorskip("pkcs11")
    monkeypatch.setenv("SOFTHSM2_CONF", str(_settings()))
    pkcs11.lib(str(MODULE)).reinitialize()


def put_key(number: int, *, curve: str = "P-256") -> str:
    """A key on the token under this number; returns its URI. Call `use_token` after it."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("softhsm2 is not installed")
    path = _settings().with_name(f"{number}.pem")
    words = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}"]
    subprocess.run([*words, "-out", str(path)], check=True, timeout=120, capture_output=True)
    options = ("--token", LABEL, "--label", f"key {number}", "--id", f"{number:02x}", "--pin", PIN)
    _tool(_settings(), "--import", str(path), *options)
    path.unlink()
    return f"pkcs11:token={LABEL};id=%{number:02x}?module-path={MODULE}"


@cache
def _settings() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="mailboat-token-"))
    (directory / "tokens").mkdir()
    settings = directory / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {directory / 'tokens'}\nlog.level = ERROR\n")
    words = ("--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "12345678")
    _tool(settings, *words)
    return settings


def _tool(settings: Path, *words: str) -> None:
    command = ["softhsm2-util", *words]
    environment = {**os.environ, "SOFTHSM2_CONF": str(settings)}
    subprocess.run(command, check=True, timeout=120, capture_output=True, env=environment)
