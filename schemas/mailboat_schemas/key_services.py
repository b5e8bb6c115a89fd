"""We sign with keys in files and on PKCS#11 tokens, and with no key service's library.

securesystemslib imports every signer that it finds: boto3, Azure, Google, PKCS#11, gRPC. Where one
of them is installed for something else, that is up to 20 MiB and a third of a second for nothing.
"""

import importlib
import sys
from contextlib import suppress

KEY_SERVICES = ("azure", "azure.core", "boto3", "google.cloud", "hvac", "sigstore")
TOKENS = ("pkcs11",)  # who only verifies needs no token either


def leave_out(libraries: tuple[str, ...]) -> tuple[str, ...]:
    """From now on nothing in this process can import them; returns those that this is new to."""
    absent = tuple(name for name in libraries if name not in sys.modules)
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None: "not importable"
    return absent


def import_signers_without(libraries: tuple[str, ...]) -> None:
    """Import securesystemslib without them; whoever imports one of them later gets it."""
    import_without("securesystemslib.signer", libraries)


def import_without(module: str, libraries: tuple[str, ...]) -> None:
    """Import a module that takes what it finds, as if these were not installed.

    Whoever imports one of them later gets it. Does nothing where the module is loaded already.
    """
    if module in sys.modules:
        return
    absent = leave_out(libraries)
    try:
        # What it finds missing it says when it is used; that it is missing altogether, others say.
        with suppress(ImportError):
            importlib.import_module(module)
    finally:
        for name in absent:
            sys.modules.pop(name, None)
