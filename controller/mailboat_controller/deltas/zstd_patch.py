"""The format ``zstd-patch/1``: one zstd frame of the target, with the base as raw prefix.

It is what ``zstd --patch-from`` makes. It wins where bytes moved or a few of them changed (graphs,
metadata, text, one layer), and not on retrained weights.
"""

import hashlib

import zstandard

from mailboat_controller.deltas.patch import NotToBePatched, Patch
from mailboat_schemas.deltas import Delta
from mailboat_schemas.patch_formats import (
    ZSTD_PATCH,
    ZSTD_PATCH_BASE_BYTES_MAX,
    ZSTD_PATCH_WINDOW_BYTES_MAX,
)

# The level alone is of little use here: its tables are made for a small window, and lose the base
# of a large file. At 45 MB level 19 as it comes makes 44 MB, or 13 MB with a window that is large
# enough; with tables as large as the window level 9 makes 0.44 MB, as the command line does.
THOROUGH_LEVEL, THOROUGH_BYTES_MAX = 19, 8 << 20  # level 19 takes a second for each 4 MB
QUICK_LEVEL = 9
_LOG_MIN, _LOG_MAX = 10, 27  # of window and tables; 27 is the decoder's bound, 128 MiB
_MEMORY_MARGIN_BYTES = 4 << 20  # buffers of the decoder, beside base and window


def build_zstd_patch(base: bytes, target: bytes) -> Patch:
    """The same bytes each time, for one version of the zstd library.

    Takes about eight times the base in memory, and for 45 MB two to five seconds.

    Raises:
        NotToBePatched: one of the files is empty, or too large for this format.
    """
    refuse_large(len(base), len(target))
    prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = _parameters(len(base), len(target))
    content = zstandard.ZstdCompressor(compression_params=parameters, dict_data=prefix).compress(
        target
    )
    window = zstandard.get_frame_parameters(content).window_size
    return Patch(content, len(base) + window + _MEMORY_MARGIN_BYTES)


def refuse_large(base_length: int, target_length: int) -> None:
    """Lengths in bytes.

    Raises:
        NotToBePatched: one of the files is empty, or too large for this format.
    """
    if not base_length or not target_length:
        raise NotToBePatched("a file is empty")
    if base_length > ZSTD_PATCH_BASE_BYTES_MAX:
        raise NotToBePatched(f"a base of {base_length} bytes is over {ZSTD_PATCH_BASE_BYTES_MAX}")
    if target_length > ZSTD_PATCH_WINDOW_BYTES_MAX:
        raise NotToBePatched(
            f"a target of {target_length} bytes is over {ZSTD_PATCH_WINDOW_BYTES_MAX}"
        )


def describe(base: bytes, target: bytes, patch: Patch) -> Delta:
    """What the director tells devices of it."""
    return Delta(
        target=hashlib.sha256(target).hexdigest(),
        base=hashlib.sha256(base).hexdigest(),
        base_length=len(base),
        format=ZSTD_PATCH,
        patch=hashlib.sha256(patch.content).hexdigest(),
        patch_length=len(patch.content),
        memory_bytes=patch.memory_bytes,
    )


def _parameters(base_length: int, target_length: int) -> zstandard.ZstdCompressionParameters:
    larger = max(base_length, target_length)
    thorough = larger <= THOROUGH_BYTES_MAX
    # The window reaches from the end of the target back to the beginning of the base.
    window_log = min(_LOG_MAX, max(_LOG_MIN, (base_length + target_length - 1).bit_length()))
    table_log = min(_LOG_MAX, max(_LOG_MIN, larger.bit_length()))
    return zstandard.ZstdCompressionParameters.from_level(
        THOROUGH_LEVEL if thorough else QUICK_LEVEL,
        source_size=target_length,
        dict_size=base_length,
        window_log=window_log,
        hash_log=table_log if thorough else table_log - 1,  # half of it is enough there
        # Level 19 keeps a binary tree, which takes two entries for each byte.
        chain_log=min(_LOG_MAX, table_log + 1) if thorough else table_log,
        write_content_size=True,
        write_checksum=False,  # the sha256 of the outcome is signed
        write_dict_id=False,
    )
