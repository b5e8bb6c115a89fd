"""The client that an application uses."""

import json
import os
import random
import urllib.parse
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .calls import Call, Caller
from .errors import ClientError
from .messages import JSON_BYTES_HEADER, Answer, answer_of, request_of


class Client:
    """``address`` is ``http://127.0.0.1:8081`` or ``unix:///run/mailboat/serve.sock``."""

    def __init__(
        self,
        address: str,
        *,
        deadline_seconds: float = 10.0,
        workload: str | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            deadline_seconds: of each call that names none, all its tries together.
            workload: ``real-time`` or ``batch``; None leaves it to the release.
        """
        rng = rng or random.Random(int.from_bytes(os.urandom(8)))  # noqa: S311 - jitter of waits
        self._caller = Caller(address, rng)
        self._deadline_seconds = deadline_seconds
        self._workload = workload

    @classmethod
    def of_device(cls, data_dir: str | Path, **options: Any) -> Self:
        """The agent of this data directory, whose ``serving.json`` says where it listens."""
        try:
            content = json.loads((Path(data_dir) / "serving.json").read_bytes())
        except (OSError, ValueError) as error:
            raise ClientError(f"No agent serves from {data_dir}: {error}.", again=True) from error
        return cls(content["url"], **options)

    # --- calls -----------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        version: str | None = None,
        request_id: str | None = None,
        deadline_seconds: float | None = None,
        workload: str | None = None,
    ) -> Answer:
        """Run the model once. Inputs are `Array` or numpy's; no ``outputs`` means all of them.

        Raises:
            Late: no answer within the deadline.
            ClientError: refused, or nobody listens; ``again`` says whether waiting may help.
        """
        body, json_bytes = request_of(inputs, outputs, request_id)
        headers = {JSON_BYTES_HEADER: str(json_bytes), "content-type": "application/octet-stream"}
        if (said := workload or self._workload) is not None:
            headers["mailboat-workload"] = said
        path = _path("v2", "models", model, *(() if version is None else ("versions", version)))
        call = Call("POST", f"{path}/infer", body, headers)
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        reply = self._caller.call(call, seconds)
        return answer_of(reply.headers, reply.content, reply.tries)

    def ready(self, model: str | None = None) -> bool:
        """Whether this model answers now; without a name, whether all that belong here do."""
        path = "/v2/health/ready" if model is None else f"{_path('v2', 'models', model)}/ready"
        try:
            self._caller.call(Call("GET", path, tries_max=1), self._deadline_seconds)
        except ClientError as error:
            if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE):
                return False
            raise
        return True

    def metadata(self, model: str) -> dict[str, Any]:
        """What the protocol tells of a model: versions, inputs, outputs, release."""
        return self._json(Call("GET", _path("v2", "models", model)))

    def models(self) -> list[dict[str, str]]:
        """Every model that belongs on this device, with version, state and reason."""
        content = self._json(Call("GET", "/v2/models"))
        found: list[dict[str, str]] = content["models"]
        return found

    def feedback(
        self,
        model: str,
        *,
        counters: Mapping[str, tuple[int, int]] | None = None,
        values: Mapping[str, float | Sequence[float]] | None = None,
        release: str | None = None,
        request_id: str | None = None,
    ) -> dict[str, Any]:
        """Say how good the answers were: ``counters`` are (good, total) by name.

        It counts for the ``release`` that is named, or for the one that answered ``request_id``.
        """
        named = {"model": model, "release": release, "id": request_id}
        content: dict[str, Any] = {key: each for key, each in named.items() if each is not None}
        if counters:
            content["counters"] = {
                name: {"good": good, "total": total} for name, (good, total) in counters.items()
            }
        if values:
            content["values"] = dict(values)
        headers = {"content-type": "application/json"}
        body = json.dumps(content).encode()
        # It counts, so it is not sent twice where it may have arrived.
        return self._json(Call("POST", "/v1/feedback", body, headers, repeatable=False))

    def close(self) -> None:
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _json(self, call: Call) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self._caller.call(call, self._deadline_seconds).content)
        return parsed


def _path(*parts: str) -> str:
    return "".join(f"/{urllib.parse.quote(part, safe='')}" for part in parts)
