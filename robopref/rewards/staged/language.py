"""Cost files: the stages of a task and what each of them costs, as YAML that is read and never executed.

    task: drawer-open
    points: [hand, object, goal]           # keypoints that the episodes hold
    signals: [touch, collision, force]     # numbers that the simulator gave, see robopref.training.signals
    sites: {grip: endEffector}             # poses of the simulator's sites, under names of one's own
    bodies: {drawer: drawer_link}          # likewise of its bodies
    stages:
      - name: reach
        until: distance(hand, object) < 0.06
        costs:
          - {kind: path, value: "distance(hand, object)", reduce: mean, weight: 2.0}
          - {kind: time, reduce: integral}
          - {kind: collision, value: collision, reduce: max, weight: 0.5}
      - name: open
        until: distance(object, goal) < 0.03
        missed: 2.0

Stages follow each other: one ends at the first state, from its own first state on, at which ``until`` holds,
and the next begins there. Each cost is one number per state, reduced over the stage's states by the rule that
it names. A stage that never ends is *not reached*; it costs ``missed`` (1 where not given) on top of the
costs of the states that it lasted, and a stage that never began costs its ``missed`` alone.

Source: GRAPE (Zhang et al. 2024, arXiv 2411.19309, section 4.2), where a language model writes Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robopref.errors import ConfigError, DataError, unknown_name
from robopref.rewards.staged import expressions
from robopref.rewards.staged.expressions import Expression

KINDS = ("path", "collision", "grasp", "time", "jerk", "force")
REDUCTIONS = ("mean", "max", "min", "last", "integral")
MAX_BYTES = 64 * 1024
MAX_DEPTH = 16  # of lists and tables in each other; a cost file needs six
OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
ENTRIES = {
    "file": (("task", "points", "stages"), ("signals", "sites", "bodies")),
    "stage": (("name", "until"), ("costs", "missed")),
    "cost": (("kind", "reduce"), ("value", "weight")),
}
"""What a file, a stage and a cost must say, and what they may say besides."""


@dataclass(frozen=True)
class Cost:
    """One cost of a stage: a number per state, reduced over the stage by a named rule, times its weight.

    Attributes:
        kind: What it is about, one of :data:`KINDS`: the name of its column.
        value: The number per state.
        reduce: One of :data:`REDUCTIONS`; ``integral`` is the sum times the seconds between states.
        weight: Factor of at least 0.
        line: Of the value in the file.
    """

    kind: str
    value: Expression
    reduce: str
    weight: float
    line: int


@dataclass(frozen=True)
class Place:
    """Whose pose is read from the simulator: a ``site`` or a ``body``, its name, and its line in the file."""

    kind: str
    name: str
    line: int


@dataclass(frozen=True)
class Stage:
    """One stage: when it ends, what its states cost, what it costs never to end, and its line in the file."""

    name: str
    until: Expression
    costs: tuple[Cost, ...]
    missed: float
    line: int


@dataclass(frozen=True)
class StagedCosts:
    """A cost file that was read and checked.

    ``name`` is what messages call it, ``lines`` says where each point, signal and pose is declared.
    """

    name: str
    task: str
    points: tuple[str, ...]
    signals: tuple[str, ...]
    stages: tuple[Stage, ...]
    poses: Mapping[str, Place]
    lines: Mapping[str, int]


def load_costs(path: Path | str, *, task: str | None = None) -> StagedCosts:
    """Read a cost file, or a model's answer that holds one, see :func:`parse_costs`.

    Raises:
        DataError: It cannot be read.
        ConfigError: It is not a cost file, or of another task; the message names file and line.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than the {MAX_BYTES} bytes that a cost file may have.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    return parse_costs(text, name=str(path), task=task)


def parse_costs(text: str, *, name: str, task: str | None = None) -> StagedCosts:
    """Read the text of a cost file, or what a model proposed as one.

    Args:
        text: YAML; or a model's answer, words around one block of it between ``` fences. Tags, anchors and
            several documents are refused.
        name: What messages call it, with the line.
        task: Of which it must be; None takes any.

    Raises:
        ConfigError: It is not a cost file, or of another task; the message names file and line.
    """
    text = _unfenced(text, name)
    try:
        _check_tokens(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ConfigError(f"{name}{line}: not YAML ({getattr(error, 'problem', None) or error})") from error
    return _File(name).costs(node, task)


def _check_tokens(text: str, name: str) -> None:
    """Refuse what no cost file has, before a parser spends its time and stack on it."""
    depth = 0
    for token in yaml.scan(text):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken):
            raise ConfigError(f"{name}, line {line}: a cost file has no anchors, aliases or tags")
        if isinstance(token, OPENING):
            depth += 1
        elif isinstance(token, CLOSING):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"{name}, line {line}: lists and tables are nested {MAX_DEPTH} deep at most")


def _unfenced(text: str, name: str) -> str:
    """Blank all lines but those of the one fenced block, so that lines keep their numbers."""
    lines = text.splitlines()
    fences = [number for number, line in enumerate(lines) if line.strip().startswith("```")]
    if not fences:
        return text
    if len(fences) != 2:
        raise ConfigError(
            f"{name}, line {fences[-1] + 1}: an answer holds one block between two ``` fences, got "
            f"{len(fences)} fences"
        )
    first, last = fences
    return "\n".join([*[""] * (first + 1), *lines[first + 1 : last]])


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


class _File:
    """Reads nodes and says where they stand when something is wrong with them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.points: set[str] = set()
        self.signals: set[str] = set()
        self.poses: dict[str, Place] = {}
        self.lines: dict[str, int] = {}

    def costs(self, node: yaml.Node | None, wanted: str | None) -> StagedCosts:
        if node is None:
            raise ConfigError(f"{self.name} is empty")
        fields = self.table(node, "file")
        task = self.text(fields["task"])
        if wanted not in (None, task):
            raise self.wrong(fields["task"], f"the costs are of the task {task}, and {wanted} needs its own")
        points, signals = self.names(fields["points"]), self.names(fields.get("signals"))
        if twice := set(points) & set(signals):
            raise self.wrong(fields["signals"], f"{sorted(twice)[0]!r} is a point already")
        self.points, self.signals = set(points), set(signals)
        self.places(fields.get("sites"), "site")
        self.places(fields.get("bodies"), "body")
        stages: dict[str, Stage] = {}
        for item in self.items(fields["stages"]):
            stage = self.stage(item)
            if stage.name in stages:
                raise self.wrong(
                    item, f"a stage is called {stage.name} already, in line {stages[stage.name].line}"
                )
            stages[stage.name] = stage
        if not stages:
            raise self.wrong(fields["stages"], "there must be at least one stage")
        return StagedCosts(
            self.name, task, tuple(points), tuple(signals), tuple(stages.values()), self.poses, self.lines
        )

    def places(self, node: yaml.Node | None, kind: str) -> None:
        """Read the poses of one kind, none of whose names may stand for something else already."""
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"here stands a table: a name of one's own, and that of the {kind}")
        for key, value in node.value:
            name = self.identifier(key)
            if name in (*self.points, *self.signals, *self.poses):
                raise self.wrong(key, f"{name!r} is a point, signal or pose already")
            self.poses[name] = Place(kind, self.text(value), _line(value))

    def stage(self, node: yaml.Node) -> Stage:
        fields = self.table(node, "stage")
        until = self.expression(fields["until"], expressions.TRUTH)
        if not until.names:
            raise self.wrong(
                fields["until"], f"{until.text!r} depends on no point or signal: always, or never, reached"
            )
        return Stage(
            name=self.text(fields["name"]),
            until=until,
            costs=tuple(self.cost(item) for item in self.items(fields.get("costs"))),
            missed=self.number(fields.get("missed"), 1.0),
            line=_line(node),
        )

    def cost(self, node: yaml.Node) -> Cost:
        fields = self.table(node, "cost")
        kind = self.choice(fields["kind"], "kind of cost", KINDS)
        reduce = self.choice(fields["reduce"], "reduction", REDUCTIONS)
        if (kind == "time") != ("value" not in fields):
            raise self.wrong(node, f"a cost of kind {kind} has {'no' if kind == 'time' else 'a'} value")
        if kind == "time":
            if reduce != "integral":
                raise self.wrong(fields["reduce"], "time is counted in seconds: reduce must be integral")
            value = expressions.parse("1", points=set(), signals=set(), wanted=expressions.NUMBER)
        else:
            value = self.expression(fields["value"], expressions.NUMBER)
        line = _line(fields.get("value", node))
        return Cost(kind, value, reduce, self.number(fields.get("weight"), 1.0), line)

    # -- single nodes --------------------------------------------------------------------------------------

    def wrong(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {_line(node)}: {what}")

    def table(self, node: yaml.Node, what: str) -> Mapping[str, Any]:
        required, optional = ENTRIES[what]
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"here stands a table with {', '.join(required)}")
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key)
            if name not in (*required, *optional):
                raise self.wrong(key, unknown_name("entry", name, (*required, *optional)))
            if name in fields:
                raise self.wrong(key, f"{name} is given twice")
            fields[name] = value
        if missing := [name for name in required if name not in fields]:
            raise self.wrong(node, f"{' and '.join(missing)} is missing")
        return fields

    def items(self, node: yaml.Node | None) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong(node, "here stands a list")
        return node.value

    def names(self, node: yaml.Node | None) -> list[str]:
        found = [self.identifier(item) for item in self.items(node)]
        if node is not None and len(set(found)) < len(found):
            raise self.wrong(node, f"a name is given twice: {found}")
        return found

    def identifier(self, node: yaml.Node) -> str:
        """Read a name that is declared here."""
        name = self.text(node)
        if not name.isidentifier():
            raise self.wrong(node, f"{name!r} cannot be a name: letters, digits and _ only")
        self.lines[name] = _line(node)
        return name

    def text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise self.wrong(node, "here stands a word")
        return node.value

    def number(self, node: yaml.Node | None, default: float) -> float:
        if node is None:
            return default
        try:
            value = float(self.text(node))
        except ValueError as error:
            raise self.wrong(node, f"{node.value!r} is not a number") from error
        if not 0 <= value < float("inf"):
            raise self.wrong(node, f"the number must be finite and not negative, got {value:g}")
        return value

    def choice(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> str:
        name = self.text(node)
        if name not in known:
            raise self.wrong(node, unknown_name(what, name, known))
        return name

    def expression(self, node: yaml.Node, wanted: str) -> Expression:
        try:
            return expressions.parse(
                self.text(node),
                points=self.points,
                signals=self.signals,
                wanted=wanted,
                poses=self.poses.keys(),
            )
        except ConfigError as error:
            raise self.wrong(node, str(error)) from error
