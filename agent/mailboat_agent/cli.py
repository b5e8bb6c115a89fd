"""The device's command, ``mailboat-agent``: enroll once, run, and look at it with status."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mailboat_agent.completion_script import add_parser as add_completion_parser
from mailboat_agent.drill.command import add_parser as add_drill_parser
from mailboat_agent.drill.command import run_drill
from mailboat_agent.help_command import add_parser as add_help_parser
from mailboat_agent.install_service_command import add_parser as add_install_parser
from mailboat_agent.install_service_command import run_install
from mailboat_agent.journal.inspection_command import add_parser as add_db_parser
from mailboat_agent.overlays.command import add_parser as add_config_parser
from mailboat_agent.site_order_command import add_parser as add_site_order_parser
from mailboat_agent.site_order_command import run_site_order
from mailboat_agent.version_option import VersionOption
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    MailboatError,
    NotPermitted,
    TrustRefused,
)

if TYPE_CHECKING:
    from mailboat_schemas.enrolment import EnrolmentPending

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_AUTH, EXIT_TRUST, EXIT_INTERRUPTED = 0, 1, 2, 5, 8, 130
DEFAULT_CONFIG = Path("agent.toml")
_CONFIG_HELP = "what enroll wrote; default: %(default)s"
_EPILOG = """\
exit status: 0 ok, 1 failure, 2 usage or configuration, 5 not permitted, 8 trust refused, 130 Ctrl-C

a device begins like this:
  mailboat-agent enroll --kit kit.json --device porch-camera-7 --config agent.toml
  mailboat-agent run --config agent.toml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        status = int(options.command(options))
        print(end="", flush=True)  # so that a pipe that nobody reads is found out here
    except BrokenPipeError:
        if options.command is _run:
            raise  # a socket's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed at the end
        return EXIT_FAILURE
    except MailboatError as error:
        if sys.stderr is not None:  # what is said to None comes out on standard output
            what = "\n".join(map(printable, error.what.split("\n")))
            print(f"mailboat-agent: error {error.code}: {what}", file=sys.stderr)
            print(f"next step: {printable(error.next_step)}", file=sys.stderr)
        return _exit_status(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mailboat_"):
            raise  # ours to mend, not a package that was left out
        missing = f"{error.name} is missing: this is mailboat without its agent part."
        print(f"mailboat-agent: {missing}", file=sys.stderr)
        print("next step: pip install 'mailboat[agent]'.", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status


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
    parser.add_argument("--version", action=VersionOption)
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
    run.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="what runs on this device, and why not further")
    status.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(command=_status)

    carried = commands.add_parser(
        "import", help="take releases from a file that `mailboat release export` wrote"
    )
    carried.add_argument("file", type=Path, metavar="FILE", help="such as one on a USB stick")
    carried.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    carried.add_argument("--json", action="store_true", help="one JSON object")
    carried.set_defaults(command=_import)

    doctor = commands.add_parser("doctor", help="what this host lacks, and what to do about it")
    doctor.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    doctor.add_argument("--json", action="store_true", help="one JSON object")
    doctor.set_defaults(command=_doctor)

    busy = commands.add_parser("busy", help="do not exchange the model now, or do so again")
    busy.add_argument("state", choices=("on", "off", "status"), help="status only looks")
    busy.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    busy.add_argument("--json", action="store_true", help="one JSON object")
    busy.set_defaults(command=_busy)

    add_drill_parser(commands, DEFAULT_CONFIG, _CONFIG_HELP).set_defaults(command=_drill)
    add_db_parser(commands, DEFAULT_CONFIG, _CONFIG_HELP).set_defaults(command=_db)

    _add_explain(commands)
    add_config_parser(commands, DEFAULT_CONFIG, _CONFIG_HELP)
    add_site_order_parser(commands, DEFAULT_CONFIG, _CONFIG_HELP).set_defaults(command=_site_order)

    add_help_parser(commands).set_defaults(command=_say)
    add_completion_parser(commands, parser).set_defaults(command=_say)
    add_install_parser(commands).set_defaults(command=_install_service)
    return parser


def _add_explain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    explain = commands.add_parser(
        "explain", help="why this device runs what it runs, check by check; needs no network"
    )
    explain.add_argument("--model", default="", help="this model alone")
    explain.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=_CONFIG_HELP)
    explain.add_argument("--json", action="store_true", help="one JSON object")
    explain.set_defaults(command=_explain)


def printable(line: str) -> str:
    """Without control characters: what others named must not move the terminal."""
    return "".join(char if char.isprintable() else " " for char in line)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


# Imports of what is heavy happen in the command that needs it: `status` is for slow devices.


def _enroll(options: argparse.Namespace) -> int:
    from mailboat_agent.identity.enrol import Wishes, enrol

    config = asyncio.run(
        enrol(
            Wishes(
                kit=options.kit,
                device=options.device,
                config=options.config,
                data_dir=options.data_dir,
                serve_port=options.serve_port,
            ),
            on_pending=_show_fingerprint,
        )
    )
    print(f"Device {config.device} is enrolled in {config.fleet} ({config.hardware_class}).")
    print(f"Delete {options.kit} unless other devices enrol with it: it holds a token.")
    print(f"next step: mailboat-agent run --config {options.config}")
    return EXIT_OK


def _show_fingerprint(pending: "EnrolmentPending") -> None:
    print(f"Device {pending.device} asks to be enrolled; a person has to approve it.")
    print(f"fingerprint  {pending.fingerprint}")
    print(
        "The operator compares it: mailboat device approve "
        f"{pending.device} --fingerprint '{pending.fingerprint}'"
    )
    print("Waiting. You may stop this and run the same command again later.", flush=True)


def _run(options: argparse.Namespace) -> int:
    from mailboat_agent.footprint import share_arenas
    from mailboat_schemas.key_services import KEY_SERVICES, TOKENS, import_signers_without

    share_arenas()
    import_signers_without(KEY_SERVICES + TOKENS)  # before others import them with all there is
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.logs.lines import configure_logging
    from mailboat_agent.service import run

    config = AgentConfig.read(options.config)
    configure_logging(config.log_format)
    asyncio.run(run(config))
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.plain_status import in_plain_words
    from mailboat_agent.status import read_status
    from mailboat_agent.status_lines import describe

    status = read_status(AgentConfig.read(options.config).data_dir)
    if options.json:
        print(json.dumps(status))
        return EXIT_OK
    lines = [*in_plain_words(status, datetime.now(UTC)), "", "in detail", *describe(status)]
    print("\n".join(printable(line) for line in lines))
    return EXIT_OK


def _import(options: argparse.Namespace) -> int:
    from mailboat_agent.carrier.command import run_import
    from mailboat_agent.config import AgentConfig

    config = AgentConfig.read(options.config)
    for line in run_import(options.file, config, now=datetime.now(UTC), as_json=options.json):
        print(line)
    return EXIT_OK


def _site_order(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig

    config = AgentConfig.read(options.config)
    now = datetime.now(UTC)
    for line in run_site_order(options.file, config, now=now, as_json=options.json):
        print(line)
    return EXIT_OK


def _db(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.journal.inspection_command import run_db

    data_dir = Path() if options.file else AgentConfig.read(options.config).data_dir
    for line in run_db(options, data_dir / "journal.db"):
        print(line)
    return EXIT_OK


def _doctor(options: argparse.Namespace) -> int:
    from mailboat_agent.doctor.examine import examine, worst
    from mailboat_schemas.finding import Level

    findings = []
    for finding in examine(options.config, datetime.now(UTC)):
        findings.append(finding)
        if not options.json:
            print(f"{finding.level:<5} {finding.check:<26} {finding.what}")
            if finding.fix:
                print(f"{'':<32} {finding.fix}", flush=True)
    verdict = worst(findings)
    if options.json:
        print(json.dumps({"verdict": verdict, "findings": [each.to_json() for each in findings]}))
    return EXIT_FAILURE if verdict is Level.FAIL else EXIT_OK


def _explain(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig
    from mailboat_agent.explain import explain, in_words

    found = explain(AgentConfig.read(options.config), datetime.now(UTC), options.model)
    lines = in_words(found)
    print(json.dumps(found) if options.json else "\n".join(map(printable, lines)))
    return EXIT_OK


def _drill(options: argparse.Namespace) -> int:
    passed, lines = run_drill(options)
    print("\n".join(lines))
    return EXIT_OK if passed else EXIT_FAILURE


def _busy(options: argparse.Namespace) -> int:
    from mailboat_agent import busy
    from mailboat_agent.config import AgentConfig

    config = AgentConfig.read(options.config)
    path = busy.path_of(config.busy_file, config.data_dir)
    match options.state:
        case "on":
            busy.begin(path)
        case "off":
            busy.end(path)
    found = busy.told(path, config.busy_seconds_max)
    print(json.dumps(found) if options.json else busy.in_words(found))
    return EXIT_OK


def _say(options: argparse.Namespace) -> int:
    print(options.text(options))
    return EXIT_OK


def _install_service(options: argparse.Namespace) -> int:
    for line in run_install(options):
        print(line)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
