"""``mailboat-agent site-order``: somebody brings this device an order of its site, as a file.

Judged here by what the device has accepted, so that whoever stands beside it hears at once what is
wrong; the running agent judges it again, or the next one that starts.
"""

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mailboat_schemas.errors import ConfigurationInvalid, MalformedPayload

if TYPE_CHECKING:
    from mailboat_agent.config import AgentConfig
    from mailboat_schemas.site_orders import OpenedOrder


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", default: Path, help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "site-order", help="hand over what `mailboat site hold`, `rollback` or `lift` wrote"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="such as one on a USB stick")
    parser.add_argument("--config", type=Path, default=default, help=help_text)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def run_site_order(
    path: Path, config: "AgentConfig", *, now: datetime, as_json: bool
) -> Iterator[str]:
    """What there is to print. Raises as `handed_over`."""
    from mailboat_agent.site_orders import in_words

    opened = handed_over(path, config, now)
    if as_json:
        yield json.dumps({"site": opened.order.site, "counter": opened.order.counter})
    else:
        yield f"Handed over: {in_words(opened)}."
        yield "`mailboat-agent explain` shows it once the agent has taken it."


def handed_over(path: Path, config: "AgentConfig", now: datetime) -> "OpenedOrder":
    """
    Raises:
        ConfigurationInvalid: no such file. MalformedPayload: too long to be an order.
        TrustRefused: what the agent would say; nothing was handed over.
        DiskFull, DiskFailing
    """
    from mailboat_agent.carrier.preview import copy_of_what_is_held
    from mailboat_agent.facts import Device
    from mailboat_agent.kept_site_order import PAYLOAD_BYTES_MAX, judge
    from mailboat_agent.site_order_handover import hand_over
    from mailboat_agent.state_file import StateFile
    from mailboat_agent.trust.kept_manifests import read_bounded

    try:
        payload = read_bounded(path, PAYLOAD_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be read: {error.strerror}.", next_step="check the path."
        ) from error
    except ValueError as error:
        raise MalformedPayload(
            f"{path} is not a site's order: {error}.",
            next_step="take the file that `mailboat site hold`, `rollback` or `lift` wrote.",
        ) from error
    device = Device.of(config, enrolment_number=0)
    state = StateFile(config.data_dir).load()
    with copy_of_what_is_held(config, state) as held:
        opened = judge(payload, config.data_dir, device, held.manifest, now)
    hand_over(config.data_dir, payload)
    return opened
