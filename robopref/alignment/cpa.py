"""Cross-task preference alignment (PEARL, Liu et al. 2023): labels of known tasks become labels of a new one.

For each source: distances between its episodes, distances between the target's, a Gromov-Wasserstein coupling
of the two, and the source's labels carried over it. Several sources, features, subsets and random starts each
give a label matrix; the result is their mean, a vote of equal weights, and its confidence is how far the vote
is from a tie. A vote removes independent mistakes, not one that all voters share: read it beside the
controls.

Letters used in shapes: M source episodes, N target episodes, D numbers of a feature.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from robopref.alignment.controls import all_controls
from robopref.alignment.distances import check_metric, cross_distances, pairwise_distances
from robopref.alignment.ensemble import solve_all
from robopref.alignment.features import check_feature_names, compute_features
from robopref.alignment.gromov import checked_weights, random_plan
from robopref.alignment.record import TransferRecord
from robopref.alignment.sets import LabelledSet, check_sources, choose_by_clusters
from robopref.alignment.transfer import confidence, plan_over_all, transfer_labels, vote
from robopref.data.trajectory import SegmentBatch
from robopref.errors import ConfigError, DataError, unknown_name

log = logging.getLogger(__name__)

SELECTIONS = ("vote", "lowest_cost")
SOLVERS = ("auto", "full", "quantised", "torch")
FULL_UP_TO = 400
"""Episodes of a set up to which ``solver=auto`` couples them in full."""


class CrossTaskAlignment:
    """Align sources with a target and carry their labels over.

    Args:
        features: Names of :data:`~.features.FEATURES`; each votes.
        metric: Distance between episodes: euclidean, sqeuclidean, cosine or cityblock.
        scale: Divide distances by their largest value, their mean, or not at all.
        alpha: Share of Gromov-Wasserstein; below 1 the rest is the distance in ``node_features``, which must
            mean the same in both tasks. At 0 the alignment is plain Wasserstein and ``features`` is not read.
        node_features: Feature that the fused cost compares across tasks.
        semi_relaxed: Hold the target's weights alone, for sets of unequal success rates
            (:mod:`~.semi_relaxed`). Needs ``epsilon`` 0 and ``solver`` auto or full, without landmarks.
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
        solver: ``full``, or ``quantised`` by way of landmarks (:mod:`~.quantised`; each restart then chooses
            other landmarks), or ``auto``: quantised, and said so, where a set in a coupling has more than
            :data:`FULL_UP_TO` episodes. ``torch`` solves all couplings of a transfer as one computation on
            ``device`` (:mod:`~.batched`; ``max_iterations`` is not read). Plain Wasserstein is always solved
            in full, on the CPU.
        landmarks: Most landmarks of a set.
        device: Of ``solver=torch``: ``cpu``, ``cuda``, ``cuda:<number>``, or ``auto`` for a GPU if there is
            one. The other solvers run on the CPU and refuse any other device.
        memory_gib: Most memory that couplings and labels may take; more is refused before it is begun.
            ``solver=torch`` takes up to 2 GiB beside.

    Raises:
        ConfigError: An unknown name or a value out of range.
        DeviceError: ``solver=torch`` on a device that is not there.
    """

    def __init__(
        self,
        features: Sequence[str] = ("mean",),
        *,
        metric: str = "euclidean",
        scale: str = "max",
        alpha: float = 1.0,
        node_features: str = "statistics",
        semi_relaxed: bool = False,
        epsilon: float = 0.0,
        restarts: int = 0,
        select: str = "vote",
        subsets: int = 1,
        max_episodes: int | None = None,
        clusters: int | None = None,
        episodes_per_cluster: int = 2,
        feature_floor: float = 1e-6,
        max_iterations: int = 1000,
        solver: str = "auto",
        landmarks: int = 100,
        device: str = "cpu",
        memory_gib: float = 4.0,
    ):
        if isinstance(features, str) or not features:
            raise ConfigError(f"features must be a list of at least one name, got {features!r}.")
        check_feature_names([*features, node_features])
        check_metric(metric, scale)
        if select not in SELECTIONS:
            raise ConfigError(unknown_name("way to select", select, SELECTIONS))
        if solver not in SOLVERS:
            raise ConfigError(unknown_name("solver", solver, SOLVERS))
        if not memory_gib > 0:
            raise ConfigError(f"memory_gib must be positive, got {memory_gib}.")
        for name, value, least in (
            ("landmarks", landmarks, 2),
            ("restarts", restarts, 0),
            ("subsets", subsets, 1),
            ("episodes_per_cluster", episodes_per_cluster, 1),
            ("max_iterations", max_iterations, 1),
            ("max_episodes", max_episodes, 2),
            ("clusters", clusters, 2),
        ):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ConfigError(f"{name} must be a whole number, got {value!r}.")
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}.")
        if clusters is not None and max_episodes is not None:
            raise ConfigError("clusters and max_episodes both choose episodes: give one of them.")
        if not (0 <= alpha <= 1 and epsilon >= 0 and feature_floor >= 0):
            raise ConfigError(
                "alpha must lie in [0, 1], epsilon and feature_floor must not be negative, "
                f"got {alpha}, {epsilon} and {feature_floor}."
            )
        if not isinstance(semi_relaxed, bool):
            raise ConfigError(f"semi_relaxed must be true or false, got {semi_relaxed!r}.")
        if semi_relaxed and (epsilon > 0 or solver in ("quantised", "torch")):
            raise ConfigError(
                "semi_relaxed has neither entropy nor landmarks, nor a solver in torch: epsilon must be 0 "
                f"and solver auto or full, got {epsilon} and {solver}."
            )
        if alpha == 0 and restarts:
            raise ConfigError(
                "Plain Wasserstein (alpha = 0) is convex: restarts find the same end, so give 0."
            )
        if solver == "torch":
            from robopref.nets.devices import resolve_device  # here: torch is slow to import

            if epsilon > 0:
                raise ConfigError(f"solver=torch adds no entropy: epsilon must be 0, got {epsilon}.")
            resolve_device(device)
        elif device != "cpu":
            raise ConfigError(
                f"solver={solver} runs on the CPU: device={device} needs solver=torch; or leave it at cpu."
            )
        self.features = tuple(features) if alpha > 0 else (node_features,)
        self.metric, self.scale = metric, scale
        self.alpha, self.node_features, self.epsilon = float(alpha), node_features, float(epsilon)
        self.semi_relaxed = semi_relaxed
        self.restarts, self.select, self.subsets = restarts, select, subsets
        self.max_episodes = max_episodes
        self.clusters, self.episodes_per_cluster = clusters, episodes_per_cluster
        self.feature_floor, self.max_iterations = feature_floor, max_iterations
        self.solver, self.landmarks, self.device = solver, landmarks, device
        self.memory_gib = memory_gib

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same options."""
        return isinstance(other, CrossTaskAlignment) and vars(self) == vars(other)

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
        check_sources(sources)
        weights = checked_weights(target_weights, len(target), "target")
        self._check_memory(sources, len(target))
        target_features = self.all_features(target, "the target")
        asked = self._problems(sources, target_features, weights, rng)
        problems = [problem for each in asked for problem in each.problems]
        ends = iter(solve_all(problems, device=self.device if self._in_torch else None))
        votes = _Votes()
        for each in asked:
            found = [next(ends) for _ in each.problems]
            if self.select == "lowest_cost":
                found = [min(found, key=lambda end: end.cost)]
            votes.chosen.append((each.source, each.rows, each.columns))
            for number, end in enumerate(found):
                shape = (len(each.source.segments), len(target))
                plan = plan_over_all(end.plan, each.rows, each.columns, shape)
                votes.add(self._key(each, number, len(found)), each.source, plan, end.cost)
        if all((confidence(matrix) == 0).all() for matrix in votes.labels):
            raise DataError(
                "No target pair was matched with a source pair of which one is preferred; "
                "label more source pairs."
            )
        labels = vote(votes.labels)
        controls, left_out = all_controls(
            list(zip(votes.sources, votes.plans.values(), strict=True)),
            votes.chosen,
            target,
            weights=weights,
            distances=lambda: pairwise_distances(
                target_features[self.features[0]], metric=self.metric, scale=self.scale
            ),
            rng=rng,
        )
        return TransferRecord(
            labels=labels,
            confidence=confidence(labels),
            couplings=votes.plans,
            costs=votes.costs,
            controls=controls,
            settings=self._settings(sources, target, left_out),
            source_labels={source.name: source.labels for source in sources},
        )

    def all_features(self, segments: SegmentBatch, owner: str) -> dict[str, Float[np.ndarray, "_ _"]]:
        """Return each feature that is read, by name; the errors of :func:`~.features.compute_features` name
        the owner, such as ``the target``.
        """
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

    def _problems(
        self,
        sources: Sequence[LabelledSet],
        target_features: dict[str, np.ndarray],
        weights: Float[np.ndarray, " N"],
        rng: np.random.Generator,
    ) -> list["_Asked"]:
        """Return the problems of every source, subset and feature; equal rows share their distances."""
        known: dict[tuple[str, str, bytes], np.ndarray] = {}
        asked = []
        for source in sources:
            source_weights = checked_weights(source.weights, len(source.segments), source.name)
            source_features = self.all_features(source.segments, f"the source '{source.name}'")
            for subset in range(self.subsets):
                for feature in self.features:
                    rows = self._choose(source_features[feature], source_weights, rng, source.name)
                    columns = self._choose(target_features[feature], weights, rng, "target")
                    distances = []
                    sides = ((source.name, source_features, rows), ("", target_features, columns))
                    for owner, features, kept in sides:
                        key = (owner, feature, kept.tobytes())
                        if key not in known:
                            known[key] = pairwise_distances(
                                features[feature][kept], metric=self.metric, scale=self.scale
                            )
                        distances.append(known[key])
                    p, q = (
                        own[kept] / own[kept].sum()
                        for own, kept in ((source_weights, rows), (weights, columns))
                    )
                    problem: dict[str, Any] = {
                        "source_distances": distances[0],
                        "target_distances": distances[1],
                        "source_weights": p,
                        "target_weights": q,
                        "alpha": self.alpha,
                    }
                    if not self._in_torch:
                        problem |= {
                            "semi_relaxed": self.semi_relaxed,
                            "epsilon": self.epsilon,
                            "max_iterations": self.max_iterations,
                        }
                    if self.alpha < 1:
                        problem["fused_cost"] = cross_distances(
                            source_features[self.node_features][rows],
                            target_features[self.node_features][columns],
                            scale="max" if self.scale == "none" else self.scale,
                        )
                    problems = self._starts(problem, rng)
                    asked.append(_Asked(source, feature, subset, rows, columns, problems))
        return asked

    @property
    def _in_torch(self) -> bool:
        return self.solver == "torch" and self.alpha > 0

    def _starts(self, problem: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
        p, q = problem["source_weights"], problem["target_weights"]
        most = max(len(p), len(q))
        quantised = self.alpha > 0 and (
            self.solver == "quantised" or (self.solver == "auto" and most > FULL_UP_TO)
        )
        if quantised and self.semi_relaxed:
            raise DataError(
                f"A coupling of {len(p)} by {len(q)} episodes goes by way of landmarks beyond {FULL_UP_TO}, "
                "and semi_relaxed has none: give solver=full, or max_episodes."
            )
        if quantised:
            if self.solver == "auto":
                log.warning(
                    "A coupling of %d by %d episodes goes by way of %d landmarks: solver=auto is full up to "
                    "%d episodes; solver=full takes minutes.",
                    *(len(p), len(q), self.landmarks, FULL_UP_TO),
                )
            return [
                problem | {"landmarks": self.landmarks, "rng": child}
                for child in rng.spawn(1 + self.restarts)
            ]
        return [problem, *(problem | {"start": random_plan(rng, p, q)} for _ in range(self.restarts))]

    def _check_memory(self, sources: Sequence[LabelledSet], target: int) -> None:
        """Refuse what would not fit if all that lives at the same time covered every episode.

        - Solves: the plan that each ends with, the one that each restart begins with, and the cost between
          the sets of a fused problem. All ends wait for the last solve, also where one of them is chosen.
        - Votes: of each end that counts, its plan over all episodes and two label matrices.
        - Distances of each set by each feature.
        """
        problems = self.subsets * len(self.features)
        solves = problems * (1 + self.restarts)
        held = solves + problems * (self.restarts + (self.alpha < 1))
        votes = solves if self.select == "vote" else problems
        sizes = [len(source.segments) for source in sources]
        numbers = sum(held * size * target + votes * (size * target + 2 * target**2) for size in sizes)
        numbers += len(self.features) * (target**2 + sum(size**2 for size in sizes))
        needed = 8 * numbers / 2**30
        if needed > self.memory_gib:
            raise DataError(
                f"The transfer to {target} episodes needs about {needed:.2g} GiB for couplings and labels; "
                f"memory_gib allows {self.memory_gib:g}. Give fewer sources, features, subsets or restarts, "
                "a smaller target, or a higher memory_gib."
            )

    def _key(self, asked: "_Asked", number: int, ends: int) -> str:
        parts = [asked.source.name]
        parts += [asked.feature] if len(self.features) > 1 else []
        parts += [f"subset-{asked.subset}"] if self.subsets > 1 else []
        parts += [f"start-{number}"] if ends > 1 else []
        return "/".join(parts)

    def _settings(
        self, sources: Sequence[LabelledSet], target: SegmentBatch, left_out: dict[str, str]
    ) -> dict[str, Any]:
        names = (
            "metric scale alpha node_features semi_relaxed epsilon restarts select subsets max_episodes "
            "clusters episodes_per_cluster feature_floor max_iterations solver landmarks device memory_gib"
        )
        return {
            "method": "cross-task alignment",
            "features": list(self.features),
            **{name: getattr(self, name) for name in names.split()},
            "sources": {source.name: len(source.segments) for source in sources},
            "target_episodes": len(target),
            "controls_left_out": left_out,
        }


@dataclass(frozen=True, eq=False)
class _Asked:
    """The problems of one source, feature and subset, one for each start, between the chosen episodes."""

    source: LabelledSet
    feature: str
    subset: int
    rows: np.ndarray
    columns: np.ndarray
    problems: list[dict[str, Any]]


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
