"""The demo: a small fleet on one machine, and the story of five releases told with real parts."""

import os

# onnxruntime 1.31 begins to report its use to its makers on import; nobody has asked for that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
