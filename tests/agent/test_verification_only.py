"""What a device imports to verify: nothing that signs elsewhere."""

import subprocess
import sys
from pathlib import Path

_RUN = """
import sys
from mailboat_agent import cli
from mailboat_schemas.errors import MailboatError
sys.argv = ["mailboat-agent", "run", "--config", sys.argv[1]]
try:
    cli.main()
except (SystemExit, MailboatError):
    pass
import tuf.api.metadata
names = ("boto3", "pkcs11", "google.cloud", "azure")
found = [name for name in (*names, "mailboat_agent.service") if name in sys.modules]
import boto3
print(found, boto3.__name__)
"""


def test_a_started_agent_has_no_signer_of_a_key_service_and_others_can_still_import_them(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", _RUN, str(tmp_path / "agent.toml")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)

    assert told.stdout.splitlines()[-1] == "['mailboat_agent.service'] boto3"
