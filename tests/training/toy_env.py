"""A point on a plane that is pushed towards a goal: a fast environment with what robopref needs."""

import hashlib
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium.spaces import Box

TOY = "tests.training.toy_env:toy-v0"
BEHAVIOURS = {"expert": ("noise",), "random": (), "lazy": ()}


class ToyEnv(gymnasium.Env):
    """Observation (4,): position and goal. Action (2,): displacement. Reward: minus the distance left.

    ``fault`` breaks it in one way, at step three of an episode whose seed is a multiple of ``fault_every``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    task = "toy"
    control_hz = 20.0

    def __init__(
        self,
        horizon: int = 8,
        fault: str = "none",
        fault_every: int = 1,
        render_mode: str | None = None,
        gl: str = "works",
        size: int = 33,
        pause_s: float = 0.0,
        state: float = 0.0,
    ):
        if horizon < 1:
            raise ValueError(f"horizon must be 1 or more, got {horizon}.")
        if render_mode is not None and gl == "missing":
            raise ImportError("There is no libEGL.so on this machine.")
        self.horizon, self.fault, self.fault_every = horizon, fault, fault_every
        self.render_mode, self.gl, self.size, self.pause_s, self.state = render_mode, gl, size, pause_s, state
        self.observation_space = Box(-10.0, 10.0, (4,), np.float64)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.position = self.goal = np.zeros(2)
        self.steps = self.seed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed = int(seed or 0)
        self.position, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        assert np.all(np.abs(action) <= 1), "an action outside the bounds was sent"
        assert action.dtype == np.float32
        time.sleep(self.pause_s)
        self.position = self.position + 0.5 * action
        self.steps += 1
        if self.steps == 3 and self.seed % self.fault_every == 0:
            self._break()
        distance = float(np.linalg.norm(self.position - self.goal))
        observation = self._observation()
        if self.fault == "nan" and self.steps == 3:
            observation[0] = np.nan
        info = {} if self.fault == "mute" else {"success": distance < 0.1}
        return observation, -distance, False, self.steps >= self.horizon, info

    def _break(self):
        if self.fault == "raise":
            raise RuntimeError("the arm is stuck")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "exit":
            os._exit(7)

    def _observation(self):
        return np.concatenate([self.position, self.goal])

    def keypoints(self):
        return {"hand": np.append(self.position, 0.1), "goal": np.append(self.goal, 0.0)}

    def state_hash(self):
        return hashlib.sha256(self._observation().tobytes() + str(self.state).encode()).hexdigest()

    def behaviour(self, kind, rng, **options):
        if kind not in BEHAVIOURS:
            raise ValueError(f"No behaviour is called '{kind}'. There are: {', '.join(BEHAVIOURS)}.")
        if set(options) - set(BEHAVIOURS[kind]):
            raise ValueError(f"The behaviour '{kind}' takes {BEHAVIOURS[kind]}, got {sorted(options)}.")
        noise = options.get("noise", 0.0)

        def act(observation):
            if kind == "random":
                return rng.uniform(-1, 1, 2)
            if kind == "lazy":
                return np.zeros(2)
            return 2 * (observation[2:] - observation[:2]) + noise * rng.normal(size=2)

        return act

    def render(self):
        if self.gl == "broken":
            raise RuntimeError("eglInitialize failed")
        if self.gl == "deadly":
            os.kill(os.getpid(), signal.SIGSEGV)
        frame = np.zeros((self.size, self.size, 3), np.uint8)
        frame[:, : 1 + self.steps] = (255, 0, 0)
        return frame


if "toy-v0" not in gymnasium.registry:
    gymnasium.register(id="toy-v0", entry_point=f"{__name__}:ToyEnv")
