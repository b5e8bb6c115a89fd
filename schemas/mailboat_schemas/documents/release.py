"""Release: what a model release is made of, as a person writes it and as CI builds it.

``ReleaseSource`` is the YAML with paths on the publisher's disk. ``ReleaseDocument`` is the JSON
built from it: every file by sha256 and length, nothing else that could change. The document's own
sha256 is what the release and approval roles sign and what the cohort seed is.
"""

import hashlib
import json
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mailboat_schemas.content_key import ContentKeyId
from mailboat_schemas.documents.document import Document, SizeBytes, Strict, VersionRange
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.pipeline import Pipeline, problem_with_code
from mailboat_schemas.documents.serving_policy import ServingPolicy
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge
from mailboat_schemas.names import ClassName, Digest, FileName, ModelName, Version
from mailboat_schemas.sealing import sealed_length

DOCUMENT_BYTES_MAX = 256 * 1024
FILES_MAX = 64  # a bundle of weights, tokenizer, labels and samples; not a file system
ARTIFACT_BYTES_MAX = 8 << 30


class FileRole(StrEnum):
    MODEL = "model"
    GOLDEN = "golden"  # .npz with arrays in.<tensor> and out.<tensor>, first axis = sample
    TOKENIZER = "tokenizer"
    LABELS = "labels"
    PREPROCESS = "preprocess"
    POSTPROCESS = "postprocess"
    CALIBRATION = "calibration"
    REFERENCE = "reference"  # statistics of inputs and outputs that live traffic is compared to
    CHECK = "check"  # a check of the release's own, run in its trial
    MODEL_CARD = "model-card"
    OTHER = "other"


class Runtime(Strict):
    name: Literal["onnxruntime"] = "onnxruntime"
    version: VersionRange = ">=1.18"
    # In order of preference; the device takes the first that it has.
    providers: tuple[str, ...] = Field(
        default=("CPUExecutionProvider",), min_length=1, max_length=8
    )
    threads: int = Field(default=1, ge=1, le=256)


class Compatibility(Strict):
    """Ranges that bind model, configuration and policy, which are versioned apart."""

    feature_schema: VersionRange = ""
    config: VersionRange = ""
    policy: VersionRange = ""


class Provenance(Strict):
    """Where the release comes from; recorded and shown, signed with everything else."""

    source_repository: str = Field(default="", max_length=512)
    source_revision: str = Field(default="", max_length=128)
    build: str = Field(default="", max_length=512, description="CI run or build hash")
    dataset: str = Field(default="", max_length=512)
    evaluation: str = Field(default="", max_length=512)
    model_card: str = Field(default="", max_length=512)
    registry: str = Field(default="", max_length=512)
    source_digest: Digest | None = Field(
        default=None, description="sha256 of the YAML it was built from"
    )
    builder: str = Field(default="", max_length=128, description="tool and version that built it")


class ReleaseMetadata(Strict):
    name: ModelName
    version: Version
    description: str = Field(default="", max_length=4000)


# --- as a person writes it -----------------------------------------------------------------------


class SourceFile(Strict):
    path: FileName = Field(description="its name inside the release")
    source: str = Field(min_length=1, max_length=4096, description="file beside the YAML")
    role: FileRole


class SourceVariant(Strict):
    hardware_classes: tuple[ClassName, ...] = Field(min_length=1, max_length=256)
    files: tuple[SourceFile, ...] = Field(min_length=1, max_length=FILES_MAX)
    runtime: Runtime = Runtime()
    peak_memory: SizeBytes = Field(gt=0, description="declared peak of the worker, in bytes")
    health: Health = Health()
    serving: ServingPolicy | None = None
    pipeline: Pipeline | None = None


class SourceSpec(Strict):
    security_version: int = Field(default=0, ge=0, le=2**31)
    interface: Interface
    variants: tuple[SourceVariant, ...] = Field(min_length=1, max_length=256)
    compatibility: Compatibility = Compatibility()
    provenance: Provenance = Provenance()
    fallback: Version | None = Field(
        default=None, description="release to keep when nothing is approved"
    )
    failure_mode: FailureMode | None = Field(
        default=None, description="stricter than the class, if it must be"
    )

    @model_validator(mode="after")
    def _degraded_answers_fit(self) -> Self:
        _refuse_unfit(self.interface, self.variants)
        return self


class ReleaseSource(Document):
    kind: Literal["Release"]
    metadata: ReleaseMetadata
    spec: SourceSpec


# --- as CI builds it -----------------------------------------------------------------------------


class Sealed(Strict):
    """The encrypted form of a file: what is uploaded, downloaded and kept on the device.

    ``File.sha256`` and ``File.length`` are always those of the plaintext.
    """

    scheme: Literal["aes-256-gcm-segments/1"] = "aes-256-gcm-segments/1"
    content_key: ContentKeyId = Field(description="id of the key; not the key")
    sha256: Digest
    length: int = Field(
        ge=0, le=ARTIFACT_BYTES_MAX + (ARTIFACT_BYTES_MAX >> 8), description="bytes"
    )


class File(Strict):
    path: FileName
    role: FileRole
    sha256: Digest
    length: int = Field(ge=0, le=ARTIFACT_BYTES_MAX, description="bytes")
    sealed: Sealed | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Documents from before a field existed keep their canonical bytes, and so their digest.
        return {k: v for k, v in write(self).items() if k != "sealed" or v is not None}

    @model_validator(mode="after")
    def _sealed_as_long_as_it_must_be(self) -> Self:
        if self.sealed is not None and self.sealed.length != sealed_length(self.length):
            raise ValueError("its encrypted form cannot have this length")
        return self

    @property
    def artifact_digest(self) -> str:
        """sha256 of what is uploaded, downloaded, kept: the encrypted form if there is one."""
        return self.sha256 if self.sealed is None else self.sealed.sha256

    @property
    def artifact_length(self) -> int:
        """Bytes of the same."""
        return self.length if self.sealed is None else self.sealed.length


class Variant(Strict):
    hardware_classes: tuple[ClassName, ...] = Field(min_length=1, max_length=256)
    files: tuple[File, ...] = Field(min_length=1, max_length=FILES_MAX)
    runtime: Runtime
    peak_memory: int = Field(gt=0, description="bytes")
    health: Health
    serving: ServingPolicy | None = None
    pipeline: Pipeline | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in `File`.
        absent = {"serving", "pipeline"}
        return {k: v for k, v in write(self).items() if k not in absent or v is not None}

    @model_validator(mode="after")
    def _one_model_and_distinct_names(self) -> Self:
        if [file.role for file in self.files].count(FileRole.MODEL) != 1:
            raise ValueError("a variant has exactly one file with role 'model'")
        if self.health.soak.drift is not None and self.file_of_role(FileRole.REFERENCE) is None:
            raise ValueError("soak.drift compares with a file of role 'reference'; there is none")
        names = [file.path for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError("two files of a variant have the same path")
        return self

    @model_validator(mode="after")
    def _code_where_it_is_named(self) -> Self:
        roles = [file.role for file in self.files]
        if problem := problem_with_code(self.pipeline, roles):
            raise ValueError(problem)
        if self.health.check is not None and FileRole.CHECK not in roles:
            raise ValueError("health.check bounds a file of role 'check'; there is none")
        return self

    def file_of_role(self, role: FileRole) -> File | None:
        return next((file for file in self.files if file.role is role), None)

    @property
    def model_file(self) -> File:
        return next(file for file in self.files if file.role is FileRole.MODEL)

    @property
    def size_bytes(self) -> int:
        return sum(file.length for file in self.files)

    @property
    def artifacts(self) -> dict[str, int]:
        """What a device keeps of it: bytes by digest."""
        return {file.artifact_digest: file.artifact_length for file in self.files}

    @property
    def content_keys(self) -> frozenset[str]:
        """Ids of the keys that its encrypted files take."""
        return frozenset(file.sealed.content_key for file in self.files if file.sealed is not None)

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of everything a device must hold to run it: artifacts and content keys. Worked out
        once: a device asks at each look, and no copy of a variant has other files."""
        return frozenset(self.artifacts) | self.content_keys


class ReleaseDocument(Strict):
    """The signed description of a release. Build with `ReleaseDocument.parse` from its bytes."""

    format: Literal["mailboat/release/v1"] = "mailboat/release/v1"
    model: ModelName
    version: Version
    description: str = Field(default="", max_length=4000)
    security_version: int = Field(ge=0, le=2**31)
    interface: Interface
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=256)
    compatibility: Compatibility
    provenance: Provenance
    fallback: Version | None = None
    failure_mode: FailureMode | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in `File`.
        return {k: v for k, v in write(self).items() if k != "failure_mode" or v is not None}

    @model_validator(mode="after")
    def _each_class_once(self) -> Self:
        classes = [name for variant in self.variants for name in variant.hardware_classes]
        if len(set(classes)) != len(classes):
            raise ValueError("a hardware class is named by two variants")
        return self

    @model_validator(mode="after")
    def _degraded_answers_fit(self) -> Self:
        _refuse_unfit(self.interface, self.variants)
        return self

    def variant_for(self, hardware_class: str) -> Variant | None:
        for variant in self.variants:
            if hardware_class in variant.hardware_classes:
                return variant
        return None

    def files(self) -> tuple[File, ...]:
        """Every distinct artifact of all variants, by digest."""
        by_digest = {file.artifact_digest: file for v in self.variants for file in v.files}
        return tuple(by_digest.values())

    @property
    def content_keys(self) -> frozenset[str]:
        """Ids of the keys that any of its files takes."""
        return frozenset(key for variant in self.variants for key in variant.content_keys)

    def canonical_bytes(self) -> bytes:
        """The bytes that are hashed and signed: sorted keys, no spaces, ASCII, one newline."""
        content = self.model_dump(mode="json")
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return text.encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read a document whose bytes have been verified already.

        Raises:
            PayloadTooLarge: over 256 KiB.
            MalformedPayload: not JSON, or not a release document.
        """
        if len(content) > DOCUMENT_BYTES_MAX:
            raise PayloadTooLarge("release document", len(content), DOCUMENT_BYTES_MAX)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise MalformedPayload(
                f"The release document does not hold: {place}: {first['msg']}.",
                next_step="build it again with `mailboat release build` of a matching version.",
            ) from error


def _refuse_unfit(
    interface: Interface, variants: tuple[SourceVariant, ...] | tuple[Variant, ...]
) -> None:
    """
    Raises:
        ValueError: a variant's degraded answers, or its pipeline, are not what the interface
            promises; or a metric judges an output that there is not.
    """
    outputs = {tensor.name for tensor in interface.outputs}
    for variant in variants:
        pipeline = variant.pipeline
        problem = None if pipeline is None else pipeline.problem_with(interface)
        if problem is not None:
            raise ValueError(problem)
        if unknown := variant.health.metrics.keys() - outputs:
            raise ValueError(f"a metric judges {min(unknown)!r}, which is not an output")
        policy = None if variant.serving is None else variant.serving.degraded
        problem = None if policy is None else policy.problem_with(interface)
        if problem is not None:
            raise ValueError(problem)


def document_digest(content: bytes) -> str:
    """sha256 of a release document's bytes, in hex: the release's identity everywhere."""
    return hashlib.sha256(content).hexdigest()
