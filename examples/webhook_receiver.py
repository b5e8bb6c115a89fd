# ruff: noqa: INP001, T201 - a script
"""A receiver of Mailboat's webhooks, in the standard library alone: run it, copy it, change it.

    WEBHOOK_SECRET_FILE=chat.secret python webhook_receiver.py 8080

Whoever can reach its port can send it anything, so nothing is believed before the signature held.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

TOLERANCE_SECONDS = 300  # of the clocks, and the age of a message that is repeated by a stranger
BODY_BYTES_MAX = 256 * 1024
SEEN_MAX = 10_000


class NotVerified(Exception):
    """Answer 401 and change nothing."""


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """The message's id, once its signature held. Keep the ids: the same may come twice.

    ``headers`` have names in lower case; ``secret`` is the text that begins with whsec_.
    """
    try:
        message, sent = headers["webhook-id"], int(headers["webhook-timestamp"])
        signatures = headers["webhook-signature"].split()
    except (KeyError, ValueError):
        raise NotVerified("a header is missing") from None
    if abs(now - sent) > TOLERANCE_SECONDS:
        raise NotVerified("too old, or a clock is wrong")
    key = base64.b64decode(secret.strip().removeprefix("whsec_"))
    signed = b".".join((message.encode(), str(sent).encode(), body))
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    # While a secret is changed there may be several signatures; one that holds is enough.
    if not any(hmac.compare_digest(f"v1,{wanted}", each) for each in signatures):
        raise NotVerified("no signature holds")
    return message


class Handler(BaseHTTPRequestHandler):
    secret = ""
    seen: ClassVar[
        dict[str, None]
    ] = {}  # in a real receiver: in the database, with what it leads to

    def do_POST(self) -> None:
        said = self.headers.get("content-length") or ""
        length = int(said) if said.isascii() and said.isdecimal() else 0
        if not 0 < length <= BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            message = verify(self.secret, headers, body, time.time())
        except NotVerified as error:
            print(f"refused: {error}", flush=True)
            return self.answer(401)
        if message not in self.seen:
            event = json.loads(body)
            print(event["type"], event["subject"], event["data"].get("reason", ""), flush=True)
            self.seen[message] = None
            while len(self.seen) > SEEN_MAX:
                self.seen.pop(next(iter(self.seen)))
        return self.answer(204)  # quickly: do what takes long afterwards

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


if __name__ == "__main__":
    Handler.secret = Path(os.environ["WEBHOOK_SECRET_FILE"]).read_text()
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
