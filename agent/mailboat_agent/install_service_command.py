"""``mailboat-agent install-service``: its options, and what it says."""

import argparse
from collections.abc import Iterator
from pathlib import Path

SERVICE_CONFIG = Path("/var/lib/mailboat/agent.toml")


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    install = commands.add_parser(
        "install-service", help="write the systemd units of the agent and its workers"
    )
    install.add_argument("--config", type=Path, default=SERVICE_CONFIG, help="default: %(default)s")
    install.add_argument("--print", action="store_true", help="show them, write nothing")
    install.add_argument("--root", type=Path, default=Path("/"), help="of an image being made")
    install.add_argument(
        "--key-credential", type=Path, help="the device key as a file that only root can read"
    )
    install.add_argument(
        "--encrypted", action="store_true", help="it was made with systemd-creds encrypt"
    )
    return install


def run_install(options: argparse.Namespace) -> Iterator[str]:
    """
    Raises:
        ConfigurationInvalid: units for such a configuration would not run.
    """
    from mailboat_agent.install_service import START, Installation, unit_files, write

    files = unit_files(
        Installation(
            config=options.config,
            root=options.root,
            key_credential=options.key_credential,
            encrypted=options.encrypted,
        )
    )
    if options.print:
        for name, content in files.items():
            yield f"# /{name}\n{content}"
        return
    for path in write(files, options.root):
        yield f"Wrote {path}."
    yield f"next step: {START}"
