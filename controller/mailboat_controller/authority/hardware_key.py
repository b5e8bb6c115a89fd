"""A key on a PKCS#11 token: named by a URI, used there, never read.

Two forms of the same::

    pkcs11:token=mailboat;id=%02?module-path=/usr/lib/softhsm/libsofthsm2.so   (RFC 7512)
    hsm:2?label=mailboat                                                       (securesystemslib)

The module comes from the URI, from ``MAILBOAT_HSM_MODULE`` or from ``PYKCS11LIB``; the PIN from
``MAILBOAT_HSM_PIN``, from the file that ``MAILBOAT_HSM_PIN_FILE`` or the URI's ``pin-source``
(``file:PATH``, ``fd:N``) names, or from a person at the terminal. Never from the command line.
The token must hold an ECDSA key on P-256 or P-384, public part and all.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Signature, SSlibKey

from mailboat_controller.authority.secret_files import read_secret_file
from mailboat_schemas.errors import ConfigurationInvalid, OperatorNeeded

MODULE_VARIABLE = "MAILBOAT_HSM_MODULE"
LIBRARY_VARIABLE = "PYKCS11LIB"  # the one that securesystemslib reads
PIN_VARIABLE = "MAILBOAT_HSM_PIN"
PIN_FILE_VARIABLE = "MAILBOAT_HSM_PIN_FILE"
PIN_BYTES_MAX = 256
KEY_ID_BYTES_MAX = 16
DEFAULT_KEY_ID = 2  # PIV's slot for digital signatures, 9c

# One session logs in at a time: a token refuses a second login of the same program.
TOKEN_LOCK = threading.RLock()

Ask = Callable[[str], str]


class HardwareKeyUnusable(OperatorNeeded):
    """A token, its module or its PIN cannot be used."""

    code = "E-KEY-HARDWARE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Where a key is. ``pin_source`` is ``file:PATH`` or ``fd:N``, or empty."""

    key_id: int
    token: str | None
    module: str = ""
    pin_source: str = ""


def parse_uri(uri: str) -> TokenKey:
    """
    Raises:
        ConfigurationInvalid: not such a URI, or one that carries the PIN itself.
    """
    scheme, _, rest = uri.partition(":")
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme == "hsm":
        label = options.pop("label", None)
        key_id = path or str(DEFAULT_KEY_ID)
        if not (key_id.isascii() and key_id.isdecimal() and len(key_id) <= 2 * KEY_ID_BYTES_MAX):
            raise _not_a_uri(f"{path[:40]!r} is not the number of a key")
        place = TokenKey(key_id=int(key_id), token=label)
    else:
        place = _from_attributes(path)
    if "pin-value" in options:
        raise _not_a_uri("a PIN on a command line can be read by everybody on the machine")
    unknown = options.keys() - {"module-path", "pin-source"}
    if unknown:
        raise _not_a_uri(f"{min(unknown)} is not understood")
    return TokenKey(
        key_id=place.key_id,
        token=place.token,
        module=options.get("module-path", ""),
        pin_source=options.get("pin-source", ""),
    )


def open_hardware_key(uri: str, ask: Ask | None) -> HSMSigner:
    """The signer for a key on a token; its public part is read now, the PIN is asked to sign.

    Raises:
        ConfigurationInvalid: the URI cannot be read.
        HardwareKeyUnusable: no module, no token, no such key, or no PIN.
    """
    place = parse_uri(uri)
    os.environ[LIBRARY_VARIABLE] = _module(place)
    handler = _Pin(place, ask)
    with _problems(), TOKEN_LOCK:
        _, public_key = HSMSigner.import_(place.key_id, place.token, handler)
    return _TokenSigner(place.key_id, public_key, handler, place.token)


class _TokenSigner(HSMSigner):
    """Says in our words what is wrong, and signs for one thread at a time."""

    def __init__(
        self, hsm_keyid: int, public_key: SSlibKey, pin_handler: Ask, token_label: str | None
    ) -> None:
        super().__init__(hsm_keyid, public_key, pin_handler, token_label)

    def sign(self, payload: bytes) -> Signature:
        """
        Raises:
            HardwareKeyUnusable: the token is gone, or the PIN is wrong.
        """
        with _problems(), TOKEN_LOCK:
            return super().sign(payload)


class _Pin:
    """Asked for once, and kept for the signatures of this run."""

    def __init__(self, place: TokenKey, ask: Ask | None) -> None:
        self._place = place
        self._ask = ask
        self._known = ""

    def __call__(self, _question: str) -> str:
        self._known = self._known or self._find()
        return self._known

    def _find(self) -> str:
        source = self._place.pin_source or os.environ.get(PIN_FILE_VARIABLE, "")
        kind, _, rest = source.partition(":")
        if kind == "fd" and rest.isdecimal():
            return read_secret_file(Path(f"/dev/fd/{int(rest)}"), PIN_BYTES_MAX)
        if source:
            return read_secret_file(Path(rest if kind == "file" else source), PIN_BYTES_MAX)
        pin = os.environ.get(PIN_VARIABLE, "")
        if not pin and self._ask is not None:
            pin = self._ask(f"PIN of token {self._place.token or ''}: ")
        if not pin:
            raise HardwareKeyUnusable(
                "The token asks for a PIN, and there is none.",
                next_step=f"set {PIN_VARIABLE}, or {PIN_FILE_VARIABLE} to a file that holds it.",
            )
        return pin


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except OperatorNeeded:
        raise
    except UnsupportedLibraryError as error:
        raise HardwareKeyUnusable(
            "This installation cannot speak to tokens.",
            next_step="install it with `pip install mailboat[controller,hsm]`.",
        ) from error
    # What python-pkcs11 raises are RuntimeErrors, often with a telling name and no text.
    except (ValueError, OSError, RuntimeError) as error:
        pin = "Pin" in type(error).__name__
        raise HardwareKeyUnusable(
            f"The key on the token cannot be used: {str(error) or type(error).__name__}.",
            next_step="correct the PIN before you try again: most tokens lock themselves after "
            "a few wrong ones."
            if pin
            else "check that the token is there, its label and the key's id; the key must be "
            "ECDSA on P-256 or P-384, with its public part on the token.",
        ) from error


def _module(place: TokenKey) -> str:
    module = place.module or os.environ.get(MODULE_VARIABLE) or os.environ.get(LIBRARY_VARIABLE)
    if not module:
        raise HardwareKeyUnusable(
            "No PKCS#11 module is named, so no token can be reached.",
            next_step=f"set {MODULE_VARIABLE} to the module of the token's maker, "
            "for example /usr/lib/softhsm/libsofthsm2.so.",
        )
    if not Path(module).is_file():
        raise HardwareKeyUnusable(
            f"There is no PKCS#11 module {module}.",
            next_step=f"install the token maker's package, or correct {MODULE_VARIABLE}.",
        )
    return module


def _from_attributes(path: str) -> TokenKey:
    attributes: dict[str, Any] = {}
    for part in filter(None, path.split(";")):
        name, equals, value = part.partition("=")
        if not equals or name in attributes:
            raise _not_a_uri(f"{part[:40]!r} is not one attribute")
        attributes[name] = value
    unknown = attributes.keys() - {"token", "id", "type"}
    if unknown:
        raise _not_a_uri(f"{min(unknown)} is not understood; name the key by token and id")
    raw = unquote_to_bytes(attributes.get("id", "%02"))
    if not 1 <= len(raw) <= KEY_ID_BYTES_MAX:
        raise _not_a_uri("the id has no bytes, or too many")
    token = attributes.get("token")
    return TokenKey(
        key_id=int.from_bytes(raw, "big"), token=None if token is None else unquote(token)
    )


def _not_a_uri(problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The name of the key on the token cannot be read: {problem}.",
        next_step="write pkcs11:token=LABEL;id=%02, or hsm:2?label=LABEL.",
    )
