"""Who the device is, whom it trusts, and what time it thinks it is."""

import ctypes
import os
import stat
from datetime import datetime, timedelta

from cryptography import x509

from mailboat_agent.config import AgentConfig
from mailboat_agent.doctor.unit_view import CREDENTIALS
from mailboat_agent.identity.device_key import load_identity
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.time_floor import stands_before, stands_far_ahead, time_floor
from mailboat_schemas.errors import ConfigurationInvalid, TrustRefused
from mailboat_schemas.finding import Finding, Findings, fail, ok, skip, warn
from mailboat_schemas.trust import expires_at

RENEWAL_SHARE = 2 / 3  # of a certificate's life; from then on it should have been renewed
TRUST_SOON = timedelta(days=3)  # metadata that ends so soon is worth a look
TRUST_ROOT_BYTES_MAX = 1 << 20
_ENROLL = "run `mailboat-agent enroll` with a kit from the operator."

_STA_UNSYNC = 0x0040  # linux/timex.h
_TIMEX_BYTES = 256  # struct timex is 208 on 64-bit Linux, less on 32-bit
_TIMEX_LONGS_BEFORE_STATUS = 5  # modes (padded), offset, freq, maxerror, esterror


def check_key(config: AgentConfig) -> Findings:
    try:
        mode = stat.S_IMODE(config.key.stat().st_mode)
    except OSError as error:
        if config.key.is_relative_to(CREDENTIALS):
            what = f"{config.key} is there only while {config.key.parent.name} runs, for root."
            yield fail("key", what, f"sudo systemctl start {config.key.parent.name}")
            return
        yield fail("key", f"{config.key} cannot be read: {error.strerror}.", _ENROLL)
        return
    if not os.access(config.key, os.R_OK):
        yield fail(
            "key",
            f"{config.key} cannot be read by this user.",
            "run doctor as the agent's user, or give the file to that user.",
        )
    elif mode & 0o077:
        yield fail(
            "key",
            f"{config.key} has mode {mode:04o}: others can read the device's key.",
            f"chmod 600 {config.key}; if anybody may have read it, enrol again.",
        )
    else:
        yield ok("key", f"{config.key} is readable by its owner only.")


def check_certificate(config: AgentConfig, now: datetime) -> Findings:
    try:
        identity = load_identity(config.key, config.certificate)
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    except ConfigurationInvalid as error:
        yield fail("certificate", error.what, error.next_step)
        return
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    renewal = begins + (ends - begins) * RENEWAL_SHARE
    if identity.device != config.device:
        yield fail(
            "certificate",
            f"It is of device {identity.device}, the configuration says {config.device}.",
            "correct 'device' in agent.toml, or enrol again.",
        )
    elif now >= ends:
        yield fail(
            "certificate",
            f"It has expired, {_day(ends)}: the device serves, and cannot be reached.",
            "let the agent run with a connection to the API; it proves its old key. "
            "If that is refused, " + _ENROLL,
        )
    elif now < begins:
        yield fail(
            "certificate",
            f"It is not valid before {_day(begins)}; this device says {_day(now)}.",
            "set the device's clock.",
        )
    elif now >= renewal:
        yield warn(
            "certificate",
            f"Valid until {_day(ends)}; its renewal was due {_day(renewal)}.",
            "look why the agent did not reach the API since then.",
        )
    else:
        yield ok("certificate", f"Of {identity.device}, valid until {_day(ends)}.")


def check_trust(config: AgentConfig, now: datetime) -> Findings:
    try:
        with config.trust_root.open("rb") as file:
            root = file.read(TRUST_ROOT_BYTES_MAX)
        store = TrustStore(config.data_dir, root)
        store.view()
        held = store.held()
    except OSError as error:
        yield fail("trust", f"{config.trust_root} cannot be read: {error.strerror}.", _ENROLL)
        return
    except TrustRefused as error:
        yield fail("trust", error.what, error.next_step)
        return
    expires = expires_at(held) if held else None
    if expires is None:
        yield warn(
            "trust",
            "The trust root is in place; no manifest has been accepted yet.",
            "nothing, if the device is new: the first one comes when the agent connects.",
        )
    elif now >= expires:
        yield warn(
            "trust",
            f"The metadata expired {_day(expires)}: it serves on and installs nothing.",
            "connect the agent; if it is connected, look at the controller's timestamp.",
        )
    elif now >= expires - TRUST_SOON:
        yield warn(
            "trust",
            f"The metadata expires {_day(expires)}.",
            "nothing, if the controller signs daily and the agent reaches it.",
        )
    else:
        yield ok("trust", f"Verified from the root; current until {_day(expires)}.")


def check_clock(config: AgentConfig, now: datetime) -> Findings:
    floor = time_floor((), StateFile(config.data_dir).load().time_floor)
    if stands_before(now, floor):
        yield fail(
            "clock",
            f"It says {_day(now)}, and signed metadata is newer: nothing is installed.",
            "set the clock, and see that it is set at every start (NTP, or a battery).",
        )
    elif stands_far_ahead(now, floor):
        yield warn(
            "clock",
            f"It says {_day(now)}, more than a year after the newest signed metadata.",
            "set the clock if it is wrong; if the device was away so long, connect it.",
        )
    else:
        yield _synchronised(now)


def _synchronised(now: datetime) -> Finding:
    """What the kernel knows of an NTP client. Source: adjtimex(2), read only (modes = 0)."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return skip("clock", f"It says {_day(now)}; the kernel does not tell whether it is set.")
    longs = ctypes.sizeof(ctypes.c_long)
    at = _TIMEX_LONGS_BEFORE_STATUS * longs
    status = int.from_bytes(buffer.raw[at : at + 4], "little")
    if status & _STA_UNSYNC:
        return warn(
            "clock",
            f"It says {_day(now)} and is plausible; no time service keeps it.",
            "run chrony or systemd-timesyncd, if the network has a time server.",
        )
    return ok("clock", f"It says {_day(now)}, kept by a time service.")


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
