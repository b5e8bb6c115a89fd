"""``mailboat-agent --version``: what a site technician reads out on the telephone."""

import argparse
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mailboat_schemas import CONTRACT_VERSION


class VersionOption(argparse.Action):
    """Looked up when it is asked for alone: it costs a slow device a tenth of a second."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_given: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="what is installed here")

    def __call__(self, parser: argparse.ArgumentParser, *_given: Any, **_named: Any) -> None:
        sys.stdout.write(f"{in_words()}\n")  # `exit` would say it on standard error
        parser.exit()


def in_words() -> str:
    """``mailboat-agent 0.1.0 (mb/1, onnxruntime 1.27.0, Python 3.11.7)``"""
    return (
        f"mailboat-agent {version('mailboat')} (mb/{CONTRACT_VERSION}, onnxruntime {_runtime()}, "
        f"Python {platform.python_version()})"
    )


def _runtime() -> str:
    # Builds for other hardware come under other names, such as onnxruntime-gpu.
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "not installed"
