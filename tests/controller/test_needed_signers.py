"""What `mailboat` signs with: keys in files and on tokens, and no library of a key service."""

import subprocess
import sys

import pytest

_HELP = """
import sys
from mailboat_controller.__main__ import main
sys.argv = ["mailboat", "--help"]
try:
    main()
except SystemExit:
    pass
import tuf.api.metadata
from securesystemslib.signer import _aws_signer, _hsm_signer
names = ("boto3", "google.cloud", "azure.core")
print([name for name in names if sys.modules.get(name)])
print(bool(_aws_signer.AWS_IMPORT_ERROR), _hsm_signer.PKCS11_IMPORT_ERROR)
"""


@pytest.mark.slow
def test_the_command_can_use_a_token_and_loads_no_library_of_a_key_service() -> None:
    pytest.importorskip("pkcs11")
    told = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)

    assert told.stdout.splitlines()[-2:] == ["[]", "True None"]
