"""Live traffic against a device's own inference endpoint, by Open Inference Protocol v2."""

import http.client
import json
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from mailboat_controller.demo.models import MODEL_NAME, live_request

_DTYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32"}
_BACK = {datatype: dtype for dtype, datatype in _DTYPES.items()}
REQUEST_SECONDS_MAX = 10
RESPONSE_BYTES_MAX = 1 << 22

Tensors = dict[str, np.ndarray[Any, Any]]


class InferenceFailed(Exception):
    """The device answered with another status than 200, or with what is no answer."""


def infer(port: int, inputs: Tensors) -> tuple[str, Tensors]:
    """One request to the device on this loopback port; returns model version and outputs.

    Raises:
        InferenceFailed: any answer but 200, or one that cannot be read; OSError where nobody
            listens, HTTPException where the answer breaks off.
    """
    body = json.dumps({"inputs": [_to_json(name, array) for name, array in inputs.items()]})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS_MAX)
    try:
        connection.request("POST", f"/v2/models/{MODEL_NAME}/infer", body)
        response = connection.getresponse()
        content = response.read(RESPONSE_BYTES_MAX)
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise InferenceFailed(f"{response.status}: {content[:200].decode(errors='replace')}")
    try:
        answer = json.loads(content)
        outputs = {each["name"]: _to_array(each) for each in answer["outputs"]}
        return answer["model_version"], outputs
    except (ValueError, KeyError, TypeError) as error:
        raise InferenceFailed(f"the answer cannot be read: {error!r}") from error


def _to_json(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": _DTYPES[str(array.dtype)],
        "data": array.reshape(-1).tolist(),
    }


def _to_array(tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array(tensor["data"], dtype=_BACK[tensor["datatype"]]).reshape(tensor["shape"])


class Traffic:
    """Steady requests to all devices until it ends; some of them may be made loud."""

    def __init__(
        self, ports: Callable[[], dict[str, int]], *, seed: int, pause_seconds: float
    ) -> None:
        self._ports = ports
        self._rng = random.Random(seed)  # noqa: S311 - demo traffic, repeatable
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self.loud: frozenset[str] = frozenset()
        self.answered: dict[str, int] = {}
        self.failed: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(REQUEST_SECONDS_MAX)

    def _run(self) -> None:
        while not self._stop.wait(self._pause_seconds):
            for device, port in self._ports().items():
                loud = device in self.loud and self._rng.random() < 0.5
                try:
                    infer(port, live_request(self._rng, loud))
                except (InferenceFailed, OSError, http.client.HTTPException):
                    self.failed[device] = self.failed.get(device, 0) + 1
                else:
                    self.answered[device] = self.answered.get(device, 0) + 1
