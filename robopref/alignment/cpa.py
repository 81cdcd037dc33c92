"""Cross-task preference alignment (PEARL, Liu et al. 2023): labels of known tasks become labels of a new one.

For each source: distances between its episodes, distances between the target's, a Gromov-Wasserstein coupling
of the two, and the source's labels carried over it. Several sources, features, subsets and random starts each
give a label matrix; the result is their mean, a vote of equal weights, and its confidence is how far the vote
is from a tie. A vote removes independent mistakes, not one that all voters share: read it beside the
controls.

Letters used in shapes: M source episodes, N target episodes, D numbers of a feature.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from robopref.alignment.controls import hand_object_labels, medoid_labels, shuffled_labels, wasserstein_plan
from robopref.alignment.distances import check_metric, cross_distances, pairwise_distances
from robopref.alignment.features import check_feature_names, compute_features
from robopref.alignment.gromov import Coupling, checked_weights, gromov_wasserstein, random_plan
from robopref.alignment.record import TransferRecord
from robopref.alignment.sets import LabelledSet, choose_by_clusters
from robopref.alignment.transfer import confidence, transfer_labels, vote
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError, unknown_name

log = logging.getLogger(__name__)

SELECTIONS = ("vote", "lowest_cost")


class CrossTaskAlignment:
    """Align sources with a target and carry their labels over.

    Args:
        features: Names of :data:`~.features.FEATURES`; each votes.
        metric: Distance between episodes: euclidean, sqeuclidean, cosine or cityblock.
        scale: Divide distances by their largest value, their mean, or not at all.
        alpha: Share of Gromov-Wasserstein; below 1 the rest is the distance in ``node_features``, which must
            mean the same in both tasks. At 0 the alignment is plain Wasserstein and ``features`` is not read.
        node_features: Feature that the fused cost compares across tasks.
        epsilon: Entropy of the coupling, in units of the squared scaled distances; 0 for none.
        restarts: Further solves from random plans, beside the standard start.
        select: What to do with the ends of several starts: let all ``vote``, or keep that of ``lowest_cost``.
            A low cost does not make labels right: an inverted one may have the lowest of all.
        subsets: Number of times that episodes are chosen anew; of use with ``max_episodes`` or ``clusters``.
        max_episodes: Most episodes of a set in one coupling, drawn at random. Bounds time and memory; pairs
            of target episodes that were never drawn together stay unknown.
        clusters: With a number, choose episodes by k-means with so many clusters, as the paper does (2 by 2).
        episodes_per_cluster: Episodes drawn at random from each cluster.
        feature_floor: Deviation below which a number counts as constant (see :func:`~.features.standardise`).
        max_iterations: Most iterations of one solve.

    Raises:
        ConfigError: An unknown name or a value out of range.
    """

    def __init__(
        self,
        features: Sequence[str] = ("mean",),
        *,
        metric: str = "euclidean",
        scale: str = "max",
        alpha: float = 1.0,
        node_features: str = "statistics",
        epsilon: float = 0.0,
        restarts: int = 0,
        select: str = "vote",
        subsets: int = 1,
        max_episodes: int | None = None,
        clusters: int | None = None,
        episodes_per_cluster: int = 2,
        feature_floor: float = 1e-6,
        max_iterations: int = 1000,
    ):
        if isinstance(features, str) or not features:
            raise ConfigError(f"features must be a list of at least one name, got {features!r}.")
        check_feature_names([*features, node_features])
        check_metric(metric, scale)
        if select not in SELECTIONS:
            raise ConfigError(unknown_name("way to select", select, SELECTIONS))
        for name, value, least in (
            ("restarts", restarts, 0),
            ("subsets", subsets, 1),
            ("episodes_per_cluster", episodes_per_cluster, 1),
            ("max_iterations", max_iterations, 1),
            ("max_episodes", max_episodes, 2),
            ("clusters", clusters, 2),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}.")
        if clusters is not None and max_episodes is not None:
            raise ConfigError("clusters and max_episodes both choose episodes: give one of them.")
        if not (0 <= alpha <= 1 and epsilon >= 0 and feature_floor >= 0):
            raise ConfigError(
                "alpha must lie in [0, 1], epsilon and feature_floor must not be negative, "
                f"got {alpha}, {epsilon} and {feature_floor}."
            )
        if alpha == 0 and restarts:
            raise ConfigError(
                "Plain Wasserstein (alpha = 0) is convex: restarts find the same end, so give 0."
            )
        self.features = tuple(features) if alpha > 0 else (node_features,)
        self.metric, self.scale = metric, scale
        self.alpha, self.node_features, self.epsilon = float(alpha), node_features, float(epsilon)
        self.restarts, self.select, self.subsets = restarts, select, subsets
        self.max_episodes = max_episodes
        self.clusters, self.episodes_per_cluster = clusters, episodes_per_cluster
        self.feature_floor, self.max_iterations = feature_floor, max_iterations

    def transfer(
        self,
        sources: Sequence[LabelledSet],
        target: SegmentBatch,
        *,
        rng: np.random.Generator,
        target_weights: Float[np.ndarray, " N"] | None = None,
    ) -> TransferRecord:
        """Return the target's labels, the couplings they came from, and the controls.

        Raises:
            DataError: No source, two of one name, episodes that cannot be compared (fewer than two, constant
                or NaN features), or sources so sparsely labelled that no target pair got a label.
        """
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise DataError(f"An alignment needs one source or more, each with its own name, got {names}.")
        weights = checked_weights(target_weights, len(target), "target")
        votes = _Votes()
        target_features = self._all_features(target, "the target")
        for source in sources:
            source_weights = checked_weights(source.weights, len(source.segments), source.name)
            source_features = self._all_features(source.segments, f"the source '{source.name}'")
            for subset in range(self.subsets):
                for feature in self.features:
                    rows = self._choose(source_features[feature], source_weights, rng, source.name)
                    columns = self._choose(target_features[feature], weights, rng, "target")
                    ends = self._solve(
                        {name: values[rows] for name, values in source_features.items()},
                        {name: values[columns] for name, values in target_features.items()},
                        feature,
                        source_weights[rows] / source_weights[rows].sum(),
                        weights[columns] / weights[columns].sum(),
                        rng,
                    )
                    votes.chosen.append((source, rows, columns))
                    for number, end in enumerate(ends):
                        key = self._key(source.name, feature, subset, number, len(ends))
                        plan = _over_all(end.plan, rows, columns, (len(source.segments), len(target)))
                        votes.add(key, source, plan, end.cost)
        if all((confidence(matrix) == 0).all() for matrix in votes.labels):
            raise DataError(
                "No target pair was matched with a source pair of which one is preferred; "
                "label more source pairs."
            )
        labels = vote(votes.labels)
        controls, left_out = self._controls(votes, sources, target, target_features, weights, rng)
        return TransferRecord(
            labels=labels,
            confidence=confidence(labels),
            couplings=votes.plans,
            costs=votes.costs,
            controls=controls,
            settings=self._settings(sources, target, left_out),
            source_labels={source.name: source.labels for source in sources},
        )

    def _all_features(self, segments: SegmentBatch, owner: str) -> dict[str, Float[np.ndarray, "_ _"]]:
        names = set(self.features) | ({self.node_features} if self.alpha < 1 else set())
        try:
            return {
                name: compute_features(name, segments, floor=self.feature_floor) for name in sorted(names)
            }
        except DataError as error:
            raise DataError(f"In {owner}: {error}") from error

    def _choose(
        self,
        features: Float[np.ndarray, "N D"],
        weights: Float[np.ndarray, " N"],
        rng: np.random.Generator,
        owner: str,
    ) -> Int[np.ndarray, " K"]:
        counted = np.flatnonzero(weights > 0)
        if self.clusters is not None:
            return counted[
                choose_by_clusters(
                    features[counted],
                    clusters=self.clusters,
                    each=self.episodes_per_cluster,
                    rng=rng,
                    owner=owner,
                )
            ]
        if self.max_episodes is None or len(counted) <= self.max_episodes:
            return counted
        return np.sort(rng.choice(counted, self.max_episodes, replace=False))

    def _solve(
        self,
        source: dict[str, np.ndarray],
        target: dict[str, np.ndarray],
        feature: str,
        p: Float[np.ndarray, " M"],
        q: Float[np.ndarray, " N"],
        rng: np.random.Generator,
    ) -> list[Coupling]:
        first = pairwise_distances(source[feature], metric=self.metric, scale=self.scale)
        second = pairwise_distances(target[feature], metric=self.metric, scale=self.scale)
        between = None
        if self.alpha < 1:
            scale = "max" if self.scale == "none" else self.scale
            between = cross_distances(source[self.node_features], target[self.node_features], scale=scale)
        starts = [None, *(random_plan(rng, p, q) for _ in range(self.restarts))]
        ends = [
            gromov_wasserstein(
                first,
                second,
                source_weights=p,
                target_weights=q,
                fused_cost=between,
                alpha=self.alpha,
                start=start,
                epsilon=self.epsilon,
                max_iterations=self.max_iterations,
            )
            for start in starts
        ]
        return ends if self.select == "vote" else [min(ends, key=lambda end: end.cost)]

    def _key(self, source: str, feature: str, subset: int, number: int, ends: int) -> str:
        parts = [source]
        parts += [feature] if len(self.features) > 1 else []
        parts += [f"subset-{subset}"] if self.subsets > 1 else []
        parts += [f"start-{number}"] if ends > 1 else []
        return "/".join(parts)

    def _controls(
        self,
        votes: "_Votes",
        sources: Sequence[LabelledSet],
        target: SegmentBatch,
        target_features: dict[str, np.ndarray],
        weights: Float[np.ndarray, " N"],
        rng: np.random.Generator,
    ) -> tuple[dict[str, Float[np.ndarray, "N N"]], dict[str, str]]:
        """Return the controls' labels, and why a control is missing where the data do not allow it."""

        def by_statistics() -> np.ndarray:
            second = compute_features("statistics", target)
            first = {source.name: compute_features("statistics", source.segments) for source in sources}
            matrices = []
            for source, rows, columns in votes.chosen:
                p = None if source.weights is None else source.weights[rows]
                plan = wasserstein_plan(first[source.name][rows], second[columns], p, weights[columns])
                plan = _over_all(plan, rows, columns, (len(source.segments), len(target)))
                matrices.append(transfer_labels(plan, source.labels))
            return vote(matrices)

        plans = list(votes.plans.values())
        rules: dict[str, Callable[[], np.ndarray]] = {
            "shuffled": lambda: shuffled_labels(plans, [source.labels for source in votes.sources], rng),
            "wasserstein": by_statistics,
            "medoid": lambda: medoid_labels(
                pairwise_distances(target_features[self.features[0]], metric=self.metric, scale=self.scale)
            ),
            "hand_object": lambda: hand_object_labels(target),
        }
        controls, left_out = {}, {}
        for name, rule in rules.items():
            try:
                controls[name] = rule()
            except DataError as error:
                left_out[name] = str(error)
                log.warning("The control '%s' was left out: %s", name, error)
        return controls, left_out

    def _settings(
        self, sources: Sequence[LabelledSet], target: SegmentBatch, left_out: dict[str, str]
    ) -> dict[str, Any]:
        names = (
            "metric scale alpha node_features epsilon restarts select subsets max_episodes clusters "
            "episodes_per_cluster feature_floor max_iterations"
        )
        return {
            "method": "cross-task alignment",
            "features": list(self.features),
            **{name: getattr(self, name) for name in names.split()},
            "sources": {source.name: len(source.segments) for source in sources},
            "target_episodes": len(target),
            "controls_left_out": left_out,
        }


@dataclass
class _Votes:
    """What each solve contributes, with plans over all episodes of both sets."""

    plans: dict[str, np.ndarray] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    sources: list[LabelledSet] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    chosen: list[tuple[LabelledSet, np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, key: str, source: LabelledSet, plan: np.ndarray, cost: float) -> None:
        self.plans[key] = plan
        self.costs[key] = cost
        self.sources.append(source)
        self.labels.append(transfer_labels(plan, source.labels))


def _over_all(
    plan: Float[np.ndarray, "I J"],
    rows: Int[np.ndarray, " I"],
    columns: Int[np.ndarray, " J"],
    shape: tuple[int, int],
) -> Float[np.ndarray, "M N"]:
    """Return the plan with a row and a column for every episode, zero for those that were left out."""
    whole = np.zeros(shape)
    whole[np.ix_(rows, columns)] = plan
    return whole
