"""A controller with a little of everything, for requests that are made up from its description."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from sqlalchemy import select

from mailboat_controller.store.all_tables import metadata
from mailboat_schemas.codec import encode
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission
from running_api import RunningApi, running_api
from trust_fleet import CLASS, FLEET, MODEL


def _as_it_is(_context: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


for media_type in ("application/vnd.msgpack", "application/x-pem-file", "application/octet-stream"):
    schemathesis.serializer(media_type)(_as_it_is)

PLAN = Plan(rollout="first", waves=(PlanWave(count_ppm=1_000_000, cap_ppm=1_000_000),))
DEVICES = ("dev-1", "dev-2", "dev-3")


@dataclass
class ExploredApi:
    api: RunningApi
    schema: Any
    session: requests.Session
    statuses: Counter[int] = field(default_factory=Counter)
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def url(self) -> str:
        return self.api.url

    @property
    def options(self) -> dict[str, Any]:
        """Of every call."""
        return {"verify": str(self.api.authority.ca_path), "timeout": 60, "allow_redirects": False}

    @property
    def tokens(self) -> dict[str, str]:
        return self.api.tokens

    def is_for(self, operation: Any, by: str | None) -> bool:
        """Whether the description says that a viewer, or nobody in particular, may ask."""
        whom = (
            operation.definition.raw["description"].rpartition("For: ")[2].rstrip(".").split(", ")
        )
        return whom == ["anybody"] or (by is not None and "viewer" in whom)

    def everything_kept(self) -> dict[str, list[Any]]:
        """Every row of the database, but for when a token was last used."""
        with self.api.store.read() as tx:
            return {
                table.name: sorted(map(repr, tx.execute(select(table))))
                for table in metadata.sorted_tables
                if table.name != "access_tokens"
            }

    def name_what_there_is(self, case: Case[Any]) -> None:
        """Ask for things that exist, where the request has a place for their names."""
        known = {
            "device": self.rng.choice(DEVICES),
            "model": MODEL,
            "version": "1.0.0",
            "base_version": "1.0.0",
            "hardware_class": CLASS,
            "role": "targets",
            "digest": "ab" * 32,
        }
        path = case.operation.path
        if path.startswith("/v1/rollouts"):
            known["name"] = "first"
        if path.startswith("/v1/hardware-classes"):
            known["name"] = CLASS
        if path.startswith("/v1/sites"):
            known["name"] = "harbour"
        if path.startswith("/v1/webhooks"):
            known["name"] = "alerts"
        if path.startswith("/v1/gitops"):
            known["name"] = "production"
        if path.startswith("/v1/documents"):
            known["role"] = "config"
        for places in (case.path_parameters, case.body):
            if isinstance(places, dict):
                places.update({name: known[name] for name in places if name in known})


@contextmanager
def explored_api(directory: Path) -> Iterator[ExploredApi]:
    rates = {
        f"rate_{who}_{what}": 1_000_000
        for who in ("known", "stranger")
        for what in ("per_second", "burst")
    }
    with running_api(directory, **rates, rate_refused_per_minute=1_000_000) as api:
        _furnish(api)
        config = SchemathesisConfig()
        schema = schemathesis.openapi.from_dict(api.ask("GET", "/openapi.json").json, config=config)
        with requests.Session() as session:
            session.trust_env = False
            yield ExploredApi(api, schema, session)


def _furnish(api: RunningApi) -> None:
    for device in DEVICES:
        assert api.enrol(device).status == 201
    path = api.artifacts.path("ab" * 32)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"onnx")
    digest = api.trust.release("1.0.0", PLAN)
    roles = {name: api.trust.roles[name] for name in ("release-vad", "approval-vad")}
    content = encode(
        Submission(fleet=FLEET, roles=roles, documents={digest: api.trust.documents[digest]})
    )
    headers = {"Content-Type": "application/vnd.msgpack"}
    answer = api.ask("POST", "/v1/submissions", by="build", body=content, headers=headers)
    assert answer.status == 200, answer.content
    for where, body in (
        ("/v1/sites", {"name": "harbour", "broker_host": "broker.harbour.example"}),
        (
            "/v1/webhooks",
            {"name": "alerts", "url": "http://127.0.0.1:9/hook", "reason": "to be told"},
        ),
        ("/v1/gitops/production/apply", {"documents": [], "reason": "begun"}),
    ):
        answer = api.ask("POST", where, by="alice", body=body)
        assert answer.status in (200, 201), (where, answer.content)
