"""The day a message or document holds as much as it may, and the day after."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mailboat_schemas.desired import (
    ASSIGNMENTS_MAX,
    DOCUMENTS_MAX,
    TRUST_FILES_MAX,
    Assignment,
    DesiredState,
    ManifestBundle,
)
from mailboat_schemas.documents import yaml_source
from mailboat_schemas.documents.rollout import PILOTS_MAX, WAVES_MAX, Rollout
from mailboat_schemas.documents.yaml_source import parse_document
from mailboat_schemas.envelope import SIGNATURES_MAX, Envelope, EnvelopeSignature
from mailboat_schemas.errors import DocumentInvalid
from mailboat_schemas.submission import ROLES_PER_SUBMISSION_MAX, Submission


def desired(models: int) -> BaseModel:
    return DesiredState(
        fleet="demo",
        hardware_class="kiosk",
        counter=1,
        issued=0,
        assignments=tuple(Assignment(model=f"m{number}") for number in range(models)),
    )


def bundle(trust_files: int = 0, documents: int = 0) -> BaseModel:
    return ManifestBundle(
        fleet="demo",
        hardware_class="kiosk",
        counter=1,
        trust={f"{number}.root.json": b"{}" for number in range(trust_files)},
        documents={f"{number:064x}": b"{}" for number in range(documents)},
        desired=b"",
    )


def envelope(signatures: int) -> BaseModel:
    signature = EnvelopeSignature(keyid="k", sig=b"s")
    return Envelope(payload_type="t", payload=b"", signatures=(signature,) * signatures)


def submission(roles: int) -> BaseModel:
    return Submission(fleet="demo", roles={f"release-{number}": b"{}" for number in range(roles)})


def rollout(waves: int = 1, pilots: int = 1) -> BaseModel:
    wave: dict[str, Any] = {"pilots": [f"d{number}" for number in range(pilots)]}
    document = {
        "apiVersion": "mailboat/v1",
        "kind": "Rollout",
        "metadata": {"name": "careful"},
        "spec": {"release": {"model": "vad", "version": "1.0.0"}, "waves": [wave] * waves},
    }
    return Rollout.model_validate(document)


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (desired, ASSIGNMENTS_MAX),
        (lambda count: bundle(trust_files=count), TRUST_FILES_MAX),
        (lambda count: bundle(documents=count), DOCUMENTS_MAX),
        (envelope, SIGNATURES_MAX),
        (submission, ROLES_PER_SUBMISSION_MAX),
        (lambda count: rollout(waves=count), WAVES_MAX),
        (lambda count: rollout(pilots=count), PILOTS_MAX),
    ],
    ids=["assignments", "trust files", "documents", "signatures", "roles", "waves", "pilots"],
)
def test_as_many_as_may_be_are_taken_and_one_more_is_not(
    make: Callable[[int], BaseModel], most: int
) -> None:
    make(most)
    with pytest.raises(ValidationError, match=f"at most {most} items"):
        make(most + 1)


def test_a_yaml_of_more_parts_than_any_document_is_refused_before_it_is_validated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yaml_source, "NODES_MAX", 50)
    document = f"[{'1,' * 50}]".encode()  # and the list itself

    with pytest.raises(DocumentInvalid, match="too large"):
        parse_document(document, Rollout, source="rollout.yaml")
