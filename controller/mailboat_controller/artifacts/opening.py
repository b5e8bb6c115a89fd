"""The artifact store that the settings name, opened."""

import configparser
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_schemas.errors import ConfigurationInvalid, Transient

CONNECT_SECONDS_MAX = 5.0
RETRIES_MAX = 3
SCRATCH = "scratch"  # in the directory of artifacts: copies of a bucket's, for a while
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_log = structlog.get_logger(__name__)


def open_store(settings: ArtifactSettings, directory: Path) -> ArtifactStore:
    """Open it, look whether it works, and clear away what died with the last controller.

    Args:
        directory: of artifacts on this disk; a bucket's store keeps its scratch copies there.

    Raises:
        ConfigurationInvalid, ObjectStoreRefused: it cannot be used until a person acts. A bucket
            that cannot be reached now is none: withdrawals must reach devices all the same.
    """
    store = DirectoryStore(directory) if settings.store == "directory" else _s3(settings, directory)
    store.remove_parts()
    try:
        store.check()
    except Transient as error:
        _log.error(
            "artifacts cannot be reached",
            code=error.code,
            problem=error.what,
            next_step=error.next_step,
        )
    return store


def _s3(settings: ArtifactSettings, directory: Path) -> ArtifactStore:
    try:
        from mailboat_controller.artifacts.s3 import S3Store  # needs an extra of its own
    except ImportError as error:
        raise ConfigurationInvalid(
            "Artifacts in S3 need the package obstore.",
            next_step="pip install 'mailboat[s3]'.",
        ) from error
    bucket = open_bucket(settings, settings.endpoint)
    public = open_bucket(settings, settings.public_endpoint) if settings.public_endpoint else None
    place = "/".join(filter(None, ("s3:/", settings.bucket, settings.prefix.strip("/"))))
    return S3Store(bucket, place, directory / SCRATCH, public=public)


def open_bucket(settings: ArtifactSettings, endpoint: str) -> Any:
    """An obstore bucket; nothing is sent yet.

    Raises:
        ConfigurationInvalid: credentials or certificates cannot be read.
    """
    from obstore.store import S3Store as Bucket

    options: Any = {
        "allow_http": endpoint.startswith("http://"),
        "timeout": timedelta(seconds=settings.request_seconds),
        "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS_MAX, settings.request_seconds)),
    }
    if settings.ca_file is not None:
        options["root_certificate"] = _read(settings.ca_file)
    more: dict[str, Any] = {}
    if endpoint:
        more["endpoint"] = endpoint
    if settings.credentials_file is not None:
        more["credential_provider"] = _Credentials(settings.credentials_file)
    return Bucket(
        settings.bucket,
        prefix=settings.prefix.strip("/") or None,
        region=settings.region,
        virtual_hosted_style_request=settings.virtual_hosted,
        client_options=options,
        retry_config={
            "max_retries": RETRIES_MAX,
            "retry_timeout": timedelta(seconds=settings.request_seconds),
        },
        **more,
    )


class _Credentials:
    """Read once, from a file in the form of ``~/.aws/credentials``, section ``default``."""

    def __init__(self, path: Path) -> None:
        text = _read(path)
        if path.stat().st_mode & _OTHERS:
            raise ConfigurationInvalid(
                f"The credentials in {path} can be read by others.",
                next_step=f"chmod 600 {path}, and renew them if somebody may have read them.",
            )
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(text)
            section = parser["default"]
            self._held = {
                "access_key_id": section["aws_access_key_id"],
                "secret_access_key": section["aws_secret_access_key"],
                "token": section.get("aws_session_token"),
                "expires_at": None,
            }
        except (configparser.Error, KeyError):
            # The parser's own words quote lines of the file.
            raise ConfigurationInvalid(
                f"{path} holds no credentials.",
                next_step="write a section [default] with aws_access_key_id and "
                "aws_secret_access_key.",
            ) from None

    def __call__(self) -> dict[str, Any]:
        return dict(self._held)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationInvalid(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}.",
            next_step="let the user that runs `mailboat serve` read it, or correct its name.",
        ) from None
