"""``mailboat-agent drill``: somebody at the device has it prove that it could go back.

Needs no network. The running agent does it, as it would for the centre; this waits for the result.
"""

import argparse
import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailboat_schemas.errors import NotFound, Transient

if TYPE_CHECKING:
    from mailboat_agent.config import AgentConfig

LOOK_SECONDS = 0.2
WAIT_SECONDS = 900.0


class DrillNotOver(Transient):
    """It waits for something, or takes longer than somebody wanted to wait."""

    code = "E-DRILL-WAITS"


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", config: Path, config_help: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "drill", help="prove that the release before could take over; nobody is exposed to it"
    )
    parser.add_argument("--model", default="", help="this model alone")
    parser.add_argument("--reason", default="", help="for those who read of it later")
    parser.add_argument(
        "--seconds", type=float, default=WAIT_SECONDS, help="to wait; default: %(default)g"
    )
    parser.add_argument("--config", type=Path, default=config, help=config_help)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def run_drill(options: argparse.Namespace) -> tuple[bool, list[str]]:
    """Whether every drill passed, and what there is to print.

    Raises:
        NotFound: no agent runs, or it has no such model.
        DrillNotOver: not in that time. DiskFull, DiskFailing
    """
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.drill.telling import in_words

    config = AgentConfig.read(options.config)
    found = drilled(config, options.model, options.reason, seconds=options.seconds)
    lines = [f"{model}: {in_words(last)}" for model, last in found.items()]
    passed = all(last["outcome"] == "passed" for last in found.values())
    return passed, [json.dumps(found)] if options.json else lines


def drilled(config: "AgentConfig", model: str, reason: str, *, seconds: float) -> dict[str, Any]:
    """The results, by model. Raises as `run_drill`."""
    from mailboat_agent.drill.requests import NUMBERS_MAX, LocalRequest, lay_down
    from mailboat_agent.status import read_status

    here = {each["model"] for each in read_status(config.data_dir)["report"]["models"]}
    models = here & {model} if model else here
    if not models:
        raise NotFound(
            f"This device has no model {model}." if model else "This device has no model yet.",
            next_step=f"its models: {', '.join(sorted(here)) or 'none yet'}.",
        )
    request = LocalRequest(number=secrets.randbelow(NUMBERS_MAX), model=model, reason=reason)
    lay_down(config.data_dir, request)
    give_up = time.monotonic() + seconds
    while True:
        drills = read_status(config.data_dir).get("drills") or {}
        ended = {name: (drills.get(name) or {}).get("last") or {} for name in sorted(models)}
        if all(last.get("order") == request.order for last in ended.values()):
            return ended
        if time.monotonic() >= give_up:
            raise _not_over(drills, models, seconds)
        time.sleep(LOOK_SECONDS)


def _not_over(drills: dict[str, Any], models: set[str], seconds: float) -> DrillNotOver:
    waits = [f"{name} waits: {drills[name]['waits']}" for name in sorted(models & drills.keys())]
    return DrillNotOver(
        f"The drill was not over after {seconds:g} s; {'; '.join(waits) or 'it goes on'}.",
        next_step="nothing, it is made as soon as nothing is in its way; `mailboat-agent status` "
        "shows how it ended.",
    )
