"""``robopref merge``: saved policies or rewards into one."""

from pathlib import Path

from robopref.cli.show import say
from robopref.errors import ConfigError, unknown_name

USAGE = """usage: robopref merge <folder> <folder> ... to=<new folder>
                      [weights=0.7,0.3] | [metric=held_out/accuracy [penalty=1] [lower=true]]

Averages the weights of saved policies or rewards that began from one model: uniformly (a soup), by given
weights, or by a number of their metrics.json to the power of penalty. Low-rank adapters are averaged as
what they add."""
OPTIONS = ("to", "weights", "metric", "penalty", "lower")


def merge(arguments: list[str]) -> int:
    """Merge the folders that are named."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    from robopref.training import merging

    options = dict(a.split("=", 1) for a in arguments if "=" in a)
    folders = [Path(a) for a in arguments if "=" not in a]
    for name in options:
        if name not in OPTIONS:
            raise ConfigError(unknown_name("option of merge", name, OPTIONS))
    if "to" not in options:
        raise ConfigError("merge needs to=<new folder>.")
    if "weights" in options and "metric" in options:
        raise ConfigError("merge takes weights= or metric=, not both.")
    weights = None
    if "weights" in options:
        weights = [_number("weights", x) for x in options["weights"].strip("[]").split(",")]
    elif "metric" in options:
        weights = merging.weights_by_metric(
            folders,
            options["metric"],
            penalty=_number("penalty", options.get("penalty", "1")),
            lower_is_better=options.get("lower", "false").lower() == "true",
        )
    used = merging.merge(folders, Path(options["to"]), weights)
    for folder, weight in zip(folders, used, strict=True):
        say(f"  {weight:.3f}  {folder}")
    say(f"Merged: {options['to']}")
    return 0


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number, got {text!r}.") from None
