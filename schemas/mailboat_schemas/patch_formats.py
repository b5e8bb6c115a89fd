"""The formats of patches, by name, and what bounds them.

Apart from the document that names them (`deltas`), because the process that decodes a patch on a
device needs these alone, and a tenth of a second less.
"""

# Tensors' bytes as numbers, each changed a little: see `tensor_program` and `plane_blocks`.
TENSOR_DELTA = "tensor-delta/1"
# Without a base, compressed: the same program, and one zstd frame.
FULL_PLANES = "full-planes/1"
FULL_ZSTD = "full-zstd/1"
FULL_ZSTD_WINDOW_BYTES_MAX = 8 << 20
WITHOUT_BASE = frozenset({FULL_PLANES, FULL_ZSTD})

# One zstd frame with the base as raw prefix, and the length of the target in its header.
ZSTD_PATCH = "zstd-patch/1"
ZSTD_PATCH_BASE_BYTES_MAX = 64 << 20  # the device holds all of it in memory
ZSTD_PATCH_WINDOW_BYTES_MAX = 128 << 20
