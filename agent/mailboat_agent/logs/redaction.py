"""What never stands in a log, whoever logs it: keys, tokens, passwords, signed addresses.

Our own code logs no secret. This is for the text of errors that libraries and servers write: they
quote addresses with credentials, headers, and whole files. It errs towards hiding too much.
"""

import re
from collections.abc import Callable
from re import Match

HIDDEN = "[hidden]"
# The longest text that is looked through; the rest is cut off first.
TEXT_CHARS_MAX = 16_000

_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*(?:PRIVATE KEY|CERTIFICATE)-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)",
    re.DOTALL,
)
# user:password@ in an address, and everything behind its question mark: presigned addresses carry
# their authority there.
_USER = re.compile(r"(?<=://)[^\s/]{1,512}@")
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]{1,15}://[^\s?#]{1,2048})\?[^\s\"'<>)]+", re.IGNORECASE)
_NAMED = re.compile(
    r"""(?ix) \b ( [\w.-]{0,64}? (?: password | passwd | passphrase | secret | token
        | (?: api | access | secret | account | shared ) [_-]? key
        | authorization | credential s? | private[_-]?key | pin-value | signature | cookie ) )
        ( ["']? \s* [:=] \s* ) (?: (?: bearer | basic ) \s+ )?
        ( " (?: \\. | [^"\\] )* (?:"|$) | ' (?: \\. | [^'\\] )* (?:'|$) | [^\s,;"'&}\])]+ )"""
)
_COOKIES = re.compile(r"(?i)\b((?:set-)?cookie\s*:\s*)[^\n]+")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
# Ours begin so; see access/artifact_tokens.py and access/token_directory.py of the controller.
_TOKEN = re.compile(r"\b(?:whsec_|eyJ)[A-Za-z0-9._~+/=-]{8,}")
# Keys as libraries print them. Digests are hex, and paths have no such mix: both stay readable.
_RUN = r"[A-Za-z0-9+/]"
_BASE64 = re.compile(
    rf"(?<!{_RUN})(?={_RUN}*[0-9])(?={_RUN}*[A-Z])(?={_RUN}*[g-z]){_RUN}{{64,}}={{0,2}}"
)


_RULES: tuple[tuple[re.Pattern[str], str | Callable[[Match[str]], str]], ...] = (
    (_PEM, HIDDEN),
    (_USER, HIDDEN + "@"),
    (_QUERY, rf"\1?{HIDDEN}"),
    (_COOKIES, rf"\1{HIDDEN}"),
    (_NAMED, lambda found: f"{found[1]}{found[2]}{HIDDEN}"),
    (_BEARER, rf"\1 {HIDDEN}"),
    (_TOKEN, HIDDEN),
    (_BASE64, HIDDEN),
)


def redact_end(text: str, chars_max: int) -> str:
    """The same for the end of a text. It is cut afterwards: half a secret is hard to know."""
    return redact(text[-TEXT_CHARS_MAX:])[-chars_max:]


def redact(text: str) -> str:
    """The text with everything that looks like a secret hidden, and without control characters."""
    text = text[:TEXT_CHARS_MAX]
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)
