"""Labels of source tasks, carried to the episodes of a target task."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robopref.alignment.cpa import LabelledSet
from robopref.data.preferences import label_matrix, preferences_from_matrix
from robopref.data.store import TrajectoryStore
from robopref.methods.components import Component
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.label import content, read_labels, store_labels

ANNOTATOR = "alignment"


def align(
    lab: Lab,
    alignment: Component,
    sources: Mapping[str, tuple[TrajectoryStore, str]],
    target: TrajectoryStore,
    task: str,
    url: str | None = None,
) -> str:
    """Carry the labels of the sources to the target; returns the URL of the target's label store.

    Args:
        alignment: Such as :class:`robopref.alignment.cpa.CrossTaskAlignment`.
        sources: Store and label URL of each source task.
        target: Its episodes get the labels, with source ``transfer``.
        task: The target's name.
        url: Label store of the target; None keeps it in the run directory.
    """
    url = url or lab.label_url(task)
    known = {name: read_labels(*source) for name, source in sources.items()}

    def work() -> dict[str, Any]:
        labelled = [
            LabelledSet(name, store.whole_episodes(), label_matrix(known[name], len(store)))
            for name, (store, _) in sources.items()
        ]
        record = alignment.build().transfer(labelled, target.whole_episodes(), rng=stream(lab.seed, "align"))
        truth = target.returns if np.ptp(target.returns) > 0 else None
        record.save(lab.run.directory / "alignment", true_returns=truth)
        preferences = preferences_from_matrix(record.labels, target.lengths, confidence=record.confidence)
        store_labels(url, preferences, target, "transfer", ANNOTATOR)
        accuracy = {} if truth is None else record.accuracy(truth)
        for name, share in accuracy.items():
            lab.run.say(f"  {share:.1%} of the pairs are ordered right by {name.replace('_', ' ')}")
        return {"labels": len(preferences), "accuracy": accuracy}

    settings = {
        "alignment": alignment.settings,
        "sources": {
            name: [store.fingerprint(), content(known[name])] for name, (store, _) in sources.items()
        },
        "target": target.fingerprint(),
        "seed": lab.seed,
        "labels": url,
    }
    lab.run.phase("align", settings, work)
    return url
