"""``robopref labels``: labels for other tools, and tokens for those who give them."""

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from robopref.cli.options import read_options
from robopref.cli.show import console, say
from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, counted, unknown_name

USAGE = """usage: robopref labels export data=<store> to=<folder> [format=parquet,csv,jsonl] [labels=<url>]
       robopref labels preview data=<store> [pairs=250] [segment_length=<actions>] [query=random]
                               [reward_dir=<folder>] [annotators=3] [beta=<rationality>]
                               [mistake=0.1] [seeds=3]
       robopref labels token data=<store> annotator=<name> [revoke=true] [labels=<url>]

export writes every label as Parquet (or CSV, or JSON lines), and README.md, a card that says how many there
are, by whom, of which data, and how far people agree.
token makes a token with which one person may label on a server of the team, under that name alone; it is
shown once and stored hashed. revoke=true takes all tokens of that person back.
preview lets scripted annotators answer over HTTP, by the environment's rewards with mistakes, and says how
accurate a small reward is after 10, 20, 40, ... labels. Nothing is kept.
labels= says where the labels are, if not in the data folder: any SQLAlchemy URL. Of data in another format,
they are below imports= (outputs/imported), where robopref label read it in."""

IMPORTS = "outputs/imported"  # as in conf/label.yaml

OPTIONS: dict[str, dict[str, type]] = {
    "export": {"data": str, "labels": str, "imports": str, "to": str, "format": list},
    "preview": {
        "data": str,
        "pairs": int,
        "segment_length": int,
        "query": str,
        "reward_dir": str,
        "annotators": int,
        "beta": float,
        "mistake": float,
        "seeds": int,
    },
    "token": {"data": str, "labels": str, "imports": str, "annotator": str, "revoke": bool},
}


def labels(arguments: list[str]) -> int:
    """Run ``export``, ``preview`` or ``token``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    what, *rest = arguments
    if what not in OPTIONS:
        raise ConfigError(unknown_name("command of labels", what, OPTIONS))
    options = read_options(f"labels {what}", rest, OPTIONS[what])
    if what == "preview":
        _preview(options)
        return 0
    url = _url(options, must_exist=what == "export")
    if what == "export":
        _export(url, options.get("to"), options.get("format", ["parquet"]))
    else:
        _token(url, options.get("annotator"), options.get("revoke", False))
    return 0


def _url(options: dict[str, Any], *, must_exist: bool) -> str:
    data = options.get("data")
    if "labels" in options:
        return options["labels"]
    if data is None:
        raise ConfigError("Name the labels: data=<store>, or labels=<url>.")
    imports = options.get("imports", IMPORTS)
    with TrajectoryStore.open(_store(Path(data), imports)) as store:
        path = Path(store.path) / "labels.sqlite"
    if must_exist and not path.exists():
        raise DataError(
            f"{data} has no labels yet; robopref label makes some. labels=<url> names another place."
        )
    return f"sqlite:///{path}"


def _store(data: Path, imports: str) -> Path:
    """Return the store of a data set, which ``robopref label`` made where it is of another format."""
    from robopref.data.interchange.imported import is_foreign, place_of

    return place_of(data, Path(imports)) if is_foreign(data) else data


def _export(url: str, to: str | None, formats: list[str]) -> None:
    from robopref.labeling.export import CARD, export_labels

    if to is None:
        raise ConfigError("labels export needs to=<folder>.")
    with LabelStore(url) as held:
        count = export_labels(held, Path(to), formats)
    written = [*(f"labels.{name}" for name in formats), CARD]
    say(f"{counted(count, 'label')} -> {', '.join(str(Path(to) / name) for name in written)}")


def _preview(options: dict[str, Any]) -> None:
    import tempfile

    import numpy as np

    from robopref.data.teachers import ScriptedTeacher
    from robopref.labeling.plan import make_plan
    from robopref.labeling.preview import answer_all, worth

    if "data" not in options:
        raise ConfigError("labels preview needs data=<store>.")
    seeds = options.get("seeds", 3)
    if seeds < 1:
        raise ConfigError(f"seeds must be 1 or more, got {seeds}.")
    teacher = ScriptedTeacher(beta=options.get("beta", math.inf), mistake=options.get("mistake", 0.1))
    asked = {name: options[name] for name in ("segment_length", "query", "reward_dir") if name in options}
    rows: list[dict[int, float]] = []
    with TrajectoryStore.open(options["data"]) as store, tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            plan = make_plan(store, pairs=options.get("pairs", 250), seed=seed, shared=0.0, **asked)
            people = options.get("annotators", 3)
            given = answer_all(plan, store, Path(folder), teacher, annotators=people, seed=seed)
            length = options.get("segment_length")
            rows.append(worth(given, store, Path(folder), segment_length=length, seed=seed))
    table = Table("labels", "pairs ordered right", "least and most of the seeds", box=None, pad_edge=False)
    for size in sorted(set.intersection(*(set(row) for row in rows))):
        values = np.array([row[size] for row in rows])
        table.add_row(str(size), f"{values.mean():.1%}", f"{values.min():.1%} to {values.max():.1%}")
    console.print(table)


def _token(url: str, annotator: str | None, revoke: bool) -> None:
    from robopref.data.label_tokens import AnnotatorTokens
    from robopref.labeling.answers import annotator_name

    if annotator is None:
        raise ConfigError("labels token needs annotator=<name>.")
    name = annotator_name(annotator)
    tokens = AnnotatorTokens(url)
    try:
        if revoke:
            say(f"{counted(tokens.revoke(name), 'token')} of {name} revoked.")
            return
        token = tokens.issue(name)
    finally:
        tokens.close()
    print(token)
    say(
        f"This lets in {name}: give them the address of the server with ?token= and these letters at its end."
    )
