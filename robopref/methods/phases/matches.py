"""What alignment did to a pair of episodes and to the space of frames, as arrays for the report.

Letters used in shapes: F frames of an episode, G of a demonstration, n frames, d features.
"""

import numpy as np
import torch
from jaxtyping import Float

from robopref.data.preferences import Preferences
from robopref.rewards.sequences import FeatureSequences
from robopref.rewards.transport import TransportReward

SHOWN_FRAMES = 600
SIDES = ("preferred", "disliked")


@torch.no_grad()
def matches(
    before: TransportReward,
    after: TransportReward,
    sequences: FeatureSequences,
    preferences: Preferences,
    share_won: Float[np.ndarray, " N"],
) -> dict[str, np.ndarray]:
    """Return couplings of one pair with its nearest demonstrations, and frames on the main axes of the space.

    Args:
        before: The reward without alignment.
        after: The aligned reward.
        sequences: Features of all episodes.
        preferences: The first one that is no tie is shown: it is not chosen by how it comes out.
        share_won: Share of its comparisons that each episode won, below 0 where it was in none.

    Returns:
        ``episodes`` (preferred, disliked); for both sides and stages ``plan/<side>/<stage>`` (F, G) and
        ``distance/<side>/<stage>``; ``space/<stage>`` (n, 2) and ``won`` (n,), of frames that were compared.
    """
    chosen = int((preferences.label != 0.5).argmax())
    pair = [int(preferences.a.episode[chosen]), int(preferences.b.episode[chosen])]
    pair = pair if preferences.label[chosen] > 0.5 else pair[::-1]
    compared = np.flatnonzero(share_won[np.repeat(np.arange(len(sequences)), sequences.lengths)] >= 0)
    compared = compared[np.unique(np.linspace(0, len(compared) - 1, SHOWN_FRAMES).astype(int))]
    episodes = np.searchsorted(sequences.first, compared, side="right") - 1
    frames = torch.from_numpy(sequences.features[compared])
    found: dict[str, np.ndarray] = {"episodes": np.array(pair), "won": share_won[episodes]}
    for stage, reward in (("before", before), ("after", after)):
        device = reward.demonstrations.device
        for side, episode in zip(SIDES, pair, strict=True):
            features, lengths = sequences.gather([episode])
            cost, plan = reward.to_demonstrations(features.to(device), lengths.to(device))
            paid = (cost * plan).sum((2, 3))[0]
            nearest = int(paid.argmin())
            length = int(reward.demonstration_lengths[nearest])
            found[f"plan/{side}/{stage}"] = plan[0, nearest, :, :length].cpu().numpy()
            found[f"distance/{side}/{stage}"] = paid[nearest].cpu().numpy()
        found[f"space/{stage}"] = main_axes(reward.aligned(frames.to(device)).cpu().double().numpy())
    return found


def main_axes(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Project on the two directions of most spread; the largest entry of each direction is positive."""
    centred = points - points.mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    main = vectors[:, :-3:-1]
    largest = np.take_along_axis(main, np.abs(main).argmax(0)[None], 0)
    return centred @ (main * np.sign(largest))
