"""The model runtime on the device: tried, served, swapped, and never able to take the agent down.

``runtime`` is the way in: it keeps one worker process per loaded release. ``trial`` tells whether a
release may be loaded at all, ``gateway`` puts the runtime on HTTP. onnxruntime and numpy are
imported by ``worker`` alone, which runs only in the child process; the agent itself carries tensors
as bytes and stays small.
"""
