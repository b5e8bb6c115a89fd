"""What a release brings beside its model: Python before and behind it, a check, files they read.

Nothing of it is looked at here, or run: the device's worker does, confined (docs/bundles.md).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailboat_controller.bundles.ports import declared_ports
from mailboat_schemas.documents.interface import Interface, Tensor
from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import FileRole
from mailboat_schemas.errors import ConfigurationInvalid

LABELS_BYTES_MAX = 4 << 20
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Function:
    file: Path
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """``inputs`` and ``outputs`` are those that callers see, where a function makes them."""

    preprocess: Function | None = None
    postprocess: Function | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    check: Path | None = None
    data: tuple[tuple[FileRole, Path], ...] = ()  # tokenizer, labels, calibration, other

    @property
    def has_pipeline(self) -> bool:
        return self.preprocess is not None or self.postprocess is not None

    def files(self) -> Iterator[tuple[FileRole, Path]]:
        """All of them. What `preprocess` and `postprocess` share is there twice, by role."""
        for role, function in (
            (FileRole.PREPROCESS, self.preprocess),
            (FileRole.POSTPROCESS, self.postprocess),
        ):
            if function is not None:
                yield role, function.file
        if self.check is not None:
            yield FileRole.CHECK, self.check
        yield from self.data

    def refuse_unfit(self, taken: Sequence[str]) -> None:
        """``taken`` are names of the bundle's other files.

        Raises:
            ConfigurationInvalid: a file is missing, or a side is declared that nothing makes.
        """
        for side, function, tensors in (
            ("input", self.preprocess, self.inputs),
            ("output", self.postprocess, self.outputs),
        ):
            if (function is None) != (not tensors):
                step = "preprocess" if side == "input" else "postprocess"
                raise ConfigurationInvalid(
                    f"--{step} and --{side} belong together: a function of that name makes them.",
                    next_step=f"declare what callers see with --{side} NAME=DTYPE:-1x3, and the "
                    f"function with --{step} FILE.py:FUNCTION.",
                )
        names = list(taken)
        for role, path in self.files():
            if not path.is_file():
                raise ConfigurationInvalid(
                    f"There is no file {path} for the {role.value}.",
                    next_step="name a file that is there.",
                )
            if path.name in names:
                raise ConfigurationInvalid(
                    f"Two files of the bundle would be called {path.name}.",
                    next_step="give it a name of its own; each function has its own file.",
                )
            names.append(path.name)

    def files_order(self) -> list[dict[str, str]]:
        """For the agent's process: what its functions are given."""
        return [
            {"path": path.name, "role": role.value, "source": str(path.resolve())}
            for role, path in self.files()
            if role is not FileRole.CHECK
        ]

    def pipeline_order(self, outputs: Sequence[Tensor]) -> dict[str, Any]:
        """``outputs`` are what callers are promised."""
        return {
            "preprocess": None if self.preprocess is None else self.preprocess.name,
            "postprocess": None if self.postprocess is None else self.postprocess.name,
            "outputs": [
                [port.name, port.datatype, list(port.shape)] for port in declared_ports(outputs)
            ],
        }

    def pipeline(self, model: Interface) -> Pipeline | None:
        """As the release declares it."""
        if not self.has_pipeline:
            return None
        return Pipeline(
            model_interface=model,
            preprocess=None if self.preprocess is None else self.preprocess.name,
            postprocess=None if self.postprocess is None else self.postprocess.name,
        )


NO_CODE = OwnCode()


def function_named(text: str, usual: str) -> Function:
    """Of ``FILE.py:FUNCTION``; the ``usual`` name if it is left out.

    Raises:
        ValueError
    """
    file, colon, name = text.rpartition(":")
    if not colon:
        file, name = text, usual
    if not file or not _FUNCTION.fullmatch(name):
        raise ValueError(f"{text!r} names no function")
    return Function(Path(file), name)


def labels_of(data: Sequence[tuple[FileRole, Path]]) -> tuple[str, ...]:
    """What classes are called: the lines of the file of labels, if there is one.

    Raises:
        ConfigurationInvalid: it is no text.
    """
    path = next((path for role, path in data if role is FileRole.LABELS), None)
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            content = file.read(LABELS_BYTES_MAX + 1)
        text = content.decode() if len(content) <= LABELS_BYTES_MAX else ""
    except UnicodeDecodeError:
        text = ""
    labels = tuple(line for line in text.splitlines() if line.strip())
    if not labels:
        raise ConfigurationInvalid(
            f"{path} holds no labels, or over {LABELS_BYTES_MAX} bytes.",
            next_step="write one label a line, as UTF-8.",
        )
    return labels
