"""What the agent's unit is given and a person at a terminal is not: its workers, perhaps its key.

Without this, doctor would judge workers that nobody uses, and miss the key that the agent has.
"""

import re
from pathlib import Path

from mailboat_agent.config import KEY_CREDENTIAL, AgentConfig

UNIT = Path("/etc/systemd/system/mailboat-agent.service")
CREDENTIALS = Path("/run/credentials")  # of running units. Source: systemd.exec(5)

_CONFIG = re.compile(r"^ExecStart=.* --config (?P<path>.+)$", re.MULTILINE)
_WORKERS = re.compile(r"^Environment=MAILBOAT_WORKER_SOCKET=(?P<path>.+)$", re.MULTILINE)
_KEY = re.compile(rf"^LoadCredential(Encrypted)?={re.escape(KEY_CREDENTIAL)}:", re.MULTILINE)


def as_its_unit(config: AgentConfig, path: Path, unit: Path = UNIT) -> AgentConfig:
    """``config``, read from ``path``, as the installed unit sees it; unchanged if it has none."""
    try:
        content = unit.read_text(encoding="utf-8")
    except OSError:
        return config
    runs = _CONFIG.search(content)
    if runs is None or Path(runs["path"].strip('"')) != path.absolute():
        return config  # of another agent
    found: dict[str, object] = {}
    if config.worker_socket is None and (workers := _WORKERS.search(content)):
        found["worker_socket"] = Path(workers["path"])
    if not config.key.is_relative_to(CREDENTIALS) and _KEY.search(content):
        found |= {"key": CREDENTIALS / unit.name / KEY_CREDENTIAL, "renewal_key": "same"}
    return config.model_copy(update=found)
