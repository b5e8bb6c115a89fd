"""Limits of our own process: no core dumps, and as many open files as connections need.

Every command may hold a private key or a token in its memory, and a core dump writes memory to a
disk. Children, the embedded broker among them, inherit both.
"""

import resource

# Connections, as many handshakes on their way, the database and artifacts. The usual soft limit is
# 1024, fewer than the API lets in: who opens so many would keep us from opening our own files.
OPEN_FILES = 16_384


def apply() -> None:
    """Lower what can be lowered, raise what may be raised; never fails."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
