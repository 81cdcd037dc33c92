"""Which of many candidate pairs to ask about next, given what is known of them.

Every strategy draws a stated share of its pairs at random first, evenly from all candidates, and marks them:
on those alone can accuracy be measured without bias, since what a model asks for is what it finds hard.

    strategy           asks first for pairs ...                                       needs
    random             at random                                                      -
    disagreement       on whose probability the members of an ensemble differ most    probabilities
    entropy            whose mean probability is nearest to one half                  probabilities
    information_gain   on which the members are sure, and contradict each other       probabilities
    k_center           that are far from what was asked before and from each other    features
    easy_first         that are easiest to judge, easiest first                       difficulty*
    hard_first         that are hardest to judge, hardest first                       difficulty*

    * or probabilities

Sources: ``disagreement``, ``entropy`` and ``k_center`` are those of PEBBLE (Lee, Smith, Abbeel 2021,
arXiv 2106.05091) and B-Pref (Lee et al. 2021, arXiv 2111.03026; its entropy is the mean over members of each
one's own, here it is that of their mean); the greedy k-center rule is Sener and Savarese 2018 (arXiv
1708.00489, algorithm 1); ``information_gain`` is BALD (Houlsby et al. 2011, arXiv 1112.5745), as used for
preferences in APReL (Biyik, Talati, Sadigh 2021, arXiv 2108.07259).

Letters used in shapes: M members of an ensemble, P candidate pairs, D features of a pair, Q pairs asked
before, n pairs chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from robopref.errors import ConfigError, DataError, unknown_name


@no_type_check  # __post_init__ converts and checks, always
@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs that could be asked about, and what is known of them; a strategy says what it needs.

    Args:
        pairs: How many there are, P.
        probabilities: Chance that the first segment of each pair is preferred, by each member of an ensemble.
        features: Where each pair lies in a space in which near pairs teach the same, such as the learned
            features of its two segments side by side.
        asked: The same of the pairs that were asked before.
        difficulty: How hard each pair is to judge, in any unit; by default the entropy of the mean
            probability.

    Raises:
        DataError: Sizes do not fit each other, or a value is not finite or no probability.
    """

    pairs: int
    probabilities: Float64[np.ndarray, "M P"] | None = None
    features: Float64[np.ndarray, "P D"] | None = None
    asked: Float64[np.ndarray, "Q D"] | None = None
    difficulty: Float64[np.ndarray, " P"] | None = None

    def __post_init__(self):
        if isinstance(self.pairs, bool) or not isinstance(self.pairs, int) or self.pairs < 1:
            raise DataError(f"Candidates: there must be at least one pair, got {self.pairs!r}.")
        for name, axes, axis in (("probabilities", 2, 1), ("features", 2, 0), ("difficulty", 1, 0)):
            value = _numbers(name, getattr(self, name), axes)
            if value is not None and (value.shape[axis] != self.pairs or value.size == 0):
                raise DataError(
                    f"Candidates: {name} must speak of {self.pairs} pairs along axis {axis}, got shape "
                    f"{value.shape}."
                )
            object.__setattr__(self, name, value)
        asked = _numbers("asked", self.asked, 2)
        if asked is not None and (self.features is None or asked.shape[1] != self.features.shape[1]):
            got = "no features" if self.features is None else f"features of shape {self.features.shape}"
            raise DataError(
                f"Candidates: asked must have the columns of features, got {asked.shape} and {got}."
            )
        object.__setattr__(self, "asked", asked)
        chance = self.probabilities
        if chance is not None and ((chance < 0) | (chance > 1)).any():
            raise DataError(
                f"Candidates: probabilities must lie in [0, 1], got {chance.min():g} to {chance.max():g}."
            )


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pairs to ask about, in the order to ask.

    Attributes:
        index: Position of each among the candidates; no pair twice.
        at_random: Which of them were drawn at random from all candidates: measure accuracy on these.
    """

    index: Int64[np.ndarray, " n"]
    at_random: Bool[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.index)


Query = Callable[..., Chosen]  # (candidates, n, rng, *, random_share=...)


def random(candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 1.0) -> Chosen:
    """Choose evenly; all of it is random, whatever the share."""
    _check(candidates, n, random_share)
    return Chosen(rng.permutation(candidates.pairs)[:n], np.ones(n, bool))


def disagreement(
    candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.1
) -> Chosen:
    """Choose where the members' probabilities have the largest standard deviation."""
    return _highest(candidates, disagreement_scores(_members(candidates)), n, rng, random_share)


def entropy(candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.1) -> Chosen:
    """Choose where the members' mean probability has the largest entropy: nearest to one half."""
    return _highest(candidates, entropy_scores(_members(candidates, least=1)), n, rng, random_share)


def information_gain(
    candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.1
) -> Chosen:
    """Choose where the answer is expected to tell most about which member is right."""
    return _highest(candidates, information_gain_scores(_members(candidates)), n, rng, random_share)


def easy_first(
    candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.0
) -> Chosen:
    """Choose the easiest pairs; with n equal to all candidates, an order in which to ask them."""
    return _highest(candidates, -_difficulty(candidates), n, rng, random_share)


def hard_first(
    candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.0
) -> Chosen:
    """Choose the hardest pairs; with n equal to all candidates, an order in which to ask them."""
    return _highest(candidates, _difficulty(candidates), n, rng, random_share)


def k_center(
    candidates: Candidates, n: int, rng: np.random.Generator, *, random_share: float = 0.1
) -> Chosen:
    """Choose pairs that cover the feature space: each the farthest from all that were asked or chosen.

    The radius that n centres chosen so leave uncovered is at most twice the least possible (Gonzalez 1985).
    The pairs drawn at random are centres from the start. With nothing asked before and none drawn at random,
    the first centre is.
    """
    drawn = _draw_share(candidates, n, rng, random_share)
    if candidates.features is None:
        raise ConfigError("k_center needs features of the candidate pairs, got none.")
    points = candidates.features
    centres = points[drawn] if candidates.asked is None else np.vstack([candidates.asked, points[drawn]])
    nearest = np.full(candidates.pairs, np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(axis=1))
    nearest[drawn] = -1  # taken
    chosen = []
    for _ in range(n - len(drawn)):
        farthest = int(rng.integers(candidates.pairs)) if np.isinf(nearest).all() else _argmax(nearest, rng)
        chosen.append(farthest)
        nearest = np.minimum(nearest, ((points - points[farthest]) ** 2).sum(axis=1))
        nearest[farthest] = -1
    return _mix(drawn, np.array(chosen, np.int64), rng)


QUERIES: dict[str, Query] = {
    function.__name__: function
    for function in (random, disagreement, entropy, information_gain, k_center, easy_first, hard_first)
}


def query_named(name: str) -> Query:
    """Return a strategy by its name.

    Raises:
        ConfigError: There is none of that name; the message says which is nearest.
    """
    if name not in QUERIES:
        raise ConfigError(unknown_name("query strategy", name, QUERIES))
    return QUERIES[name]


def disagreement_scores(probabilities: Float[np.ndarray, "M P"]) -> Float[np.ndarray, " P"]:
    """Return the standard deviation over members of each pair's probability."""
    return probabilities.std(axis=0)


def entropy_scores(probabilities: Float[np.ndarray, "M P"]) -> Float[np.ndarray, " P"]:
    """Return the entropy of each pair's mean probability, in nats."""
    return _entropy(probabilities.mean(axis=0))


def information_gain_scores(probabilities: Float[np.ndarray, "M P"]) -> Float[np.ndarray, " P"]:
    """Return H(mean_m p_m) - mean_m H(p_m), in nats: what an answer tells about which member is right."""
    return _entropy(probabilities.mean(axis=0)) - _entropy(probabilities).mean(axis=0)


# -- small parts -------------------------------------------------------------------------------------------


def _highest(
    candidates: Candidates, scores: np.ndarray, n: int, rng: np.random.Generator, random_share: float
) -> Chosen:
    """Choose the highest scores among what was not drawn at random; ties fall at random."""
    drawn = _draw_share(candidates, n, rng, random_share)
    order = rng.permutation(candidates.pairs)
    order = order[np.argsort(-scores[order], kind="stable")]
    rest = order[~np.isin(order, drawn)]
    return _mix(drawn, rest[: n - len(drawn)], rng)


def _draw_share(
    candidates: Candidates, n: int, rng: np.random.Generator, share: float
) -> Int64[np.ndarray, " n"]:
    """Draw the random share; where share * n is no whole number, the next one up with that chance."""
    _check(candidates, n, share)
    count = int(share * n) + int(rng.random() < share * n - int(share * n))
    return rng.permutation(candidates.pairs)[:count]


def _mix(drawn: np.ndarray, informed: np.ndarray, rng: np.random.Generator) -> Chosen:
    """Scatter the random pairs among the others, which keep their order, so stopping early is fair too."""
    at_random = rng.permutation(np.arange(len(drawn) + len(informed)) < len(drawn))
    index = np.empty(len(at_random), np.int64)
    index[at_random], index[~at_random] = drawn, informed
    return Chosen(index, at_random)


def _check(candidates: Candidates, n: int, share: float) -> None:
    if not 1 <= n <= candidates.pairs:
        raise ConfigError(f"Choose between 1 and {candidates.pairs} of the candidate pairs, got n={n}.")
    if not 0 <= share <= 1:
        raise ConfigError(f"random_share must lie in [0, 1], got {share}.")


def _members(candidates: Candidates, least: int = 2) -> Float64[np.ndarray, "M P"]:
    members = candidates.probabilities
    if members is None or len(members) < least:
        got = "no probabilities" if members is None else f"{len(members)}"
        raise ConfigError(f"This strategy needs the probabilities of {least} members or more, got {got}.")
    return members


def _difficulty(candidates: Candidates) -> Float64[np.ndarray, " P"]:
    if candidates.difficulty is not None:
        return candidates.difficulty
    return entropy_scores(_members(candidates, least=1))


def _entropy(chance: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    other = 1 - chance
    safe, safe_other = np.where(chance > 0, chance, 1), np.where(other > 0, other, 1)
    return -(chance * np.log(safe) + other * np.log(safe_other))


def _argmax(values: Float[np.ndarray, " P"], rng: np.random.Generator) -> int:
    return int(rng.choice(np.flatnonzero(values == values.max())))


def _numbers(name: str, value: np.ndarray | None, axes: int) -> Float64[np.ndarray, "..."] | None:
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim != axes or array.dtype.kind not in "fiu":
        got = f"{array.dtype} of shape {array.shape}"
        raise DataError(f"Candidates: {name} must be numbers with {axes} axes, got {got}.")
    array = array.astype(np.float64)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        at = tuple(bad[0].tolist())
        raise DataError(f"Candidates: {name} holds {array[at]} at {at} ({len(bad)} not finite).")
    return array
