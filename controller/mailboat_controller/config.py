"""The controller's settings: a TOML file, overridden by environment variables ``MAILBOAT_…``.

Also the layout of the data directory, so that it is written down once::

    data/mailboat.db   pki/   keys/ (online TUF keys)   trust/   artifacts/   broker/   serving.json
"""

import tomllib
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.console.settings import ConsoleSettings
from mailboat_controller.ingest.settings import IngestSettings, RetentionSettings
from mailboat_controller.mlflow.settings import MlflowSettings
from mailboat_controller.webhooks.settings import WebhookSettings
from mailboat_schemas.errors import ConfigurationInvalid
from mailboat_schemas.names import FleetId

CONFIG_FILE = "controller.toml"
ENVIRONMENT_PREFIX = "MAILBOAT_"


class ControllerSettings(BaseSettings):
    """What an operator may set. Load with `load`, which explains mistakes."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
    )

    fleet: FleetId
    data_dir: Path = Field(description="relative paths are relative to the settings file")
    database_url: str = Field(default="", description="empty: SQLite in the data directory")

    # Nothing listens beyond loopback unless told to.
    listen_host: str = "127.0.0.1"
    listen_port: int = Field(default=8443, ge=0, le=65535, description="0: any free port")
    server_names: tuple[str, ...] = Field(
        default=("localhost", "127.0.0.1"),
        min_length=1,
        max_length=32,
        description="DNS names and addresses in the server certificate",
    )
    public_api_url: str = Field(default="", description="as devices and people reach the API")

    embedded_broker: bool = Field(default=True, description="start the system's mosquitto")
    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = Field(default=8883, ge=0, le=65535, description="0: any free port")
    public_mqtt_host: str = Field(default="", description="as devices reach the broker")
    public_mqtt_port: int | None = Field(default=None, ge=1, le=65535)

    director_key: str = Field(
        default="",
        max_length=1024,
        description="where the director's key is (pkcs11:…, a path); empty: keys/director.pem",
    )
    broker_reload_command: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="run when access rules or revocations changed, if embedded_broker is false",
    )

    device_certificate_days: int = Field(default=30, ge=1, le=3650)
    renewal_grace_days: int = Field(
        default=180, ge=0, le=3650, description="how long after its end a certificate is renewed"
    )
    content_kek: str = Field(
        default="",
        description="wraps content keys: file:PATH or a pkcs11: URI; empty: a file of our own",
    )
    # Requests. Whoever we know has a rate of their own; strangers share one by their address.
    rate_known_per_second: float = Field(default=100, gt=0, le=100_000)
    rate_known_burst: int = Field(default=500, ge=1, le=1_000_000)
    rate_stranger_per_second: float = Field(default=20, gt=0, le=100_000)
    rate_stranger_burst: int = Field(default=1000, ge=1, le=1_000_000)
    rate_refused_per_minute: int = Field(default=60, ge=1, le=1_000_000)
    artifacts: ArtifactSettings = ArtifactSettings()
    # Deltas, built in the background at low priority.
    delta_builds_at_once: int = Field(default=1, ge=0, le=16, description="0: none are built")
    delta_bases: int = Field(
        default=3, ge=0, le=16, description="most deployed releases that patches start from"
    )
    delta_build_memory_mib: int = Field(
        default=2048, ge=256, le=1 << 20, description="of one build, beside the files it reads"
    )
    ingest: IngestSettings = IngestSettings()
    retention: RetentionSettings = RetentionSettings()
    webhooks: WebhookSettings = WebhookSettings()
    mlflow: MlflowSettings = MlflowSettings()
    console: ConsoleSettings = ConsoleSettings()
    otlp_endpoint: str = Field(
        default="",
        max_length=512,
        pattern=r"^(|https?://[^\s@?#]+)$",
        description="an OpenTelemetry collector that spans go to; empty: none",
    )
    metrics_canaries: tuple[str, ...] = Field(
        default=(), max_length=50, description="devices with series of their own in /metrics"
    )
    tick_seconds: float = Field(default=1.0, gt=0, le=60)
    recovery_listen_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="how long a restored controller hears the fleet before it says anything",
    )
    log_format: Literal["auto", "console", "json"] = "auto"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings  # one file, and it is TOML
        # The environment is nearer to the operator than the file, whose values come as arguments.
        return (env_settings, init_settings)

    @property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'mailboat.db'}"

    @property
    def pki_dir(self) -> Path:
        return self.data_dir / "pki"

    @property
    def keys_dir(self) -> Path:
        return self.data_dir / "keys"

    @property
    def trust_dir(self) -> Path:
        return self.data_dir / "trust"

    @property
    def artifacts_dir(self) -> Path:
        return self.data_dir / "artifacts"

    @property
    def delta_scratch_dir(self) -> Path:
        """Where patches are built; emptied at every start."""
        return self.data_dir / "scratch" / "deltas"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def artifact_token_keys(self) -> Path:
        """What signs the tokens that open one artifact; made anew when it is missing."""
        return self.data_dir / "tokens" / "artifact-keys.json"

    @property
    def webhook_secrets_dir(self) -> Path:
        return self.data_dir / "webhooks"

    @property
    def serving_file(self) -> Path:
        """Written when the controller is ready: {api_url, mqtt_host, mqtt_port, pid}."""
        return self.data_dir / "serving.json"

    def certificate_names(self) -> tuple[str, ...]:
        """Every host our server certificate must name, without repeats."""
        public = urlsplit(self.public_api_url).hostname
        names = (*self.server_names, public, self.public_mqtt_host)
        return tuple(dict.fromkeys(name for name in names if name))


def load(path: Path) -> ControllerSettings:
    """Read the settings file and the environment.

    Raises:
        ConfigurationInvalid: unreadable, an unknown key, or a value out of range.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationInvalid(
            f"The settings in {path} cannot be read: {error}.",
            next_step="make a data directory with `mailboat init`, or name its "
            f"{CONFIG_FILE} with --config.",
        ) from error
    try:
        settings = ControllerSettings(**content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationInvalid(
            f"{path}: {place}: {first['msg']}.",
            next_step="correct it in the file, or in the environment variable "
            f"{ENVIRONMENT_PREFIX}{place.upper().replace('.', '__')} if that is set.",
        ) from error
    data_dir = (path.parent / settings.data_dir).resolve()
    artifacts = settings.artifacts.beside(path.parent)
    webhooks = settings.webhooks.beside(path.parent)
    mlflow = settings.mlflow.beside(path.parent)
    update = {"data_dir": data_dir, "artifacts": artifacts, "webhooks": webhooks, "mlflow": mlflow}
    return settings.model_copy(update=update)
