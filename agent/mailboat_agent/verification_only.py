"""A device verifies signatures and makes none for TUF, so it needs no library of a key service.

securesystemslib imports every signer that it finds: boto3, Azure, Google, PKCS#11, gRPC. Where the
device's application has one of them installed, that is up to 20 MiB and a third of a second for
nothing.
"""

import sys
from contextlib import suppress

_SIGNERS_LIBRARIES = ("azure", "azure.core", "boto3", "google.cloud", "hvac", "pkcs11", "sigstore")


def import_verification_only() -> None:
    """Import securesystemslib without them; whoever imports one of them later gets it."""
    if "securesystemslib.signer" in sys.modules:
        return
    hidden = [name for name in _SIGNERS_LIBRARIES if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "cannot be imported"
    try:
        # What it finds missing it says when it is used; that it is missing altogether, others say.
        with suppress(ImportError):
            import securesystemslib.signer  # noqa: F401
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
