"""An application on a device: a process that knows `mailboat_agent.client` and nothing else of us.

A process of its own because controller and agent never import each other.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

APPLICATION_SECONDS_MAX = 20.0
_DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "int32": "INT32"}
_PROGRAM = """\
import json, sys
from mailboat_agent.client import Array, Client

order = json.load(sys.stdin)
inputs = {name: Array.of(*told) for name, told in order["inputs"].items()}
with Client(order["url"]) as client:
    answer = client.infer(order["model"], inputs)
    print(json.dumps({"version": answer.version, "outputs": sorted(answer.outputs)}))
"""


def infer_as_application(
    url: str, model: str, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, Any]:
    """The version that answered, and the names of its outputs.

    Raises:
        OSError, ValueError: no answer, or none that can be read.
    """
    told = {
        name: [_DATATYPES[str(array.dtype)], list(array.shape), array.reshape(-1).tolist()]
        for name, array in inputs.items()
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps({"url": url, "model": model, "inputs": told}),
            capture_output=True,
            text=True,
            timeout=APPLICATION_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError("the application did not end") from error
    if done.returncode:
        raise OSError(f"the application ended: {done.stderr[-300:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
