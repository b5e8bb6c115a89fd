"""What a look into the journal may take. Apart, because slow devices read the command line too."""

from types import MappingProxyType

STATEMENT_BYTES_MAX = 64 * 1024
QUERY_SECONDS_MAX = 10.0  # then it is broken off: the agent's WAL grows meanwhile
QUERY_ROWS = 1000
QUERY_ROWS_MAX = 100_000
RESULT_BYTES_MAX = 32 << 20
VALUE_BYTES_MAX = (
    8 << 20
)  # of one value; a device has little memory, and a query could ask for 1 GB
EXPORT_ROWS_AT_ONCE = 500
EXPORTED = MappingProxyType({"events": "sequence", "windows": "number"})  # and what orders them
