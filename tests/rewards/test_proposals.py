"""What a model is asked is what the parser accepts."""

import re

import pytest

from robopref.errors import ConfigError
from robopref.rewards.staged.expressions import FUNCTIONS, NUMBER, POINT, POSE, TRUTH, parse
from robopref.rewards.staged.language import KINDS, REDUCTIONS, parse_costs
from robopref.rewards.staged.proposals import prompt

PROMPT = prompt("drawer-open")
WRITTEN = {POINT: "hand", POSE: "drawer", NUMBER: "force", TRUTH: "force > 1"}


def listed(title):
    """The names under a heading of the prompt."""
    (block,) = re.findall(rf"^{title}.*:\n((?:- .*\n)+)", PROMPT, re.MULTILINE)
    return [line[2:].split(": ")[0] for line in block.splitlines()]


def one_of(what):
    (found,) = re.findall(rf"{what}.*one of ([a-z, ]+)", PROMPT)
    return found.split(", ")


def test_every_function_that_is_named_parses_with_the_kinds_that_it_is_said_to_take():
    written = listed("Functions")
    assert {text.split("(")[0] for text in written} == set(FUNCTIONS)
    for text in written:
        name, kinds = text.rstrip(")").split("(")
        call = f"{name}({', '.join(WRITTEN[kind] for kind in kinds.split(', '))})"
        parse(call, points={"hand"}, signals={"force"}, poses={"drawer"}, wanted=NUMBER)


def test_every_operator_that_is_named_parses():
    (operators,) = re.findall(r"signals and poses, (.*), and functions", PROMPT)
    arithmetic, comparisons, *logic = operators.split(", ")
    for sign in arithmetic.split():
        parse(f"force {sign} 2", points=set(), signals={"force"}, wanted=NUMBER)
    for sign in comparisons.removeprefix("single comparisons ").split():
        parse(f"force {sign} 2", points=set(), signals={"force"}, wanted=TRUTH)
    assert logic == ["and", "or", "not"]
    for text in ("force > 1 and force < 2", "force > 1 or force < 2", "not force > 1"):
        parse(text, points=set(), signals={"force"}, wanted=TRUTH)


FILE = """\
task: drawer-open
points: [{points}]
signals: [{signals}]
sites: {{grip: endEffector}}
bodies: {{drawer: drawer_link}}
stages:
  - name: only
    until: {until}
    missed: 2
    costs:
      - {{kind: time, reduce: integral}}
"""


def test_a_file_with_every_point_signal_entry_kind_and_reduction_that_is_named_parses():
    points, signals = listed("Points"), listed("Signals")
    kinds, reductions = one_of("kind"), one_of("reduce")
    assert (tuple(kinds), tuple(reductions)) == (KINDS, REDUCTIONS)
    until = " and ".join([*(f"height({point}) > 0" for point in points), *(f"{one} > 0" for one in signals)])
    text = FILE.format(points=", ".join(points), signals=", ".join(signals), until=until)
    for kind in sorted(set(kinds) - {"time"}):
        for rule in reductions:
            text += f'      - {{kind: {kind}, reduce: {rule}, value: "{signals[0]}", weight: 0.5}}\n'
    found = parse_costs(text, name="proposal", task="drawer-open")
    assert len(found.stages[0].costs) == 1 + 5 * 5
    entries = [
        name.split()[0] for what in ("file", "stage", "cost") for name in listed(f"Entries of a {what}")
    ]
    assert [name for name in entries if f"{name}:" not in text] == []


def test_the_example_parses_as_an_answer_does_and_has_the_defaults_that_are_said():
    found = parse_costs(PROMPT, name="prompt", task="cup-lift")
    assert [stage.name for stage in found.stages] == ["grasp", "lift"]
    assert found.stages[0].missed == found.stages[1].costs[0].weight == 1
    assert PROMPT.count("1 where not given") == 2


def test_another_lab_gives_its_own_points_and_says_what_the_robot_is_told():
    text = prompt(
        "pour", instruction="pour the tea", points={"spout": "of the pot"}, signals={"weight": "in newtons"}
    )
    assert "- spout: of the pot" in text
    assert "'pour the tea'" in text
    with pytest.raises(ConfigError, match="No task with instructions is called 'pour'"):
        prompt("pour")
