"""Frames of a store, a reward learned from them and from preferences, and what it says of what is filmed."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from robopref.data.frames import FrameCache
from robopref.data.preferences import Preferences
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Trajectory
from robopref.errors import ConfigError, DataError
from robopref.files import replacing, write_json
from robopref.methods.components import Component, Fit, Sampling, Scene
from robopref.methods.phases.align import whole_episodes_only
from robopref.methods.phases.judged import split_by_episode
from robopref.methods.phases.lab import Lab, file_content, stream, training_seeds
from robopref.methods.phases.label import content, read_labels, store_labels
from robopref.methods.phases.matches import matches
from robopref.nets.features import cached_features
from robopref.nets.vision import FITTING_FRAMES, FrameEncoder, make_encoder
from robopref.policies.saved import load_policy
from robopref.rewards.metrics import pair_accuracy
from robopref.rewards.saved import load_frame_reward, save_reward
from robopref.rewards.sequences import FeatureSequences, ordered_by_scores, spread_over_steps
from robopref.rewards.staged.pairs import Pairing, ranked_pairs
from robopref.rewards.transport import TransportReward
from robopref.training.aligning import AligningPlan, learn_transport, untrained_transport
from robopref.training.filming import film_episode, film_store
from robopref.training.recording import Judge
from robopref.training.rollouts import Assignment, collect_rollouts
from robopref.training.step import Sampler

REWARDS_NAME, MATCHES_NAME = "rewards.npy", "matches.npz"
POOL_FRAMES = 50_000  # of which the features' mean and spread are taken


def film(
    lab: Lab, store: TrajectoryStore, view: dict[str, Any], every: int, *, name: str = "film"
) -> FrameCache:
    """Film the episodes that are not filmed yet; the frames lie beside the store. ``name`` is the phase's."""

    def work() -> dict[str, Any]:
        cache = film_store(store, view=view, every=every, workers=lab.hardware.workers)
        lab.run.say(f"  {len(cache.frames)} frames of {cache.width} x {cache.height} pixels in {cache.path}")
        return {"frames": len(cache.frames), "cache": str(cache.path)}

    lab.run.phase(name, {"data": store.fingerprint(), "view": view, "every": every}, work)
    return film_store(store, view=view, every=every, workers=0, progress=False)


def encode(lab: Lab, cache: FrameCache, settings: dict[str, Any]) -> tuple[FrameEncoder, FeatureSequences]:
    """Fit the encoder to some unlabelled frames, where it is to be fitted, and encode every frame once."""
    encoder = make_encoder(settings)
    frames = cache.frames
    chosen = np.unique(np.linspace(0, len(frames) - 1, FITTING_FRAMES).astype(int))
    encoder.fit(torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2))
    return encoder, _encoded(lab, cache, encoder)


def _encoded(lab: Lab, cache: FrameCache, encoder: FrameEncoder) -> FeatureSequences:
    features = cached_features(
        encoder, cache.frames, content=cache.content(), folder=cache.path, device=lab.fabric.device
    )
    encoder.cpu()
    return FeatureSequences.of(cache, features)


def align_reward(
    lab: Lab,
    reward: Component,
    plan: AligningPlan,
    encoder: FrameEncoder,
    sequences: FeatureSequences,
    store: TrajectoryStore,
    url: str,
    *,
    demonstrations: int,
    held_out: float,
    max_pairs: int | None,
) -> Path:
    """Learn a transport reward from the labels of a store; returns its folder.

    The demonstrations are the episodes that won most of their comparisons, so nothing but labels chooses
    them.

    Args:
        reward: A :class:`~robopref.rewards.transport.TransportReward` without encoder and demonstrations.
        plan: How it is learned.
        encoder: Of the frames.
        sequences: Features of all episodes.
        store: The episodes.
        url: Their label store.
        demonstrations: How many.
        held_out: Share of episodes that neither preferences nor demonstrations are taken from.
        max_pairs: Learn from so many preferences; None takes all.
    """
    folder = lab.run.directory / "reward"
    preferences = whole_episodes_only(read_labels(store, url), store)
    settings = {
        "reward": reward.settings,
        "plan": {name: list(v) if isinstance(v, tuple) else v for name, v in vars(plan).items()},
        "encoder": encoder.fingerprint(),
        "data": store.fingerprint(),
        "labels": content(preferences),
        "demonstrations": demonstrations,
        "held_out": held_out,
        "max_pairs": max_pairs,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        rng = stream(lab.seed, "align-reward")
        train, kept = split_by_episode(preferences, len(store), held_out, rng)
        if max_pairs is not None and max_pairs < len(train):
            train = train.select(np.sort(rng.choice(len(train), max_pairs, replace=False)))
        best = winners(train, len(store), demonstrations)
        pool = np.setdiff1d(np.arange(len(store)), np.union1d(kept.a.episode, kept.b.episode))
        build = _builder(lab, reward, encoder, sequences, best)
        trained = functools.partial(_train, lab, folder, settings)
        learned, report = learn_transport(build, sequences, train, pool, plan, trained, rng)
        metrics = {
            "pairs": len(train),
            "held_out_pairs": len(kept),
            "demonstrations": best.tolist(),
            **report,
        }
        if (kept.label != 0.5).any():
            before = untrained_transport(build, sequences, train, plan)
            for name, judge in (("pair_accuracy", learned), ("untrained_pair_accuracy", before)):
                scores = judge.score_all(sequences)
                said = (scores[kept.a.episode] > scores[kept.b.episode]).astype(np.float32)
                metrics[name] = pair_accuracy(said, kept.label).accuracy
        shown = kept if (kept.label != 0.5).any() else train
        unaligned = build(learned.epsilon, learned.temperature)
        share = share_won(preferences, len(store))
        pictures: dict[str, Any] = matches(unaligned, learned, sequences, shown, share)
        with replacing(folder / MATCHES_NAME) as temporary:
            np.savez_compressed(temporary, **pictures)
        save_reward(folder, learned.cpu())
        write_json(folder / "metrics.json", metrics)
        return metrics

    found = lab.run.phase("align-reward", settings, work)
    lab.run.say(f"  epsilon {found['epsilon']}, temperature {found['temperature']} by validation preferences")
    if "pair_accuracy" in found:
        share, before, pairs = (
            found[name] for name in ("pair_accuracy", "untrained_pair_accuracy", "held_out_pairs")
        )
        lab.run.say(f"  {share:.1%} of {pairs} held-out preferences are ordered right ({before:.1%} before)")
    if found["alarm"]["collapsed"]:
        lab.run.say(
            f"  COLLAPSED: {found['alarm']['reason']}. More preferences or fewer steps are the cures."
        )
    return folder


def _builder(
    lab: Lab,
    reward: Component,
    encoder: FrameEncoder,
    sequences: FeatureSequences,
    demonstrations: np.ndarray,
) -> Callable[[float, float], TransportReward]:
    """What makes an untrained reward of an epsilon and a temperature, with these episodes to compare with."""
    videos, lengths = sequences.gather(demonstrations)
    some = np.unique(np.linspace(0, len(sequences.features) - 1, POOL_FRAMES).astype(int))
    frames = torch.from_numpy(sequences.features[some])

    def build(epsilon: float, temperature: float) -> TransportReward:
        built = reward.build(
            encoder=encoder,
            demonstrations=len(demonstrations),
            frames=videos.shape[1],
            epsilon=epsilon,
            temperature=temperature,
            seed=lab.seed,
        )
        built.set_demonstrations(videos, lengths, frames)
        return built.to(lab.fabric.device)

    return build


def _train(
    lab: Lab,
    folder: Path,
    settings: dict[str, Any],
    learner: nn.Module,
    sampler: Sampler,
    steps: int,
    batch: int,
    name: str,
) -> dict[str, float]:
    place = folder / "training" / name
    return lab.fit(learner, sampler, Fit(steps, batch), phase=name, folder=place, settings=settings)


def winners(preferences: Preferences, episodes: int, count: int) -> np.ndarray:
    """Return the episodes that won the largest share of their comparisons, the best first.

    Raises:
        DataError: There are fewer compared episodes.
    """
    share = share_won(preferences, episodes)
    compared = np.count_nonzero(share >= 0)
    if count < 1 or compared < count:
        raise DataError(f"{compared} episodes were compared; {count} demonstrations are asked for.")
    return np.argsort(-share, kind="stable")[:count]


def share_won(preferences: Preferences, episodes: int) -> Float[np.ndarray, " episodes"]:
    """Return the share of its comparisons that each episode won, with a tie imagined; -1 without any."""
    won, met = np.zeros(episodes), np.zeros(episodes)
    for side, label in ((preferences.a, preferences.label), (preferences.b, 1 - preferences.label)):
        np.add.at(won, side.episode, label)
        np.add.at(met, side.episode, 1)
    return np.where(met > 0, (won + 0.5) / (met + 1), -1)  # so that a single win is not certainty


def frame_rewards(lab: Lab, reward: Path, sequences: FeatureSequences, store: TrajectoryStore) -> Path:
    """Predict the reward of every step of a store from its frames; returns the file of rows.

    Their sums order the episodes as the reward's scores do (:func:`~.sequences.ordered_by_scores`).
    """
    path = lab.run.directory / "reward" / REWARDS_NAME
    settings = {
        "reward": file_content(reward / "model.safetensors"),
        "data": store.fingerprint(),
        "sums": "scores",  # what is written depends on it, so rewards of another making are not kept
    }

    def work() -> dict[str, Any]:
        learned = load_frame_reward(reward)
        if not isinstance(learned, TransportReward) and learned.encoder.width != sequences.width:
            raise ConfigError(
                f"{reward} was learned on other features than these of {sequences.width} numbers."
            )
        rows = np.zeros(len(store.array("rewards")), np.float32)
        scores = learned.score_all(sequences)
        steps = [
            spread_over_steps(values.astype(np.float64), sequences.every, int(length))
            for values, length in zip(learned.steps_all(sequences), store.lengths, strict=True)
        ]
        for first, values in zip(store.first_rows, ordered_by_scores(steps, scores), strict=True):
            rows[first : first + len(values)] = values
        with replacing(path) as temporary:
            np.save(temporary, rows)
        ranking = [{"episode": int(i), "score": float(scores[i])} for i in np.argsort(-scores)]
        write_json(path.with_name("ranking.json"), ranking)
        return {"rewards": str(path)}

    lab.run.phase("frame-rewards", settings, work)
    return path


def sample_rollouts(lab: Lab, policy: Path, scene: Scene, sampling: Sampling) -> TrajectoryStore:
    """Let a policy act several times from each of some initial states; none of them is an evaluation's."""
    content = file_content(policy / "model.safetensors")
    seeds = training_seeds(lab, scene.task, sampling.starts)
    asked = Assignment(
        scene.task, scene.id, scene.options, ("",), seeds, sampling.repeats, False, draw_seed=lab.seed
    )

    def sampled() -> TrajectoryStore:
        return collect_rollouts(
            lab.run.directory / "rollouts",
            load_policy(policy),
            [asked],
            policy_content=content,
            at_once=sampling.at_once,
            workers=lab.hardware.workers,
        )[scene.task]

    def work() -> dict[str, Any]:
        return {"success": float(np.mean(sampled().successes))}

    settings = {"policy": content, "assignment": asked.settings(), "at_once": sampling.at_once}
    found = lab.run.phase("rollouts", settings, work)
    lab.run.say(f"  {sampling.starts * sampling.repeats} rollouts, {found['success']:.0%} successful")
    return sampled()


def rank_rollouts(lab: Lab, reward: Path, cache: FrameCache, *, gap: float) -> str:
    """Compare rollouts of one initial state by their score; returns the URL of the label store.

    Args:
        reward: The folder of a frame reward.
        cache: Frames of the rollouts.
        gap: Least difference of two scores that makes a pair, in deviations of all scores.

    Raises:
        DataError: No two rollouts differ by that much.
    """
    store, url = cache.store, lab.label_url("rollouts")

    def work() -> dict[str, Any]:
        learned = load_frame_reward(reward)
        scores = learned.score_all(_encoded(lab, cache, learned.encoder)).astype(np.float64)
        pairs = ranked_pairs(store, scores, Pairing(top=None, gap=gap * float(scores.std())))
        if not len(pairs):
            raise DataError(
                f"No two of {len(store)} rollouts differ by {gap} deviations of their scores: sample more of "
                "each initial state, or give a smaller rollouts.gap."
            )
        store_labels(url, pairs, store, "model", "frame-reward")
        return {"pairs": len(pairs)}

    settings = {
        "reward": file_content(reward / "model.safetensors"),
        "data": cache.content(),
        "gap": gap,
    }
    found = lab.run.phase("rank-rollouts", settings, work)
    lab.run.say(f"  {found['pairs']} pairs of rollouts from one initial state, ordered by the aligned reward")
    return url


def filmed_judge(reward: Path, view: dict[str, Any], every: int) -> Judge:
    """Return what films an episode and gives the learned reward of each of its steps."""

    def judge(trajectory: Trajectory) -> np.ndarray:
        values = load_frame_reward(reward).judge(film_episode(trajectory, view=view, every=every))
        return spread_over_steps(values, every, trajectory.length)

    return judge
