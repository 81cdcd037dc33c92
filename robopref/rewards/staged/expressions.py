"""Expressions of the cost language: parsed against a whitelist, evaluated on arrays, never executed.

An expression is written as in Python: ``distance(hand, object) < 0.05 and touch > 0``. What it may hold is in
:data:`FUNCTIONS`, plus numbers, names of points, poses and signals, ``+ - * /``, comparisons, ``and or
not``. Every part has a kind (a point, a pose, a number or a truth value), checked when the text is read, so
that an expression which was accepted can always be computed. A pose may stand wherever a point may. Units:
metres, radians, seconds, newtons.

Letters used in shapes: R states of an episode.
"""

import ast
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from robopref.errors import ConfigError, unknown_name

POINT, POSE, NUMBER, TRUTH = "point", "pose", "number", "truth value"
MAX_CHARACTERS = 500
MAX_LEVELS = 50
OPERATORS = "+ - * /, single comparisons < <= > >=, and, or, not"


@dataclass(frozen=True, eq=False)
class Recorded:
    """What an episode recorded, one row for each of its R states.

    Attributes:
        points: Named positions (R, 3) in metres.
        signals: Named numbers (R,), such as contact forces in newtons.
        control_hz: States per second.
        poses: Named rotations, in the world's axes, beside positions in metres: (R, 3, 4).
    """

    points: Mapping[str, Float64[np.ndarray, "R 3"]]
    signals: Mapping[str, Float64[np.ndarray, " R"]]
    control_hz: float
    poses: Mapping[str, Float64[np.ndarray, "R 3 4"]] = field(default_factory=dict)

    @property
    def states(self) -> int:
        """How many states, R."""
        return len(next(iter({**self.points, **self.signals, **self.poses}.values())))


def _norm(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points, axis=-1)


def _derivative(points: np.ndarray, order: int, hz: float) -> np.ndarray:
    """Size of a backward difference; zero where there are not yet enough states."""
    padded = np.concatenate([np.repeat(points[:1], order, 0), points])
    size = _norm(np.diff(padded, n=order, axis=0)) * hz**order
    size[:order] = 0  # the padding pretends that the point stood still before
    return size


def _tilt(poses: np.ndarray) -> np.ndarray:
    """Angle between the third axis of a pose and the world's."""
    return np.arccos(np.clip(poses[:, 2, 2], -1, 1))


def _turned(poses: np.ndarray) -> np.ndarray:
    """Angle of the rotation from the first state to each: its cosine is (trace - 1) / 2."""
    trace = np.einsum("ij,rij->r", poses[0, :, :3], poses[:, :, :3])
    return np.arccos(np.clip((trace - 1) / 2, -1, 1))


@dataclass(frozen=True)
class Function:
    """A function of the language: the kinds it takes, the kind it gives, and what it computes."""

    takes: tuple[str, ...]
    gives: str
    compute: Callable[..., np.ndarray]
    meaning: str


FUNCTIONS: dict[str, Function] = {
    "distance": Function((POINT, POINT), NUMBER, lambda hz, a, b: _norm(a - b), "metres between two points"),
    "horizontal": Function(
        (POINT, POINT),
        NUMBER,
        lambda hz, a, b: _norm((a - b)[:, :2]),
        "metres between two points seen from above",
    ),
    "height": Function((POINT,), NUMBER, lambda hz, a: a[:, 2], "metres above the origin"),
    "moved": Function((POINT,), NUMBER, lambda hz, a: _norm(a - a[0]), "metres from where a point began"),
    "speed": Function((POINT,), NUMBER, lambda hz, a: _derivative(a, 1, hz), "metres per second"),
    "jerk": Function((POINT,), NUMBER, lambda hz, a: _derivative(a, 3, hz), "metres per second cubed"),
    "tilt": Function((POSE,), NUMBER, lambda hz, a: _tilt(a), "radians from upright"),
    "turned": Function((POSE,), NUMBER, lambda hz, a: _turned(a), "radians from how it began"),
    "abs": Function((NUMBER,), NUMBER, lambda hz, a: np.abs(a), "size of a number"),
    "positive": Function((NUMBER,), NUMBER, lambda hz, a: np.maximum(a, 0), "the number, or 0 below 0"),
    "min": Function((NUMBER, NUMBER), NUMBER, lambda hz, a, b: np.minimum(a, b), "the smaller"),
    "max": Function((NUMBER, NUMBER), NUMBER, lambda hz, a, b: np.maximum(a, b), "the larger"),
    "held": Function(
        (TRUTH,), NUMBER, lambda hz, a: np.where(a, 1.0, 0.0), "1 where something holds and 0 elsewhere"
    ),
}
_ARITHMETIC: dict[type, Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_COMPARISONS: dict[type, Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_BOOLEAN: dict[type, Callable[..., Any]] = {ast.And: np.logical_and, ast.Or: np.logical_or}


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As it was written.
        kind: Of its value: ``number`` or ``truth value``.
        compute: From what was recorded to one value per state, (R,).
        names: Points, poses and signals that it depends on.
    """

    text: str
    kind: str
    compute: Callable[[Recorded], np.ndarray]
    names: frozenset[str]


def parse(
    text: str, *, points: Set[str], signals: Set[str], wanted: str, poses: Set[str] = frozenset()
) -> Expression:
    """Read an expression.

    Args:
        text: Of at most 500 characters, and 50 levels of operators and functions.
        points: Names of positions that it may use.
        signals: Names of numbers that it may use.
        wanted: The kind that its value must have.
        poses: Names of positions with an orientation that it may use.

    Raises:
        ConfigError: It holds something that the language does not have; the message says what there is.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"an expression has at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{text!r} is not an expression ({error.__class__.__name__}: {error})") from error
    if (depth := _depth(tree.body)) > MAX_LEVELS:
        raise ConfigError(
            f"an expression has at most {MAX_LEVELS} levels (each operator and function is one), got {depth}"
        )
    reader = _Reader(points, signals, poses)
    kind, compute = reader.read(tree.body)
    if kind != wanted:
        raise ConfigError(f"{text!r} is a {kind} where a {wanted} is needed")
    return Expression(text, kind, compute, frozenset(reader.used))


def _depth(tree: ast.expr) -> int:
    """Levels of a syntax tree, counted without recursion; signs of operators are none."""
    level: list[ast.AST] = [tree]
    depth = 0
    while level:
        depth += 1
        level = [part for node in level for part in ast.iter_child_nodes(node) if part._fields]
    return depth


_Part = tuple[str, Callable[[Recorded], np.ndarray]]


class _Reader:
    """Walks a syntax tree and builds the function that computes it."""

    def __init__(self, points: Set[str], signals: Set[str], poses: Set[str]) -> None:
        self.points, self.signals, self.poses = points, signals, poses
        self.used: set[str] = set()

    def read(self, node: ast.expr) -> _Part:
        match node:
            case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
                return self._number(value)
            case ast.Name(id=name):
                return self._name(name)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return NUMBER, _join(_ARITHMETIC[type(op)], self._of(NUMBER, left), self._of(NUMBER, right))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return NUMBER, _join(np.negative, self._of(NUMBER, operand))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return TRUTH, _join(np.logical_not, self._of(TRUTH, operand))
            case ast.BoolOp(op=op, values=values):
                return TRUTH, _join(_BOOLEAN[type(op)], *(self._of(TRUTH, value) for value in values))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return TRUTH, _join(_COMPARISONS[type(op)], self._of(NUMBER, left), self._of(NUMBER, right))
        raise ConfigError(
            f"{ast.unparse(node)!r} is not part of the language, which has numbers, names, {OPERATORS}, and "
            f"the functions {', '.join(sorted(FUNCTIONS))}"
        )

    def _number(self, value: int | float) -> _Part:
        try:
            number = float(value)
        except OverflowError:  # an int may be larger than any float
            number = np.inf
        if np.isinf(number):
            raise ConfigError(f"a number is at most {np.finfo(float).max:.1e}, got a larger one")
        return NUMBER, lambda recorded: np.full(recorded.states, number)

    def _name(self, name: str) -> _Part:
        self.used.add(name)
        if name in self.points:
            return POINT, lambda recorded: recorded.points[name]
        if name in self.signals:
            return NUMBER, lambda recorded: recorded.signals[name]
        if name in self.poses:
            return POSE, lambda recorded: recorded.poses[name]
        raise ConfigError(unknown_name("point or signal", name, self.points | self.signals | self.poses))

    def _call(self, name: str, arguments: list[ast.expr]) -> _Part:
        if name not in FUNCTIONS:
            raise ConfigError(unknown_name("predicate or function", name, FUNCTIONS))
        function = FUNCTIONS[name]
        if len(arguments) != len(function.takes):
            raise ConfigError(f"{name} takes {len(function.takes)} arguments, got {len(arguments)}")
        parts = [self._of(kind, node) for kind, node in zip(function.takes, arguments, strict=True)]
        return function.gives, lambda recorded: function.compute(
            recorded.control_hz, *(part(recorded) for part in parts)
        )

    def _of(self, wanted: str, node: ast.expr) -> Callable[[Recorded], np.ndarray]:
        kind, compute = self.read(node)
        if (kind, wanted) == (POSE, POINT):
            return lambda recorded: compute(recorded)[..., 3]
        if kind != wanted:
            raise ConfigError(f"{ast.unparse(node)!r} is a {kind} where a {wanted} is needed")
        return compute


def _join(
    function: Callable[..., Any], first: Callable[[Recorded], np.ndarray], *others: Callable[..., np.ndarray]
) -> Callable[[Recorded], np.ndarray]:
    def compute(recorded: Recorded) -> np.ndarray:
        value = first(recorded)
        if not others:
            return function(value)
        for other in others:
            value = function(value, other(recorded))
        return value

    return compute
