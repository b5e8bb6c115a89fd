"""``agent.toml``: read strictly, because a spelling mistake in it is found on a ladder in the rain.

Paths are relative to the file. Nothing secret stands in it, only where secrets are.
"""

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mailboat_agent.artifacts.metered import MeteredSetting
from mailboat_agent.artifacts.pace import RATE_MIN_BYTES_PER_SECOND
from mailboat_agent.degraded.settings import (
    ENDPOINTS_MAX,
    FALLBACKS_MAX,
    LocalFallback,
    PressureSetting,
    RemoteEndpoint,
)
from mailboat_agent.drift.schedule import CHECK_BYTES_PER_SECOND, CHECK_SECONDS
from mailboat_agent.update.keeping import PREDECESSORS_MAX
from mailboat_schemas.documents.document import SizeBytes
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.names import ClassName, DeviceId, FleetId, Label, ModelName, SiteName

CONFIG_BYTES_MAX = 256 * 1024
KEY_CREDENTIAL = "device.key"  # its name where the service manager hands the key over
_EXAMPLE = "see docs/agent.md for every key, or make the file with `mailboat-agent enroll`."

Seconds = Annotated[float, Field(gt=0, le=86_400)]
# No user and no query: what is secret does not stand in this file, and it is named in messages.
MirrorUrl = Annotated[str, Field(max_length=512, pattern=r"^https://[^\s@?#]+$")]


class AgentConfig(BaseModel):
    """Everything an operator can set on a device. Sizes are bytes or text such as 512MiB."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fleet: FleetId
    device: DeviceId
    hardware_class: ClassName
    site: SiteName = "-"
    labels: dict[Label, str] = Field(default_factory=dict, max_length=32)
    data_dir: Path

    api_url: str = Field(max_length=512, pattern=r"^https://")
    mqtt_host: str = Field(max_length=253)
    mqtt_port: int = Field(ge=1, le=65535)
    ca: Path
    certificate: Path
    key: Path
    trust_root: Path

    serve_host: str = Field(default="127.0.0.1", max_length=253)
    serve_port: int = Field(default=0, ge=0, le=65535, description="0 takes any free port")
    serve_socket: Path | None = Field(
        default=None, description="a Unix socket to serve on beside the port; None: none"
    )
    serve_socket_mode: str = Field(
        default="0660", pattern=r"^0?[0-7]{3}$", description="who may connect to it"
    )

    config_file: Path | None = Field(
        default=None, description="where the application reads the config's values; None: nowhere"
    )
    memory_budget: SizeBytes = Field(
        default=512 << 20, description="what one release may use at its peak"
    )
    disk_budget: SizeBytes | None = Field(default=None, description="of releases held; None: all")
    serving_memory_budget: SizeBytes | None = Field(
        default=None, description="of all loaded models; None: three quarters of the machine's"
    )
    serving_pinned: tuple[ModelName, ...] = Field(
        default=(), max_length=64, description="models that stay loaded, whoever needs the memory"
    )
    spare_worker_seconds: float = Field(
        default=300, ge=0, le=86_400, description="that the last release stays loaded, to go back"
    )
    busy_file: Path | None = Field(
        default=None,
        description="while it is there, no other release takes over; None: in data_dir",
    )
    busy_seconds_max: float = Field(
        default=600, ge=0, le=86_400, description="that a switch waits for it"
    )
    worker_user: str = Field(
        default="nobody", max_length=32, description="of a model's process, if the agent is root"
    )
    worker_socket: Path | None = Field(
        default=None, description="of the worker's own unit; None starts workers as children"
    )
    mirrors: tuple[MirrorUrl, ...] = Field(
        default=(), max_length=8, description="caches to ask before the controller, in order"
    )
    mirror_ca: Path | None = Field(default=None, description="of their certificates; None: ca")
    object_store_ca: Path | None = Field(
        default=None, description="of an object store's certificate; None: the system's"
    )
    bandwidth_bytes_per_second: SizeBytes | None = Field(
        default=None, ge=RATE_MIN_BYTES_PER_SECOND, description="of all downloads together"
    )
    metered: MeteredSetting = Field(
        default="class", description="whether every byte costs; class: as the class says"
    )
    metered_bytes_per_day: SizeBytes | None = Field(
        default=None, ge=1 << 20, description="of a metered link; None: as much as it takes"
    )
    start_jitter_seconds: float = Field(default=0, ge=0, le=86_400)
    telemetry_window_seconds: Seconds = 60
    report_seconds_min: float = Field(default=1, ge=0, le=3600)
    manifest_poll_seconds: Seconds = 300
    manifest_check_seconds: Seconds = 21_600
    keepalive_seconds: int = Field(default=60, ge=5, le=3600)
    reconnect_seconds_min: Seconds = 1
    reconnect_seconds_max: Seconds = 60
    drift_check_seconds: float = Field(
        default=CHECK_SECONDS, ge=60, le=30 * 86_400, description="between two checks of the disk"
    )
    drift_check_bytes_per_second: SizeBytes = Field(
        default=CHECK_BYTES_PER_SECOND, ge=64 << 10, description="read at most, at such a check"
    )
    failure_mode: FailureMode | None = Field(
        default=None, description="stricter than class and release, when nothing is approved"
    )
    remote: tuple[RemoteEndpoint, ...] = Field(
        default=(), max_length=ENDPOINTS_MAX, description="asked when a model here cannot answer"
    )
    fallback: tuple[LocalFallback, ...] = Field(
        default=(), max_length=FALLBACKS_MAX, description="of models that nothing serves"
    )
    pressure: PressureSetting = Field(
        default=PressureSetting(), description="what is too hot here, or too little power"
    )
    renewal_key: Literal["new", "same"] = Field(
        default="new", description="whether a renewed certificate gets a new key"
    )
    keep_predecessors: int = Field(
        default=PREDECESSORS_MAX,
        ge=1,
        le=PREDECESSORS_MAX,
        description="releases that ran before, kept to go back to; the second while there is room",
    )
    trial_tries: int = Field(default=3, ge=1, le=10)
    log_format: Literal["auto", "json", "text"] = "auto"
    log_disk: SizeBytes = Field(
        default=4 << 20, le=1 << 30, description="of log lines kept on this disk; 0: none"
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """
        Raises:
            ConfigurationInvalid: names the file, the key, and the nearest key that exists.
        """
        content = _read_toml(path)
        try:
            config = cls.model_validate(content)
        except ValidationError as error:
            raise _invalid(path, error) from error
        base = path.absolute().parent
        paths = ("data_dir", "ca", "certificate", "key", "trust_root")
        optional = (
            "worker_socket",
            "mirror_ca",
            "object_store_ca",
            "serve_socket",
            "busy_file",
            "config_file",
        )
        given = [name for name in optional if getattr(config, name) is not None]
        settings: dict[str, object] = {n: base / getattr(config, n) for n in (*paths, *given)}
        settings["remote"] = tuple(endpoint.below(base) for endpoint in config.remote)
        return config.model_copy(update=settings | _from_service_manager(config))


def _from_service_manager(config: AgentConfig) -> dict[str, object]:
    """What the unit decides: where workers are, and the key where it is a credential.

    Source: systemd.exec(5), CREDENTIALS_DIRECTORY.

    Raises:
        ConfigurationInvalid: the service manager names a credential and keeps it closed.
    """
    found: dict[str, object] = {}
    worker_socket = os.environ.get("MAILBOAT_WORKER_SOCKET")
    if worker_socket and config.worker_socket is None:
        found["worker_socket"] = Path(worker_socket)
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / KEY_CREDENTIAL
    try:
        given = credential.is_file()
    except OSError as error:
        raise ConfigurationInvalid(
            f"The credential {credential} cannot be read: {error.strerror}.",
            next_step="look at LoadCredential= of the unit; in a container, `/` has to be a shared "
            "mount for it.",
        ) from error
    if given:
        found |= {"key": credential, "renewal_key": "same"}  # nobody can write a new one there
    return found


def to_toml(settings: dict[str, Any]) -> str:
    """Settings, tables and arrays of tables, as TOML; JSON's strings are TOML's basic strings."""
    return "\n".join(_lines(settings, "")) + "\n"


def _lines(settings: dict[str, Any], below: str) -> list[str]:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if _is_plain(value)]
    for key, value in settings.items():
        name = f"{below}{key}"
        if isinstance(value, dict):
            lines += ["", f"[{name}]", *_lines(value, f"{name}.")]
        elif not _is_plain(value):
            for table in value:
                lines += ["", f"[[{name}]]", *_lines(table, f"{name}.")]
    return lines


def _is_plain(value: object) -> bool:
    is_tables = isinstance(value, list) and any(isinstance(each, dict) for each in value)
    return not (isinstance(value, dict) or is_tables)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The configuration {path} cannot be read: {error.strerror}.",
            next_step="name it with --config, or make it with `mailboat-agent enroll`.",
        ) from error
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigurationInvalid(
            f"{path} is over {CONFIG_BYTES_MAX} bytes.", next_step="is it the right file?"
        )
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(
            f"{path} is not TOML: {error}.", next_step="correct it at that place."
        ) from error


def _invalid(path: Path, error: ValidationError) -> ConfigurationInvalid:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, AgentConfig.model_fields, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return ConfigurationInvalid(
            f"{path}: there is no setting '{key}'.", next_step=hint + _EXAMPLE
        )
    return ConfigurationInvalid(f"{path}: {key}: {first['msg']}.", next_step=_EXAMPLE)
