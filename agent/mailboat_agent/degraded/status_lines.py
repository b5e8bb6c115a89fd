"""Degraded answers as lines of ``mailboat-agent status``."""

from collections.abc import Mapping


def describe_degraded(status: Mapping[str, object]) -> list[str]:
    """Lines of ``mailboat-agent status``; none while nothing is degraded and no endpoint is out."""
    lines = []
    now, endpoints = status.get("now"), status.get("endpoints")
    if isinstance(now, dict):
        lines += [
            f"degraded  {model}: {each['mode']}, {each['because']}" for model, each in now.items()
        ]
    if isinstance(endpoints, list):
        lines += [
            f"endpoint  {each['name']} ({each['kind']}) is {each['circuit']}: {each['problem']}"
            for each in endpoints
            if each["circuit"] != "closed"
        ]
    return lines
