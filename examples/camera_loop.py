# ruff: noqa: INP001, T201 - a script
"""A camera loop: the newest frame or none. Frames are dropped, they never queue.

    python camera_loop.py --address unix:///run/mailboat/serve.sock --model heat --frames 100

The frames here are made up; put your camera's `read` into `frames_of_a_camera`. Needs numpy.
"""

import argparse
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from mailboat_agent.client import Client, ClientError, Late

NUMPY = {"FP16": "f2", "FP32": "f4", "FP64": "f8", "UINT8": "u1", "INT8": "i1"}


class NewestFrame:
    """One place for one frame: what was not taken in time is overwritten."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Any = None
        self._over = False
        self.dropped = 0

    def put(self, frame: Any) -> None:
        with self._changed:
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._over)
                frame, self._frame = self._frame, None
            if frame is None:
                return
            yield frame


def frames_of_a_camera(
    count: int, per_second: float, shape: list[int], dtype: str
) -> Iterator[Any]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield (rng.random(shape) * 4).astype(dtype)
        time.sleep(1 / per_second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--per-second", type=float, default=25)
    options = parser.parse_args()

    # An answer that comes after the next frame is of no use to anyone.
    client = Client(options.address, deadline_seconds=1 / options.per_second)
    (camera,) = client.metadata(options.model)["inputs"]
    shape = [max(size, 1) for size in camera["shape"]]
    wanted = (options.frames, options.per_second, shape, NUMPY[camera["datatype"]])
    newest = NewestFrame()

    def capture() -> None:
        try:
            for frame in frames_of_a_camera(*wanted):
                newest.put(frame)
        finally:  # a camera that fails ends the loop, too
            newest.end()

    threading.Thread(target=capture, daemon=True).start()
    answered = late = failed = degraded = 0
    for frame in newest:
        try:
            answer = client.infer(options.model, {camera["name"]: frame}, workload="real-time")
        except Late:
            late += 1
        except ClientError as error:
            failed += 1
            if not error.again:
                raise
        else:
            answered += 1
            degraded += answer.degraded is not None
    print(
        f"{options.frames} frames: {answered} answered ({degraded} degraded), "
        f"{newest.dropped} dropped, {late} late, {failed} failed"
    )
    client.close()


if __name__ == "__main__":
    main()
