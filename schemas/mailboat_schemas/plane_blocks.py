"""How one block of a stream is packed in a patch: the codecs, and the layout of their payloads.

A block is one byte that names the codec, three bytes for the length of the payload (little
endian; left out for `RAW` and `ZERO`, where it is known), and the payload. How many bytes must
come out is always known beforehand.
"""

import lzma
from enum import IntEnum
from typing import Any

PAYLOAD_LENGTH_BYTES = 3


class Codec(IntEnum):
    """The numbers are on the wire."""

    RAW = 0
    ZERO = 1  # nothing but zeros
    ZSTD = 2  # one frame without magic number
    LZMA = 3  # a raw LZMA1 stream with the filter below
    SPARSE = 4  # gaps and values of what is not zero, a block each
    RANS = 5  # asymmetric numeral systems, interleaved


# No filter comes with a patch, so none can ask for more memory. lc, lp and pb are for literals
# that have nothing to do with their neighbours.
LZMA_DICTIONARY_BYTES = 1 << 20
LZMA_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA1, "dict_size": LZMA_DICTIONARY_BYTES, "lc": 0, "lp": 0, "pb": 0}
]
ZSTD_WINDOW_BYTES = 1 << 20  # of a block, which is no longer

# SPARSE: how many gaps (3 bytes), then two blocks. A gap is the number of zeros before the next
# value; SPARSE_SKIP stands for as many zeros and no value.
SPARSE_SKIP = 255
SPARSE_SHARE = 4  # at most a quarter as many gaps as bytes, or another codec is smaller anyway

# RANS. Source: J. Duda, "Asymmetric numeral systems", 2014; the interleaving after F. Giesen,
# "Interleaved entropy coders", 2014. Symbols are cut into chunks, each coded by one of a few
# static tables; each lane decodes a row of chunks, and all lanes step together.
RANS_SCALE_BITS = 14
RANS_SCALE = 1 << RANS_SCALE_BITS  # what the frequencies of a table sum up to
RANS_STATE_MIN = 1 << 16  # a lane's state stays from here to 2**32
RANS_CHUNK_SYMBOLS = 1024
RANS_TABLES_MAX = 16
RANS_LANES_MAX = 1024
# Payload: tables (1 byte), lanes (2 bytes), then a length (3 bytes) and a block of the tables (256
# frequencies of 2 bytes each, all low bytes first) and of the chunks' table numbers; then the
# states (4 bytes each) and the words (2 bytes each).
