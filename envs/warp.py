"""Our own scenes on MuJoCo Warp: thousands of episodes at once on a GPU, or on Warp's CPU device.

    envs = gymnasium.make_vec("robopref.envs:robopref/planar-group-v0", num_envs=4096, device="cuda:0")
    envs = gymnasium.make_vec(..., device="cuda:0", tensors=True)   # nothing leaves the device

Any scene's physics can run there (:class:`WarpPhysics`, behind ``SceneVectorEnv``); what is seen and judged
is then computed on the host, once for each action. With ``tensors`` that happens on the device, too
(:class:`TensorVectorEnv`): actions, observations and rewards are torch tensors, and a policy and a learned
reward that lie there need no copy. A scene must have said its rules in torch for this; planar has.

Warp computes in float32 where MuJoCo computes in float64; docs/envs.md says how far they agree.

Needs mujoco-warp, whose MuJoCo is newer than the one that Meta-World pins: an environment of its own
(pip install 'robopref[gpu]').

Letters used in shapes: B episodes, T physics steps of one action, S numbers of physical state, C numbers of
control, A action entries, O observation entries.
"""

# pyright: reportAttributeAccessIssue=false, reportMissingImports=false
# (MuJoCo's compiled names carry no type information; Warp is not in the environment that is checked)

from typing import Any, Protocol

import gymnasium
import mujoco
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .environment import SceneEnv
from .scene import Scene
from .vector import Seeds

_LEAST_CONTACTS = 48
_CONTACTS_PER_SHAPE = 6
_ROWS = {1: 1, 3: 4, 4: 6, 6: 10}  # of the constraint Jacobian for a contact of so many dimensions
_STATE = mujoco.mjtState
_FIELDS = {  # what a scene may control, in MuJoCo's order: the flag and Warp's array
    _STATE.mjSTATE_CTRL: "ctrl",
    _STATE.mjSTATE_EQ_ACTIVE: "eq_active",
    _STATE.mjSTATE_MOCAP_POS: "mocap_pos",
    _STATE.mjSTATE_MOCAP_QUAT: "mocap_quat",
}


def _imported() -> tuple[Any, Any, Any]:
    try:
        import torch
        import warp

        warp.config.log_level = warp.LOG_WARNING  # it reports every kernel that it loads
        import mujoco_warp
    except ImportError as error:
        raise DependencyNotInstalled(
            f"Physics on a device needs {error.name}: pip install 'robopref[gpu]', in an environment of its "
            "own (its MuJoCo is newer than the one that Meta-World and robopref[lab] pin)."
        ) from error
    return warp, mujoco_warp, torch


class WarpPhysics:
    """The physics of a scene in B worlds on a device; called, it does what ``mujoco.rollout`` does.

    Args:
        scene: Whose model and controls these are.
        worlds: B.
        device: As Warp and torch call it: "cuda", "cuda:1", "cpu".

    Attributes:
        qpos: Positions (B, nq) float32, a torch view of Warp's memory.
        qvel: Velocities (B, nv), likewise.

    Raises:
        DependencyNotInstalled: Warp or torch is not here.
        ValueError: There is no such device, or the scene uses a feature of MuJoCo that Warp lacks.
    """

    def __init__(self, scene: Scene, worlds: int, device: str):
        self._warp, self._mjw, self.torch = _imported()
        self.worlds, self.task = worlds, scene.task
        try:
            self.device = self._warp.get_device(device)
        except (ValueError, RuntimeError) as error:
            known = ", ".join(str(each) for each in self._warp.get_devices())
            raise ValueError(f"Warp knows no device '{device}' here. There are: {known}.") from error
        model, (contacts, rows) = scene.model, _room(scene.model)
        with self._warp.ScopedDevice(self.device):
            try:
                self._model = self._mjw.put_model(model)
            except NotImplementedError as error:
                raise ValueError(f"MuJoCo Warp lacks what the scene '{self.task}' uses: {error}") from error
            self._data = self._mjw.make_data(model, nworld=worlds, nconmax=contacts, njmax=rows)
        view = self._warp.to_torch
        self.qpos, self.qvel = view(self._data.qpos), view(self._data.qvel)
        self._controls = [
            view(getattr(self._data, name)) for flag, name in _FIELDS.items() if scene.control & int(flag)
        ]
        self._warm_start, self._overflow = view(self._data.qacc_warmstart), view(self._data.overflow)
        self._graph: Any = None
        self.broken = self.torch.zeros((), dtype=self.torch.bool, device=self.qpos.device)

    def advance(self, controls: Any) -> None:
        """Carry out one action from where :attr:`qpos` and :attr:`qvel` stand: controls (B, T, C), a tensor.

        The solver starts cold, as on the CPU. Nothing waits for the device; :meth:`check` says what failed.
        """
        self._warm_start.zero_()
        with self._warp.ScopedDevice(self.device):
            for step in range(controls.shape[1]):
                parts = controls[:, step].split([part[0].numel() for part in self._controls], 1)
                for part, wanted in zip(self._controls, parts, strict=True):
                    part.copy_(wanted.reshape(part.shape))
                self._step()
        self.broken |= ~self.qpos.isfinite().all() | (self._overflow != 0).any()

    def _step(self) -> None:
        if not self.device.is_cuda:
            self._mjw.step(self._model, self._data)
            return
        stream = self._warp.stream_from_torch(self.torch.cuda.current_stream(self.qpos.device))
        if self._graph is None:  # a step is a hundred small kernels: recorded once, then launched together
            state = self.qpos.clone(), self.qvel.clone()
            self._warp.synchronize_device(self.device)  # torch's stream is another
            self._mjw.step(self._model, self._data)  # compiles
            self._warp.synchronize_device(self.device)
            with self._warp.ScopedCapture(self.device) as capture:
                self._mjw.step(self._model, self._data)
            self._graph = capture.graph
            self.qpos.copy_(state[0])
            self.qvel.copy_(state[1])
            self._warm_start.zero_()
        self._warp.capture_launch(self._graph, stream=stream)

    def check(self) -> None:
        """Refuse what has gone wrong since the last time; this waits for the device.

        Raises:
            ArithmeticError: The physics became unstable, or there were more contacts than memory for them.
        """
        overflow = int(self._overflow.max())
        if bool(self.broken) or overflow:
            self.broken.zero_()
            self._overflow.zero_()
            why = "more contacts than Warp had memory for" if overflow else "it became unstable"
            raise ArithmeticError(f"The physics of '{self.task}' on {self.device} failed: {why}.")

    def __call__(self, physics: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Carry out one action from states (B, S) with controls (B, T, C); return the states after it.

        Raises:
            ValueError: Another number of episodes than there are worlds.
            ArithmeticError: As :meth:`check`.
        """
        if len(physics) != self.worlds:
            raise ValueError(f"This physics holds {self.worlds} worlds, got {len(physics)} episodes.")
        torch, nq = self.torch, self.qpos.shape[1]
        self.qpos.copy_(torch.from_numpy(physics[:, 1 : 1 + nq]))
        self.qvel.copy_(torch.from_numpy(physics[:, 1 + nq :]))
        self.advance(torch.from_numpy(controls.astype(np.float32)).to(self.qpos.device))
        self.check()
        time = physics[:, :1] + controls.shape[1] * float(self._model.opt.timestep.numpy()[0])
        return np.concatenate([time, self.qpos.cpu().numpy(), self.qvel.cpu().numpy()], 1, dtype=np.float64)

    def close(self) -> None:
        """Nothing to end; memory goes with the object."""


def _room(model: mujoco.MjModel) -> tuple[int, int]:
    """Return for how many contacts and constraint rows of a world there shall be memory."""
    colliding = (model.geom_contype | model.geom_conaffinity) != 0
    contacts = max(_LEAST_CONTACTS, _CONTACTS_PER_SHAPE * int(colliding.sum()))
    limits = int(model.jnt_limited.sum())
    return contacts, contacts * _ROWS[
        int(model.geom_condim[colliding].max(initial=1))
    ] + limits + 6 * model.neq


class TensorRules(Protocol):
    """A scene's rules in torch, for states that stay on a device; memory maps names to tensors (B, ...)."""

    def controls(self, memory: dict[str, Any], actions: Any) -> Any:
        """Turn actions (B, A) into controls (B, T, C)."""
        ...

    def remember(self, memory: dict[str, Any], qpos: Any, qvel: Any) -> dict[str, Any]:
        """Return the memory after an action."""
        ...

    def observe(self, memory: dict[str, Any], qpos: Any, qvel: Any) -> Any:
        """Return what is seen, (B, O) float32."""
        ...

    def judge(self, before: Any, qpos: Any, memory: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return rewards (B,) and infos, by the positions before and after an action and the memory after."""
        ...


class TensorVectorEnv(VectorEnv):
    """Episodes side by side on a device; they begin and end together, and nothing else waits for the host.

    As :class:`~robopref.envs.vector.SceneVectorEnv`, but actions, observations, rewards and infos are
    tensors. That an action was not finite, or the physics failed, is said when the episodes end, or by
    ``check()``.

    Args:
        env: A single environment, which says what the scene and the horizon are; it must not be used besides.
        num_envs: Episodes.
        device: As Warp and torch call it.

    Raises:
        DependencyNotInstalled: Warp or torch is not here.
        ValueError: No such device, or the scene has no rules in torch.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's)

    def __init__(self, env: SceneEnv, num_envs: int, device: str):
        rules = env.scene.tensor_rules()
        if rules is None:
            raise ValueError(
                f"The scene '{env.task}' has no rules in torch: without tensors=true its physics run on "
                f"{device} and the rest on the host. planar-group has them."
            )
        self.num_envs, self.spec = num_envs, env.spec
        self.scene, self.horizon = env.scene, env.horizon
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.physics = WarpPhysics(env.scene, num_envs, device)
        self._rules: TensorRules = rules
        self._seeds = Seeds(num_envs)
        self._memory: dict[str, Any] = {}
        self._elapsed: int | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[Any, dict]:
        """Start all episodes; arguments as of ``SceneVectorEnv``."""
        self._seeds.reset(seed, options)
        self._begin()
        physics = self.physics
        _, info = self._rules.judge(physics.qpos, physics.qpos, self._memory)
        return self._rules.observe(self._memory, physics.qpos, physics.qvel), info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict]:
        """Act once in every episode with a tensor of actions (num_envs, A) on the device.

        Raises:
            ResetNeeded: No episode has begun.
            ValueError: The actions have another shape.
            ArithmeticError: At the end of the episodes: an action was not finite, or the physics failed.
        """
        if self._elapsed is None:
            raise gymnasium.error.ResetNeeded("No episode has begun: call reset().")
        physics, torch = self.physics, self.physics.torch
        wanted = (self.num_envs, self.scene.action_size)
        if tuple(actions.shape) != wanted:
            raise ValueError(f"An action has shape {wanted}, got {tuple(actions.shape)}.")
        if self._elapsed >= self.horizon:
            self._begin()
            before = physics.qpos
        else:
            before = physics.qpos.clone()
            physics.broken |= ~actions.isfinite().all()
            physics.advance(self._rules.controls(self._memory, actions.clamp(-1, 1)))
            self._memory = self._rules.remember(self._memory, physics.qpos, physics.qvel)
            self._elapsed += 1
        rewards, info = self._rules.judge(before, physics.qpos, self._memory)
        ended = self._elapsed >= self.horizon
        if ended:
            self.check()
        flags = torch.full((self.num_envs,), ended, device=rewards.device)
        observations = self._rules.observe(self._memory, physics.qpos, physics.qvel)
        return observations, rewards, torch.zeros_like(flags), flags, info

    def check(self) -> None:
        """Wait for the device, and refuse what went wrong; errors as of :meth:`step`."""
        self.physics.check()

    def _begin(self) -> None:
        states = self._seeds.begin(self.scene)
        physics, torch = self.physics, self.physics.torch
        physics.qpos.copy_(torch.from_numpy(self.scene.qpos(states)))
        physics.qvel.copy_(torch.from_numpy(self.scene.qvel(states)))
        own = {name: value for name, value in states.memory.items() if name not in ("elapsed", "entropy")}
        self._memory = {
            name: torch.from_numpy(value).to(physics.qpos.device, torch.float32)
            for name, value in own.items()
        }
        self._elapsed = 0
