"""What a vision-language model is asked, so that it proposes a cost file: made of the whitelist itself.

GRAPE (Zhang et al. 2024, arXiv 2411.19309, section 4.2) lets a model find stages and write their costs as
Python. Here it writes a cost file, which is parsed and never executed: the prompt names what the parser
knows, from where the parser knows it, so that the two cannot disagree. Nothing is sent anywhere from here.
"""

from collections.abc import Mapping

from robopref.data.language import wordings
from robopref.rewards.staged.expressions import FUNCTIONS, MAX_CHARACTERS, OPERATORS
from robopref.rewards.staged.language import ENTRIES, KINDS, REDUCTIONS

POINTS = {
    "hand": "between the fingers of the gripper",
    "object": "what is handled",
    "goal": "where it shall come to",
}
"""Points of a Meta-World task."""
SIGNALS = {
    "touch": "contacts of the arm with what it may touch",
    "collision": "contacts of the arm with anything else",
    "force": "of all these contacts, in newtons",
    "gripper": "its opening, from 0 (closed) to 1",
}
"""Signals of a Meta-World task."""
MEANINGS = {
    "file": {
        "task": "its name, as above",
        "points": "those of the points above that are used, as a list",
        "stages": "a list, in the order in which they follow each other",
        "signals": "those of the signals above that are used, as a list",
        "sites": "poses of the simulator's sites, if you know some: a name of your own, and the site's",
        "bodies": "likewise of its bodies",
    },
    "stage": {
        "name": "a word",
        "until": "a truth value: the stage ends at the first state at which it holds",
        "costs": "a list",
        "missed": "what it costs never to end the stage; 1 where not given",
    },
    "cost": {
        "kind": f"one of {', '.join(KINDS)}",
        "reduce": f"over the states of its stage, one of {', '.join(REDUCTIONS)}; integral of kind time",
        "value": "a number for each state, in quotes; of every kind but time",
        "weight": "a factor of 0 or more; 1 where not given",
    },
}
EXAMPLE = """\
task: cup-lift
points: [hand, cup]
signals: [gripper, collision]
bodies: {held_cup: cup_link}
stages:
  - name: grasp
    until: "distance(hand, cup) < 0.03 and gripper < 0.6"
    costs:
      - {kind: path, value: "distance(hand, cup)", reduce: min, weight: 2.0}
      - {kind: collision, value: "held(collision > 0)", reduce: mean, weight: 0.5}
      - {kind: time, reduce: integral, weight: 0.3}
  - name: lift
    until: "moved(held_cup) > 0.1"
    missed: 2.0
    costs:
      - {kind: grasp, value: "held(distance(hand, cup) > 0.05)", reduce: mean}
      - {kind: path, value: "tilt(held_cup)", reduce: max, weight: 0.5}
"""
"""A cost file of a task that there is not, so that no answer is given away."""


def prompt(
    task: str,
    *,
    instruction: str | None = None,
    points: Mapping[str, str] = POINTS,
    signals: Mapping[str, str] = SIGNALS,
) -> str:
    """Return the text to send, beside a frame of the scene, to a model of one's own choice.

    What it answers is a file for ``grape.judge.files`` as it comes, see
    :func:`~robopref.rewards.staged.language.load_costs`.

    Args:
        task: What the file is for.
        instruction: What the robot is told; None takes the first of robopref's own.
        points: Keypoints that its episodes hold, and what each is.
        signals: Likewise, of what its simulator says.

    Raises:
        ConfigError: The task has no instruction, and none is given.
    """
    told = instruction or wordings(task).seen[0]
    functions = {
        f"{name}({', '.join(function.takes)})": f"a {function.gives}: {function.meaning}"
        for name, function in sorted(FUNCTIONS.items())
    }
    parts = [
        f"A robot arm is told to {told!r} (the task {task}). The picture shows how it begins. Divide the "
        "task into stages, and say what each of them costs: a good attempt costs little. Answer with one "
        "YAML file between ``` fences, in the form below and with nothing that is not listed. It is parsed, "
        "not run.",
        _listed("Points (metres)", points),
        _listed("Signals (numbers)", signals),
        *(_listed(f"Entries of a {what}", _entries(what)) for what in ENTRIES),
        f"An expression (until, value) has at most {MAX_CHARACTERS} characters: numbers, names of points, "
        f"signals and poses, {OPERATORS}, and functions. A pose may stand wherever a point may.",
        _listed("Functions", functions),
        f"An example, of another task:\n\n```yaml\n{EXAMPLE}```",
    ]
    return "\n\n".join(parts) + "\n"


def _entries(what: str) -> dict[str, str]:
    required, optional = ENTRIES[what]
    meanings = MEANINGS[what]
    return {
        **{name: meanings[name] for name in required},
        **{f"{name} (optional)": meanings[name] for name in optional},
    }


def _listed(title: str, lines: Mapping[str, str]) -> str:
    return "\n".join([f"{title}:", *(f"- {name}: {meaning}" for name, meaning in lines.items())])
