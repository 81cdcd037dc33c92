"""Labels of source tasks, carried to the episodes of a target task."""

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from robopref.alignment.anchors import PreparedTransfer
from robopref.alignment.auto import AutoAlignment
from robopref.alignment.record import said_of_inversion
from robopref.alignment.sets import LabelledSet
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.data.preferences import (
    Preferences,
    Segments,
    label_matrix,
    preferences_from_matrix,
    whole_segments,
)
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, WaitingError, counted
from robopref.methods.components import Component
from robopref.methods.phases.lab import Lab, stream
from robopref.methods.phases.label import answers, content, read_labels, store_labels

ANNOTATOR = "alignment"
GUARD = ("at_risk", "agreement", "chance_inverted")
"""What :class:`~robopref.alignment.auto.AutoAlignment` says of an inversion, as the phase's result."""


def align(
    lab: Lab,
    alignment: Component,
    sources: Mapping[str, tuple[TrajectoryStore, str]],
    target: TrajectoryStore,
    task: str,
    url: str | None = None,
    *,
    annotator: str = ANNOTATOR,
    sources_of_labels: Sequence[str] = ("human", "teacher"),
    anchors: str | None = None,
) -> str:
    """Carry the labels of the sources to the target; returns the URL of the target's label store.

    Args:
        alignment: Such as :class:`robopref.alignment.cpa.CrossTaskAlignment`.
        sources: Store and label URL of each source task.
        target: Its episodes get the labels, with source ``transfer``.
        task: The target's name.
        url: Label store of the target; None keeps it in the run directory.
        annotator: Under which name the target's labels are stored.
        sources_of_labels: Which labels count, of the sources and of the anchors: not transferred ones.
        anchors: Label store with a few labels of the target itself; needs an alignment that reads them. Those
            of parts of episodes are left out.

    Raises:
        ConfigError: There are anchors, and the alignment reads none.
    """
    url = url or lab.label_url(task)
    known = _known(sources, sources_of_labels)
    own = None
    if anchors is not None:
        check_anchors(alignment)
        own = _anchors(lab, read_labels(target, anchors, source=sources_of_labels), target)

    def work() -> dict[str, Any]:
        known_of_target = {} if own is None else {"anchors": label_matrix(own, len(target)).astype(float)}
        record = alignment.build().transfer(
            _labelled(sources, known),
            target.whole_episodes(),
            rng=stream(lab.seed, "align"),
            **known_of_target,
        )
        preferences = preferences_from_matrix(record.labels, target.lengths, confidence=record.confidence)
        store_labels(url, preferences, target, "transfer", annotator)
        truth = target.returns if np.ptp(target.returns) > 0 else None
        record.save(lab.run.directory / "alignment", true_returns=truth)
        accuracy = {} if truth is None else record.accuracy(truth)
        for name, share in accuracy.items():
            lab.run.say(f"  {share:.1%} of the pairs are ordered right by {name.replace('_', '-')}")
        sentence = said_of_inversion(record.settings)
        if sentence is not None:
            lab.run.say(f"  {sentence}")
        guard = {name: record.settings[name] for name in GUARD if name in record.settings}
        return {"labels": len(preferences), "accuracy": accuracy, **guard}

    settings = {
        "alignment": alignment.settings,
        "sources": _described(sources, known),
        "target": target.fingerprint(),
        "anchors": None if own is None else content(own),
        "seed": lab.seed,
        "labels": url,
        "annotator": annotator,
    }
    lab.run.phase("align", settings, work)
    return url


def ask(
    lab: Lab,
    alignment: Component,
    sources: Mapping[str, tuple[TrajectoryStore, str]],
    target: TrajectoryStore,
    task: str,
    teacher: Component,
    *,
    pairs: int,
    query: str,
) -> str:
    """Ask a scripted teacher about pairs of the target that the alignment chooses, one after the other.

    Args:
        alignment: A :class:`robopref.alignment.auto.AutoAlignment`.
        sources: Store and label URL of each source task.
        target: Its episodes are asked about.
        task: The target's name.
        teacher: Answers; a pair that it skips counts as a tie for what is asked next.
        pairs: How many questions.
        query: How they are chosen, see :meth:`robopref.alignment.anchors.PreparedTransfer.ask`.

    Returns:
        URL of the label store with the answers, in the run directory.

    Raises:
        ConfigError: The target has fewer pairs.
    """
    _check_number(pairs, target)
    url = lab.label_url(task)
    known = _known(sources, ("human", "teacher"))

    def work() -> dict[str, Any]:
        ready = prepare(alignment, sources, target, lab.seed)
        rng = stream(lab.seed, f"ask/{task}")
        asker, asked = teacher.build(), np.full((len(target),) * 2, np.nan)
        given: list[tuple[int, int, float]] = []
        for _ in range(pairs):
            i, j = ready.ask(asked, query=query, rng=rng)
            (answer,) = answers(target, *_pair_segments([i], [j], target), asker, rng)
            asked[i, j], asked[j, i] = (0.5, 0.5) if np.isnan(answer) else (answer, 1 - answer)
            given += [] if np.isnan(answer) else [(i, j, float(answer))]
        a, b = _pair_segments([i for i, _, _ in given], [j for _, j, _ in given], target)
        labels = np.array([answer for _, _, answer in given], np.float32)
        store_labels(url, Preferences(a, b, labels, np.ones_like(labels)), target, "teacher", "scripted")
        return {"labels": len(given), "skipped": pairs - len(given)}

    settings = {
        "alignment": alignment.settings,
        "sources": _described(sources, known),
        "target": target.fingerprint(),
        "teacher": teacher.settings,
        "pairs": pairs,
        "query": query,
        "seed": lab.seed,
        "labels": url,
    }
    lab.run.phase(f"ask/{task}", settings, work)
    return url


def _check_number(pairs: int, target: TrajectoryStore) -> None:
    most = len(target) * (len(target) - 1) // 2
    if pairs > most:
        raise ConfigError(
            f"The target's {len(target)} episodes make {most} pairs: anchor_pairs must be {most} or fewer, "
            f"got {pairs}."
        )


def answered_by_people(
    lab: Lab,
    alignment: Component,
    sources: Mapping[str, tuple[TrajectoryStore, str]],
    target: TrajectoryStore,
    task: str,
    *,
    pairs: int,
) -> str:
    """Take what people said of the target, on the page that asks them what the alignment would ask.

    All that they said of two whole episodes counts, also what they were asked before and for other reasons.

    Args:
        alignment: A :class:`robopref.alignment.auto.AutoAlignment`.
        sources: Store and label URL of each source task; the URLs are of this run's own label stores.
        target: The answers are in the label store beside it.
        task: The target's name.
        pairs: How many pairs must have been answered, at least; a skipped one is, too.

    Returns:
        URL of the label store with a copy of the answers, in the run directory.

    Raises:
        ConfigError: The target has fewer pairs.
        WaitingError: They have not answered yet, or skipped all.
    """
    _check_number(pairs, target)
    url = lab.label_url(task)
    settings = {
        "people": True,
        "alignment": alignment.settings,
        "target": target.fingerprint(),
        "pairs": pairs,
        "labels": url,
    }

    def work() -> dict[str, Any]:
        with LabelStore.beside(target) as labels:
            labels.check_data(target)
            said = [each for each in labels.judgements(source="human").values() if each.b is not None]
        compared = [each for each in said if _is_of_whole_episodes(each, target)]
        asked = len({frozenset((each.a, each.b)) for each in compared})
        if asked < pairs or all(each.label is None for each in compared):
            options = {
                "data": target.path,
                "query": "alignment",
                "pairs": pairs if asked < pairs else asked + pairs,
                "seed": lab.seed,
                "sources": f"[{','.join(str(store.path) for store, _ in sources.values())}]",
                "source_labels": lab.run.directory / "labels",
            }
            words = [*(f"{key}={value}" for key, value in options.items()), *overrides(alignment)]
            raise WaitingError(
                f"The alignment asks people about {counted(pairs, 'pair')}, and asked about {asked} so far; "
                "a skipped pair counts, but not all may be skipped. Do it with\n"
                f"  robopref label {shlex.join(words)}\n"
                "and then give this command again."
            )
        _say_left_out(lab, len(said) - len(compared))
        with LabelStore(url) as copy:
            copy.add(compared, data_fingerprint=target.fingerprint(), episodes=len(target))
            known = len(copy.preferences())
        lab.run.say(f"  {counted(known, 'label')} by people, who were asked about {counted(asked, 'pair')}")
        return {"labels": known, "answers": len(compared)}

    lab.run.phase(f"ask/{task}", settings, work)
    return url


def prepare(
    alignment: Component,
    sources: Mapping[str, tuple[TrajectoryStore, str]],
    target: TrajectoryStore,
    seed: int,
) -> PreparedTransfer:
    """Return the very transfer that :func:`align` would settle: it says what to ask about the target.

    Raises:
        ConfigError: The alignment asks nothing.
        DataError: The sources have no labels of whole episodes, or no transfer can be made from them.
    """
    check_anchors(alignment)
    known = _known(sources, ("human", "teacher"))
    return alignment.build().prepare(
        _labelled(sources, known), target.whole_episodes(), rng=stream(seed, "align")
    )


def overrides(alignment: Component) -> list[str]:
    """Return the words of a command line that make ``alignment=auto`` this one; none where it is as it comes.

    Args:
        alignment: A :class:`robopref.alignment.auto.AutoAlignment`.
    """
    built, usual = alignment.build(), AutoAlignment()
    words = []
    for name, part, other in (
        ("alignment", built, usual),
        ("alignment.couplings", built.couplings, usual.couplings),
    ):
        options = [key for key in inspect.signature(type(part)).parameters if key != "couplings"]
        values = {key: getattr(part, key) for key in options}
        words += [f"++{name}.{key}={_word(v)}" for key, v in values.items() if v != getattr(other, key)]
    return words


def _word(value: Any) -> str:
    """Return a value as Hydra reads it: as JSON, with the keys of a mapping bare."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{json.dumps(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)


def check_anchors(alignment: Component) -> None:
    """Refuse labels of the target for an alignment that would not read them."""
    if not isinstance(alignment.build(), AutoAlignment):
        raise ConfigError("Only alignment=auto reads labels of the target (anchors); this one does not.")


def _known(
    sources: Mapping[str, tuple[TrajectoryStore, str]], sources_of_labels: Sequence[str]
) -> dict[str, Preferences]:
    return {
        name: whole_episodes_only(read_labels(store, labels, source=sources_of_labels), store)
        for name, (store, labels) in sources.items()
    }


def _labelled(
    sources: Mapping[str, tuple[TrajectoryStore, str]], known: Mapping[str, Preferences]
) -> list[LabelledSet]:
    return [
        LabelledSet(name, store.whole_episodes(), label_matrix(known[name], len(store)))
        for name, (store, _) in sources.items()
    ]


def _described(
    sources: Mapping[str, tuple[TrajectoryStore, str]], known: Mapping[str, Preferences]
) -> dict[str, list[str]]:
    return {name: [store.fingerprint(), content(known[name])] for name, (store, _) in sources.items()}


def _pair_segments(
    first: Sequence[int], second: Sequence[int], store: TrajectoryStore
) -> tuple[Segments, Segments]:
    a, b = (whole_segments(np.array(side, np.int64), store.lengths) for side in (first, second))
    return a, b


def _anchors(lab: Lab, preferences: Preferences, target: TrajectoryStore) -> Preferences:
    """Return the preferences between whole episodes, having said how many others are left out."""
    whole = between_whole_episodes(preferences, target)
    _say_left_out(lab, len(preferences) - len(whole))
    if not len(whole):
        raise DataError(f"All labels of {target.path} compare segments; an alignment reads whole episodes.")
    return whole


def between_whole_episodes(preferences: Preferences, store: TrajectoryStore) -> Preferences:
    """Return those that compare whole episodes, which are all that an alignment reads."""
    parts = np.union1d(*(_parts(side, store) for side in (preferences.a, preferences.b)))
    return preferences.select(np.setdiff1d(np.arange(len(preferences)), parts))


def _is_of_whole_episodes(judgement: Judgement, store: TrajectoryStore) -> bool:
    """Whether all clips of a comparison, or of the list that it ranks, show whole episodes."""
    members = judgement.list_members or (judgement.a, judgement.b)
    return not len(_parts(Segments(*np.array(members, np.int64).T), store))


def _say_left_out(lab: Lab, count: int) -> None:
    if count:
        which = f"{counted(count, 'answer')} about parts of episodes {'is' if count == 1 else 'are'} left out"
        lab.run.say(f"  {which}: an alignment orders whole ones")


def _parts(side: Segments, store: TrajectoryStore) -> Int[np.ndarray, " n"]:
    """Return the positions of the segments that are no whole episodes."""
    return np.flatnonzero((side.start > 0) | (side.length < store.lengths[side.episode]))


def whole_episodes_only(preferences: Preferences, store: TrajectoryStore) -> Preferences:
    """Return the preferences, or refuse those of parts of episodes: alignment orders whole ones."""
    for side in (preferences.a, preferences.b):
        part = _parts(side, store)
        if len(part):
            episode, start, length = (column[part[0]] for column in (side.episode, side.start, side.length))
            raise DataError(
                f"An alignment needs labels of whole episodes, but {len(part)} labels of {store.path} "
                f"compare segments, such as steps {start} to {start + length} of episode {episode}. Keep "
                "such labels in a store of their own (labels=)."
            )
    return preferences
