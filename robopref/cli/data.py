"""``robopref data``: between our store and other formats, and what is inside a data set."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from robopref.cli.show import console, say
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, counted, unknown_name

USAGE = """usage: robopref data convert from=<data> to=<new place> [format=lerobot|minari|robomimic|store]
                             [lossy=true] [labels=false] [videos=false] [observation=<name>,<name>]
       robopref data show <data> [out=<picture>.png]
       robopref data frames <store> [every=5] [width=84] [height=84] [workers=2] [<option of the view>=...]
       robopref data videos <store> camera=<name> [width=224] [height=224] [workers=2] [<option>=...]
       robopref data candidates from=<filmed candidates|decisions.jsonl> to=<file>.parquet
                                [annotator=<name>] [rankings=<file>.jsonl]
       robopref data labels from=<published labels> to=<store> [length=<actions>] [annotator=<name>]

convert goes between a trajectory store and robomimic HDF5 (a file .hdf5), Minari or LeRobotDataset v3
(folders), and takes the labels along. What would be lost is refused unless lossy=true.
show prints the episodes, returns, behaviours and labels, and draws them if out= is given.
frames films the episodes, a frame every so many steps, into a memory map beside the store: by replaying them
in their simulator, or from their own videos. It goes on where it was stopped.
videos films every action into mp4 files, which belong to the store; LeRobot gets them from convert.
candidates gathers what people said of candidate actions, for selection.labels_from=<file>.parquet: their
rankings of filmed candidates (robopref label query=candidates), or, with rankings=, of the decisions that a
robot logged (robopref serve audit=), one a line: {"decision": 12, "best_first": [3, [0, 1], 2]}, where 12 is
the line of the log.
labels adds labels of Preference Transformer (.npz, .json) or Uni-RLHF (.csv) to the store's own."""

OPTIONS = {
    "convert": ("from", "to", "format", "lossy", "labels", "videos", "observation"),
    "show": ("out",),
    "labels": ("from", "to", "length", "annotator"),
    "candidates": ("from", "to", "annotator", "rankings"),
    "frames": None,  # whatever the environment draws by
    "videos": None,
}


def data(arguments: list[str]) -> int:
    """Run ``convert``, ``show``, ``frames``, ``videos``, ``candidates`` or ``labels``."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    what, *rest = arguments
    if what not in OPTIONS:
        raise ConfigError(unknown_name("command of data", what, OPTIONS))
    options, plain = _parse(what, rest)
    verbs = {
        "convert": _convert,
        "show": _show,
        "frames": _frames,
        "videos": _videos,
        "candidates": _candidates,
        "labels": _labels,
    }
    verbs[what](options, plain)
    return 0


def _parse(what: str, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    options: dict[str, str] = {}
    plain = [a for a in arguments if "=" not in a or Path(a).exists()]
    for name, _, value in (a.partition("=") for a in arguments if a not in plain):
        known = OPTIONS[what]
        if known is not None and name not in known:
            raise ConfigError(unknown_name(f"option of data {what}", name, known))
        if not value:
            raise ConfigError(f"{name}= needs a value.")
        options[name] = value
    return options, plain


def _truth(options: dict[str, str], name: str, default: bool) -> bool:
    value = options.get(name, str(default)).lower()
    if value not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false, got {options[name]}.")
    return value == "true"


def _convert(options: dict[str, str], plain: list[str]) -> None:
    from robopref.data.interchange.convert import convert

    if plain or not {"from", "to"} <= options.keys():
        got = " ".join([*plain, *(f"{name}={value}" for name, value in options.items())]) or "nothing"
        raise ConfigError(f"data convert needs from=<data> and to=<new place>, got {got}.")
    source, target = Path(options["from"]), Path(options["to"])
    done = convert(
        source,
        target,
        target_format=options.get("format"),
        lossy=_truth(options, "lossy", False),
        observation=options["observation"].split(",") if "observation" in options else None,
        labels=_truth(options, "labels", True),
        videos=_truth(options, "videos", True),
    )
    for note in done.notes:
        say(f"  {note}")
    say(
        f"{source} ({done.source_format}) -> {target} ({done.target_format}): {done.episodes} episodes, "
        f"{done.steps} steps, {counted(done.labels, 'label')}."
    )


def _candidates(options: dict[str, str], plain: list[str]) -> None:
    from robopref.data.candidate_rankings import candidates_of, candidates_of_decisions, read_orders
    from robopref.data.label_store import LabelStore

    if plain or not {"from", "to"} <= options.keys():
        raise ConfigError("data candidates needs from=<filmed candidates or decisions.jsonl> and to=<file>.")
    source, target = Path(options["from"]), Path(options["to"])
    if target.suffix != ".parquet" or target.exists():
        raise ConfigError(f"to= must be a new file that ends in .parquet, got {target}")
    if source.is_dir():
        if "rankings" in options:
            raise ConfigError(
                "rankings= speaks of a robot's decisions; filmed candidates have their own labels."
            )
        with TrajectoryStore.open(source) as store, LabelStore.beside(store) as labels:
            labels.check_data(store)
            lists = labels.rankings(source="human", annotator=options.get("annotator"))
            found = candidates_of(store, lists)
    else:
        from robopref.deploy.audit import read_audit

        if "rankings" not in options or "annotator" in options:
            raise ConfigError("Decisions need rankings=<file>.jsonl, which says what people think of them.")
        found = candidates_of_decisions(read_audit(source), read_orders(Path(options["rankings"])))
    found.save(target)
    say(f"{len(found)} ranked states, {len(found.pairs())} pairs with an order, in {target}.")


def _labels(options: dict[str, str], plain: list[str]) -> None:
    from robopref.data.interchange.label_files import read_label_file
    from robopref.data.label_store import LabelStore

    if plain or not {"from", "to"} <= options.keys():
        raise ConfigError("data labels needs from=<published labels> and to=<trajectory store>.")
    length = options.get("length")
    if length is not None and not length.isdecimal():
        raise ConfigError(f"length must be a number of actions, got {length}.")
    with TrajectoryStore.open(options["to"]) as store, LabelStore.beside(store) as held:
        given = read_label_file(
            Path(options["from"]),
            store,
            length=None if length is None else int(length),
            annotator=options.get("annotator"),
        )
        held.check_data(store)
        before = held.count()
        held.add(given, data_fingerprint=store.fingerprint(), episodes=len(store))
        say(f"{counted(len(given), 'label')} read, {held.count() - before} of them new, into {store.path}.")


def _show(options: dict[str, str], plain: list[str]) -> None:
    if len(plain) != 1:
        raise ConfigError(f"data show needs one data set, got {' '.join(plain) or 'none'}.")
    path = Path(plain[0])
    with _as_store(path) as store:
        for table in (summary(store, path), behaviours(store), labels(store)):
            if table is not None:
                console.print(table)
                console.print()
        if "out" in options:
            from robopref.cli.data_drawing import draw

            say(f"Picture: {draw(store, Path(options['out']))}")


def _frames(options: dict[str, str], plain: list[str]) -> None:
    from robopref.training.filming import film_store

    given = _view("frames", options, plain, {"every": 5, "width": 84, "height": 84})
    every, workers = given.pop("every"), given.pop("workers")
    with TrajectoryStore.open(plain[0]) as store:
        cache = film_store(store, view=given, every=every, workers=workers)
    say(
        f"{len(cache)} episodes, {len(cache.frames)} frames of {cache.width} x {cache.height} pixels, one in "
        f"{cache.every} steps: {cache.path}"
    )


def _videos(options: dict[str, str], plain: list[str]) -> None:
    from robopref.training.filming import film_videos

    given = _view("videos", options, plain, {"width": 224, "height": 224})
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(given.get("camera", ""))):
        raise ConfigError(f"data videos needs camera=<name>, got {options.get('camera', 'none')}.")
    workers = given.pop("workers")
    with TrajectoryStore.open(plain[0]) as store:
        folder = film_videos(store, view=given, camera=given["camera"], workers=workers)
        say(f"{len(store)} episodes, {int(store.lengths.sum())} frames: {folder}")


def _view(what: str, options: dict[str, str], plain: list[str], defaults: dict[str, int]) -> dict[str, Any]:
    """Return the options of a view with its numbers checked, and ``workers``."""
    if len(plain) != 1:
        raise ConfigError(f"data {what} needs one trajectory store, got {' '.join(plain) or 'none'}.")
    given: dict[str, Any] = {**defaults, "workers": None}
    given |= {name: yaml.safe_load(value) for name, value in options.items()}
    for name in defaults:
        if not isinstance(given[name], int) or isinstance(given[name], bool) or given[name] < 1:
            raise ConfigError(f"{name} must be a whole number from 1 on, got {options[name]}.")
    return given


@contextmanager
def _as_store(path: Path) -> Iterator[TrajectoryStore]:
    """Open a store, or what another format holds as one that is gone afterwards."""
    from robopref.data.interchange.convert import STORE, convert, format_of

    kind = format_of(path)
    if kind == STORE:
        with TrajectoryStore.open(path) as store:
            yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "store"
        for note in convert(path, made, lossy=True, videos=False).notes:
            say(f"  read as a store, {note}")
        with TrajectoryStore.open(made) as store:
            yield store


def summary(store: TrajectoryStore, path: Path) -> Table:
    """Return what there is, in a few lines."""
    layout, count = store.layout, len(store)
    origins = [store.provenance(i) for i in range(count)]
    table = Table("", str(path), box=None, pad_edge=False)
    table.add_row(
        "episodes", f"{count}, of {_span(store.lengths, '.0f')} actions; {store.lengths.sum()} in all"
    )
    table.add_row("task", ", ".join(sorted({origin.task for origin in origins})) or "-")
    table.add_row("environment", ", ".join(sorted({origin.env_id for origin in origins})) or "-")
    table.add_row("observation, action", f"{layout.observation_size}, {layout.action_size} numbers")
    table.add_row("rate", f"{layout.control_hz:g} actions/s")
    table.add_row("keypoints", ", ".join(layout.keypoints) or "none")
    table.add_row("clips show", pictures(store, path))
    table.add_row("ended by the task", f"{int(store.terminated.sum())} of {count}")
    table.add_row("fingerprint", store.fingerprint()[:16])
    return table


def pictures(store: TrajectoryStore, path: Path) -> str:
    """Say what clips of these episodes show."""
    from robopref.data.interchange.convert import STORE, format_of

    if format_of(path) != STORE:
        from robopref.data.interchange.footage import cameras_of
        from robopref.data.interchange.scenes import scenes_of

        cameras, scenes = cameras_of(path), scenes_of(path)
        if cameras:
            return f"frames of {', '.join(cameras)}"
        problems = sorted({scene.problem for scene in scenes if scene.problem})
        if problems:
            return f"curves of the observations. {problems[0]}"
        if scenes:
            of = ", ".join(sorted({scene.environment or "a scene in the file" for scene in scenes}))
            return f"its simulator's states, drawn again: {of}"
    if len(store) and store.provenance(0).initial_state_hash:
        return "replays of seeds and actions"
    return "keypoints" if store.layout.keypoints else "curves of the observations"


def behaviours(store: TrajectoryStore) -> Table | None:
    """Return episodes, returns and successes of each behaviour, the best first."""
    if len(store) == 0:
        return None
    names = np.array([store.provenance(i).behaviour for i in range(len(store))])
    table = Table(
        "behaviour", "episodes", "actions", "return", "least", "most", "success", box=None, pad_edge=False
    )
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [(name, names == name) for name in sorted(set(names.tolist()))]
    rows.sort(key=lambda row: -float(store.returns[row[1]].mean()))
    for name, chosen in [*rows, ("all", np.ones(len(names), bool))]:
        returns = store.returns[chosen]
        table.add_row(
            name,
            str(int(chosen.sum())),
            _span(store.lengths[chosen], ".0f"),
            f"{returns.mean():.1f} ± {returns.std():.1f}",
            f"{returns.min():.1f}",
            f"{returns.max():.1f}",
            f"{store.successes[chosen].mean():.0%}",
        )
    return table


def labels(store: TrajectoryStore) -> Table | None:
    """Return how often each annotator of each source gave each answer; None where there are no labels."""
    if not (Path(store.path) / "labels.sqlite").exists():
        return None
    from robopref.data.label_store import LabelStore

    with LabelStore.beside(store) as held:
        given = list(held.judgements().values())
    answers = Counter(
        (j.source, j.annotator, j.answer if isinstance(j.answer, str) else "soft") for j in given
    )
    others = [kind for kind in ("up", "down", "rest") if any(kind == key[2] for key in answers)]
    kinds = ("a", "b", "equal", "soft", "skip", *others)
    table = Table("labels by", "annotator", "all", *kinds, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for source, annotator in sorted({key[:2] for key in answers}):
        counts = [answers[source, annotator, kind] for kind in kinds]
        table.add_row(source, annotator, str(sum(counts)), *map(str, counts))
    return table


def _span(values: np.ndarray, form: str) -> str:
    if len(values) == 0:
        return "0"
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
