"""Labels: asked of a scripted teacher, stored, and read back for the episodes that they speak of."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from robopref.data.criteria import Criterion, scored_rows
from robopref.data.judgement import Source
from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences, Ratings, Segments, all_episode_pairs
from robopref.data.queries import random_pairs
from robopref.data.store import TrajectoryStore
from robopref.data.teachers import ScriptedTeacher
from robopref.errors import ConfigError, DataError, counted, hide_passwords
from robopref.labeling.noise import preferences_with_noise
from robopref.methods.components import Component
from robopref.methods.phases.lab import Lab, stream


def label(
    lab: Lab,
    store: TrajectoryStore,
    task: str,
    teacher: Component,
    url: str | None = None,
    *,
    annotator: str = "scripted",
    pairs: int | None = None,
    segment_length: int | None = None,
) -> str:
    """Let a scripted teacher answer; returns the URL of the label store.

    Args:
        store: The episodes that it is asked about.
        task: What the phase is called.
        teacher: Answers.
        url: Label store; None keeps it in the run directory.
        annotator: Under which name the answers are stored.
        pairs: How many random pairs; None asks about all pairs of whole episodes.
        segment_length: Steps of each segment; None compares whole episodes.
    """
    url = url or lab.label_url(task)

    def work() -> dict[str, Any]:
        rng = stream(lab.seed, f"label/{task}")
        a, b = questions(store, pairs, segment_length, rng)
        labels = answers(store, a, b, teacher.build(), rng)
        answered = np.flatnonzero(~np.isnan(labels))
        preferences = Preferences(a, b, np.nan_to_num(labels), np.ones(len(labels), np.float32))
        store_labels(url, preferences.select(answered), store, "teacher", annotator)
        return {"labels": len(answered), "skipped": len(labels) - len(answered)}

    settings = {
        "data": store.fingerprint(),
        "teacher": teacher.settings,
        "annotator": annotator,
        "pairs": pairs,
        "segment_length": segment_length,
        "seed": lab.seed,
        "labels": url,
    }
    lab.run.phase(f"label/{task}", settings, work)
    return url


def store_labels(
    url: str, preferences: Preferences, store: TrajectoryStore, source: Source, annotator: str
) -> None:
    """Add labels in one transaction; a phase that was killed after it finds them and is content."""
    with LabelStore(url) as labels:
        there = labels.count(source=source, annotator=annotator)
        if there and content(labels.preferences(source=source, annotator=annotator)) != content(preferences):
            raise ConfigError(
                f"{hide_passwords(url)} already holds {counted(there, 'label')} of the {source} "
                f"{annotator!r}, made otherwise. Choose another annotator= or another labels=."
            )
        if not there:
            labels.add_preferences(
                preferences,
                source=source,
                annotator=annotator,
                data_fingerprint=store.fingerprint(),
                episodes=len(store),
            )


def questions(
    store: TrajectoryStore, pairs: int | None, segment_length: int | None, rng: np.random.Generator
) -> tuple[Segments, Segments]:
    """Return which segments are compared: all pairs of whole episodes, or so many random pairs."""
    if pairs is None:
        if segment_length is not None:
            raise ConfigError(
                f"segment_length={segment_length} needs pairs=<how many>: there are too many segments for all"
            )
        return all_episode_pairs(store)
    return random_pairs(store, pairs, segment_length, rng)


def answers(
    store: TrajectoryStore, a: Segments, b: Segments, teacher: ScriptedTeacher, rng: np.random.Generator
) -> Float[np.ndarray, " B"]:
    """Ask a teacher about pairs of segments; NaN where it skips. Reads no observations."""
    criterion = None if teacher.criterion is None else Criterion.parse(teacher.criterion)
    scores = scored_rows(store, criterion)
    rewards_a, mask_a = _rewards(store, a, scores)
    rewards_b, mask_b = _rewards(store, b, scores)
    return teacher.label(rewards_a, rewards_b, mask_a=mask_a, mask_b=mask_b, rng=rng)


def _rewards(
    store: TrajectoryStore, segments: Segments, scores: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    steps = np.arange(segments.length.max())
    mask = steps < segments.length[:, None]
    first = (store.first_rows[segments.episode] + segments.start)[:, None]
    return scores[first + np.minimum(steps, segments.length[:, None] - 1)] * mask, mask


def read_labels(
    store: TrajectoryStore,
    url: str,
    *,
    source: str | Sequence[str] | None = None,
    annotator: str | None = None,
    noise: Mapping[str, float] | None = None,
    decided: bool = False,
    optional: bool = False,
) -> Preferences:
    """Read labels of pairs and check that they speak of these episodes.

    ``noise`` says how likely each annotator's label is reversed; who is not named never errs. ``decided``
    cuts pairs down to the part that decided, where it was marked. Where there are none, ``optional`` is
    content.
    """
    with LabelStore(url) as labels:
        labels.check_data(store)
        if noise is None:
            found = labels.preferences(source=source, annotator=annotator, decided=decided)
        else:
            found = preferences_with_noise(labels, noise, source=source, annotator=annotator, decided=decided)
    if not len(found) and not optional:
        chosen = f" of source={source}, annotator={annotator}" if source or annotator else ""
        raise DataError(
            f"{hide_passwords(url)} holds no labels{chosen}. Make some with robopref label, label-scripted "
            "or align."
        )
    return found


def true_labels(preferences: Preferences, store: TrajectoryStore) -> Preferences:
    """Return the same pairs as the environment's own rewards order them, or unchanged if it gives none."""
    if not len(preferences) or np.ptp(store.returns) == 0:
        return preferences
    labels = answers(store, preferences.a, preferences.b, ScriptedTeacher(), np.random.default_rng(0))
    return dataclasses.replace(preferences, label=labels, confidence=np.ones_like(labels), flip=None)


def content(preferences: Preferences, ratings: Ratings | None = None) -> str:
    """Return 12 hex digits of the content of preferences, and of ratings beside them."""
    digest = hashlib.sha256()
    for side in (preferences.a, preferences.b):
        for column in (side.episode, side.start, side.length):
            digest.update(np.ascontiguousarray(column).tobytes())
    digest.update(preferences.label.tobytes() + preferences.confidence.tobytes())
    if preferences.flip.any():
        digest.update(preferences.flip.tobytes())
    if ratings is not None and len(ratings):
        for column in (ratings.segments.episode, ratings.segments.start, ratings.segments.length):
            digest.update(column.tobytes())
        digest.update(ratings.label.tobytes() + ratings.confidence.tobytes())
    return digest.hexdigest()[:12]
