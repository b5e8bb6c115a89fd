"""The document ``MlflowMapping``: which alias of which registered model becomes which release."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from mailboat_schemas.documents.document import Document, SizeBytes, Strict
from mailboat_schemas.names import VERSION_PATTERN

MODELS_MAX = 64
VERSION_PLACE = "{version}"
BYTES_MAX_DEFAULT = 2 << 30
BYTES_MAX_MAX = 8 << 30  # what an artifact may have

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
# MLflow takes nearly anything as a name; what we put in addresses, tags and logs is printable.
RegisteredName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f/:]{1,128}$")]
AliasName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
_NUMBER = re.compile(r"[0-9]{1,9}")


class Server(Strict):
    """Where MLflow answers. Paths are relative to the mapping's file."""

    url: str = Field(max_length=512, pattern=r"^https://[^\s@?#]+$")
    ca: FilePath | None = Field(default=None, description="CA certificates; none: the system's")
    token_file: FilePath | None = Field(default=None, description="a bearer token, in a file")
    password_file: FilePath | None = Field(default=None, description="USER:PASSWORD, in a file")

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.token_file is not None and self.password_file is not None:
            raise ValueError("name one of token_file and password_file")
        return self


class MappedModel(Strict):
    registered: RegisteredName = Field(description="the registered model's name in MLflow")
    alias: AliasName
    release: FilePath = Field(description="a YAML of kind Release, the pattern of every release")
    version: str = Field(
        default=f"1.0.{VERSION_PLACE}",
        max_length=64,
        description="of the release, with {version} where MLflow's number goes",
    )
    version_tag: str | None = Field(
        default=None, min_length=1, max_length=250, description="a tag that names the version"
    )
    interface: Literal["release", "model"] = Field(
        default="release", description="whose interface holds: the YAML's, or each model's own"
    )
    samples: FilePath | None = Field(
        default=None, description="inputs (.npz) whose answers by each model are its golden samples"
    )
    metrics: tuple[str, ...] = Field(
        default=(), max_length=8, description="of the run, kept in the release's provenance"
    )
    signature: Literal["required", "optional"] = "required"
    bytes_max: SizeBytes = Field(default=BYTES_MAX_DEFAULT, gt=0, le=BYTES_MAX_MAX)

    @field_validator("version")
    @classmethod
    def _a_version_with_a_place(cls, text: str) -> str:
        if text.count(VERSION_PLACE) != 1 or not re.fullmatch(
            VERSION_PATTERN, text.replace(VERSION_PLACE, "1")
        ):
            raise ValueError(
                f"write a version with {VERSION_PLACE} in it once, such as 1.0.{{version}}"
            )
        return text

    @property
    def key(self) -> str:
        return f"{self.registered}@{self.alias}"

    def version_of(self, number: str) -> str:
        """The release's version for MLflow's number.

        Raises:
            ValueError: that is no number.
        """
        if not _NUMBER.fullmatch(number):
            raise ValueError(f"{number[:40]!r} is no number")
        return self.version.replace(VERSION_PLACE, str(int(number)))


class MappingSpec(Strict):
    server: Server
    interval_seconds: int = Field(default=60, ge=5, le=86_400)
    models: tuple[MappedModel, ...] = Field(min_length=1, max_length=MODELS_MAX)

    @model_validator(mode="after")
    def _each_alias_once(self) -> Self:
        keys = [model.key for model in self.models]
        if len(set(keys)) != len(keys):
            raise ValueError("an alias of a registered model is mapped twice")
        return self


class MappingMetadata(Strict):
    name: str = Field(min_length=1, max_length=63)


class MlflowMapping(Document):
    kind: Literal["MlflowMapping"]
    metadata: MappingMetadata
    spec: MappingSpec
