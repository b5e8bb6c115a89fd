"""What an S3 says, as errors that say what happens next.

obstore tells most failures in words alone, so this reads the words: the XML's ``<Code>`` and the
HTTP status. Its text also names every address it tried; only the first line is told further.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from mailboat_controller.artifacts.store_refusals import (
    ObjectStoreRefused,
    ObjectStoreUnavailable,
)
from mailboat_schemas.errors import DiskFull, MailboatError

RETRY_AFTER = timedelta(seconds=15)
_TOLD_CHARACTERS_MAX = 300
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"})
_CREDENTIALS = "set credentials_file, the AWS_ variables, or the machine's role"
_NEXT_STEPS = {
    "NoSuchBucket": "make the bucket, or correct artifacts.bucket in the settings.",
    "AccessDenied": "let these credentials list the bucket, and get, put and delete objects "
    "under the prefix.",
    "InvalidAccessKeyId": f"the access key is not known there: {_CREDENTIALS}.",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_CREDENTIALS}.",
    "ExpiredToken": f"the session token has ended: {_CREDENTIALS}.",
    "RequestTimeTooSkewed": "set the clock of the controller's machine: the object store's "
    "differs by more than a quarter of an hour.",
    "PermanentRedirect": "set artifacts.region to the bucket's own.",
    "AuthorizationHeaderMalformed": "set artifacts.region to the bucket's own.",
    "InvalidObjectState": "take the lifecycle rule off that moves artifacts to an archive.",
}
_NO_CREDENTIALS = ("169.254.169.254", "CredentialsProvider", "instance metadata", "No credential")


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Failures of obstore in this block as errors of ours; FileNotFoundError passes."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise explain(error, place) from None
        raise
    except (BaseError, OSError) as error:  # its writers speak in OSErrors
        raise explain(error, place) from None  # pages of text that hide nothing else


def explain(error: Exception, place: str) -> MailboatError:
    text = str(error)
    found, status = _CODE.search(text), _STATUS.search(text)
    code = "" if found is None else found[1]
    number = 0 if status is None else int(status[1])
    told = _told(text)
    if code in _FULL or number == 507:
        return DiskFull(
            f"The object store {place} has no room: {told}.",
            next_step="free space there or raise its quota, then upload again.",
        )
    if code in _NEXT_STEPS:
        return ObjectStoreRefused(
            f"The object store {place} refuses: {code}.", next_step=_NEXT_STEPS[code]
        )
    if any(word in text for word in _NO_CREDENTIALS):
        return ObjectStoreRefused(
            f"There are no credentials for the object store {place}.",
            next_step=f"{_CREDENTIALS}.",
        )
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if denied or number in {401, 403}:
        return ObjectStoreRefused(
            f"The object store {place} refuses us: {told}.", next_step=_NEXT_STEPS["AccessDenied"]
        )
    return _unavailable(place, told)


def _unavailable(place: str, told: str) -> ObjectStoreUnavailable:
    return ObjectStoreUnavailable(
        f"The object store {place} does not do it now: {told}.",
        next_step="nothing, if it comes back by itself; else look at artifacts.endpoint in the "
        "settings, and at that store.",
        retry_after=RETRY_AFTER,
    )


def _told(text: str) -> str:
    """The first line up to the XML, without the address of the request."""
    line = text.split("\n", 1)[0].split(": <?xml", 1)[0]
    line = re.sub(r" https?://\S+", "", line)
    return line.strip().rstrip(".")[:_TOLD_CHARACTERS_MAX]
