"""The file of role ``reference``, read and checked as everything that was signed."""

import hashlib
import os

from mailboat_schemas.documents.reference import REFERENCE_BYTES_MAX, Reference
from mailboat_schemas.errors import DigestMismatch


def read_reference(descriptor: int, sha256: str) -> Reference:
    """
    Raises:
        DigestMismatch: it was altered after it was verified.
        MalformedPayload, PayloadTooLarge: it is not reference statistics.
    """
    parts, offset = [], 0
    while part := os.pread(descriptor, REFERENCE_BYTES_MAX + 1 - offset, offset):
        parts.append(part)
        offset += len(part)
    content = b"".join(parts)
    found = hashlib.sha256(content).hexdigest()
    if len(content) <= REFERENCE_BYTES_MAX and found != sha256:
        raise DigestMismatch("the reference statistics", sha256, found)
    return Reference.parse(content)
