# ruff: noqa: INP001, T201 - a script
"""May this boot be called good? Yes where the agent runs and what is installed here serves.

    /opt/mailboat/bin/python boot_check.py /var/lib/mailboat/agent.toml 120

Exit status 0 is a yes, 1 a no once the seconds are over. No network is asked for: a boot is not bad
because the line is down, nor because a release was withdrawn or a certificate has ended.
docs/machine.md says where to call it from.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AGENT = Path(sys.executable).with_name("mailboat-agent")
LOOK_EVERY_SECONDS = 1.0
COMMAND_SECONDS_MAX = 120
# Of doctor's checks those that an image of the machine can break.
OF_THE_MACHINE = {"config", "key", "data_dir", "state", "journal", "runtime"}
# A device says by these notes that a model serves nothing on purpose.
ON_PURPOSE = ("nothing_to_serve:", "stale_stopped:")


def told(*words: str) -> dict[str, Any]:
    """What the agent's own command says, {} where it says nothing that can be read."""
    done = subprocess.run(
        [AGENT, *words, "--json"],
        capture_output=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    try:
        content = json.loads(done.stdout)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def missing(config: str) -> str:
    """Why it cannot be called good yet; "" where it can."""
    report = told("status", "--config", config).get("report")
    if report is None:
        return "no agent runs"
    excused = {note.partition(":")[2] for note in report["notes"] if note.startswith(ON_PURPOSE)}
    for model in report["models"]:
        idle = model["phase"] in ("committed", "soak") and not model["serving_version"]
        if idle and model["model"] not in excused:
            return f"{model['model']} is installed and does not serve"
    for finding in told("doctor", "--config", config).get("findings", []):
        if finding["check"] in OF_THE_MACHINE and finding["level"] == "fail":
            return f"{finding['check']}: {finding['what']}"
    return ""


def main(config: str, seconds: float) -> int:
    give_up = time.monotonic() + seconds
    while because := missing(config):
        if time.monotonic() > give_up:
            print(f"This boot is not good: {because}", file=sys.stderr)
            return 1
        time.sleep(LOOK_EVERY_SECONDS)
    print("This boot is good.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
