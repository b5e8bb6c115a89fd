# ruff: noqa: INP001, T201 - a script
"""A batch job: every line of a file through the model, behind whoever is in a hurry.

    python batch_job.py --address http://127.0.0.1:8081 --model heat lines.jsonl answers.jsonl

Each line is a JSON object of input names and (nested) arrays. Lines that are answered already are
skipped, so a job that was stopped is started again with the same words. A line that the model
cannot take is answered with the error. Standard library only.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mailboat_agent.client import Array, Client, ClientError

AT_ONCE = 4  # enough to keep the model busy; more only waits in its queue
REFUSED = (400, 413)  # what is wrong with a line stays wrong, however often it is sent
DEADLINE_SECONDS = 600.0  # of one line, all tries together: a swap or a restart is waited for


def shape_of(data: Any) -> list[int]:
    return [len(data), *shape_of(data[0])] if isinstance(data, list) and data else []


def flat(data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for each in data:
            yield from flat(each)
    else:
        yield data


def answer(client: Client, model: str, datatypes: dict[str, str], line: str) -> str:
    inputs = {
        name: Array.of(datatypes[name], shape_of(data), list(flat(data)))
        for name, data in json.loads(line).items()
    }
    try:
        given = client.infer(model, inputs, deadline_seconds=DEADLINE_SECONDS)
    except ClientError as error:
        if error.status not in REFUSED:
            raise
        return json.dumps({"error": str(error)})
    outputs = {name: list(array.values()) for name, array in given.outputs.items()}
    return json.dumps({"outputs": outputs, "release": given.release, "degraded": given.degraded})


def lines_done(answers: Path) -> int:
    """A last line that was not finished when the job was stopped is taken away."""
    if not answers.exists():
        return 0
    whole, _, _ = answers.read_bytes().rpartition(b"\n")
    with answers.open("r+b") as file:
        file.truncate(len(whole) + 1 if whole else 0)
    return len(whole.split(b"\n")) if whole else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("lines", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()

    lines = options.lines.read_text().splitlines()
    done = lines_done(options.answers)
    with Client(options.address, workload="batch") as client, options.answers.open("a") as out:
        inputs = client.metadata(options.model)["inputs"]
        datatypes = {each["name"]: each["datatype"] for each in inputs}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            ask = [pool.submit(answer, client, options.model, datatypes, x) for x in lines[done:]]
            for future in ask:  # in order, so that the number of lines says how far it came
                print(future.result(), file=out, flush=True)
    print(f"{len(lines)} lines: {done} before, {len(lines) - done} now")


if __name__ == "__main__":
    main()
