"""``oci://registry/repository:tag@sha256:…``: which artifact of which registry. Pure."""

import re
from dataclasses import dataclass

from mailboat_schemas.errors import ConfigurationInvalid

SCHEME = "oci://"
_HOST = r"(?P<registry>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?)"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
_DIGEST = r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
# Source: OCI distribution specification 1.1, "Pulling manifests".
_REFERENCE = re.compile(rf"{_HOST}/(?P<repository>{_PART}(?:/{_PART}){{0,15}}){_TAG}{_DIGEST}")
REFERENCE_CHARS_MAX = 400  # fits, with a digest, what a release document has room for


@dataclass(frozen=True, slots=True)
class OciReference:
    registry: str
    repository: str
    tag: str | None
    digest: str | None  # "sha256:…"; then the tag is only told

    @classmethod
    def parse(cls, text: str) -> "OciReference":
        """
        Raises:
            ConfigurationInvalid
        """
        rest = text.removeprefix(SCHEME)
        found = _REFERENCE.fullmatch(rest) if len(rest) <= REFERENCE_CHARS_MAX else None
        if found is None or (found["tag"] is None and found["digest"] is None):
            raise ConfigurationInvalid(
                f"{text[:200]!r} names no artifact of a registry.",
                next_step="write oci://registry.example/repository:tag, or …@sha256:DIGEST.",
            )
        return cls(found["registry"], found["repository"], found["tag"], found["digest"])

    @property
    def wanted(self) -> str:
        """What to ask the registry for."""
        return self.digest or str(self.tag)

    def pinned(self, digest: str) -> str:
        """With the digest that it turned out to be; this is recorded."""
        tag = "" if self.tag is None else f":{self.tag}"
        return f"{SCHEME}{self.registry}/{self.repository}{tag}@{digest}"
