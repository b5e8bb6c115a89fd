"""The release's own Python before and behind its model, in a worker.

The process is the sandbox, not the language: the code is compiled after the worker has given up
files, network, programs and other processes, under the memory limit of the model and within the
deadline of the request. What it may import is what the worker has imported before that.
"""

import builtins
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, MappingProxyType
from typing import Any

import numpy as np

from mailboat_agent.serving.arrays import Array, datatype_of
from mailboat_agent.serving.request_failed import RequestFailed

IMPORTABLE = (
    "base64",
    "collections",
    "dataclasses",
    "functools",
    "io",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "struct",
    "sys",
    "typing",
    "unicodedata",
    "zlib",
    "numpy",
    "numpy.fft",
    "numpy.linalg",
)
IMPORTABLE_WHERE_INSTALLED = ("tokenizers",)
FRAMES_TOLD_MAX = 5
LINE_CHARS_MAX = 160  # of one line of their code
ERROR_CHARS_MAX = 300

ModelRun = Callable[[Sequence[str] | None, Mapping[str, Array]], list[Any]]
Port = tuple[str, str, Sequence[Any]]  # name, datatype, shape; text and None are free


class PipelineFailed(RequestFailed):
    """The release's code raised, or gave something else than it declares."""

    def __init__(self, message: str) -> None:
        super().__init__("pipeline_failed", message)


def import_what_code_may_use() -> None:
    """While files can still be opened: before it is known whether any code will come.

    What costs a worker without code more than a few milliseconds is left out, `numpy.random` too.
    """
    for name in IMPORTABLE:
        importlib.import_module(name)
    for name in IMPORTABLE_WHERE_INSTALLED:
        try:
            importlib.import_module(name)
        except ImportError:
            continue


class Code:
    """One file of the release's code, run once so that its functions can be called."""

    def __init__(self, path: str, source: bytes, names: Mapping[str, object]) -> None:
        """
        Raises:
            PipelineFailed: it does not compile, or raises at its top level.
        """
        self.path = path
        try:
            self._lines = source.decode().splitlines()
            self._code: CodeType = compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, OverflowError) as error:
            raise PipelineFailed(f"{path} does not compile: {_told(error)}") from error
        allowed = vars(builtins) | {"__import__": _importing}
        self._globals: dict[str, Any] = {"__builtins__": allowed, **names}

    def run(self) -> None:
        """Its top level.

        Raises:
            PipelineFailed
            SystemExit: it wants to end; what that means is the caller's to say.
        """
        try:
            exec(self._code, self._globals)  # noqa: S102 - signed, and confined by the process
        except (MemoryError, SystemExit):
            raise
        except BaseException as error:
            raise self.failure(error) from error

    def function(self, name: str) -> Callable[..., Any]:
        """
        Raises:
            PipelineFailed: there is none.
        """
        found = self._globals.get(name)
        if not callable(found):
            raise PipelineFailed(f"{self.path} has no function {name!r}")
        function: Callable[..., Any] = found
        return function

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """
        Raises:
            PipelineFailed: it raised. Memory that runs out is told as such: MemoryError.
        """
        try:
            return function(*arguments)
        except MemoryError:
            raise
        except BaseException as error:  # SystemExit too: it ends no worker
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> PipelineFailed:
        """What it raised and where, in lines of its own alone."""
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == self.path
        ]
        places = [self._place(frame.lineno or 0, frame.name) for frame in frames[-FRAMES_TOLD_MAX:]]
        return PipelineFailed("; ".join([_told(error), *reversed(places)]))

    def _place(self, line: int, function: str) -> str:
        text = self._lines[line - 1].strip() if 0 < line <= len(self._lines) else ""
        return f"{self.path} line {line} in {function}: {text[:LINE_CHARS_MAX]}"


class Pipeline:
    """Preprocessing, the model, postprocessing: what callers see as one model."""

    def __init__(
        self,
        request: Mapping[str, Any],
        files: Mapping[str, tuple[str, bytes]],
        *,
        model_inputs: Sequence[Port],
        model_outputs: Sequence[str],
    ) -> None:
        """``files`` are role and bytes by path; ``request`` is `WorkerOptions.pipeline`.

        Raises:
            PipelineFailed
        """
        data = {path: content for path, (_, content) in files.items()}
        self._data: Mapping[str, bytes] = MappingProxyType(data)
        self._model_inputs, self._model_outputs = model_inputs, model_outputs
        self._outputs: Sequence[Port] = request["outputs"]
        self._before = self._step(files, "preprocess", request["preprocess"])
        self._behind = self._step(files, "postprocess", request["postprocess"])

    @property
    def output_names(self) -> list[str]:
        return [name for name, _, _ in self._outputs]

    def _step(
        self, files: Mapping[str, tuple[str, bytes]], role: str, name: str | None
    ) -> tuple[Code, Callable[..., Any]] | None:
        if name is None:
            return None
        found = next(((path, text) for path, (its, text) in files.items() if its == role), None)
        if found is None:
            raise PipelineFailed(f"there is no file of role {role!r}")
        code = Code(*found, {"__name__": f"mailboat_{role}"})
        try:
            code.run()
        except SystemExit as error:
            raise code.failure(error) from error
        return code, code.function(name)

    def run(
        self, names: Sequence[str], feeds: Mapping[str, Array], run_model: ModelRun
    ) -> list[Any]:
        """
        Raises:
            PipelineFailed; MemoryError; whatever the model raises
        """
        inputs = {name: _read_only(array) for name, array in feeds.items()}
        fed: Mapping[str, Any] = inputs
        if self._before is not None:
            code, function = self._before
            fed = code.call(function, dict(inputs), self._data)
            _refuse_other(fed, self._model_inputs, "preprocess", "the model takes")
        if self._behind is None:
            return run_model(names, fed)
        outputs = run_model(None, fed)
        code, function = self._behind
        by_name = dict(zip(self._model_outputs, outputs, strict=True))
        arguments: list[object] = [by_name, self._data]
        if _takes(function) > len(arguments):
            arguments.append(inputs)
        given = code.call(function, *arguments)
        _refuse_other(given, self._outputs, "postprocess", "the release declares")
        return [given[name] for name in names]


def _importing(name: str, *rest: Any, **more: Any) -> Any:
    """A word about what cannot be had, before Python says that it may not open a file."""
    if name.partition(".")[0] not in {known.partition(".")[0] for known in _ALLOWED}:
        raise ImportError(f"{name!r} cannot be imported here; there are {', '.join(_ALLOWED)}")
    try:
        return builtins.__import__(name, *rest, **more)
    except OSError as error:
        raise ImportError(f"{name!r} cannot be imported here: {error}") from error


_ALLOWED = (*IMPORTABLE, *IMPORTABLE_WHERE_INSTALLED)


def _refuse_other(given: object, ports: Sequence[Port], who: str, verb: str) -> None:
    """Names, types and shapes of what a function gave, against what is expected of it."""
    if not isinstance(given, dict):
        raise PipelineFailed(f"{who} gave a {type(given).__name__}, not a dict of arrays")
    names = [name for name, _, _ in ports]
    if sorted(map(str, given)) != sorted(names):
        raise PipelineFailed(f"{who} gave {sorted(map(str, given))}, {verb} {sorted(names)}")
    for name, datatype, shape in ports:
        array = given[name]
        if not isinstance(array, np.ndarray):
            raise PipelineFailed(f"{who} gave {name!r} as a {type(array).__name__}, not an array")
        held = datatype_of(array)
        fits = len(array.shape) == len(shape) and all(
            not isinstance(size, int) or size in (-1, actual)
            for size, actual in zip(shape, array.shape, strict=True)
        )
        if held != datatype or not fits:
            raise PipelineFailed(
                f"{who} gave {name!r} as {held} {list(array.shape)}, {verb} {datatype} "
                f"{[-1 if not isinstance(size, int) else size for size in shape]}"
            )


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _takes(function: Callable[..., Any]) -> int:
    code = getattr(function, "__code__", None)
    return code.co_argcount if isinstance(code, CodeType) else 0


def _told(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]
    except Exception:  # noqa: BLE001 - its text is made by their code
        return type(error).__name__[:ERROR_CHARS_MAX]
