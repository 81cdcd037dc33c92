"""Many episodes of one scene at once, behind Gymnasium's ``VectorEnv``, on CPU threads.

    envs = gymnasium.make_vec("robopref.envs:robopref/planar-group-v0", num_envs=64, threads=2)

The numbers are those of single environments with the same seeds, to the last bit, whatever the threads. With
``device="cuda"`` the physics run there (:mod:`.warp`).
"""

import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .checks import finite_actions, positive_whole
from .environment import SceneEnv
from .scene import Scene, States, together


class Seeds:
    """The generators of so many episodes' starts."""

    def __init__(self, count: int):
        self._generators = [np.random.default_rng() for _ in range(count)]

    def reset(self, seed: int | list[int | None] | None, options: dict | None) -> None:
        """Take new seeds; see :meth:`SceneVectorEnv.reset`."""
        if options:
            raise ValueError(f"reset() knows no options, got {sorted(options)}.")
        count = len(self._generators)
        seeds = [seed] * count if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + index for index in range(count)]
        if len(seeds) != count:
            raise ValueError(f"There must be one seed for each of {count} episodes, got {len(seeds)}.")
        for index, one in enumerate(seeds):
            if one is not None:
                self._generators[index] = np_random(one)[0]

    def begin(self, scene: Scene, which: np.ndarray | None = None) -> States:
        """Draw the starts of some of the episodes, or of all."""
        chosen = range(len(self._generators)) if which is None else which
        return together([scene.begin(self._generators[index]) for index in chosen])


class SceneVectorEnv(VectorEnv):
    """Episodes side by side; one that has ended begins anew at the next step, which ignores its action.

    Args:
        env: A single environment, which says what the scene and the horizon are; it must not be used besides.
        num_envs: Episodes.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, env: SceneEnv, num_envs: int):
        positive_whole(num_envs=num_envs)
        self.num_envs = num_envs
        self.scene, self.horizon = env.scene, env.horizon
        self.spec = env.spec
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self._seeds = Seeds(num_envs)
        self._states: States | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes.

        Args:
            seed: One seed for each episode; a single number s means s, s + 1, and so on; None goes on
                drawing, as ``reset()`` of a single environment does.
            options: None or empty; there are none.
        """
        self._seeds.reset(seed, options)
        self._states = self._seeds.begin(self.scene)
        _, info = self.scene.judge(self._states, self._states)
        return self.scene.observe(self._states), self._with_masks(info)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Act once in every episode with actions (num_envs, A); errors as those of a single environment."""
        if self._states is None:
            raise gymnasium.error.ResetNeeded("No episode has begun: call reset().")
        actions = finite_actions(actions, self.scene.action_size, self.num_envs)
        before = self._states
        ended = np.flatnonzero(before.memory["elapsed"] >= self.horizon)
        after = self.scene.advance(before, actions)
        if ended.size:
            fresh = self._seeds.begin(self.scene, ended)
            before, after = before.with_rows(ended, fresh), after.with_rows(ended, fresh)
        self._states = after
        rewards, info = self.scene.judge(before, after)
        truncated = after.memory["elapsed"] >= self.horizon
        terminated = np.zeros(self.num_envs, bool)
        return self.scene.observe(after), rewards, terminated, truncated, self._with_masks(info)

    @property
    def states(self) -> States:
        """The present states."""
        if self._states is None:
            raise gymnasium.error.ResetNeeded("No episode has begun: call reset().")
        return self._states

    def close_extras(self, **_: Any) -> None:
        """End the threads."""
        self.scene.close()

    def _with_masks(self, info: dict[str, np.ndarray]) -> dict[str, Any]:
        valid = np.ones(self.num_envs, bool)
        return info | {f"_{name}": valid for name in info}


def make_vector(
    env_id: str,
    num_envs: int,
    *,
    threads: int | None = None,
    device: str | None = None,
    tensors: bool = False,
    **options: Any,
) -> VectorEnv:
    """Make a vector of one of our own scenes.

    Args:
        env_id: A registered id.
        num_envs: Episodes.
        threads: CPU threads; None takes as many as there are cores.
        device: Where MuJoCo Warp shall compute the physics, such as "cuda"; None for the CPU threads.
        tensors: Leave everything there, in torch tensors (:class:`.warp.TensorVectorEnv`).
        options: Of the single environment.

    Raises:
        DependencyNotInstalled: There is no MuJoCo Warp.
        ValueError: ``tensors`` without a device, or what :mod:`.warp` refuses.
    """
    if tensors and device is None:
        raise ValueError("tensors=True needs a device, such as 'cuda'.")
    threads = (os.cpu_count() or 1) if threads is None else threads
    env = gymnasium.make(env_id, disable_env_checker=True, threads=threads, **options).unwrapped
    assert isinstance(env, SceneEnv)
    if device is None:
        return SceneVectorEnv(env, num_envs)
    from .warp import TensorVectorEnv, WarpPhysics  # imports Warp and torch

    if tensors:
        return TensorVectorEnv(env, num_envs, device)
    env.scene.physics = WarpPhysics(env.scene, num_envs, device)
    return SceneVectorEnv(env, num_envs)
