"""Names that appear in topics, paths, certificates and signed metadata, and their one syntax.

A name that travels into a path or an MQTT topic must not be able to leave its level: no slash, no
dot-dot, no wildcard, no space. Everything here is lower case and at most 63 characters, so that a
name is also a DNS label and a certificate common name.
"""

import re
from typing import Annotated

from pydantic import StringConstraints

LABEL_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
FILE_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
DIGEST_PATTERN = r"^[0-9a-f]{64}$"
# Plain three-part semantic versions; a pre-release part is allowed, build metadata is not (it takes
# no part in ordering, so two releases could claim the same place).
VERSION_PATTERN = (
    r"^(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})"
    r"(?:-[0-9a-z]+(?:[.-][0-9a-z]+){0,7})?$"
)

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
FleetId = Label
ClassName = Label
ModelName = Label
DeviceId = Label
PipelineName = Label
# "-" stands for devices that connect to the centre directly.
SiteName = Annotated[
    str, StringConstraints(pattern=r"^(?:-|[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)$")
]
FileName = Annotated[str, StringConstraints(pattern=FILE_PATTERN)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN, max_length=64)]

DIRECT_SITE = "-"
# Certificate names with a meaning of their own; no device or pipeline may be called so.
INGEST_NAMES = frozenset(f"ingest-{n}" for n in range(16))  # of processes beside the controller
RESERVED_NAMES = INGEST_NAMES | {
    "controller",
    "grafana",
    "operator",
    "broker",
    "api",
    "root",
    "self",
    "pending",
}

_LABEL = re.compile(LABEL_PATTERN)


def is_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def release_path(model: str, version: str) -> str:
    """Where a release document stands in the TUF name space, e.g. ``release/vad/1.2.0.json``."""
    return f"release/{model}/{version}.json"


def approval_path(model: str, version: str) -> str:
    """The approval role's entry for the same document, e.g. ``approval/vad/1.2.0.json``."""
    return f"approval/{model}/{version}.json"
