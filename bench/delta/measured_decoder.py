"""The agent's decoder as the agent starts it, which tells its peak memory when it ends.

``measured_decoder.py PIPE …``: the first argument is a named pipe, the rest is the decoder's. What
is needed for telling is opened before the decoder gives up opening anything. It tells two numbers
in KiB, high water marks: when everything was imported and no byte of the patch was read, which is
a bare process, and at the end.
"""

import os
import sys
from typing import Any

from mailboat_agent.delta import decoder


def high_water(status: int) -> bytes:
    for line in os.pread(status, 8192, 0).splitlines():
        if line.startswith(b"VmHWM:"):
            return line.split()[1]
    return b"0"


def main() -> None:
    pipe = os.open(sys.argv[1], os.O_WRONLY)
    status = os.open("/proc/self/status", os.O_RDONLY)
    bare = b"0"
    confine = decoder._confine

    def measured_confine(**limits: Any) -> None:
        nonlocal bare
        bare = high_water(status)
        confine(**limits)

    decoder._confine = measured_confine
    try:
        decoder.main(sys.argv[2:])
    finally:
        os.write(pipe, bare + b" " + high_water(status))


if __name__ == "__main__":
    main()
