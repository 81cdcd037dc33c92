"""Labelled stores of other tasks, from which an alignment carries labels over."""

from collections.abc import Sequence
from pathlib import Path

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError


def labelled_sources(
    paths: Sequence[str], target: TrajectoryStore, folder: str | None
) -> dict[str, tuple[TrajectoryStore, str]]:
    """Open the sources; return store and label URL of each task.

    Args:
        paths: Their trajectory stores.
        target: To which labels are carried over.
        folder: Where their labels are, as ``<task>.sqlite``; None: beside each store.

    Raises:
        ConfigError: There are none, two are of one task, or one is the target.
        DataError: One cannot be read, is empty, or nothing was ever said of it.
    """
    if not paths:
        raise ConfigError("sources=[] names no source: an alignment needs labelled stores, as [a,b].")
    found: dict[str, tuple[TrajectoryStore, str]] = {}
    for path in paths:
        store = TrajectoryStore.open(path)
        task = task_of(store)
        if Path(store.path).resolve() == Path(target.path).resolve():
            raise ConfigError(f"{path} is the target itself, and cannot be a source of its labels.")
        if task in found:
            raise ConfigError(
                f"Each source must be of another task: {found[task][0].path} and {path} are both of {task}."
            )
        labels = Path(store.path) / "labels.sqlite" if folder is None else Path(folder) / f"{task}.sqlite"
        if not labels.is_file():
            raise DataError(
                f"The source {path} has no labels: there is no {labels}. Label it with robopref label or "
                "label-scripted first, or say with source_labels=<folder> where its labels are."
            )
        found[task] = (store, f"sqlite:///{labels}")
    return found


def task_of(store: TrajectoryStore) -> str:
    """Return the task whose episodes a store holds."""
    if not len(store):
        raise DataError(f"{store.path} holds no episodes. Collect some with robopref collect.")
    return store.provenance(0).task
