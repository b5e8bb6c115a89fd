"""``mailboat release import``: from a registry, a bucket or a directory into a build directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.cli.content_key import KeySource
from mailboat_controller.cli.progress import progress
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.sources.source import Source

_OCI, _S3 = "oci://", "s3://"


def import_release(
    source: Annotated[
        str,
        typer.Argument(help="oci://REGISTRY/REPOSITORY:TAG, s3://BUCKET/PREFIX, or a directory."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory to build into.")],
    release: Annotated[
        Path | None,
        typer.Option(help="A YAML of kind Release; without it, the release.yaml found there."),
    ] = None,
    registry_config: Annotated[
        Path | None, typer.Option(help="Docker's config.json with the registry's credentials.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Who vouches for the registry's or store's TLS.")
    ] = None,
    endpoint: Annotated[
        str, typer.Option(help="Of an S3 that is not AWS.", envvar="AWS_ENDPOINT_URL")
    ] = "",
    region: Annotated[str, typer.Option(help="Of the bucket.", envvar="AWS_REGION")] = "us-east-1",
    s3_credentials: Annotated[
        Path | None, typer.Option(help="A file in AWS form; without it, AWS_… or the role.")
    ] = None,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt every file.")] = False,
    content_key: KeySource = None,
    as_json: options.Json = False,
) -> None:
    """Fetch a release's files, check them, and build; what they came from is recorded in it.

    Run it again after an interruption: it goes on where it stopped. Signing is the next step, as
    after `build`.
    """
    from mailboat_controller.content.key_file import key_of_build
    from mailboat_controller.releases.build import build_release
    from mailboat_controller.sources.taking import take

    with (
        _opened(source, registry_config, ca, endpoint, region, s3_credentials) as opened,
        progress(f"import {source}", shown=not as_json) as report,
    ):
        taken = take(opened, source, out, release, lambda _name, count: report(count))
    key = key_of_build(out, content_key) if encrypt or content_key is not None else None
    with progress(f"build {taken.yaml.name}", shown=not as_json) as report:
        built = build_release(taken.yaml, out, report, content_key=key, registry=taken.reference)
    output.tell(
        {
            "model": built.document.model,
            "version": built.document.version,
            "digest": built.digest,
            "directory": str(out),
            "source": taken.reference,
            "files": taken.files,
            "bytes": taken.bytes,
        },
        f"{built.document.model} {built.document.version} is built in {out} from\n"
        f"  {taken.reference}\n"
        f"{taken.files} files, {taken.bytes} bytes, digest {built.digest[:16]}…\n"
        f"Next: mailboat release sign {out} --key CI-KEY",
        as_json=as_json,
    )


@contextmanager
def _opened(
    text: str,
    registry_config: Path | None,
    ca: Path | None,
    endpoint: str,
    region: str,
    s3_credentials: Path | None,
) -> Iterator["Source"]:
    """The source that an address names."""
    if text.startswith(_OCI):
        from mailboat_controller.https_stream import HttpsStream
        from mailboat_controller.sources.oci import OciSource
        from mailboat_controller.sources.oci_reference import OciReference
        from mailboat_controller.sources.registry_access import from_environment

        reference = OciReference.parse(text)
        credentials = from_environment(reference.registry, registry_config)
        with HttpsStream(ca) as stream:
            yield OciSource(stream, reference, credentials)
    elif text.startswith(_S3):
        yield _s3(text, ca, endpoint, region, s3_credentials)
    elif "://" in text:
        raise ConfigurationInvalid(
            f"{text[:200]!r} is no place that releases are imported from.",
            next_step="write oci://…, s3://… or the path of a directory.",
        )
    else:
        from mailboat_controller.sources.local import DirectorySource

        yield DirectorySource(Path(text))


def _s3(
    text: str, ca: Path | None, endpoint: str, region: str, credentials: Path | None
) -> "Source":
    from pydantic import ValidationError

    from mailboat_controller.artifacts.opening import open_bucket
    from mailboat_controller.artifacts.settings import ArtifactSettings

    bucket, _, prefix = text.removeprefix(_S3).partition("/")
    try:
        from mailboat_controller.sources.s3 import S3Source  # needs an extra of its own

        settings = ArtifactSettings(
            store="s3",
            bucket=bucket,
            prefix=prefix,
            region=region,
            endpoint=endpoint,
            ca_file=ca,
            credentials_file=credentials,
        )
    except ImportError as error:
        raise ConfigurationInvalid(
            "An import from S3 needs the package obstore.",
            next_step="pip install 'mailboat[s3]'.",
        ) from error
    except ValidationError as error:
        raise ConfigurationInvalid(
            f"{text[:200]!r} cannot be opened: {error.errors()[0]['msg']}.",
            next_step="write s3://BUCKET/PREFIX, and --endpoint for a store that is not AWS.",
        ) from error
    return S3Source(open_bucket(settings, endpoint), text)
