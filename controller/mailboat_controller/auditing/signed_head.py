"""The head of the audit log, signed: what an operator keeps elsewhere to find a log that was cut
off at its end or worked out anew.

The key is one of its own (``keys/audit.pem``), made at the first start: neither devices nor people
trust it for anything else. Whoever has taken the controller can sign with it too; a head that was
kept elsewhere before that still says what the log was.

```json
{"payload": "{…}", "keyid": "…", "signature": "hex", "public_key": {…}}
```
The signature is over DSSE's pre-authentication encoding of the payload's bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import CryptoSigner, Key, Signature, SSlibKey

from mailboat_controller.authority.keys import create_key, load_key
from mailboat_controller.authority.public_keys import has_own_id
from mailboat_controller.store.audit_chain import canonical
from mailboat_schemas.envelope import pre_authentication_encoding
from mailboat_schemas.errors import Conflict, OperatorNeeded

KEY_FILE = "audit.pem"
PAYLOAD_TYPE = "application/vnd.mailboat.audit-head+json"
HEAD_BYTES_MAX = 16 * 1024
_FIELDS = {"payload", "keyid", "signature", "public_key"}


class AuditBroken(OperatorNeeded):
    """The record is not what it was, or not what it says it is."""

    code = "E-AUDIT-BROKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Entries ``first`` to ``sequence`` of a fleet's log hang together and end with ``hash``."""

    fleet: str
    first: int
    first_previous_hash: str
    sequence: int
    hash: str
    signed_at: str  # ISO 8601, by the controller's clock

    def payload(self) -> str:
        return canonical(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    head: Head
    key: SSlibKey
    text: str  # of the file, in one line


def open_key(keys_dir: Path) -> CryptoSigner:
    """The controller's key for its audit log, made where there is none.

    Raises:
        ConfigurationInvalid: it cannot be read.
    """
    path = keys_dir / KEY_FILE
    if not path.is_file():
        try:
            return create_key(path)
        except Conflict:
            pass  # another process has just made it
    return load_key(path)


def sign(
    signer: CryptoSigner,
    *,
    fleet: str,
    sequence: int,
    hash_: str,
    now: datetime,
    first: int = 1,
    first_previous_hash: str = "0" * 64,
) -> SignedHead:
    head = Head(
        fleet=fleet,
        first=first,
        first_previous_hash=first_previous_hash,
        sequence=sequence,
        hash=hash_,
        signed_at=now.isoformat(timespec="milliseconds"),
    )
    payload = head.payload()
    signature = signer.sign(_encoded(payload))
    key = signer.public_key
    content = {
        "payload": payload,
        "keyid": signature.keyid,
        "signature": signature.signature,
        "public_key": {"keyid": key.keyid, **key.to_dict()},
    }
    return SignedHead(head=head, key=key, text=canonical(content))


def read(text: str | bytes) -> SignedHead:
    """A head whose signature holds by the key that is in the file.

    That key proves nothing by itself: compare it with one that was kept elsewhere.

    Raises:
        AuditBroken: it is no such file, or was changed.
    """
    try:
        content: dict[str, Any] = json.loads(text)
        payload = content["payload"]
        key = _key(content["public_key"])
        head = _head(json.loads(payload))
        signature = content["signature"]
        key.verify_signature(Signature(key.keyid, signature), _encoded(payload))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(str(error)[:200]) from error
    except (UnverifiedSignatureError, VerificationError) as error:
        raise AuditBroken(
            "A signed head of the audit log was changed: its signature does not hold.",
            next_step="use the copy that you kept elsewhere, and treat whatever changed this one "
            "as an attack.",
        ) from error
    text = canonical(content)
    written = (content.get("keyid"), signature, head.payload())
    if written != (key.keyid, signature.lower(), payload) or content.keys() != _FIELDS:
        raise _unreadable("it is not written as it was signed")
    return SignedHead(head=head, key=key, text=text)


def refuse_other_key(signed: SignedHead, trusted: Key) -> None:
    """
    Raises:
        AuditBroken: somebody else signed it.
    """
    if signed.key.keyid != trusted.keyid:
        raise AuditBroken(
            f"The head is signed by key {signed.key.keyid[:16]}, not by {trusted.keyid[:16]}.",
            next_step="see in the audit log (`audit.key`) whether the controller's key was made "
            "anew; if not, somebody else signed this.",
        )


def _head(content: Mapping[str, Any]) -> Head:
    head = Head(**content)
    numbers, texts = (head.first, head.sequence), (head.fleet, head.hash, head.first_previous_hash)
    if any(type(each) is not int for each in numbers) or any(
        type(each) is not str for each in (*texts, head.signed_at)
    ):
        raise ValueError("its fields are not of the right kind")
    return head


def _key(content: Mapping[str, Any]) -> SSlibKey:
    fields = dict(content)
    key = SSlibKey.from_dict(fields.pop("keyid"), fields)
    if not has_own_id(key):
        raise ValueError("the key's id is not its hash")
    return key


def _encoded(payload: str) -> bytes:
    return pre_authentication_encoding(PAYLOAD_TYPE, payload.encode())


def _unreadable(problem: str) -> AuditBroken:
    return AuditBroken(
        f"This is not a signed head of an audit log: {problem}.",
        next_step="name a file that `mailboat audit head` wrote.",
    )
