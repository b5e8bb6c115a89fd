"""One family of errors in three branches, named by what the caller does next.

Catch a branch, raise a leaf. A leaf exists where some `except` or some report treats it apart; each
carries a stable ``code`` (documented in ``docs/errors.md``), what happened, and the operator's next
step.
"""

from datetime import timedelta
from typing import ClassVar


class MailboatError(Exception):
    """Base of everything Mailboat raises on purpose.

    ``what`` says what happened, ``next_step`` what a person does about it, ``code`` is stable and
    may be searched for.
    """

    code: ClassVar[str] = "E-MAILBOAT"

    def __init__(self, what: str, *, next_step: str) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what} Next step: {self.next_step}"


class Transient(MailboatError):
    """Try again later; nothing is wrong with the release. ``retry_after`` is a hint, or None."""

    code = "E-TRANSIENT"

    def __init__(self, what: str, *, next_step: str, retry_after: timedelta | None = None) -> None:
        super().__init__(what, next_step=next_step)
        self.retry_after = retry_after


class ReleaseRejected(MailboatError):
    """Final for this release here; report it and go on with what runs."""

    code = "E-RELEASE"


class OperatorNeeded(MailboatError):
    """Stop until a person acts."""

    code = "E-OPERATOR"


# --- what arrives: bytes, documents, messages -------------------------------------------------


class MalformedPayload(ReleaseRejected):
    """Bytes that are not what their place on the wire says they are."""

    code = "E-PAYLOAD-MALFORMED"


class PayloadTooLarge(MalformedPayload):
    """Bytes over the bound of their kind, before or while decompressing."""

    code = "E-PAYLOAD-TOO-LARGE"

    def __init__(self, kind: str, size_bytes: int, size_bytes_max: int) -> None:
        super().__init__(
            f"A {kind} of {size_bytes} bytes is over the limit of {size_bytes_max}.",
            next_step="send it in smaller parts, or look at what produced it: "
            "well-behaved senders never come near this limit.",
        )


class WrongTopic(MalformedPayload):
    """A well-formed message on a topic that belongs to somebody else."""

    code = "E-TOPIC-MISMATCH"


class DocumentInvalid(OperatorNeeded):
    """A YAML document a person wrote does not say what it must. ``where`` is file:line:column."""

    code = "E-DOCUMENT"

    def __init__(self, where: str, problem: str, *, next_step: str) -> None:
        super().__init__(f"{where}: {problem}", next_step=next_step)
        self.where = where
        self.problem = problem


# --- trust -------------------------------------------------------------------------------------


class TrustRefused(ReleaseRejected):
    """Metadata or a signature does not hold against this device's own trust root."""

    code = "E-TRUST-REFUSED"


class SignatureInvalid(TrustRefused):
    """Not one valid signature of a key that may sign here."""

    code = "E-SIGNATURE"


class ThresholdNotMet(SignatureInvalid):
    """Signed by some of the keys that may, by fewer than must; the same key twice counts once."""

    code = "E-THRESHOLD"


class RollbackRefused(TrustRefused):
    """Older trust metadata or an older desired state than this device has already accepted."""

    code = "E-ROLLBACK"


class RootChainGap(TrustRefused):
    """A root whose predecessor is missing: nobody this device knows vouches for it."""

    code = "E-ROOT-GAP"


class FastForwardRefused(TrustRefused):
    """A version so far ahead that no honest signer ever reaches it."""

    code = "E-FAST-FORWARD"

    def __init__(self, what: str, offered: int, held: int) -> None:
        super().__init__(
            f"{what} is offered in version {offered}, this device has accepted {held}: "
            "nobody signs so often.",
            next_step="the key that signed it is stolen or its signer broken: rotate that key; "
            "with new keys its versions may begin anew.",
        )


class MixedMetadata(TrustRefused):
    """Roles that are each well signed and were never published together."""

    code = "E-MIXED"


class MetadataMissing(TrustRefused):
    """A role that its signer says exists is not there: somebody hides it."""

    code = "E-METADATA-MISSING"


class MetadataMalformed(TrustRefused):
    """Bytes that are no metadata of that role."""

    code = "E-METADATA-MALFORMED"


class MetadataTooLarge(TrustRefused):
    """A role over its bound of bytes."""

    code = "E-METADATA-TOO-LARGE"


class WrongFleet(TrustRefused):
    """Well signed, and meant for another fleet."""

    code = "E-WRONG-FLEET"


class WrongClass(TrustRefused):
    """Well signed, and meant for another hardware class."""

    code = "E-WRONG-CLASS"


class TrustStale(Transient):
    """Metadata has expired: keep serving, install nothing new."""

    code = "E-TRUST-STALE"


class ClockUntrusted(Transient):
    """The clock stands before the time floor: keep serving, install nothing new."""

    code = "E-CLOCK-UNTRUSTED"


# --- artifacts ----------------------------------------------------------------------------------


class DigestMismatch(ReleaseRejected):
    code = "E-DIGEST"

    def __init__(self, name: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{name} has sha256 {actual}, its release document says {expected}.",
            next_step="upload the artifact again; if it repeats, look at the caches in between.",
        )


class ArtifactMissing(Transient):
    """The server does not have these bytes (yet)."""

    code = "E-ARTIFACT-MISSING"


class DownloadInterrupted(Transient):
    code = "E-DOWNLOAD-INTERRUPTED"


class TransferTooSlow(DownloadInterrupted):
    """Below the rate, or beyond the deadline, of anybody who means to deliver."""

    code = "E-TOO-SLOW"


class TransferTooLong(DownloadInterrupted):
    """More bytes than were signed."""

    code = "E-TOO-LONG"


class DiskFull(Transient):
    code = "E-DISK-FULL"


class ServerUnavailable(Transient):
    code = "E-SERVER-UNAVAILABLE"


# --- the model on the device --------------------------------------------------------------------


class TrialFailed(ReleaseRejected):
    """The model did not pass its trial on this device. ``reason`` is a stable word for reports."""

    code = "E-TRIAL"

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(
            what, next_step="look at the evidence in the device's report; fix and release anew."
        )
        self.reason = reason


# --- people and configuration --------------------------------------------------------------------


class ConfigurationInvalid(OperatorNeeded):
    code = "E-CONFIG"


class NotPermitted(OperatorNeeded):
    code = "E-NOT-PERMITTED"


class NotFound(OperatorNeeded):
    code = "E-NOT-FOUND"


class Conflict(OperatorNeeded):
    """Somebody was faster, or the thing exists with other contents."""

    code = "E-CONFLICT"
