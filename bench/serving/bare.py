"""onnxruntime alone, in a process of its own: what any server is measured against.

    python -m bench.serving.bare MODEL ROWS THREADS SECONDS   (rows of the input on stdin)

Prints the milliseconds of each run as a JSON array.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    import numpy as np
    import onnxruntime

    path, shape, threads, seconds = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        Path(path).read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    feed = np.frombuffer(sys.stdin.buffer.read(), np.float32).reshape(json.loads(shape))
    for _ in range(5):
        session.run(None, {name: feed})
    found = []
    until = time.perf_counter() + float(seconds)
    while (began := time.perf_counter()) < until:
        session.run(None, {name: feed})
        found.append((time.perf_counter() - began) * 1000)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
