"""The device's command, ``mailboat-agent``: enroll once, run, and look at it with status."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MailboatError,
    NotPermitted,
    TrustRefused,
)

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_AUTH, EXIT_TRUST = 0, 1, 2, 5, 8
DEFAULT_CONFIG = Path("agent.toml")
_EPILOG = """\
exit status: 0 ok, 1 failure, 2 usage or configuration, 5 not permitted, 8 trust refused

a device begins like this:
  mailboat-agent enroll --kit kit.json --device porch-camera-7 --config agent.toml
  mailboat-agent run --config agent.toml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except MailboatError as error:
        print(f"mailboat-agent: {error.what}", file=sys.stderr)
        print(f"next step: {error.next_step}", file=sys.stderr)
        return _exit_status(error)
    except KeyboardInterrupt:
        return EXIT_FAILURE


def _exit_status(error: MailboatError) -> int:
    match error:
        case NotPermitted():
            return EXIT_AUTH
        case TrustRefused():
            return EXIT_TRUST
        case ConfigurationInvalid():
            return EXIT_USAGE
    return EXIT_FAILURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mailboat-agent",
        description="Runs on a device: installs approved model releases, tries them, serves them, "
        "and goes back by itself when they fail.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    enroll = commands.add_parser(
        "enroll", help="make this device known, with a kit from the operator"
    )
    enroll.add_argument("--kit", type=Path, required=True, help="the kit file (JSON)")
    enroll.add_argument("--device", required=True, help="this device's id, for example porch-7")
    enroll.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="the file to write")
    enroll.add_argument("--data-dir", type=Path, help="where releases and state are kept")
    enroll.add_argument("--serve-port", type=_port, help="of the inference API on loopback")
    enroll.set_defaults(command=_enroll)

    run = commands.add_parser("run", help="run the agent until it is stopped")
    run.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="what runs on this device, and why not further")
    status.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(command=_status)
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


# Imports of what is heavy happen in the command that needs it: `status` is for slow devices.


def _enroll(options: argparse.Namespace) -> int:
    from mailboat_agent.enrol import Wishes, enrol

    config = asyncio.run(
        enrol(
            Wishes(
                kit=options.kit,
                device=options.device,
                config=options.config,
                data_dir=options.data_dir,
                serve_port=options.serve_port,
            )
        )
    )
    print(f"Device {config.device} is enrolled in {config.fleet} ({config.hardware_class}).")
    print(f"Delete {options.kit} unless other devices enrol with it: it holds a token.")
    print(f"next step: mailboat-agent run --config {options.config}")
    return EXIT_OK


def _run(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.logs import configure_logging
    from mailboat_agent.service import run

    config = AgentConfig.read(options.config)
    configure_logging(config.log_format)
    asyncio.run(run(config))
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.status import read_status

    status = read_status(AgentConfig.read(options.config).data_dir)
    print(json.dumps(status) if options.json else "\n".join(describe(status)))
    return EXIT_OK


def describe(status: dict[str, Any]) -> list[str]:
    """A status for people, line by line."""
    report = status["report"]
    link = "connected" if status["connected"] else "not connected"
    expires = status["trust_expires"] or "unknown"
    unconfirmed = status["unconfirmed"]
    waiting = f"{unconfirmed['events']} events, {unconfirmed['telemetry']} telemetry windows"
    lines = [
        f"device    {report['device']} of {report['fleet']}, class {report['hardware_class']}",
        f"broker    {link}, not yet confirmed: {waiting}",
        f"manifest  {report['manifest_counter'] or 'none yet'}, trust metadata until {expires}",
        f"serving   {status['serving']['url']}/v2",
    ]
    lines += [f"note      {note}" for note in report["notes"]]
    for model in report["models"]:
        serving = model["serving_version"] or "nothing"
        lines.append(f"model     {model['model']}: {model['phase']}, serves {serving}")
        if model["target_version"]:
            lines.append(f"          on its way: {model['target_version']}")
        if model["because"]:
            lines.append(f"          {model['because']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
