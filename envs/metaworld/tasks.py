"""The names of the fifty tasks, and their Gymnasium ids. Imports no simulator."""

from ..names import unknown_name

TASKS: tuple[str, ...] = (
    "assembly",
    "basketball",
    "bin-picking",
    "box-close",
    "button-press",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hammer",
    "hand-insert",
    "handle-press",
    "handle-press-side",
    "handle-pull",
    "handle-pull-side",
    "lever-pull",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-out-of-hole",
    "pick-place",
    "pick-place-wall",
    "plate-slide",
    "plate-slide-back",
    "plate-slide-back-side",
    "plate-slide-side",
    "push",
    "push-back",
    "push-wall",
    "reach",
    "reach-wall",
    "shelf-place",
    "soccer",
    "stick-pull",
    "stick-push",
    "sweep",
    "sweep-into",
    "window-close",
    "window-open",
)


def environment_id(task: str) -> str:
    """Return the Gymnasium id of a task, as registered by importing ``robopref.envs``.

    Raises:
        ValueError: No task has this name; the message names the nearest one.
    """
    if task not in TASKS:
        raise ValueError(unknown_name("Meta-World task", task, TASKS))
    return f"robopref/mw-{task}-v0"


def task_id(task: str) -> str:
    """Return the id that :func:`gymnasium.make` resolves without a prior import.

    >>> task_id("drawer-open")
    'robopref.envs:robopref/mw-drawer-open-v0'

    Raises:
        ValueError: No task has this name; the message names the nearest one.
    """
    return f"robopref.envs:{environment_id(task)}"
