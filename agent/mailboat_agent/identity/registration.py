"""What a device says to the controller about its own certificate: enrolment and renewal."""

from http import HTTPStatus
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_schemas.enrolment import (
    Challenge,
    ChallengeRequest,
    EnrolmentPending,
    EnrolmentRequest,
    EnrolmentResponse,
    ProvenRenewalRequest,
    RenewalRequest,
    RenewalResponse,
)
from mailboat_schemas.errors import MalformedPayload

ANSWER_BYTES_MAX = 256 * 1024

Answer = TypeVar("Answer", bound=BaseModel)


class Registration:
    """Over one connection, which it closes.

    Everything raises, beside what it says itself:

        NotPermitted: the controller does not want this device, or not so.
        Conflict: the name, or the key, is another device's.
        MalformedPayload: the answer is none, or is for another device.
        ConfigurationInvalid, DownloadInterrupted, ServerUnavailable
    """

    def __init__(self, source: HttpsSource) -> None:
        self._source = source

    async def close(self) -> None:
        await self._source.close()

    async def enrol(self, request: EnrolmentRequest) -> EnrolmentResponse | EnrolmentPending:
        """Trade the one-time token for a certificate, or learn that a person has yet to approve."""
        status, body = await self._post("v1/enrol", request)
        if status == HTTPStatus.ACCEPTED:
            return _own(_read(EnrolmentPending, body), request.device)
        return _own(_read(EnrolmentResponse, body), request.device)

    async def renew(self, device: str, certificate_request: str) -> RenewalResponse:
        """With the certificate of the connection."""
        request = RenewalRequest(certificate_request=certificate_request)
        _, body = await self._post("v1/devices/self/certificate", request)
        return _own(_read(RenewalResponse, body), device)

    async def confirm(self) -> None:
        """The certificate of the connection is on the disk."""
        await self._post("v1/devices/self/certificate/confirmation", None)

    async def challenge(self, device: str) -> str:
        """What to sign, for a device that has no certificate in force."""
        _, body = await self._post("v1/renewal-challenges", ChallengeRequest(device=device))
        return _read(Challenge, body).challenge

    async def renew_proven(self, request: ProvenRenewalRequest) -> RenewalResponse:
        _, body = await self._post("v1/renewals", request)
        return _own(_read(RenewalResponse, body), request.device)

    async def _post(self, path: str, request: BaseModel | None) -> tuple[int, bytes]:
        content = b"" if request is None else request.model_dump_json().encode()
        return await self._source.post(path, content, "answer", ANSWER_BYTES_MAX)


def _read(kind: type[Answer], body: bytes) -> Answer:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _malformed(kind.__name__, f"{error.error_count()} fields do not hold") from error


Own = TypeVar("Own", EnrolmentResponse, EnrolmentPending, RenewalResponse)


def _own(answer: Own, device: str) -> Own:
    if answer.device != device:
        raise _malformed(type(answer).__name__, f"it is for device {answer.device}")
    return answer


def _malformed(kind: str, problem: str) -> MalformedPayload:
    return MalformedPayload(
        f"The controller's answer is no {kind}: {problem}.",
        next_step="check api_url and the version of the controller.",
    )
