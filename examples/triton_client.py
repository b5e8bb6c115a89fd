# ruff: noqa: INP001, T201 - a script
"""The official client of the protocol against a device: lists, checks, infers, all at once.

    pip install 'tritonclient[http]'
    python triton_client.py --address 127.0.0.1:8081 --shape window=1,4

Every model that is ready gets requests with JSON and with binary tensors, made up from what its
metadata say; answers to equal requests have to be equal, whichever way they came. A dimension that
may vary is 1 unless a --shape names the input.
"""

import argparse
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import triton_to_np_dtype

BOTH = (True, False)  # tensors as bytes, and as JSON


def inputs_of(
    metadata: dict[str, Any], shapes: dict[str, list[int]], number: int, *, binary: bool
) -> list[Any]:
    rng = np.random.default_rng(number)
    made = []
    for each in metadata["inputs"]:
        shape = shapes.get(each["name"], [1 if size < 0 else size for size in each["shape"]])
        dtype = triton_to_np_dtype(each["datatype"])
        values = rng.random(shape).astype(dtype) if dtype != np.object_ else np.full(shape, b"a")
        made.append(triton.InferInput(each["name"], shape, each["datatype"]))
        made[-1].set_data_from_numpy(values.astype(dtype), binary_data=binary)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="host:port")
    parser.add_argument("--requests", type=int, default=20, help="of each kind, to each model")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--shape", action="append", default=[], metavar="INPUT=N,N")
    options = parser.parse_args()
    named = (each.split("=") for each in options.shape)
    shapes = {name: [int(size) for size in sizes.split(",")] for name, sizes in named}

    client = triton.InferenceServerClient(options.address)
    own = threading.local()  # the official client is for one thread
    about = client.get_server_metadata()
    print(f"{about['name']} {about['version']}: live {client.is_server_live()}", end=", ")
    print(f"ready {client.is_server_ready()}, extensions {', '.join(about['extensions'])}")
    listed = client.get_model_repository_index()
    for each in listed:
        print(f"  {each['name']} {each['version']} {each['state']} {each['reason']}".rstrip())

    def ask(model: str, number: int, binary_in: bool, binary_out: bool) -> dict[str, Any]:
        if not hasattr(own, "client"):
            own.client = triton.InferenceServerClient(options.address)
        metadata = own.client.get_model_metadata(model)
        wanted = [
            triton.InferRequestedOutput(each["name"], binary_data=binary_out)
            for each in metadata["outputs"]
        ]
        inputs = inputs_of(metadata, shapes, number, binary=binary_in)
        given = own.client.infer(model, inputs, outputs=wanted)
        return {each["name"]: given.as_numpy(each["name"]) for each in metadata["outputs"]}

    with ThreadPoolExecutor(options.at_once) as threads:
        for model in [each["name"] for each in listed if client.is_model_ready(each["name"])]:
            config = client.get_model_config(model)
            print(f"  {model}: {config['platform']}, {len(config['input'])} inputs", end=", ")
            asked = [(n, i, o) for n in range(options.requests) for i in BOTH for o in BOTH]
            answers = list(threads.map(lambda each, m=model: ask(m, *each), asked))
            for (number, *_), answer in zip(asked, answers, strict=True):
                for name, values in answers[4 * number].items():
                    np.testing.assert_array_equal(answer[name], values)
            print(f"{len(answers)} answers, {options.at_once} at once, JSON and binary are equal")
    client.close()


if __name__ == "__main__":
    main()
