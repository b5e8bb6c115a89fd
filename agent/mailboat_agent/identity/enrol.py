"""Become known: from an operator's kit to a key, a certificate and an ``agent.toml``.

Every file is durable before the next step, the configuration comes last, and all of it may be
repeated: a key that exists is kept, so the controller recognises the same device. A kit may ask for
a person's approval; then the device waits, and a later run goes on where this one gave up.
"""

import asyncio
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.atomic_file import replace_durably
from mailboat_agent.config import AgentConfig, to_toml
from mailboat_agent.identity.device_key import (
    certificate_request,
    key_der,
    load_identity,
    make_key,
    tls_context,
)
from mailboat_agent.identity.registration import Registration
from mailboat_schemas.enrolment import (
    EnrolmentKit,
    EnrolmentPending,
    EnrolmentRequest,
    EnrolmentResponse,
    fingerprint,
)
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DownloadInterrupted,
    ServerUnavailable,
    Transient,
)
from mailboat_schemas.names import is_label

KIT_BYTES_MAX = 2 << 20
IDENTITY_DIRECTORY = "identity"
APPROVAL_SECONDS_MAX = 900.0  # somebody stands at the device; they may run it again


class ApprovalPending(Transient):
    """Nobody has approved this device yet."""

    code = "E-APPROVAL-PENDING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the person at the device says. ``data_dir`` and ``serve_port`` None keep what is set."""

    kit: Path
    device: str
    config: Path
    data_dir: Path | None = None
    serve_port: int | None = None
    approval_seconds: float = APPROVAL_SECONDS_MAX


async def enrol(
    wishes: Wishes, on_pending: Callable[[EnrolmentPending], None] = lambda _: None
) -> AgentConfig:
    """
    Args:
        on_pending: told once, when a person has to approve: the fingerprint is to be shown.

    Raises:
        ApprovalPending: nobody has approved for so long; run it again.
        ConfigurationInvalid: the kit or the name cannot be used.
        NotPermitted: the token is spent, expired or unknown.
        Conflict: the name belongs to another device.
        ServerUnavailable, DownloadInterrupted, DiskFull, DiskFailing
    """
    kit = read_kit(wishes.kit)
    if not is_label(wishes.device):
        raise ConfigurationInvalid(
            f"{wishes.device!r} cannot be a device id.",
            next_step="use lower-case letters, digits and inner hyphens, at most 63 characters.",
        )
    directory = wishes.config.absolute().parent / IDENTITY_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_durably(directory / "ca.pem", kit.ca.encode())
    replace_durably(directory / "root.json", kit.trust_root.encode())
    key = make_key(directory / "device.key")
    registration = Registration(HttpsSource(kit.api_url, tls_context(directory / "ca.pem")))
    request = EnrolmentRequest(
        token=kit.token,
        device=wishes.device,
        certificate_request=certificate_request(key, wishes.device, kit.fleet).decode(),
    )
    try:
        response = await _until_decided(registration, request, wishes, on_pending, key_der(key))
    finally:
        await registration.close()
    replace_durably(directory / "device.pem", response.certificate.encode())
    load_identity(directory / "device.key", directory / "device.pem")
    settings = _settings(wishes, kit, response)
    replace_durably(wishes.config, to_toml(settings).encode())
    return AgentConfig.read(wishes.config)


async def _until_decided(
    registration: Registration,
    request: EnrolmentRequest,
    wishes: Wishes,
    on_pending: Callable[[EnrolmentPending], None],
    public_key: bytes,
) -> EnrolmentResponse:
    """Ask, and ask again while a person has yet to decide.

    Raises:
        ApprovalPending: for too long.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + wishes.approval_seconds
    pending: EnrolmentPending | None = None
    while True:
        try:
            answer = await registration.enrol(request)
        except (ServerUnavailable, DownloadInterrupted):
            if pending is None:
                raise
            answer = pending  # it was there a moment ago
        if isinstance(answer, EnrolmentResponse):
            return answer
        if pending is None:
            # What we show is of the key we have, whatever somebody in between would have us show.
            pending = answer.model_copy(update={"fingerprint": fingerprint(public_key)})
            on_pending(pending)
        if clock() >= give_up:
            raise ApprovalPending(
                f"Nobody has approved {wishes.device} yet.",
                next_step="run the same command again when an operator has approved it: "
                f"`mailboat device approve {wishes.device}`.",
            )
        await asyncio.sleep(min(pending.retry_seconds, max(0.0, give_up - clock())))


def read_kit(path: Path) -> EnrolmentKit:
    """
    Raises:
        ConfigurationInvalid: unreadable, or not a kit.
    """
    try:
        with path.open("rb") as file:
            content = file.read(KIT_BYTES_MAX)
        return EnrolmentKit.model_validate_json(content)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The kit {path} cannot be read: {error.strerror}.",
            next_step="copy the file that the operator made with `mailboat device enroll-token`.",
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the kit holds a secret
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationInvalid(
            f"{path} is not an enrolment kit: {place}: {first['msg']}.",
            next_step="copy the file again; it is made with `mailboat device enroll-token`.",
        ) from error


def _settings(wishes: Wishes, kit: EnrolmentKit, response: EnrolmentResponse) -> dict[str, Any]:
    """What is new over what an earlier enrolment, or a person, has set."""
    kept: dict[str, Any] = {}
    if wishes.config.exists():
        try:
            kept = tomllib.loads(wishes.config.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationInvalid(
                f"{wishes.config} exists and is not TOML: {error}.",
                next_step="correct it or move it away, then enrol again.",
            ) from error
    settings = kept | {
        "fleet": kit.fleet,
        "device": response.device,
        "hardware_class": response.hardware_class,
        "site": response.site,
        "api_url": kit.api_url,
        "mqtt_host": kit.mqtt_host,
        "mqtt_port": kit.mqtt_port,
        "ca": f"{IDENTITY_DIRECTORY}/ca.pem",
        "certificate": f"{IDENTITY_DIRECTORY}/device.pem",
        "key": f"{IDENTITY_DIRECTORY}/device.key",
        "trust_root": f"{IDENTITY_DIRECTORY}/root.json",
        "labels": dict(response.labels),
    }
    if kit.mirrors:
        settings["mirrors"] = list(kit.mirrors)
    if wishes.data_dir is not None:
        settings["data_dir"] = str(wishes.data_dir.absolute())
    settings.setdefault("data_dir", "data")
    if wishes.serve_port is not None:
        settings["serve_port"] = wishes.serve_port
    return settings
