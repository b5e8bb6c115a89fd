"""Policy: when devices may switch and how far behind they may be, as people write and sign it.

One document for a class, and where it must differ one for a site, whose rules come first. The rules
are those of `policy_rules`, with spelling mistakes refused.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mailboat_schemas.documents.document import SizeBytes, Strict, VersionRange
from mailboat_schemas.documents.fleet_document import (
    SIGNED,
    FleetDocument,
    Level,
    canonical_json,
    malformed,
    strict_json,
)
from mailboat_schemas.documents.site_key import SITE_KEYS_MAX, SiteKey
from mailboat_schemas.maintenance import WINDOWS_MAX, Window, zone_named
from mailboat_schemas.names import ModelName
from mailboat_schemas.policy_rules import DOCUMENT_RULES_MAX, PolicyRule, Staleness

IGNORED_MAX = 32  # names of fields that older readers may pass over

FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
_STRICT = ConfigDict(extra="forbid", frozen=True)


class WrittenWindow(Window):
    model_config = _STRICT

    @field_validator("zone")
    @classmethod
    def _is_known(cls, name: str, info: ValidationInfo) -> str:
        """Asked of the writer alone: a reader may have other zones, and keeps their windows
        closed, not the whole policy."""
        if name and info.context != SIGNED and zone_named(name) is None:
            raise ValueError(f"there is no time zone {name!r}; write one such as Europe/Berlin")
        return name


class WrittenStaleness(Staleness):
    model_config = _STRICT


class WrittenRule(PolicyRule):
    model_config = _STRICT

    windows: tuple[WrittenWindow, ...] | None = Field(
        default=None,
        max_length=WINDOWS_MAX,
        description="when a device may switch; an empty list: at any time",
    )
    staleness: WrittenStaleness | None = None
    metered_file_bytes_max: SizeBytes | None = Field(
        default=None, description="of a whole file over a metered link; larger ones wait"
    )


class PolicyCompatible(Strict):
    """What these rules are for. A model that is not named may be of any version."""

    models: dict[ModelName, VersionRange] = Field(
        default_factory=dict, max_length=64, examples=[{"vad": ">=6,<7"}]
    )
    config: VersionRange = ""


class PolicySpec(Strict):
    rules: tuple[WrittenRule, ...] = Field(
        default=(),
        max_length=DOCUMENT_RULES_MAX,
        description="for every field the first that names the device and gives it counts",
    )
    compatible: PolicyCompatible = PolicyCompatible()
    site_keys: tuple[SiteKey, ...] = Field(
        default=(),
        max_length=SITE_KEYS_MAX,
        description="with which the site may hold its devices and go back, while it is cut off",
    )
    may_ignore: tuple[FieldName, ...] = Field(
        default=(),
        max_length=IGNORED_MAX,
        description="fields of this spec that a device whose agent does not know them may pass "
        "over; any other that it does not know closes its windows",
    )


class PolicyDocument(FleetDocument):
    """The signed form as well as what people write."""

    kind: Literal["Policy"]
    spec: PolicySpec

    @model_validator(mode="after")
    def _says_something_for_its_place(self) -> Self:
        keys = self.spec.site_keys
        if not self.spec.rules and not keys:
            raise ValueError("spec.rules: a Policy has at least one rule, or site_keys")
        if keys and self.metadata.level is not Level.SITE:
            raise ValueError("spec.site_keys: only a Policy for one site names keys of a site")
        if len({each.key.keyid for each in keys}) < len(keys):
            raise ValueError("spec.site_keys: one key stands there twice")
        return self

    @classmethod
    def parse_as_reader(cls, content: bytes) -> Self:
        """As `parse`, for a device, whose agent may be older than what the writer wrote with.

        Fields that it does not know are passed over where ``may_ignore`` names them, and only
        there: what would have held something back must not be lost without a word.

        Raises: as `parse`.
        """
        if b'"may_ignore"' not in content or len(content) > cls.bytes_max:
            return cls.parse(content)
        written = strict_json(content)
        if canonical_json(written) != content:
            raise malformed("it is not in canonical form")
        return cls.parse(canonical_json(_without_the_ignored(written)))


def _without_the_ignored(written: Any) -> Any:
    """A copy without the unknown fields that it allows to be passed over; what has not the shape
    of a policy is left to be refused."""
    spec = written.get("spec") if isinstance(written, dict) else None
    names = spec.get("may_ignore") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(names, list):
        return written
    may = frozenset(name for name in names if isinstance(name, str))
    plain = _known(spec, PolicySpec, may)
    if isinstance(plain.get("compatible"), dict):
        plain["compatible"] = _known(plain["compatible"], PolicyCompatible, may)
    if isinstance(plain.get("rules"), list):
        plain["rules"] = [_plain_rule(rule, may) for rule in plain["rules"]]
    return {**written, "spec": plain}


def _plain_rule(rule: Any, may: frozenset[str]) -> Any:
    if not isinstance(rule, dict):
        return rule
    plain = _known(rule, WrittenRule, may)
    if isinstance(plain.get("staleness"), dict):
        plain["staleness"] = _known(plain["staleness"], WrittenStaleness, may)
    if isinstance(plain.get("windows"), list):
        plain["windows"] = [
            _known(each, WrittenWindow, may) if isinstance(each, dict) else each
            for each in plain["windows"]
        ]
    return plain


def _known(given: dict[str, Any], kind: type[BaseModel], may: Iterable[str]) -> dict[str, Any]:
    unknown = frozenset(may) - kind.model_fields.keys()
    return {name: value for name, value in given.items() if name not in unknown}
