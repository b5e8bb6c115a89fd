"""MLflow's REST API 2.0, as far as it says what an alias names and what a person should see.

What it answers is not trusted: every answer is bounded and checked before it is used.
"""

import base64
import json
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from pydantic import BaseModel, Field, ValidationError

from mailboat_controller.https_stream import Answer, HttpsStream
from mailboat_controller.mlflow.mapping import Server
from mailboat_controller.mlflow.secret_file import read_secret
from mailboat_controller.sources.source import SourceRefused
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MailboatError,
    NotFound,
    NotPermitted,
    ServerUnavailable,
)

ANSWER_BYTES_MAX = 4 << 20  # a run with thousands of metrics
TAG_CHARS_MAX = 500
ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"
_API = "api/2.0/mlflow"
_PROXIED = "mlflow-artifacts"
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})


class Pair(BaseModel):
    key: str = Field(max_length=1000)
    value: str | float = ""


class ModelVersion(BaseModel):
    """What an alias names. ``version`` is MLflow's number, as text."""

    name: str = Field(max_length=256)
    version: str = Field(pattern=r"^[0-9]{1,9}$")
    source: str = Field(default="", max_length=4096)
    run_id: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    status: str = "READY"
    tags: tuple[Pair, ...] = Field(default=(), max_length=10_000)

    def tag(self, key: str) -> str | None:
        return next((str(tag.value) for tag in self.tags if tag.key == key), None)


class Dataset(BaseModel):
    name: str = ""
    digest: str = ""


class _DatasetInput(BaseModel):
    dataset: Dataset = Dataset()


class _Inputs(BaseModel):
    dataset_inputs: tuple[_DatasetInput, ...] = ()


class _RunData(BaseModel):
    metrics: tuple[Pair, ...] = ()
    tags: tuple[Pair, ...] = ()


class Run(BaseModel):
    data: _RunData = _RunData()
    inputs: _Inputs = _Inputs()

    def tag(self, key: str) -> str:
        return next((str(tag.value) for tag in self.data.tags if tag.key == key), "")

    def metric(self, key: str) -> float | str | None:
        return next((each.value for each in self.data.metrics if each.key == key), None)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return tuple(each.dataset for each in self.inputs.dataset_inputs)


class Listed(BaseModel):
    path: str = Field(max_length=4096)
    is_dir: bool = False
    file_size: int = Field(default=0, ge=0)


class _FoundVersion(BaseModel):
    model_version: ModelVersion


class _FoundRun(BaseModel):
    run: Run


class _FoundFiles(BaseModel):
    files: tuple[Listed, ...] = Field(default=(), max_length=10_000)


class _FoundPlace(BaseModel):
    artifact_uri: str = Field(max_length=4096)


Shape = TypeVar("Shape", bound=BaseModel)


class MlflowRegistry:
    """One tracking server, as whoever holds the token."""

    def __init__(self, stream: HttpsStream, server: Server, directory: Path) -> None:
        """``directory`` is what paths of ``server`` are relative to."""
        self.stream = stream
        self.url = server.url.rstrip("/")
        self._server = server
        self._directory = directory

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    def headers(self) -> dict[str, str]:
        """Read anew for every request, so that a token may be replaced while we run."""
        if self._server.token_file is not None:
            secret = read_secret(self._directory / self._server.token_file)
            return {"Authorization": f"Bearer {secret}"}
        if self._server.password_file is not None:
            secret = read_secret(self._directory / self._server.password_file)
            return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
        return {}

    def version_of_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None: no model version has that alias, or there is no such model."""
        answer = self._get("registered-models/alias", name=name, alias=alias)
        if answer.status in (400, 404) and _error_code(answer) in _ABSENT:
            return None
        return self._read(answer, _FoundVersion).model_version

    def run(self, run_id: str) -> Run:
        """An empty one where the model version names none, or it was deleted."""
        if not run_id:
            return Run()
        answer = self._get("runs/get", run_id=run_id)
        return Run() if answer.status == 404 else self._read(answer, _FoundRun).run

    def artifact_root(self, version: ModelVersion) -> str:
        """Where the server's artifact proxy has the model's files.

        Raises:
            SourceRefused: they are not behind that proxy.
        """
        answer = self._get(
            "model-versions/get-download-uri", name=version.name, version=version.version
        )
        uri = self._read(answer, _FoundPlace).artifact_uri
        parts = urlsplit(uri)
        segments = [part for part in parts.path.split("/") if part]
        proxied = parts.scheme == _PROXIED and parts.netloc in ("", self.host)
        if not proxied or not segments or any(part in (".", "..") for part in segments):
            raise SourceRefused(
                f"The files of {version.name} version {version.version} are at {uri[:200]!r}, "
                "which the tracking server does not serve itself.",
                next_step="start it with --serve-artifacts, and log the model again: "
                "docs/mlflow.md.",
            )
        return "/".join(segments)

    def listed(self, path: str) -> tuple[Listed, ...]:
        """What a directory of the proxy holds; names relative to it."""
        answer = self._ask(f"{self.url}/{ARTIFACTS}?{urlencode({'path': path})}")
        return self._read(answer, _FoundFiles).files

    def artifact_url(self, path: str) -> str:
        return f"{self.url}/{ARTIFACTS}/{quote(path)}"

    def set_tag(self, version: ModelVersion, key: str, value: str) -> None:
        """
        Raises:
            MailboatError: it was not taken.
        """
        body = {"name": version.name, "version": version.version, "key": key}
        answer = self.stream.post(
            f"{self.url}/{_API}/model-versions/set-tag",
            {**self.headers(), "Content-Type": "application/json"},
            json.dumps(body | {"value": value[:TAG_CHARS_MAX]}).encode(),
            kind="answer of MLflow",
            bytes_max=ANSWER_BYTES_MAX,
        )
        if answer.status != 200:
            raise self._refusal(answer)

    def _get(self, path: str, **parameters: str) -> Answer:
        return self._ask(f"{self.url}/{_API}/{path}?{urlencode(parameters)}")

    def _ask(self, url: str) -> Answer:
        return self.stream.get(
            url, self.headers(), kind="answer of MLflow", bytes_max=ANSWER_BYTES_MAX
        )

    def _read(self, answer: Answer, shape: type[Shape]) -> Shape:
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            return shape.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SourceRefused(
                f"{self.host} answers what MLflow does not: {place}: {first['msg']}.",
                next_step="is it a tracking server of MLflow 3, with nothing in between?",
            ) from error

    def _refusal(self, answer: Answer) -> MailboatError:
        said = str(_problem(answer).get("message", ""))[:300]
        said = "".join(char if char.isprintable() else " " for char in said)
        what = f"{self.host} answers {answer.status} {said}".strip() + "."
        if answer.status in (401, 403):
            return NotPermitted(what, next_step="check token_file or password_file of the mapping.")
        if answer.status == 404:
            return NotFound(what, next_step="check the names in the mapping, and the address.")
        if answer.status == 429 or answer.status >= 500:
            return ServerUnavailable(what, next_step="it is tried again by itself.")
        return ConfigurationInvalid(what, next_step="is it a tracking server of MLflow 3?")


def _error_code(answer: Answer) -> str:
    return str(_problem(answer).get("error_code", ""))


def _problem(answer: Answer) -> dict[str, Any]:
    try:
        content = json.loads(answer.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
