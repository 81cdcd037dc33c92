"""``robopref objectives [word ...]``: which preference losses there are, and what each of them trains."""

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robopref.errors import ConfigError
from robopref.objectives.description import LABELS, LEARNERS, SCORES, Objective
from robopref.objectives.registry import REGISTRY

USAGE = """usage: robopref objectives [word ...]

Lists the preference objectives; with words, those whose line holds all of them (ipo, lists, "et al. 2024").
"reward", "policy", "diffusion" and "token" say where objective=<name> trains a reward model, a Gaussian
policy, a diffusion or flow policy, and a token policy.
In equations h = s_w - s_l, s() is the logistic function, ls() its log, b beta and e the chance of a flip."""


def objectives(arguments: list[str]) -> int:
    """Print the registry as a table."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    words = [word.lower() for word in arguments]
    found = [o for o in REGISTRY.values() if all(word in _line(o) for word in words)]
    if not found:
        raise ConfigError(
            f"No objective's line holds {' and '.join(map(repr, words))}. "
            "Without words, robopref objectives lists all."
        )
    # a pipe has no width: lines are then as long as they need to be
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(_table(found))
    console.print(f"{len(found)} of {len(REGISTRY)} objectives", style="dim")
    return 0


def _table(found: list[Objective]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("objective", "labels", "reference", "score", "reward", "policy", "diffusion", "token"):
        table.add_column(name, no_wrap=True)
    table.add_column("equation", overflow="fold")
    table.add_column("source", overflow="fold")
    for o in found:
        table.add_row(*_cells(o), escape(o.equation), escape(o.source))
    return table


def _cells(o: Objective) -> tuple[str, ...]:
    return (
        o.name,
        o.labels,
        "yes" if o.needs_reference else "no",
        o.score,
        *("" if o.refusal(learner) else "yes" for learner in LEARNERS),
    )


def _line(o: Objective) -> str:
    return " ".join((*_cells(o), LABELS[o.labels], SCORES[o.score], o.equation, o.source)).lower()
