"""The audit log in a file: JSON lines that anybody can check without the controller.

```text
{"export":"mailboat audit log","version":1,"fleet":…,"first":…,"last":…,"previous_hash":…}
{…}                              an entry, as it was sealed; `at` in milliseconds since 1970 UTC
{"signed_head":{…}}              over first and last entry and their hashes, by the audit key
```
Every line is canonical JSON. What cannot be read back as exactly the same bytes was changed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from securesystemslib.signer import Key

from mailboat_controller.auditing import signed_head
from mailboat_controller.auditing.signed_head import AuditBroken, SignedHead, refuse_other_key
from mailboat_controller.store.audit_chain import Broken, Chain, canonical

KIND = "mailboat audit log"
VERSION = 1
LINE_BYTES_MAX = 4 << 20  # an entry holds a document, at most a megabyte or so
_NEXT_STEP = (
    "take the export again from the controller and compare; until then trust it up to the entry "
    "before that one only."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedExport:
    fleet: str
    first: int
    last: int
    entries: int
    head: str
    keyid: str
    signed_at: str
    heads: int  # kept elsewhere, of entries that are in the file, and as they are there


def lines(entries: Iterable[Mapping[str, Any]], signed: SignedHead) -> Iterator[str]:
    """The lines of an export of the entries that a head is about."""
    head = signed.head
    header = {
        "export": KIND,
        "version": VERSION,
        "fleet": head.fleet,
        "first": head.first,
        "last": head.sequence,
        "previous_hash": head.first_previous_hash,
    }
    yield canonical(header) + "\n"
    for entry in entries:
        yield canonical(entry) + "\n"
    yield canonical({"signed_head": json.loads(signed.text)}) + "\n"


def verify(file: IO[bytes], trusted: Key, kept: Iterable[SignedHead] = ()) -> VerifiedExport:
    """Read an export from its beginning to its end, a line at a time.

    Args:
        kept: heads from elsewhere, to compare with the entries they are about.

    Raises:
        AuditBroken: it is not whole, not in order, changed, or signed by another key.
    """
    for each in read(file, trusted, kept):
        if isinstance(each, VerifiedExport):
            return each
    raise AssertionError("read() ends with what it verified, or raises")


def read(
    file: IO[bytes], trusted: Key, kept: Iterable[SignedHead] = ()
) -> Iterator[dict[str, Any] | VerifiedExport]:
    """The entries, each of which hangs on the one before it, and at the end what was verified.

    Only the last line says that all of it is genuine: act on nothing before that.

    Raises:
        AuditBroken: as `verify`.
    """
    header, compared = _header(_line(file, 0)), 0
    heads = {each.head.sequence: each.head.hash for each in kept}
    chain = Chain(header["first"] - 1, header["previous_hash"])
    while chain.sequence < header["last"]:
        entry = _line(file, chain.sequence + 1)
        broken = chain.take(entry)
        if broken is not None:
            raise _broken(broken)
        if heads.get(chain.sequence, chain.hash) != chain.hash:
            other = "it is not the one of a head that was kept elsewhere: the log was made anew"
            raise _broken(Broken(sequence=chain.sequence, problem=other))
        compared += chain.sequence in heads
        yield entry
    signed = signed_head.read(canonical(_member(_line(file, chain.sequence), "signed_head")))
    refuse_other_key(signed, trusted)
    head = signed.head
    told = (header["fleet"], header["first"], header["last"], header["previous_hash"], chain.hash)
    if told != (head.fleet, head.first, head.sequence, head.first_previous_hash, head.hash):
        raise AuditBroken(
            "The signed head at the end of the export is not about these entries: "
            "some were cut off, or the chain was worked out anew.",
            next_step=_NEXT_STEP,
        )
    if file.read(1):
        raise AuditBroken("Something was added after the export's end.", next_step=_NEXT_STEP)
    yield VerifiedExport(
        fleet=head.fleet,
        first=head.first,
        last=head.sequence,
        entries=head.sequence - head.first + 1,
        head=head.hash,
        keyid=signed.key.keyid,
        signed_at=head.signed_at,
        heads=compared,
    )


def _header(content: Mapping[str, Any]) -> Mapping[str, Any]:
    kinds = {
        "export": str,
        "version": int,
        "fleet": str,
        "first": int,
        "last": int,
        "previous_hash": str,
    }
    right = content.keys() == kinds.keys() and all(
        type(content[name]) is kind for name, kind in kinds.items()
    )
    if not right or content["export"] != KIND or content["first"] < 1:
        raise AuditBroken(
            "This file does not begin as an export of an audit log does.",
            next_step="name a file that `mailboat audit export` wrote.",
        )
    if content["version"] != VERSION:
        raise AuditBroken(
            f"The export is of version {content['version']}, which this program cannot read.",
            next_step="check it with the program that wrote it, or a newer one.",
        )
    return content


def _line(file: IO[bytes], sequence: int) -> dict[str, Any]:
    line = file.readline(LINE_BYTES_MAX + 1)
    if len(line) > LINE_BYTES_MAX or not line.endswith(b"\n"):
        problem = "the file ends before it or within it, or it is too long"
        raise _broken(Broken(sequence=sequence, problem=problem))
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _broken(Broken(sequence=sequence, problem="its line is no JSON")) from error
    if not isinstance(content, dict) or canonical(content).encode() + b"\n" != line:
        problem = "its line is not written as it was exported"
        raise _broken(Broken(sequence=sequence, problem=problem))
    return content


def _member(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    if content.keys() != {name} or not isinstance(found, dict):
        raise AuditBroken(
            "The export does not end with a signed head: entries were added, or its end is lost.",
            next_step=_NEXT_STEP,
        )
    return found


def _broken(broken: Broken) -> AuditBroken:
    return AuditBroken(
        f"Entry {broken.sequence} does not hold: {broken.problem}.", next_step=_NEXT_STEP
    )
