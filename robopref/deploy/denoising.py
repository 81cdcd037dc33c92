"""Diffusion and flow policies in NumPy: the way from noise to a chunk, and the score of a given chunk.

ONNX holds one step, the network that is asked; the loop around it is here. Diffusion is DDIM (Song et al.
2021, arXiv 2010.02502) with clipped samples, as diffusers does it; flow is Euler's method along straight
paths (Lipman et al. 2023, arXiv 2210.02747).

Letters used in shapes: K candidates, H actions in a chunk, A entries of an action, O observation entries, C
features of an observation, N draws of time and noise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robopref.deploy.fields import Fields
from robopref.deploy.runtime import Pause, Session, TimeUp, find
from robopref.errors import DataError


class Network:
    """An encoder of observations and a network that is asked about noisy chunks."""

    def __init__(self, sessions: Mapping[str, Session], encoder: str, denoiser: str) -> None:
        self._encoder, self._denoiser = find(sessions, encoder), find(sessions, denoiser)

    def condition(self, observation: np.ndarray, count: int) -> np.ndarray:
        """Features of an observation (O,), repeated: (K, C)."""
        (features,) = self._encoder(observations=observation[None])
        return np.repeat(features, count, 0)

    def __call__(self, noisy: np.ndarray, time: float, condition: np.ndarray) -> np.ndarray:
        """What it predicts of noisy chunks (K, H, A) at a time."""
        times = np.full(len(noisy), time, np.float32)
        return self._denoiser(noisy=noisy, times=times, condition=condition)[0]


Predict = Callable[[np.ndarray, float, np.ndarray], np.ndarray]  # noisy (K, H, A), time, condition (K, C)


@runtime_checkable
class Path(Protocol):
    """A family: how it comes back from noise, and where a chunk lies at a level of noise."""

    draws: int

    def generate(
        self, network: Predict, condition: np.ndarray, noise: np.ndarray, pause: Pause
    ) -> np.ndarray:
        """Chunks (K, H, A) from noise (K, draws, H, A)."""
        ...

    def at(self, level: float, chunks: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """Noisy chunks at a level from 0 (the action) to 1 (noise), the time, and what is predicted."""
        ...


class Diffusion:
    """DDIM; ``alphas`` are the products of (1 - beta), ``timesteps`` those that are visited, noise first."""

    def __init__(self, settings: Mapping[str, Any], where: str) -> None:
        known = ("kind", "encoder", "denoiser", "alphas", "timesteps", "eta")
        fields = Fields(settings, where, known)
        self._alphas = fields.vector("alphas", len(fields.array("alphas")))
        self._timesteps, self._eta = fields.array("timesteps"), fields.number("eta")
        last = len(self._alphas) - 1
        if not self._timesteps or not all(type(t) is int and 0 <= t <= last for t in self._timesteps):
            raise DataError(f"{where}.timesteps must be whole numbers in 0..{last}, got {self._timesteps}")
        if not ((self._alphas > 0) & (self._alphas < 1)).all() or not 0 <= self._eta <= 1:
            raise DataError(f"{where}: alphas must lie between 0 and 1, and so must eta")
        self.draws = 1 + (len(self._timesteps) if self._eta else 0)

    def generate(
        self, network: Predict, condition: np.ndarray, noise: np.ndarray, pause: Pause
    ) -> np.ndarray:
        """Equation 12 of the paper, with the predicted action clipped to [-1, 1] on the way."""
        x = noise[:, 0]
        following = [*(self._alphas[t] for t in self._timesteps[1:]), 1.0]
        for k, (t, after) in enumerate(zip(self._timesteps, following, strict=True)):
            pause()
            now = self._alphas[t]
            predicted = network(x, t / len(self._alphas), condition)
            action = np.clip((x - (1 - now) ** 0.5 * predicted) / now**0.5, -1, 1)
            spread = self._eta * ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
            x = after**0.5 * action + (1 - after - spread**2) ** 0.5 * predicted
            if spread:
                x = x + spread * noise[:, k + 1]
            x = x.astype(np.float32)
        return x

    def at(self, level: float, chunks: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """sqrt(alpha) action + sqrt(1 - alpha) noise; the noise is predicted."""
        step = min(int(level * len(self._alphas)), len(self._alphas) - 1)
        alpha = self._alphas[step]
        noisy = alpha**0.5 * chunks + (1 - alpha) ** 0.5 * noise
        return noisy.astype(np.float32), step / len(self._alphas), np.broadcast_to(noise, chunks.shape)


class Flow:
    """Euler's method in so many steps from noise (time 0) to the action (time 1)."""

    draws = 1

    def __init__(self, settings: Mapping[str, Any], where: str) -> None:
        self._steps = Fields(settings, where, ("kind", "encoder", "denoiser", "steps")).whole("steps")

    def generate(
        self, network: Predict, condition: np.ndarray, noise: np.ndarray, pause: Pause
    ) -> np.ndarray:
        """x += velocity / steps."""
        x = noise[:, 0]
        for k in range(self._steps):
            pause()
            x = x + network(x, k / self._steps, condition) / np.float32(self._steps)
        return x

    def at(self, level: float, chunks: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """(1 - t) noise + t action with t = 1 - level; the velocity, action - noise, is predicted."""
        time = 1 - level
        noisy = level * noise + time * chunks
        return noisy.astype(np.float32), time, chunks - noise


PATHS = {"diffusion": Diffusion, "flow": Flow}


class DenoisingSampler:
    """Candidates from independent noise; the features of the observation are computed once."""

    def __init__(
        self, settings: Mapping[str, Any], shape: tuple[int, int], sessions: Mapping[str, Session]
    ) -> None:
        where = "manifest: policy"
        self.path: Path = PATHS[settings["kind"]](settings, where)
        fields = Fields(settings, where)
        self.network = Network(sessions, fields.text("encoder"), fields.text("denoiser"))
        self._shape = shape

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Standard normal, (K, draws, H, A)."""
        return rng.standard_normal((count, self.path.draws, *self._shape), np.float32)

    def sample(self, observation: np.ndarray, noise: np.ndarray, pause: Pause) -> np.ndarray:
        """Chunks (K, H, A)."""
        pause()
        condition = self.network.condition(observation, len(noise))
        return np.clip(self.path.generate(self.network, condition, noise, pause), -1, 1)


class SurrogateRatio:
    """beta * (surrogate log-probability of the policy - that of its reference), over shared draws.

    The surrogate is -1/2 the mean squared error of what the network predicts (Wallace et al. 2023). All
    candidates and both networks see the same times and noise; the reference is a whole network. The spread
    over draws, by the root of their number, is the error of the estimate, not what nobody knows.
    """

    def __init__(self, settings: Mapping[str, Any], path: Path, sessions: Mapping[str, Session]) -> None:
        where = "manifest: scorer"
        names = ("encoder", "denoiser", "reference_encoder", "reference_denoiser")
        fields = Fields(settings, where, ("kind", *names, "beta", "draws", "window"))
        first, second, third, fourth = (fields.text(name) for name in names)
        self._networks = Network(sessions, first, second), Network(sessions, third, fourth)
        self._path, self._beta, self._draws = path, fields.number("beta"), fields.whole("draws")
        self._low, self._high = fields.vector("window", 2)
        if not 0 <= self._low < self._high <= 1:
            raise DataError(f"{where}.window must be two levels of noise, 0 <= low < high <= 1")

    def ratios(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> np.ndarray:
        """The scaled ratio of each candidate under each draw, (N, K); fewer draws where time is up.

        Raises:
            TimeUp: There was no time for a single draw.
        """
        levels = (np.arange(self._draws) + rng.random(self._draws)) / self._draws
        levels = self._low + (self._high - self._low) * levels
        noise = rng.standard_normal((self._draws, 1, *chunks.shape[1:]), np.float32)
        conditions, found = [], []
        try:
            for network in self._networks:
                pause()
                conditions.append(network.condition(observation, len(chunks)))
            for draw in rng.permutation(self._draws):
                noisy, time, wanted = self._path.at(float(levels[draw]), chunks, noise[draw])
                scores = []
                for network, condition in zip(self._networks, conditions, strict=True):
                    pause()
                    scores.append(-0.5 * np.square(network(noisy, time, condition) - wanted).mean((1, 2)))
                found.append(self._beta * (scores[0] - scores[1]))
        except TimeUp:
            if not found:
                raise
        return np.stack(found)
