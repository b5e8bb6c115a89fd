"""Models that take too much memory, crash, hang and leak: each in its own way.

onnxruntime keeps no state between runs, so an ONNX file alone does not leak: what leaks is the
release's own code around it. Crashes are real ones: the smallest integer divided by -1 (SIGFPE in
Div and Mod), model-local functions that call each other 20,000 deep (the runtime inlines them
recursively and runs out of stack), and native memory errors or exits of the release's code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import FileRole
from trial_bench import MIB, X_TO_Y, golden

PEAK_BYTES = 128 * MIB
DEADLINE_SECONDS = 1.2  # for what hangs; the others have time to fail in their own way
PATIENCE_SECONDS = 60.0
_X = np.linspace(-1, 1, 2 * 4, dtype=np.float32).reshape(2, 1, 4)
_OPSET = 17


@dataclass(frozen=True, slots=True)
class Hostile:
    name: str
    made: bytes | Callable[[], bytes]  # large ones when they are asked for
    reasons: frozenset[str]  # any of which tells what it is
    files: Mapping[str, tuple[FileRole, bytes]] = field(default_factory=dict)
    pipeline: Pipeline | None = None
    deadline_seconds: float = PATIENCE_SECONDS

    @property
    def model(self) -> bytes:
        return self.made() if callable(self.made) else self.made

    def samples(self) -> bytes:
        return golden(in_x=_X, out_y=_X)


def hostile_models() -> Mapping[str, tuple[Hostile, ...]]:
    """By kind; ten of each at least."""
    return MappingProxyType(
        {
            "memory": tuple(_memory()),
            "crash": tuple(_crash()),
            "hang": tuple(replace(each, deadline_seconds=DEADLINE_SECONDS) for each in _hang()),
            "leak": tuple(_leak()),
        }
    )


# --- models --------------------------------------------------------------------------------------


def _model(nodes: list[Any], *initializers: Any, functions: tuple[Any, ...] = ()) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    if functions:
        opsets.append(helper.make_opsetid("own", 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    content: bytes = model.SerializeToString()
    return content


def identity() -> bytes:
    return _model([helper.make_node("Identity", ["x"], ["y"])])


def without_an_operator() -> bytes:
    return _model([helper.make_node("NoSuchOperator", ["x"], ["y"])])


def with_a_huge_shape() -> bytes:
    """A weight that says it has a quintillion elements, and brings four."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 30, 1 << 30])
    weight.raw_data = bytes(16)
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], weight)


def _number(name: str, value: Any, dtype: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def _graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], *constants: Any) -> Any:
    return helper.make_graph(nodes, "body", inputs, outputs, list(constants))


def _value(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _loop_body(nodes: list[Any], *constants: Any) -> Any:
    """``carried`` to ``carried_out`` by ``nodes``, for ever."""
    return _graph(
        [*nodes, helper.make_node("Identity", ["condition"], ["condition_out"])],
        [
            _value("round", TensorProto.INT64, []),
            _value("condition", TensorProto.BOOL, []),
            _value("carried"),
        ],
        [_value("condition_out", TensorProto.BOOL, []), _value("carried_out")],
        *constants,
    )


def _reduced(nodes: list[Any], *constants: Any) -> bytes:
    """``wide``, whatever its size, to one row of four."""
    return _model(
        [
            *nodes,
            helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
            helper.make_node("Add", ["x", "most"], ["y"]),
        ],
        *constants,
    )


def _pipelined(name: str, code: str, *reasons: str) -> Hostile:
    return Hostile(
        name,
        identity(),
        frozenset(reasons),
        {"prepare.py": (FileRole.PREPROCESS, code.encode())},
        Pipeline(model_interface=X_TO_Y, preprocess="prepare"),
    )


def _code(name: str, setup: str, each: str, *reasons: str) -> Hostile:
    lines = "\n    ".join(each.splitlines())
    code = f"import sys, re, json\nimport numpy as np\n{setup}\n"
    code += f"def prepare(inputs, bundle):\n    {lines}\n    return dict(inputs)\n"
    return _pipelined(name, code, *reasons)


# --- too much memory -----------------------------------------------------------------------------


def _memory() -> list[Hostile]:
    cells = (3 * PEAK_BYTES) // 4  # floats: three times what is declared
    rows = cells // 4

    def expanded(count: int) -> bytes:
        node = helper.make_node("Expand", ["x", "shape"], ["wide"])
        return _reduced([node], _number("shape", [count, 1, 4]))

    growing = _loop_body(
        [helper.make_node("Concat", ["carried", "carried"], ["carried_out"], axis=0)]
    )
    loop = [
        helper.make_node("Loop", ["rounds", "yes", "x"], ["wide"], body=growing),
    ]
    ladder = [
        helper.make_node("Concat", [f"w{i}", f"w{i}"], [f"w{i + 1}"], axis=0) for i in range(26)
    ]
    ladder[0] = helper.make_node("Concat", ["x", "x"], ["w1"], axis=0)
    ladder.append(helper.make_node("Identity", ["w26"], ["wide"]))
    filled = helper.make_node("ConstantOfShape", ["shape"], ["wide"])
    models = {
        "three times the declared memory": expanded(rows),
        "a hundred gigabytes at once": expanded(25 << 28),
        "tiled": _reduced(
            [helper.make_node("Tile", ["x", "times"], ["wide"])], _number("times", [rows, 1])
        ),
        "filled": _reduced([filled], _number("shape", [cells])),
        "padded": _reduced(
            [helper.make_node("Pad", ["x", "pads"], ["wide"])], _number("pads", [rows, 0, 0, 0])
        ),
        "one-hot": _reduced(
            [
                helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
                helper.make_node("OneHot", ["index", "depth", "values"], ["wide"]),
            ],
            _number("depth", rows),
            _number("values", [0, 1], np.float32),
        ),
        "counted": _reduced(
            [
                helper.make_node("Range", ["zero", "end", "one"], ["count"]),
                helper.make_node("Cast", ["count"], ["wide"], to=TensorProto.FLOAT),
            ],
            _number("zero", 0),
            _number("end", cells),
            _number("one", 1),
        ),
        "resized": _reduced(
            [helper.make_node("Resize", ["x", "", "scales"], ["wide"], mode="nearest")],
            _number("scales", [float(rows), 1.0], np.float32),
        ),
        "doubled in a loop": _reduced(loop, _number("rounds", 40), _number("yes", True, np.bool_)),
        "doubled in a row": _reduced(ladder),
    }
    refused = frozenset({"memory_exceeded"})
    found = [Hostile(name, model, refused) for name, model in models.items()]
    found.append(
        _code("an array of its code", "", "np.ones(10**9)", "memory_exceeded"),
    )
    found.append(
        _code(
            "a list of its code that grows",
            "",
            "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
            "memory_exceeded",
        )
    )
    return found


# --- crashes -------------------------------------------------------------------------------------


def _smallest_by(operator: str, *, inside: str = "") -> bytes:
    """INT64_MIN divided by -1: the processor traps."""
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Mul", ["whole", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "smallest"], ["large"]),
    ]
    last = [
        helper.make_node(operator, ["large", "minus"], ["q"]),
        helper.make_node("Cast", ["q"], ["z"], to=TensorProto.FLOAT),
    ]
    constants = [
        _number("zero", 0),
        _number("smallest", np.iinfo(np.int64).min),
        _number("minus", -1),
    ]
    if not inside:
        return _model([*nodes, *last, helper.make_node("Identity", ["z"], ["y"])], *constants)
    if inside == "If":
        branch = _graph(last, [], [_value("z")])
        other = _graph([helper.make_node("Identity", ["x"], ["z2"])], [], [_value("z2")])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other)
        return _model([*nodes, node], *constants, _number("yes", True, np.bool_))
    body = _loop_body([*last, helper.make_node("Add", ["carried", "z"], ["carried_out"])])
    node = helper.make_node("Loop", ["three", "yes", "x"], ["y"], body=body)
    return _model([*nodes, node], *constants, _number("three", 3), _number("yes", True, np.bool_))


def _functions(depth: int, operator: str) -> bytes:
    standard, own = helper.make_opsetid("", _OPSET), helper.make_opsetid("own", 1)
    made = [
        helper.make_function(
            "own", "f0", ["a"], ["b"], [helper.make_node(operator, ["a"], ["b"])], [standard]
        )
    ]
    for level in range(1, depth):
        call = helper.make_node(f"f{level - 1}", ["a"], ["b"], domain="own")
        made.append(helper.make_function("own", f"f{level}", ["a"], ["b"], [call], [standard, own]))
    last = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")
    return _model([last], functions=tuple(made))


def _crash() -> list[Hostile]:
    crashed = frozenset({"crashed"})
    models: dict[str, Callable[[], bytes]] = {
        "smallest by minus one": lambda: _smallest_by("Div"),
        "smallest modulo minus one": lambda: _smallest_by("Mod"),
        "smallest by minus one in a branch": lambda: _smallest_by("Div", inside="If"),
        "smallest modulo minus one in a branch": lambda: _smallest_by("Mod", inside="If"),
        "smallest by minus one in a loop": lambda: _smallest_by("Div", inside="Loop"),
        "smallest modulo minus one in a loop": lambda: _smallest_by("Mod", inside="Loop"),
        "functions 20,000 deep": lambda: _functions(20_000, "Sin"),
        "other functions 20,000 deep": lambda: _functions(20_000, "Cos"),
    }
    found = [
        # The deep ones may run out of memory before they run out of stack.
        Hostile(name, make, crashed | {"memory_exceeded"} if "deep" in name else crashed)
        for name, make in models.items()
    ]
    wild = "np.lib.stride_tricks.as_strided(np.zeros(1), (9,), (1 << 40,))"
    found += [
        _code("its code reads where nothing is", "", f"{wild}.sum()", "crashed"),
        _code("its code writes where nothing is", "", f"{wild}[:] = 1", "crashed"),
        _code("its code aborts", "", "sys.modules['os'].abort()", "crashed"),
        _code("its code ends the process", "", "sys.modules['os']._exit(0)", "crashed"),
        _code("its code aborts on import", "sys.modules['os'].abort()", "pass", "crashed"),
    ]
    return found


# --- hangs ---------------------------------------------------------------------------------------


def _endless(node: Any, *constants: Any, counted: bool = True) -> bytes:
    body = _loop_body([node], *constants)
    rounds = "rounds" if counted else ""
    return _model(
        [helper.make_node("Loop", [rounds, "yes", "x"], ["y"], body=body)],
        *([_number("rounds", np.iinfo(np.int64).max)] if counted else []),
        _number("yes", True, np.bool_),
    )


def _laughs(depth: int) -> bytes:
    """Each function calls the one below ten times: ten to the depth, when they are inlined."""
    standard, own = helper.make_opsetid("", _OPSET), helper.make_opsetid("own", 1)
    made = [
        helper.make_function(
            "own", "f0", ["a"], ["b"], [helper.make_node("Sin", ["a"], ["b"])], [standard]
        )
    ]
    for level in range(1, depth):
        names = ["a", *(f"t{i}" for i in range(9)), "b"]
        calls = [
            helper.make_node(f"f{level - 1}", [names[i]], [names[i + 1]], domain="own")
            for i in range(10)
        ]
        made.append(helper.make_function("own", f"f{level}", ["a"], ["b"], calls, [standard, own]))
    last = helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")
    return _model([last], functions=tuple(made))


def _hang() -> list[Hostile]:
    hung = frozenset({"hung"})
    add = helper.make_node("Add", ["carried", "carried"], ["carried_out"])
    sine = helper.make_node("Sin", ["carried"], ["carried_out"])
    inner = _loop_body([helper.make_node("Cos", ["carried"], ["carried_out"])])
    nested = helper.make_node("Loop", ["rounds", "yes", "carried"], ["carried_out"], body=inner)
    square = helper.make_node("MatMul", ["carried", "weight"], ["carried_out"])
    found = [
        Hostile("a loop without an end", _endless(add), hung),
        Hostile("a loop without a count", _endless(sine, counted=False), hung),
        Hostile("a loop in a loop", _endless(nested), hung),
        Hostile(
            "a loop of products", _endless(square, _number("weight", np.eye(4), np.float32)), hung
        ),
        # Before the deadline it may have used up its memory: both tell what it is.
        Hostile("ten to the ninth functions", _laughs(9), frozenset({"hung", "memory_exceeded"})),
    ]
    return [
        *found,
        _code("its code loops", "", "while True: pass", "hung"),
        _code("its code loops on import", "while True: pass", "pass", "hung"),
        _code("its code sleeps", "", "sys.modules['time'].sleep(10**6)", "hung"),
        _code("its code sums for ever", "", "sum(iter(int, 1))", "hung"),
        _code("a pattern that never decides", "", "re.match('(a+)+$', 'a' * 60 + 'b')", "hung"),
        _code("a number of many digits", "", "sum(i * i for i in range(10**12))", "hung"),
    ]


# --- leaks ---------------------------------------------------------------------------------------


def _leak() -> list[Hostile]:
    reasons = ("memory_leak", "memory_exceeded")
    block = "np.ones(16384)"  # 128 KiB
    ways = {
        "a list": ("kept = []", f"kept.append({block})"),
        "a dictionary": ("kept = {}", f"kept[len(kept)] = {block}"),
        "a default argument": (
            "def keep(value, kept=[]): kept.append(value)",
            f"keep({block})",
        ),
        "an attribute of a class": (
            "class Kept: values = ()",
            f"Kept.values = (*Kept.values, {block})",
        ),
        "an attribute of a function": ("", f"prepare.__dict__[object()] = {block}"),
        "a closure": (
            "last = [None]",
            f"def chain(value=({block}), before=last[0]): return before\nlast[0] = chain",
        ),
        "a chain": ("head = [None]", f"head[0] = ({block}, head[0])"),
        "texts": ("kept = []", "kept.append('x' * 131072 + str(len(kept)))"),
        "bytes that grow": ("kept = bytearray()", "kept.extend(bytes(131072))"),
        "generators that wait": (
            f"kept = []\ndef waiting():\n    block = {block}\n    yield block.sum()\n    yield 1",
            "one = waiting(); next(one); kept.append(one)",
        ),
        "errors with their frames": (
            f"kept = []\ndef fail():\n    block = {block}\n    raise ValueError(block.sum())",
            "try: fail()\nexcept ValueError as error: kept.append(error)",
        ),
        "a cache of results": (
            "cache = {}",
            "cache[len(cache), inputs['x'].tobytes()] = " + block,
        ),
    }
    return [_code(f"a leak into {name}", *way, *reasons) for name, way in ways.items()]
