"""The command line: ``robopref <verb> key=value ...``. Light on purpose; a verb imports what it needs."""

import importlib.util
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from robopref.errors import MissingExtraError, RoboprefError, hide_passwords, unknown_name
from robopref.training.interruption import end_quietly

VERBS = {
    "run": "one experiment from data to report, e.g. experiment=pearl env.task=door-close",
    "collect": "simulated episodes of graded quality -> a trajectory store",
    "label": "people compare clips in the browser -> labels",
    "labels": "labels -> Parquet, CSV or JSON lines with a data card; tokens for a team",
    "label-scripted": "a scripted teacher compares episodes -> labels",
    "align": "labels of source tasks -> labels of a target task",
    "train-reward": "labels -> a reward model",
    "train-policy": "episodes and rewards -> a policy",
    "evaluate": "a policy -> success rate on paired seeds, and videos",
    "export": "a run -> a bundle that a robot uses without torch: ONNX, manifest, parity report",
    "serve": "a bundle -> a policy server that openpi's clients talk to",
    "objectives": "which preference losses there are, and what each of them trains",
    "data": "between our store and robomimic, Minari or LeRobot; or show what is inside",
    "merge": "saved policies or rewards -> their average: a soup, or weighted by a metric",
    "report": "run folders -> a table and an HTML page",
    "doctor": "versions, GPU, rendering, and what is missing with its cure",
}

HELP = """robopref: robot preference learning

usage: robopref <verb> [key=value ...]

{verbs}

Every verb that computes is configured with Hydra:
  robopref run env.task=door-close reward=bradley_terry seed=3    overrides
  robopref run -m seed=0,1,2                                      a sweep
  robopref run --cfg job                                          the whole configuration
  robopref run --help                                             the choices of every group
python scripts/<verb>.py is the same as robopref <verb>."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 refused or failed, 2 no such verb, 130 interrupted."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:<16}{text}" for name, text in VERBS.items())))
        return 0
    if verb in ("-V", "--version", "version"):
        print(f"robopref {metadata.version('robopref')}")
        return 0
    if verb not in VERBS:
        print(unknown_name("verb", verb, VERBS), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, end_quietly)
    try:
        return _start(verb, rest)
    except RoboprefError as error:
        print(f"\nrobopref {verb}: {hide_passwords(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        sentence = str(stop) or "Interrupted. The same command goes on from here."
        print(f"\nrobopref {verb}: {sentence}", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            print(f"\nrobopref {verb}: terminated. The same command goes on from here.", file=sys.stderr)
        raise


def _require_lab(verb: str) -> None:
    """Refuse a verb whose packages are not installed; what comes with one of these comes with all of them."""
    missing = [name for name in ("rich", "hydra", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"robopref {verb} needs {' and '.join(missing)}, not installed here: pip install 'robopref[lab]'"
        )


def _start(verb: str, rest: list[str]) -> int:
    if verb == "serve":
        from robopref.cli.serve import serve

        return serve(rest)
    _require_lab(verb)
    if verb == "export":
        from robopref.cli.export import export

        return export(rest)
    if verb == "report":
        from robopref.cli.report import report

        return report(rest)
    if verb == "objectives":
        from robopref.cli.objectives import objectives

        return objectives(rest)
    if verb == "data":
        from robopref.cli.data import data

        return data(rest)
    if verb == "labels":
        from robopref.cli.labels import labels

        return labels(rest)
    if verb == "merge":
        from robopref.cli.merge import merge

        return merge(rest)
    if verb == "doctor":
        from robopref.cli.doctor import doctor

        return doctor(rest)
    if verb == "label" and not any(word.startswith("-") for word in rest):
        print("Starting the labelling page; its address follows in a few seconds.", flush=True)
    from robopref.cli.launch import launch  # takes those seconds

    return launch(verb, rest)
