"""Which part of an artifact a request wants: RFC 9110, section 14, one range at a time.

Several ranges in one request are answered with the whole, as the RFC lets a server do.
"""

import re
from dataclasses import dataclass

from fastapi import Request

from mailboat_controller.api import etags

_ONE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """From ``start`` up to but without ``end``; ``partial`` if it was asked for as a range."""

    start: int
    end: int
    partial: bool


def wanted(request: Request, digest: str, length: int) -> Part | None:
    """The part to send, or None when no byte of it is there (416)."""
    whole = Part(0, length, partial=False)
    found = _ONE.fullmatch(request.headers.get("range", ""))
    if found is None or not any(found.groups()) or not _same(request, digest):
        return whole
    first, last = found.groups()
    if not first:  # the last so many bytes
        start, end = max(0, length - int(last)), length
    else:
        start, end = int(first), min(length, int(last) + 1 if last else length)
        if last and int(last) < start:
            return whole  # not a range at all
    return Part(start, end, partial=True) if start < end else None


def _same(request: Request, digest: str) -> bool:
    """Whether a part would fit what the caller holds: only a strong validator says so."""
    validator = request.headers.get("if-range")
    return validator is None or validator.strip() == etags.quoted(digest)
