"""One trace for each release: an id that everybody works out from the digest of its document.

No message carries it and nothing needs to be believed: CI, a device, the controller and whoever
reads the documents come to the same id, because it is a hash of what the signatures are about. It
is born with the submission; a release that is offered again goes on in its trace. The forms are
those of the W3C's Trace Context (trace-id 16 bytes, parent-id 8 bytes, neither all zeros).
"""

import hashlib

TRACE_ID_CHARS = 32
SPAN_ID_CHARS = 16
_SAMPLED = "01"


def trace_id(digest: str) -> str:
    """Of a release document, by its sha256 in hex."""
    return _hex(f"mailboat trace {digest}", TRACE_ID_CHARS)


def span_id(trace: str, what: str) -> str:
    """Of one step in it, such as ``audit 17`` or a device's event id."""
    return _hex(f"mailboat span {trace} {what}", SPAN_ID_CHARS)


def traceparent(trace: str, span: str) -> str:
    """The value of the header and of the CloudEvents attribute of that name."""
    return f"00-{trace}-{span}-{_SAMPLED}"


def _hex(text: str, chars: int) -> str:
    found = hashlib.sha256(text.encode()).hexdigest()[:chars]
    return found if int(found, 16) else found[:-1] + "1"
