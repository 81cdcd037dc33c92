"""Judgements that carry their own number, and many preferences."""

from typing import Any

import numpy as np

from robopref.data import Preferences, Segments
from robopref.data.judgement import Judgement

DATA: dict[str, Any] = {"data_fingerprint": "f" * 64, "episodes": 10}


def judgement(number: int = 0, **change: Any) -> Judgement:
    """A judgement that carries its own number."""
    fields = {
        "a_episode": number % 10, "a_start": number, "a_length": 5,
        "b_episode": (number + 1) % 10, "b_start": number + 1, "b_length": 6,
        "answer": "a", "source": "human", "annotator": "ada",
    }  # fmt: skip
    return Judgement(**fields | change)


def many(count: int) -> Preferences:
    rng = np.random.default_rng(0)

    def segments() -> Segments:
        return Segments(rng.integers(10, size=count), rng.integers(50, size=count), np.full(count, 20))

    label = rng.choice([0, 0.5, 1, 0.25], size=count)
    return Preferences(segments(), segments(), label, rng.random(count))


def same(left: Preferences, right: Preferences) -> bool:
    columns = [
        (p.a.episode, p.a.start, p.a.length, p.b.episode, p.b.start, p.b.length) for p in (left, right)
    ]
    return (
        all(map(np.array_equal, *columns))
        and np.array_equal(left.label, right.label)
        and np.array_equal(left.confidence, right.confidence)
    )
