"""A webhook of MLflow's registry: whether it is genuine, and what it says. Pure.

Signed is ``id.timestamp.body`` with HMAC-SHA256, keyed with the secret's characters; the signature
is ``v1,`` and base64. Verified against MLflow 3.17.2.
Source: mlflow/webhooks/delivery.py, `_generate_hmac_signature`.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, Field, ValidationError

from mailboat_schemas.errors import MalformedPayload, NotPermitted

SIGNATURE_HEADER = "x-mlflow-signature"
DELIVERY_HEADER = "x-mlflow-delivery-id"
TIMESTAMP_HEADER = "x-mlflow-timestamp"
AGE_MAX = timedelta(minutes=5)  # either way: clocks differ
BODY_BYTES_MAX = 64 * 1024
_VERSION = "v1,"
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_ALIAS = "model_version_alias"


class DeliveryRefused(NotPermitted):
    """A webhook that MLflow did not sign, or not now."""

    code = "E-MLFLOW-WEBHOOK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """``alias`` is empty for news of anything but an alias."""

    id: str
    action: str
    registered: str
    alias: str

    @property
    def key(self) -> str:
        return f"{self.registered}@{self.alias}"


class _Data(BaseModel):
    name: str = Field(default="", max_length=1000)
    alias: str = Field(default="", max_length=1000)


class _Body(BaseModel):
    entity: str = Field(max_length=64)
    action: str = Field(max_length=64)
    data: _Data = _Data()


def read_delivery(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime
) -> Delivery:
    """
    Args:
        headers: names in lower case.
        secrets: any of which may have signed; several while one is replaced.

    Raises:
        DeliveryRefused: forged, or more than `AGE_MAX` from now.
        MalformedPayload: genuine, and not what MLflow sends.
    """
    delivery, stamp = headers.get(DELIVERY_HEADER, ""), headers.get(TIMESTAMP_HEADER, "")
    offered = headers.get(SIGNATURE_HEADER, "").encode()
    signed = b".".join((delivery.encode(), stamp.encode(), body))
    genuine = False
    for secret in secrets:  # all of them, so that the time does not tell which one fitted
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        wanted = f"{_VERSION}{base64.b64encode(digest).decode()}".encode()
        genuine |= hmac.compare_digest(wanted, offered)
    if not genuine or not _ID.fullmatch(delivery):
        raise DeliveryRefused(
            "This webhook is not signed with the secret that we share with MLflow.",
            next_step="give the webhook in MLflow the secret of webhook_secret_file: "
            "docs/mlflow.md.",
        )
    if not re.fullmatch(r"[0-9]{1,11}", stamp) or abs(now.timestamp() - int(stamp)) > (
        AGE_MAX.total_seconds()
    ):
        raise DeliveryRefused(
            f"This webhook was signed more than {AGE_MAX.total_seconds():.0f} s from now.",
            next_step="set the clocks of MLflow and the controller right.",
        )
    try:
        said = _Body.model_validate_json(body)
    except ValidationError as error:
        raise MalformedPayload(
            "This webhook is signed, and is none that MLflow sends.",
            next_step="add it in MLflow for model_version_alias.created: docs/mlflow.md.",
        ) from error
    about_alias = said.entity == _ALIAS
    return Delivery(
        id=delivery,
        action=said.action,
        registered=said.data.name if about_alias else "",
        alias=said.data.alias if about_alias else "",
    )
