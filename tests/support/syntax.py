"""Our sources, read: what stands in them, for rules that are about how they are written."""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# No node says which of these it is; they say only how a name is used.
_USES = (ast.Load, ast.Store, ast.Del)


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a module, itself first, as `ast.walk` gives it, in two thirds of its time.
    Read once for all the rules."""
    found: list[ast.AST] = [ast.parse(path.read_text())]
    for node in found:  # it grows meanwhile
        for value in node.__dict__.values():
            if isinstance(value, list):
                found += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, _USES):
                found.append(value)
    return found


def module(path: Path) -> ast.Module:
    tree = nodes(path)[0]
    assert isinstance(tree, ast.Module)
    return tree


@contextmanager
def read_once() -> Iterator[None]:
    """A hundred megabytes of syntax trees, none of them garbage: until they are let go, nobody
    looks through them for any."""
    gc.disable()
    try:
        yield
    finally:
        nodes.cache_clear()
        gc.enable()
