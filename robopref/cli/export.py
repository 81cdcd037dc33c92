"""``robopref export``: a run becomes a bundle that a robot can use without torch."""

from pathlib import Path

from robopref.cli.options import read_options
from robopref.cli.show import say
from robopref.errors import ConfigError, MissingExtraError
from robopref.files import read_json

USAGE = """usage: robopref export run=<run> target=<bundle> [spec=<robot.json>]
                       [scorer=reward|implicit|product|none] [sampler=policy|reference]
       robopref export policy=<folder> [reward=<folder>] [data=<store>] target=<bundle> ...

Writes ONNX networks with their normalisers, manifest.json and parity.json (torch against ONNX Runtime).
policy=, reward= and data= replace what the run holds. sampler= says what proposes candidates: the policy, or
the reference that it started from, which is the default of a run of DeformPAM. spec= is a JSON file that says
what only you know: names, units and frames of observations and actions, limits, workspace boxes, how to hold,
where home is (docs/deploy.md)."""

OPTIONS = {
    "run": Path,
    "policy": Path,
    "reward": Path,
    "data": Path,
    "target": Path,
    "scorer": str,
    "sampler": str,
    "spec": Path,
}


def export(arguments: list[str]) -> int:
    """Write a bundle."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    options = read_options("export", arguments, OPTIONS)
    try:
        from robopref.deploy import export as exporting
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnxruntime", "onnx", "onnxscript", "msgpack"):
            raise
        raise MissingExtraError(
            f"Exporting needs {error.name}, which is not installed: pip install 'robopref[export]'"
        ) from error
    if "target" not in options or not options.keys() & {"run", "policy"}:
        raise ConfigError("export needs run=<run> (or policy=<folder>) and target=<bundle>.")
    run = options.get("run")
    found = {} if run is None else exporting.find_in_run(run)
    found |= {name: options[name] for name in ("policy", "reward", "data", "sampler") if name in options}
    spec = read_json(options["spec"]) if "spec" in options else {}
    if not isinstance(spec, dict):
        raise ConfigError(f"{options['spec']} must hold a JSON object.")
    target = options["target"]
    report = exporting.export(
        found["policy"],
        target,
        reward_dir=found.get("reward"),
        scorer=options.get("scorer"),
        sampler=found.get("sampler", "policy"),
        data=found.get("data"),
        spec=spec,
        source={name: str(value) for name, value in {"run": run, **found}.items() if value is not None},
    )
    for name, kinds in report.parity.items():
        for kind, result in kinds.items():
            say(f"  {name}: {result['relative_difference']:.1e} from torch on {result['rows']} {kind} inputs")
    for note in report.notes:
        say(f"  {note}")
    say(f"Bundle: {target}")
    return 0
