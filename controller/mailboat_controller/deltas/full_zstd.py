"""The format ``full-zstd/1``: the whole target as one zstd frame, for devices without a base."""

import zstandard

from mailboat_controller.deltas.patch import NotToBePatched, Patch

LEVEL = 19
WINDOW_LOG_MAX = 23  # what the device allows, 8 MiB
_MEMORY_MARGIN_BYTES = 4 << 20  # buffers of the decoder, beside the window


def build_full_zstd(target: memoryview) -> Patch:
    """The same bytes each time, for one version of the zstd library. A second for each 3 MB.

    Raises:
        NotToBePatched: the target is empty.
    """
    if not len(target):
        raise NotToBePatched("the target is empty")
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=len(target),
        window_log=min(WINDOW_LOG_MAX, max(10, (len(target) - 1).bit_length())),
        write_content_size=True,
        write_checksum=False,  # the sha256 of the outcome is signed
        write_dict_id=False,
    )
    content = zstandard.ZstdCompressor(compression_params=parameters).compress(target)
    window = zstandard.get_frame_parameters(content).window_size
    return Patch(content, window + _MEMORY_MARGIN_BYTES)
