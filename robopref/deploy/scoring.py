"""What ranks candidates: a learned reward, or how much likelier they became by preferences.

Letters used in shapes: O observation entries, K candidates, H actions in a chunk, A entries of an action, M
members of an ensemble.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robopref.deploy.denoising import PATHS, SurrogateRatio
from robopref.deploy.fields import Fields
from robopref.deploy.manifest import Manifest
from robopref.deploy.runtime import Pause, Session, find
from robopref.errors import DataError, unknown_name
from robopref.scores import Scores, product


@runtime_checkable
class Scorer(Protocol):
    """Scores candidates of one observation."""

    def score(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> Scores:
        """Scores of chunks (K, H, A) in [-1, 1] at an observation (O,)."""
        ...


class EnsembleScorer:
    """A reward ensemble over whole chunks (``whole``), or over single actions: then the mean over a chunk's
    actions, all judged at the observation where it begins.
    """

    def __init__(
        self, settings: Mapping[str, Any], manifest: Manifest, sessions: Mapping[str, Session]
    ) -> None:
        fields = Fields(settings, "manifest: scorer", ("kind", "network", "whole"))
        self._reward = find(sessions, fields.text("network"))
        if not isinstance(fields.take("whole"), bool):
            raise DataError("manifest: scorer.whole must be true or false")
        self._whole = bool(settings["whole"])

    def score(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> Scores:
        """One run of the network; nothing is drawn."""
        pause()
        count, horizon = len(chunks), 1 if self._whole else chunks.shape[1]
        rows = np.broadcast_to(observation, (count * horizon, len(observation)))
        inputs = {"observations": rows, "actions": chunks.reshape(count * horizon, -1)}
        mean, deviation = self._reward("mean", "deviation", **inputs)
        mean = mean.reshape(count, horizon, -1).mean(1)  # (K, M)
        variance = np.square(deviation).reshape(count, horizon, -1).mean((1, 2)) / horizon
        return Scores(mean.mean(1), mean.std(1), np.sqrt(variance), np.zeros(count))


class ImplicitScorer:
    """beta * (log policy - log reference) of a candidate: the reward that preference learning implies.

    Of two Gaussians it is exact; the reference is a whole network of its own.
    """

    def __init__(
        self, settings: Mapping[str, Any], manifest: Manifest, sessions: Mapping[str, Session]
    ) -> None:
        known = ("kind", "network", "deviation", "reference", "reference_deviation", "beta")
        fields = Fields(settings, "manifest: scorer", known)
        self._networks = find(sessions, fields.text("network")), find(sessions, fields.text("reference"))
        self._deviations = tuple(
            fields.vector(name, manifest.action.size) for name in ("deviation", "reference_deviation")
        )
        self._beta = fields.number("beta")

    def score(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> Scores:
        """Two runs of a network; nothing is drawn."""
        log_probs = []
        for network, deviation in zip(self._networks, self._deviations, strict=True):
            pause()
            (mean,) = network(observations=observation[None])
            standardised = (chunks - mean) / deviation
            log_probs.append(-(0.5 * np.square(standardised) + np.log(deviation)).sum((1, 2)))
        none = np.zeros(len(chunks))
        return Scores(self._beta * (log_probs[0] - log_probs[1]), none, none, none)


class SurrogateScorer:
    """The same of a diffusion or flow policy, by the errors of its predictions."""

    def __init__(
        self, settings: Mapping[str, Any], manifest: Manifest, sessions: Mapping[str, Session]
    ) -> None:
        kind = manifest.policy["kind"]
        if kind not in PATHS:
            raise DataError(f"manifest: a surrogate scorer needs a diffusion or flow policy, not {kind}")
        path = PATHS[kind](manifest.policy, "manifest: policy")
        self._ratio = SurrogateRatio(settings, path, sessions)

    def score(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> Scores:
        """As many draws as there is time for; of a single one the error is not known."""
        ratios = self._ratio.ratios(observation, chunks, rng, pause)
        draws, none = len(ratios), np.zeros(len(chunks))
        error = ratios.std(0, ddof=1) / draws**0.5 if draws > 1 else np.full(len(chunks), np.nan)
        return Scores(ratios.mean(0), none, none, error)


class ProductScorer:
    """The product of the strengths exp(score)."""

    def __init__(
        self, settings: Mapping[str, Any], manifest: Manifest, sessions: Mapping[str, Session]
    ) -> None:
        fields = Fields(settings, "manifest: scorer", ("kind", "factors"))
        self._factors = [_made(factor, manifest, sessions) for factor in fields.array("factors")]
        if not self._factors:
            raise DataError("manifest: scorer.factors must hold one scorer or more, got none")

    def score(
        self, observation: np.ndarray, chunks: np.ndarray, rng: np.random.Generator, pause: Pause
    ) -> Scores:
        """One after the other."""
        return product([factor.score(observation, chunks, rng, pause) for factor in self._factors])


SCORERS: dict[str, Callable[..., Scorer]] = {
    "ensemble": EnsembleScorer,
    "implicit": ImplicitScorer,
    "surrogate": SurrogateScorer,
    "product": ProductScorer,
}


def scorer(manifest: Manifest, sessions: Mapping[str, Session]) -> Scorer | None:
    """The scorer that the manifest names; None where it has none.

    Raises:
        DataError: There is no such kind, or its settings make no sense.
    """
    return None if manifest.scorer is None else _made(manifest.scorer, manifest, sessions)


def _made(settings: Any, manifest: Manifest, sessions: Mapping[str, Session]) -> Scorer:
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if kind not in SCORERS:
        raise DataError(f"manifest: {unknown_name('kind of scorer', str(kind), SCORERS)}")
    return SCORERS[kind](settings, manifest, sessions)
