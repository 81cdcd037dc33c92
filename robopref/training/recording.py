"""Recorded rollouts of an evaluation: what happened, what the reward model thought of it, and a video.

``rollout-<k>.npz`` holds arrays by name, ``rollout-<k>.mp4`` the video, and ``rollout-<k>.json`` what both
are of and how the video came about. Rollouts of several policies share a directory: a policy that is
evaluated again replaces its own rollouts and touches no others.

Letters used in shapes: T actions of an episode, O observation entries, A action entries.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from robopref.data.trajectory import Trajectory
from robopref.errors import DataError
from robopref.files import read_json, replacing, write_json
from robopref.training.video import Film, record_videos

logger = logging.getLogger(__name__)

Reward = Callable[..., tuple[Any, Any]]  # tensors (T, O) and (T, A) to mean (T,) and deviation (T,)
Judge = Callable[[Trajectory], Float[np.ndarray, " T"]]  # a reward that looks at an episode, as on film


def write_rollouts(
    directory: Path | str,
    trajectories: Sequence[Trajectory],
    *,
    policy: str,
    reward: Reward | None,
    control_hz: float,
    workers: int | None,
    judge: Judge | None = None,
) -> None:
    """Write the rollouts of one policy.

    Args:
        directory: Where; shared by the policies of an evaluation.
        trajectories: The episodes.
        policy: Name of the policy.
        reward: Predicts the reward of each step, or ``None``.
        control_hz: Actions per second.
        workers: Processes that make the videos, see :func:`~robopref.training.video.record_videos`.
        judge: Gives the reward of each step in the place of ``reward``.

    Raises:
        DataError: The reward model answers with a wrong shape or NaN, or a file cannot be written.
    """
    directory = Path(directory)
    numbers = _numbers(directory, policy, len(trajectories))
    paths = [directory / f"rollout-{number}.mp4" for number in numbers]
    predictions = [_predicted(reward, judge, trajectory) for trajectory in trajectories]
    for path, trajectory, prediction in zip(paths, trajectories, predictions, strict=True):
        _write_arrays(path.with_suffix(".npz"), trajectory, prediction)
    films = [Film(path, trajectory, control_hz) for path, trajectory in zip(paths, trajectories, strict=True)]
    recordings = record_videos(films, workers=workers)
    for path, trajectory, recording in zip(paths, trajectories, recordings, strict=True):
        if recording.reason is not None:
            logger.warning("%s: not rendered. %s", path, recording.reason)
        write_json(
            path.with_suffix(".json"),
            {
                "seed": trajectory.provenance.seed,
                "policy": policy,
                "task": trajectory.provenance.task,
                "success": trajectory.succeeded,
                "return": trajectory.episode_return,
                "length": trajectory.length,
                **asdict(recording),
            },
        )


def _numbers(directory: Path, policy: str, count: int) -> list[int]:
    """Return the numbers of the policy's rollouts, its earlier ones first, after removing those."""
    theirs, ours = set(), []
    for path in directory.glob("rollout-*.json"):
        number = path.stem.removeprefix("rollout-")
        if not number.isdecimal():
            continue
        entry = read_json(path)
        if isinstance(entry, dict) and entry.get("policy") == policy:
            ours.append(int(number))
        else:
            theirs.add(int(number))
    for number in ours:
        for suffix in (".json", ".npz", ".mp4"):
            (directory / f"rollout-{number}{suffix}").unlink(missing_ok=True)
    free = (number for number in itertools.count() if number not in theirs and number not in ours)
    return list(itertools.islice(itertools.chain(sorted(ours), free), count))


def _write_arrays(path: Path, trajectory: Trajectory, prediction: dict[str, np.ndarray]) -> None:
    arrays: dict[str, Any] = {
        "rewards": trajectory.rewards,
        "successes": trajectory.successes,
        "actions": trajectory.actions,
        **prediction,
        **{f"keypoints/{name}": points for name, points in trajectory.keypoints.items()},
    }
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _predicted(
    reward: Reward | None, judge: Judge | None, trajectory: Trajectory
) -> dict[str, Float[np.ndarray, " T"]]:
    """Ask the reward model about every step, on the device where it is."""
    if judge is not None:
        return {"predicted_rewards": _one_each("predicted_rewards", judge(trajectory), trajectory)}
    if reward is None:
        return {}
    import torch

    owner: Any = getattr(reward, "__self__", reward)
    parameter = next(owner.parameters(), None) if isinstance(owner, torch.nn.Module) else None
    device = "cpu" if parameter is None else parameter.device
    observations = torch.as_tensor(trajectory.observations[:-1], device=device)
    actions = torch.as_tensor(trajectory.actions, device=device)
    with torch.no_grad():
        answer = reward(observations, actions)
    return {
        name: _one_each(name, torch.as_tensor(values).detach().cpu().numpy(), trajectory)
        for name, values in zip(("predicted_rewards", "predicted_deviation"), answer, strict=True)
    }


def _one_each(name: str, values: np.ndarray, trajectory: Trajectory) -> Float[np.ndarray, " T"]:
    column = np.asarray(values, np.float32)
    if column.shape != (trajectory.length,) or not np.isfinite(column).all():
        raise DataError(
            f"The reward model must give one finite number per step, {(trajectory.length,)}, "
            f"got {name} of shape {column.shape} with {int((~np.isfinite(column)).sum())} not finite."
        )
    return column
