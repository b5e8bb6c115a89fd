"""``mailboat-agent config`` and the config's lines of ``status``, for people on the device."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mailboat_agent.config import AgentConfig


def add_parser(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", default: Path, help_text: str
) -> None:
    values = commands.add_parser("config", help="the values in force that people signed for it")
    values.add_argument("--config", type=Path, default=default, help=help_text)
    values.add_argument("--json", action="store_true", help="one JSON object")
    values.set_defaults(command=_show)


def _show(options: argparse.Namespace) -> int:
    from mailboat_agent.config import AgentConfig

    found = config_in_force(AgentConfig.read(options.config))
    text = json.dumps(found) if options.json else "\n".join(in_words(found))
    sys.stdout.write(text + "\n")
    return 0


def config_in_force(config: "AgentConfig") -> dict[str, Any]:
    """What is in force by the record on the disk; needs neither a network nor a running agent."""
    from mailboat_agent.overlays.record import ConfigRecord

    recorded, problem = ConfigRecord(config.data_dir).load()
    in_force = recorded.current
    return {
        "digest": in_force.digest,
        "layers": [
            {
                "level": layer.listed.place.level.value,
                "target": layer.listed.place.target,
                "name": layer.document.metadata.name,
                "version": layer.document.metadata.version,
                "digest": layer.listed.digest,
            }
            for layer in in_force.layers
        ],
        "earlier": [each.titles for each in recorded.earlier],
        "problem": problem,
        "values": in_force.values,
    }


def in_words(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"config    {found['digest'][:12]}"
    for each in found["layers"]:
        yield f"          {each['level']} {each['target']}: {each['name']} {each['version']}"
    if not found["layers"]:
        yield "          nobody signed one for this device"
    for each in found["earlier"]:
        yield f"before    {each}"
    if found["problem"]:
        yield f"damaged   {found['problem']}"
    yield json.dumps(found["values"], indent=2)


def describe_config(config: Mapping[str, Any] | None) -> Iterator[str]:
    """Of a report; nothing where nobody signed a config for the device."""
    if config is None:
        return
    yield f"config    {_titles(config['layers']) or 'none'}, digest {config['digest'][:12]}"
    if config["waiting"]:
        yield f"          waits: {_titles(config['waiting'])}"
    if config["because"]:
        yield f"          {config['because']}"


def _titles(layers: list[Mapping[str, Any]]) -> str:
    return ", ".join(f"{each['name']} {each['version']} ({each['level']})" for each in layers)
