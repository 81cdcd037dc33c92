"""Rollouts of policies: several from each initial state, in lock step, into trajectory stores.

A policy that sees (:class:`Seeing`) answers a frame and an instruction, any other (:class:`Acting`) what the
environment says. A large policy costs much the same for one decision as for twenty, so the rollouts of a task
advance together: one simulator goes from rollout to rollout by its snapshots, and all observations of a
decision go through the policy at once. What a rollout does depends on (seed, repeat) and, by rounding, on how
many advance together, which is fixed by the call and not by the number of workers: those share out tasks.

What the simulator says besides (:mod:`robopref.training.signals`) and, where asked for, the frames that the
policy saw are kept beside the store, so that neither has to be got back by a replay.

Letters used in shapes: B rollouts side by side, H actions in a chunk, A entries of an action, S pixels of a
side.
"""

import shutil
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from torch import Tensor

from robopref.data.frames import FrameCache, cache_folder
from robopref.data.layout import HEADER, Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError
from robopref.training.progress import Progress
from robopref.training.rollout import (
    ENVIRONMENT_PREFIX,
    checked_action,
    keypoints_of,
    make_environment,
    plain_options,
    task_of,
    versions,
)
from robopref.training.run import differences
from robopref.training.signals import keep_signals
from robopref.training.workers import WorkerPool


@runtime_checkable
class Acting(Protocol):
    """A policy."""

    def act(self, observations: Any, *, generator: Any = None, deterministic: bool = True) -> Any:
        """Answer observations (B, O) with chunks of actions (B, H, A)."""
        ...


@runtime_checkable
class Seeing(Acting, Protocol):
    """A policy whose observations are made of frames and instructions."""

    image_size: int

    def see(self, frames: Any, instructions: Sequence[str]) -> Any:
        """Join frames (B, S, S, 3) uint8 and instructions to observations."""
        ...


@dataclass(frozen=True)
class Assignment:
    """What a policy is asked to do, and how often.

    Attributes:
        name: Names the store.
        env_id: "module:namespace/name-v0".
        env_options: Keyword arguments of the environment, with those of its camera.
        instructions: What a policy that sees is told; all rollouts of seed i get entry i modulo their number.
        seeds: Environment seeds, one initial state each.
        repeats: Rollouts from each of them.
        deterministic: Take what the policy thinks best; otherwise draw.
        draw_seed: Of the drawing, together with seed and repeat.
        view: Of the frames that are kept, as part of ``env_options``; empty keeps none.
        until_success: End at the first success: what happens afterwards says nothing about the task.
    """

    name: str
    env_id: str
    env_options: dict[str, Any]
    instructions: tuple[str, ...]
    seeds: tuple[int, ...]
    repeats: int
    deterministic: bool
    draw_seed: int = 0
    view: dict[str, Any] = field(default_factory=dict)
    until_success: bool = False

    def __post_init__(self):
        if not self.instructions or not self.seeds or self.repeats < 1:
            raise ConfigError("Rollouts need an instruction, a seed and at least one repeat.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("A seed stands twice among those of the rollouts.")
        if not self.view.items() <= self.env_options.items():
            raise ConfigError(f"Frames are kept as they are seen, {self.env_options}, not as {self.view}.")

    def __str__(self) -> str:
        return f"the rollouts of {self.name}"

    def settings(self) -> dict[str, Any]:
        """Return what the store is recognised by."""
        return {**vars(self), "instructions": list(self.instructions), "seeds": list(self.seeds)}


@dataclass
class _Rollout:
    """One episode on its way."""

    seed: int
    repeat: int
    instruction: str
    start: str
    snapshot: Any
    observations: list[np.ndarray]
    keypoints: list[dict[str, np.ndarray]]
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    signals: list[dict[str, float]] = field(default_factory=list)
    terminated: bool = False
    over: bool = False


@dataclass(frozen=True)
class _Done:
    """An episode as it comes back from a worker."""

    trajectory: Trajectory
    frames: np.ndarray | None
    signals: dict[str, np.ndarray] | None


@dataclass(frozen=True)
class _Roller:
    """Does one assignment; each worker has one."""

    policy: Acting
    at_once: int

    def __call__(self, assignment: Assignment) -> tuple[list[_Done], float, int]:
        drawn = "rgb_array" if isinstance(self.policy, Seeing) else None
        env = make_environment(assignment.env_id, assignment.env_options, render_mode=drawn)
        try:
            simulator: Any = env.unwrapped
            if not hasattr(simulator, "snapshot") or not hasattr(simulator, "restore"):
                raise ConfigError(
                    f"{assignment.env_id} has no snapshot() and restore(), by which rollouts advance together"
                )
            every = [(seed, repeat) for repeat in range(assignment.repeats) for seed in assignment.seeds]
            done: list[_Done] = []
            stride = 1
            for first in range(0, len(every), self.at_once):
                found, stride = self._together(env, assignment, every[first : first + self.at_once])
                done += found
            return done, float(simulator.control_hz), stride
        finally:
            env.close()

    def _together(
        self, env: gymnasium.Env, assignment: Assignment, members: list[tuple[int, int]]
    ) -> tuple[list[_Done], int]:
        rollouts = [_begin(env, assignment, seed, repeat) for seed, repeat in members]
        words = np.random.SeedSequence([assignment.draw_seed, *members[0]]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0]) >> 1)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker, so that sums are split alike
        stride = 1
        try:
            while active := [rollout for rollout in rollouts if not rollout.over]:
                chunks = self._decide(env, active, generator, assignment)
                stride = chunks.shape[1]
                for rollout, chunk in zip(active, chunks, strict=True):
                    _advance(env, rollout, chunk, assignment.until_success)
        finally:
            torch.set_num_threads(threads)
        return [_finished(env, assignment, rollout, stride) for rollout in rollouts], stride

    def _decide(
        self, env: gymnasium.Env, active: list[_Rollout], generator: torch.Generator, given: Assignment
    ) -> np.ndarray:
        """One chunk for each rollout; every rollout draws, so that one that ends changes no other."""
        with torch.inference_mode():
            if isinstance(self.policy, Seeing):
                frames = _drawn(env, active)
                if given.view:
                    for rollout, frame in zip(active, frames, strict=True):
                        rollout.frames.append(frame)
                seen = self.policy.see(frames, [rollout.instruction for rollout in active])
            else:
                seen = torch.from_numpy(np.stack([r.observations[-1] for r in active]).astype(np.float32))
            chunks: Tensor = self.policy.act(seen, generator=generator, deterministic=given.deterministic)
        return chunks.float().cpu().numpy()


def _drawn(env: gymnasium.Env, active: list[_Rollout]) -> np.ndarray:
    simulator: Any = env.unwrapped
    frames: list[Any] = []
    for rollout in active:
        simulator.restore(rollout.snapshot)
        frames.append(simulator.render())
    return np.stack(frames)


def _begin(env: gymnasium.Env, assignment: Assignment, seed: int, repeat: int) -> _Rollout:
    observation, _ = env.reset(seed=seed)
    simulator: Any = env.unwrapped
    instruction = assignment.instructions[assignment.seeds.index(seed) % len(assignment.instructions)]
    return _Rollout(
        seed,
        repeat,
        instruction,
        simulator.state_hash(),
        simulator.snapshot(),
        [observation],
        [keypoints_of(simulator)],
        signals=_signals(simulator),
    )


def _signals(simulator: Any) -> list[dict[str, float]]:
    """What the simulator says of its state besides; nothing from one that offers none."""
    return [simulator.signals()] if hasattr(simulator, "signals") else []


def _advance(env: gymnasium.Env, rollout: _Rollout, chunk: np.ndarray, until_success: bool) -> None:
    simulator: Any = env.unwrapped
    simulator.restore(rollout.snapshot)
    for action in chunk:
        sent = checked_action(action, env.action_space, len(rollout.actions))
        observation, reward, terminated, truncated, info = env.step(sent)
        if "success" not in info or not np.isfinite(observation).all() or not np.isfinite(float(reward)):
            raise DataError(f"The simulator gave no success, or NaN, in the rollout of seed {rollout.seed}.")
        rollout.actions.append(sent)
        rollout.rewards.append(float(reward))
        rollout.successes.append(bool(info["success"]))
        rollout.observations.append(observation)
        rollout.keypoints.append(keypoints_of(simulator))
        rollout.signals += _signals(simulator)
        rollout.terminated = bool(terminated)
        if terminated or truncated or (until_success and rollout.successes[-1]):
            rollout.over = True
            break
    rollout.snapshot = simulator.snapshot()


def _finished(env: gymnasium.Env, assignment: Assignment, rollout: _Rollout, stride: int) -> _Done:
    names = rollout.keypoints[0]
    simulator: Any = env.unwrapped
    if assignment.view and len(rollout.actions) % stride == 0:  # a cache holds every stride-th state
        simulator.restore(rollout.snapshot)
        rollout.frames.append(simulator.render())
    provenance = Provenance(
        task=task_of(env),
        env_id=assignment.env_id,
        seed=rollout.seed,
        behaviour="policy",
        options={
            "instruction": rollout.instruction,
            "repeat": rollout.repeat,
            **plain_options(assignment.env_options, prefix=ENVIRONMENT_PREFIX),
        },
        initial_state_hash=rollout.start,
        versions=dict(versions()),
    )
    trajectory = Trajectory(
        observations=np.asarray(rollout.observations, np.float32),
        actions=np.asarray(rollout.actions, np.float32),
        rewards=np.asarray(rollout.rewards, np.float32),
        successes=np.asarray(rollout.successes, bool),
        keypoints={name: np.stack([points[name] for points in rollout.keypoints]) for name in names},
        terminated=rollout.terminated,
        provenance=provenance,
    )
    said = rollout.signals
    return _Done(
        trajectory,
        np.stack(rollout.frames) if rollout.frames else None,
        {name: np.array([state[name] for state in said]) for name in said[0]} if said else None,
    )


def collect_rollouts(
    folder: Path | str,
    policy: Acting,
    assignments: Sequence[Assignment],
    *,
    policy_content: str,
    at_once: int = 32,
    workers: int | None = 0,
    progress: bool = True,
) -> dict[str, TrajectoryStore]:
    """Let a policy act; returns one store per assignment, named by it, in ``folder``.

    A store that is there already, of the same policy and assignment, is not made again.

    Args:
        folder: Gets one folder per assignment.
        policy: On the CPU; it is copied to the workers.
        assignments: What it is asked to do.
        policy_content: Identifies the policy, such as a hash of its weights.
        at_once: Rollouts of an assignment that advance together.
        workers: Processes, 0 for this one; None for one per CPU once that saves time.
        progress: Show a progress bar.

    Raises:
        ConfigError: A store holds rollouts of another policy or assignment.
        RoboprefError: A rollout failed; the message names it.
    """
    if at_once < 1:
        raise ConfigError(f"at_once must be at least 1, got {at_once}")
    names = [one.name for one in assignments]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"Two assignments are called {twice[0]}, and each gets the folder of its name")
    folder = Path(folder)
    wanted = _wanted(assignments, policy_content, at_once)
    missing = [one for one in assignments if not _there(folder / one.name, wanted[one.name])]
    bar = Progress(f"rollouts {folder.name}", len(missing), unit="tasks") if progress and missing else None
    with (
        WorkerPool(_Roller(policy, at_once), workers) as pool,
        bar or nullcontext(),
        closing(pool.map(missing)) as results,
    ):
        for assignment, (episodes, hz, stride) in zip(missing, results, strict=True):
            _write(folder / assignment.name, episodes, hz, wanted[assignment.name], assignment.view, stride)
            if bar is not None:
                rate = float(np.mean([episode.trajectory.succeeded for episode in episodes]))
                bar.advance(1, note=f"{assignment.name}: success {rate:.2f}")
    return {one.name: TrajectoryStore.open(folder / one.name) for one in assignments}


def open_rollouts(
    folder: Path | str, assignments: Sequence[Assignment], *, policy_content: str, at_once: int
) -> dict[str, TrajectoryStore] | None:
    """Open what :func:`collect_rollouts` made of the same arguments; None where some of it is missing."""
    wanted = _wanted(assignments, policy_content, at_once)
    if not all(_there(Path(folder) / name, made_of) for name, made_of in wanted.items()):
        return None
    return {name: TrajectoryStore.open(Path(folder) / name) for name in wanted}


def _wanted(
    assignments: Sequence[Assignment], policy_content: str, at_once: int
) -> dict[str, dict[str, Any]]:
    """By what each assignment's store is recognised."""
    return {
        one.name: {"policy": policy_content, "at_once": at_once, "assignment": one.settings()}
        for one in assignments
    }


def _there(path: Path, wanted: dict[str, Any]) -> bool:
    if not (path / HEADER).exists():
        return False
    with TrajectoryStore.open(path) as store:
        held = store.metadata.get("rollouts")
        complete = len(store) == len(wanted["assignment"]["seeds"]) * wanted["assignment"]["repeats"]
    changed = differences(held, wanted)
    if changed or not complete:
        raise ConfigError(
            f"{path} holds {'rollouts made otherwise' if changed else 'unfinished rollouts'} "
            f"({changed}). Delete it, or choose another folder."
        )
    return True


def _write(
    path: Path,
    episodes: list[_Done],
    hz: float,
    metadata: dict[str, Any],
    view: dict[str, Any],
    stride: int,
) -> None:
    """Write a whole store under another name, then rename it: a store that exists is complete."""
    first = episodes[0].trajectory
    layout = Layout(
        first.observations.shape[1],
        first.actions.shape[1],
        tuple(sorted(first.keypoints)),
        hz,
        {"rollouts": metadata},
    )
    temporary = path.with_name(f".{path.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    with TrajectoryStore.create_with(temporary, layout) as store:
        store.extend([episode.trajectory for episode in episodes])
        signals = [episode.signals for episode in episodes if episode.signals is not None]
        if signals:
            keep_signals(store, signals)
        if view:
            _keep_frames(store, episodes, view, stride)
    temporary.rename(path)


def _keep_frames(store: TrajectoryStore, episodes: list[_Done], view: dict[str, Any], stride: int) -> None:
    """Keep the frames where :func:`robopref.training.filming.film_store` looks for them."""
    height, width = _frames(episodes[0]).shape[1:3]
    with FrameCache.create(
        cache_folder(store, view, stride, versions()),
        store,
        height=height,
        width=width,
        every=stride,
        view=view,
        versions=versions(),
    ) as cache:
        for episode in episodes:
            cache.append(_frames(episode), "rollout")


def _frames(episode: _Done) -> np.ndarray:
    assert episode.frames is not None
    return episode.frames
