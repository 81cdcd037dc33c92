"""What an episode costs: its stages found, the costs of each reduced, and whether it came to the end.

Letters used in shapes: R states of an episode, N episodes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.rewards.staged.expressions import Recorded
from robopref.rewards.staged.language import KINDS, Stage, StagedCosts

Signals = dict[str, Float64[np.ndarray, " rows"]]
Poses = dict[str, Float64[np.ndarray, "rows 3 4"]]


@dataclass(frozen=True)
class EpisodeCosts:
    """The costs of one episode.

    Attributes:
        stages: Stage of each state, (R,): the number of stages that were completed before it.
        total: Sum over stages of weighted costs and of what was missed: minus the logarithm of GRAPE's
            external reward (eq. 8).
        kinds: The same sum by kind of cost; ``missed`` apart.
        reached: Name of each stage, and the first state at which it was complete; None where it never was.
    """

    stages: Int64[np.ndarray, " R"]
    total: float
    kinds: dict[str, float]
    reached: dict[str, int | None]

    @property
    def missed(self) -> list[str]:
        """Names of the stages that were never completed."""
        return [name for name, state in self.reached.items() if state is None]


def episode_costs(costs: StagedCosts, recorded: Recorded) -> EpisodeCosts:
    """Walk through the stages of one episode.

    Raises:
        ConfigError: A point, signal or pose was not recorded; the message names file and line.
        DataError: A cost has no finite value somewhere; likewise.
    """
    for kind, declared, known in (
        ("point", costs.points, recorded.points),
        ("signal", costs.signals, recorded.signals),
        ("pose", costs.poses, recorded.poses),
    ):
        for name in declared:
            if name not in known:
                wrong = unknown_name(f"recorded {kind}", name, known)
                raise ConfigError(f"{costs.name}, line {costs.lines[name]}: {wrong}")
    states = recorded.states
    stages = np.zeros(states, np.int64)
    kinds: dict[str, float] = dict.fromkeys((*KINDS, "missed"), 0.0)
    reached: dict[str, int | None] = {}
    first: int | None = 0
    for stage in costs.stages:
        end = None if first is None else _end(stage, recorded, first)
        reached[stage.name] = end
        if first is not None:
            within = slice(first, states if end is None else end + 1)
            for cost in stage.costs:
                values = np.asarray(cost.value.compute(recorded), np.float64)[within]
                if not np.isfinite(values).all():
                    raise DataError(
                        f"{costs.name}, line {cost.line}: {cost.value.text!r} in stage {stage.name} is not "
                        "finite in this episode."
                    )
                kinds[cost.kind] += cost.weight * _reduce(values, cost.reduce, recorded.control_hz)
        if end is None:
            kinds["missed"] += stage.missed
        else:
            stages[end:] += 1
        first = end
    return EpisodeCosts(stages, sum(kinds.values()), kinds, reached)


def _end(stage: Stage, recorded: Recorded, first: int) -> int | None:
    holds = np.asarray(stage.until.compute(recorded), bool)[first:]
    return first + int(holds.argmax()) if holds.any() else None


def _reduce(values: np.ndarray, rule: str, hz: float) -> float:
    if rule == "integral":  # a stage of k states lasts k - 1 intervals
        return float(values[:-1].sum() / hz)
    if rule == "last":
        return float(values[-1])
    return float({"mean": np.mean, "max": np.max, "min": np.min}[rule](values))


def store_costs(
    costs: StagedCosts, store: TrajectoryStore, signals: Signals | None = None, poses: Poses | None = None
) -> list[EpisodeCosts]:
    """Return the costs of every episode of a store.

    Args:
        costs: The cost file.
        store: Episodes with the keypoints that it names.
        signals: One number for each row of the store, by name; needed where the file names signals. They come
            from :func:`robopref.training.signals.replayed_signals`.
        poses: Likewise, a pose for each row, from :func:`robopref.training.signals.replayed_poses`.

    Raises:
        ConfigError: A point, signal or pose was not recorded; the message names file and line.
        DataError: A cost has no finite value somewhere; the message names the episode, too.
    """
    given, placed = signals or {}, poses or {}
    found = []
    for episode in range(len(store)):
        rows = slice(
            int(store.first_rows[episode]), int(store.first_rows[episode] + store.lengths[episode]) + 1
        )
        points = {
            name: store.array(f"keypoints/{name}")[rows].astype(np.float64) for name in store.layout.keypoints
        }
        parts = {name: np.asarray(column[rows], np.float64) for name, column in given.items()}
        turned = {name: column[rows] for name, column in placed.items()}
        recorded = Recorded(points, parts, store.control_hz, turned)
        try:
            found.append(episode_costs(costs, recorded))
        except DataError as error:
            raise DataError(f"Episode {episode} of {store.path}: {error}") from error
    return found
