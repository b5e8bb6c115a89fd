"""A release's own check, in a worker: a Python file run as a script, as `docs/trial.md` has it."""

import io
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mailboat_agent.serving.pipeline import Code, PipelineFailed
from mailboat_agent.serving.worker_values import CHECK_OUTPUT_CHARS_MAX

PASSED, FAILED, BROKEN = 0, 1, 2  # exit codes; everything above 2 is broken too


class _Bounded(io.StringIO):
    """Keeps what is said first."""

    def write(self, text: str, /) -> int:
        super().write(text[: max(0, CHECK_OUTPUT_CHARS_MAX - self.tell())])
        return len(text)


def run_check(
    path: str,
    source: bytes,
    question: str,
    *,
    infer: Callable[[Mapping[str, Any]], dict[str, Any]],
    bundle: Mapping[str, bytes],
) -> dict[str, Any]:
    """Exit code, stdout and what it raised, if it raised. Never raises but for memory."""
    stdin, stdout, said = sys.stdin, sys.stdout, _Bounded()
    sys.stdin, sys.stdout = io.StringIO(question), said
    exit_code, raised = PASSED, ""
    names = {"__name__": "__main__", "infer": infer, "bundle": MappingProxyType(dict(bundle))}
    try:
        Code(path, source, names).run()
    except SystemExit as error:
        exit_code, raised = _exit_code(error.code)
    except PipelineFailed as error:
        exit_code, raised = BROKEN, str(error)
    finally:
        sys.stdin, sys.stdout = stdin, stdout
    return {"exit_code": exit_code, "stdout": said.getvalue(), "raised": raised}


def _exit_code(code: object) -> tuple[int, str]:
    """As the interpreter has it: nothing is 0, a text is told and is 1."""
    if code is None:
        return PASSED, ""
    if isinstance(code, int):
        return code & 0xFF, ""
    return FAILED, str(code)[:CHECK_OUTPUT_CHARS_MAX]
