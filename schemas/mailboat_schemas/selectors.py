"""One way to name devices in words: the selector that every command and route takes.

    selector    = requirement *( "," requirement )
    requirement = key "=" value            one value
                / key "!=" value           anything else, or none at all
                / key "in" values          one of them
                / key "notin" values       none of them
                / key                      has it
                / "!" key                  does not have it
    values      = "(" value *( "," value ) ")"
    key         = "class" / "site" / "device" / "presence" / "running" / "held" / "pinned"
                / "stale" / "condition" / label
    label       = a label's name; "label.NAME" where it is called like one of the keys above
    value       = letters, digits and . _ - @ + : /

All requirements must hold. Spaces do not count. Pure: what is asked about is handed in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from mailboat_schemas.errors import OperatorNeeded
from mailboat_schemas.names import is_label

SELECTOR_CHARS_MAX = 2000
REQUIREMENTS_MAX = 32
VALUES_MAX = 256
LABEL_PREFIX = "label."
KEYS = frozenset(
    {
        *("class", "site", "device", "presence"),
        *("running", "held", "pinned", "stale", "condition"),
    }
)

_TOKEN = re.compile(r"\s*(?:(?P<sign>!=|=|!|,|\(|\))|(?P<word>[A-Za-z0-9._@+:/-]+))")


class SelectorInvalid(OperatorNeeded):
    code = "E-SELECTOR"

    def __init__(self, text: str, position: int, problem: str) -> None:
        """Args: position: in characters, from 0."""
        shown = text if len(text) <= 200 else text[:200] + "…"
        super().__init__(
            f"The selector {shown!r} {problem} at character {position + 1}.",
            next_step="write requirements such as "
            "'class=kiosk,site in (a,b),region!=eu,running=vad@1.2.0' (docs/selectors.md).",
        )
        self.position = position


class Operator(StrEnum):
    IN = "in"
    NOT_IN = "notin"
    HAS = "has"
    HAS_NOT = "has not"


@dataclass(frozen=True, slots=True)
class Subject:
    """A device as selectors see it. A key may have several values: what runs is said as
    ``model`` and as ``model@version``, a pin or a hold likewise."""

    device: str
    hardware_class: str
    site: str
    presence: str = "unknown"
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    notes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    running: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()  # models further behind than policy allows
    condition: frozenset[str] = frozenset()  # what somebody should look at, such as disk-low

    def values(self, key: str) -> frozenset[str]:
        match key:
            case "class":
                return frozenset({self.hardware_class})
            case "site":
                return frozenset({self.site})
            case "device":
                return frozenset({self.device})
            case "presence":
                return frozenset({self.presence})
            case "running":
                return self.running
            case "held":
                return self.held
            case "pinned":
                return self.pinned
            case "stale":
                return self.stale
            case "condition":
                return self.condition
        name = key.removeprefix(LABEL_PREFIX)
        # The device's own word goes before what an operator noted beside it.
        found = self.labels.get(name, self.notes.get(name))
        return frozenset() if found is None else frozenset({found})


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: Operator
    wanted: frozenset[str] = frozenset()

    def holds(self, subject: Subject) -> bool:
        values = subject.values(self.key)
        match self.operator:
            case Operator.IN:
                return not values.isdisjoint(self.wanted)
            case Operator.NOT_IN:
                return values.isdisjoint(self.wanted)
            case Operator.HAS:
                return bool(values)
            case Operator.HAS_NOT:
                return not values


@dataclass(frozen=True, slots=True)
class Selector:
    """Without requirements: every device."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, subject: Subject) -> bool:
        return all(requirement.holds(subject) for requirement in self.requirements)

    def only(self, key: str) -> frozenset[str] | None:
        """The values of ``key`` beyond which nothing can match; None: any. For a quick query."""
        found: frozenset[str] | None = None
        for each in self.requirements:
            if each.key == key and each.operator is Operator.IN:
                found = each.wanted if found is None else found & each.wanted
        return found


def parse(text: str) -> Selector:
    """Read a selector; an empty one names every device.

    Raises:
        SelectorInvalid: with the place where it stops making sense.
    """
    if len(text) > SELECTOR_CHARS_MAX:
        raise SelectorInvalid(text, SELECTOR_CHARS_MAX, "is too long")
    return _Parser(text).selector()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[int, str, bool]] = []  # place, text, whether it is a word
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                raise SelectorInvalid(text, place, f"has {text[place]!r}, which means nothing,")
            kind = match.lastgroup or ""
            self._tokens.append((match.start(kind), match[kind], kind == "word"))
            place = match.end()
        self._next = 0

    def selector(self) -> Selector:
        found: list[Requirement] = []
        while self._tokens:
            if len(found) >= REQUIREMENTS_MAX:
                raise self._problem(f"has more than {REQUIREMENTS_MAX} requirements")
            found.append(self._requirement())
            if self._peek() is None:
                break
            self._sign(",")
        return Selector(tuple(found))

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next += 1
            return Requirement(self._key(), Operator.HAS_NOT)
        key = self._key()
        match self._peek():
            case None | ",":
                return Requirement(key, Operator.HAS)
            case "=":
                self._next += 1
                return Requirement(key, Operator.IN, frozenset({self._word("a value")}))
            case "!=":
                self._next += 1
                return Requirement(key, Operator.NOT_IN, frozenset({self._word("a value")}))
            case "in":
                return Requirement(key, Operator.IN, self._values())
            case "notin":
                return Requirement(key, Operator.NOT_IN, self._values())
        raise self._problem("needs '=', '!=', 'in' or 'notin'")

    def _key(self) -> str:
        key = self._word("a key")
        if key not in KEYS and not is_label(key.removeprefix(LABEL_PREFIX)):
            self._next -= 1
            raise self._problem(f"asks for {key[:64]!r}, which is no key and no label's name,")
        return key

    def _values(self) -> frozenset[str]:
        self._next += 1
        self._sign("(")
        found = {self._word("a value")}
        while self._peek() == ",":
            self._next += 1
            found.add(self._word("a value"))
            if len(found) > VALUES_MAX:
                raise self._problem(f"has more than {VALUES_MAX} values")
        self._sign(")")
        return frozenset(found)

    def _word(self, what: str) -> str:
        if self._next >= len(self._tokens) or not self._tokens[self._next][2]:
            raise self._problem(f"lacks {what}")
        self._next += 1
        return self._tokens[self._next - 1][1]

    def _sign(self, sign: str) -> None:
        if self._peek() != sign:
            raise self._problem(f"needs {sign!r}")
        self._next += 1

    def _peek(self) -> str | None:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else None

    def _problem(self, problem: str) -> SelectorInvalid:
        ends = len(self._text)
        place = self._tokens[self._next][0] if self._next < len(self._tokens) else ends
        return SelectorInvalid(self._text, place, problem)
