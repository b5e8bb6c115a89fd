"""What a device imports to verify: nothing that signs elsewhere."""

import subprocess
import sys

_TELL = """
from mailboat_agent.verification_only import import_verification_only
import_verification_only()
import sys
import tuf.api.metadata
found = [name for name in ("boto3", "pkcs11", "google.cloud", "azure") if name in sys.modules]
import boto3
print(found, boto3.__name__)
"""


def test_no_signer_of_a_key_service_is_imported_and_the_application_can_still_import_them() -> None:
    told = subprocess.run([sys.executable, "-c", _TELL], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[] boto3"
