"""Ports of loopback for programs that bind them a moment later, such as mosquitto.

The kernel gives its own to every connection and to whoever binds port 0, between our asking and
the program's binding too. These lie below them, and each process that runs tests goes through them
from a place of its own.
"""

import itertools
import os
import socket

FIRST, COUNT = 16_384, 16_384  # Linux's own begin at 32768: ip(7), ip_local_port_range
_numbers = itertools.count(os.getpid() * 1031)  # a worker takes some hundreds


def unused_port() -> int:
    while True:
        port = FIRST + next(_numbers) % COUNT
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
