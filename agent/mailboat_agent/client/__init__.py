"""A small client for applications on the device: ``from mailboat_agent.client import Client``.

It needs Python's standard library and nothing else, numpy only where arrays are given or asked for,
and imports nothing of Mailboat: an application without the agent's package copies this folder.

    with Client("unix:///run/mailboat/serve.sock") as client:
        answer = client.infer("heat", {"window": array}, deadline_seconds=0.1)
        answer.outputs["score"].numpy(), answer.release, answer.degraded

Tensors travel as binary data. Whatever asks to be tried again (503 with Retry-After) is tried again
within the deadline. One client may be used by many threads; each has a connection of its own.
"""

from .arrays import Array
from .client import Client
from .errors import ClientError, Late
from .messages import Answer

__all__ = ["Answer", "Array", "Client", "ClientError", "Late"]
