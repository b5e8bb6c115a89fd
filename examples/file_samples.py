# ruff: noqa: INP001 - a script
"""Write samples for magika, a model that says what kind a file is, from the files of a directory.

    python examples/file_samples.py DIRECTORY samples.npz

The model reads 2048 numbers: the first 1024 bytes of a file and its last 1024, 256 where it is
shorter. One sample is one request of one row, so the array has the shape [samples, 1, 2048].

    mailboat model build model.onnx --data samples.npz --class kiosk-x86 --out magika
"""

import argparse
from pathlib import Path

import numpy as np

PART_BYTES, PADDING = 1024, 256
FILES_MAX = 400


def numbers_of(content: bytes) -> list[int]:
    begin, end = content.strip()[:PART_BYTES], content.strip()[-PART_BYTES:]
    left, right = PART_BYTES - len(begin), PART_BYTES - len(end)
    return [*begin, *[PADDING] * left, *[PADDING] * right, *end]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    files = [path for path in sorted(options.directory.rglob("*")) if path.is_file()][:FILES_MAX]
    rows = [numbers_of(path.read_bytes()) for path in files]
    np.savez(options.out, bytes=np.array(rows, np.int32)[:, None])


if __name__ == "__main__":
    main()
