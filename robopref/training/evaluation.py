"""Trying a policy: paired seeds, success rates with intervals, and the comparison of two policies.

A policy succeeds in an episode when the environment reports success at any step of it. The horizon is fixed,
so that returns can be compared; an environment that stops at success would give the better policy the shorter
sum.

Two policies are evaluated on the same seeds, that is, from the same initial states, so their difference is
taken seed by seed. :func:`evaluation_seeds` counts up from 2**30; collection draws its seeds below
(:mod:`robopref.training.collect`), so an evaluation never starts where a collected episode did.

Results do not depend on the number of workers: each episode runs by itself, with the policy on one CPU thread
and a batch of one. A batch that spans environments would be read by other matrix kernels at other sizes, and
round differently.

Letters used in shapes: T actions of an episode, O observation entries, A action entries, H actions
in a chunk.
"""

import copy
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
from jaxtyping import Float

from robopref.data.trajectory import Trajectory
from robopref.errors import ConfigError, DataError
from robopref.training.progress import Progress
from robopref.training.recording import Judge, Reward, write_rollouts
from robopref.training.results import EVALUATION_SEEDS, Evaluation, check_seeds
from robopref.training.rollout import (
    Actor,
    EpisodeTask,
    KeptEnvironment,
    plain_options,
    run_episode,
    scripted_actor,
)
from robopref.training.workers import WorkerPool


def evaluation_seeds(count: int, first: int = 0) -> list[int]:
    """Return ``count`` environment seeds that no collected episode has; ``first`` skips as many.

    Raises:
        ConfigError: ``count`` is below 1 or ``first`` below 0.
    """
    if count < 1 or first < 0:
        raise ConfigError(
            f"An evaluation needs one episode or more, from seed 0 or more, got {count} from {first}."
        )
    return list(range(EVALUATION_SEEDS + first, EVALUATION_SEEDS + first + count))


@runtime_checkable
class Policy(Protocol):
    """What is evaluated: an ``nn.Module`` with this method."""

    def act(self, observations: Any, *, generator: Any = None, deterministic: bool = True) -> Any:
        """Answer observations (B, O) with chunks of actions (B, H, A)."""
        ...


class _PolicyActor:
    """A policy for one episode: asks for a chunk of actions when the last one is used up."""

    def __init__(self, policy: Policy, seed: int, deterministic: bool) -> None:
        import torch

        self._policy = policy
        self._generator = torch.Generator().manual_seed(seed)
        self._deterministic = deterministic
        self._chunk: deque[np.ndarray] = deque()

    def __call__(self, observation: Float[np.ndarray, " O"]) -> Float[np.ndarray, " A"]:
        import torch

        if not self._chunk:
            batch = torch.as_tensor(observation, dtype=torch.float32)[None]
            with torch.inference_mode():
                chunk = self._policy.act(batch, generator=self._generator, deterministic=self._deterministic)
            if (
                not isinstance(chunk, torch.Tensor)
                or chunk.ndim != 3
                or len(chunk) != 1
                or chunk.shape[1] < 1
            ):
                got = tuple(chunk.shape) if isinstance(chunk, torch.Tensor) else type(chunk).__name__
                raise DataError(
                    f"act() must answer one observation with a tensor of shape (1, H, A), got {got}."
                )
            self._chunk.extend(chunk[0].float().cpu().numpy())
        return self._chunk.popleft()


@dataclass(frozen=True)
class _Try(EpisodeTask):
    keep: bool  # return the whole episode


@dataclass(frozen=True)
class _Outcome:
    task: str
    success: bool
    episode_return: float
    length: int
    control_hz: float
    trajectory: Trajectory | None


@dataclass(frozen=True)
class _Evaluator:
    """Tries the policy on one seed; each worker has one, with an environment of its own."""

    environment: KeptEnvironment
    policy: Policy | Mapping[str, Any]
    name: str
    deterministic: bool

    def __call__(self, task: _Try) -> _Outcome:
        env = self.environment.get()
        with _one_thread():
            trajectory = run_episode(
                env,
                self._actor(env, task.seed),
                task.seed,
                env_id=self.environment.env_id,
                env_options=self.environment.env_options,
                behaviour=self.name,
            )
        simulator: Any = env.unwrapped
        return _Outcome(
            trajectory.provenance.task,
            trajectory.succeeded,
            trajectory.episode_return,
            trajectory.length,
            float(simulator.control_hz),
            trajectory if task.keep else None,
        )

    def _actor(self, env: gymnasium.Env, seed: int) -> Actor:
        if isinstance(self.policy, Mapping):
            return scripted_actor(env, self.policy, np.random.default_rng(seed))
        return _PolicyActor(self.policy, seed, self.deterministic)

    def close(self) -> None:
        self.environment.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, as it does in a worker: sums are then split alike, whoever computes them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def evaluate(
    policy: Policy | Mapping[str, Any],
    *,
    env_id: str,
    env_options: Mapping[str, Any] | None = None,
    seeds: Sequence[int],
    name: str = "policy",
    deterministic: bool = True,
    workers: int | None = None,
    directory: Path | str | None = None,
    record: int = 0,
    reward: Reward | None = None,
    judge: Judge | None = None,
    progress: bool = True,
) -> Evaluation:
    """Try a policy once from each seed.

    Args:
        policy: A policy (copied to the CPU), or a scripted behaviour such as ``{"kind": "expert"}``.
        env_id: "module:namespace/name-v0".
        env_options: Keyword arguments of the environment, numbers and strings.
        seeds: Environment seeds; :func:`evaluation_seeds` returns some that no collection uses.
        name: Name of the policy in tables and files.
        deterministic: Take the policy's best action; otherwise sample, with the episode's seed.
        workers: Processes, 0 for this one; ``None`` for one per CPU up to 16. The result does not depend on
            it.
        directory: Where to write ``<name>.json`` and the recordings.
        record: Record the first so many episodes as ``rollout-<k>.npz``, ``.mp4`` and ``.json``.
        reward: Predicts the reward of recorded steps: (observations (T, O), actions (T, A)) to mean (T,) and
            deviation (T,), as tensors; ``predict`` of a reward model.
        judge: Gives the reward of recorded steps (T,) from the episode itself, in the place of ``reward``.
        progress: Show a progress bar.

    Raises:
        ConfigError: No seed, a seed twice or negative, an unknown environment, a recording without a
            directory.
        DataError: The policy answered with NaN or a wrong shape; the message names the episode.
        RoboprefError: An episode failed for another reason.
    """
    seeds = [int(seed) for seed in seeds]
    check_seeds(seeds, ConfigError)
    if not 0 <= record <= len(seeds):
        raise ConfigError(f"record must lie between 0 and the number of seeds, {len(seeds)}, got {record}.")
    if record and directory is None:
        raise ConfigError("Recordings need a directory to be written to.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.startswith("rollout-"):
        raise ConfigError(
            f"The name of a policy names its file: letters, digits, '.', '_' and '-', got {name!r}."
        )
    options = plain_options(env_options or {})
    evaluator = _Evaluator(KeptEnvironment(env_id, options), _on_cpu(policy), name, deterministic)
    tasks = [_Try(index, seed, keep=index < record) for index, seed in enumerate(seeds)]
    outcomes = _try_all(evaluator, tasks, workers, progress)
    evaluation = Evaluation(
        policy=name,
        task=outcomes[0].task,
        env_id=env_id,
        env_options=options,
        seeds=np.array(seeds, dtype=np.int64),
        successes=np.array([outcome.success for outcome in outcomes]),
        returns=np.array([outcome.episode_return for outcome in outcomes]),
        lengths=np.array([outcome.length for outcome in outcomes], dtype=np.int64),
    )
    if directory is not None:
        evaluation.save(Path(directory) / f"{name}.json")
        kept = [outcome.trajectory for outcome in outcomes if outcome.trajectory is not None]
        control_hz = outcomes[0].control_hz
        write_rollouts(
            directory, kept, policy=name, reward=reward, judge=judge, control_hz=control_hz, workers=workers
        )
    return evaluation


def _try_all(evaluator: _Evaluator, tasks: list[_Try], workers: int | None, progress: bool) -> list[_Outcome]:
    bar = Progress(f"evaluate {evaluator.name}", len(tasks), unit="episodes") if progress else None
    outcomes: list[_Outcome] = []
    with WorkerPool(evaluator, workers) as pool, bar or nullcontext(), closing(pool.map(tasks)) as results:
        for outcome in results:
            outcomes.append(outcome)
            if bar is not None:
                rate = sum(outcome.success for outcome in outcomes) / len(outcomes)
                bar.advance(1, note=f"success {rate:.2f}")
    return outcomes


def _on_cpu(policy: Policy | Mapping[str, Any]) -> Any:
    """Return a copy of the policy on the CPU, in evaluation mode; the caller's stays where and as it is."""
    from torch import nn

    if isinstance(policy, nn.Module):
        return copy.deepcopy(policy).cpu().eval()
    return policy
