from dataclasses import replace

import numpy as np
import pytest
import torch

from robopref.data.frames import FrameCache
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError
from robopref.policies.vla.data import Decisions, FilmedEpisodes, TrajectoryGroups, part_numbers
from tests.policies.vla.conftest import tiny


def filmed(folder, lengths, success_at, *, every=2, size=16):
    """Episodes whose frame number f of episode e is all 10 e + f, and whose action at t is t / 100."""
    provenance = Provenance("drawer-open", "toy", 0, "any", {}, "0", {})
    with TrajectoryStore.create(
        folder, observation_size=1, action_size=2, keypoints=(), control_hz=10.0
    ) as store:
        for length, success in zip(lengths, success_at, strict=True):
            store.append(
                Trajectory(
                    observations=np.zeros((length + 1, 1)),
                    actions=np.repeat(np.arange(length)[:, None] / 100, 2, 1),
                    rewards=np.zeros(length),
                    successes=np.arange(length) == success,
                    keypoints={},
                    terminated=False,
                    provenance=provenance,
                )
            )
    store = TrajectoryStore.open(folder)
    with FrameCache.create(
        folder / "film", store, height=size, width=size, every=every, view={}, versions={}
    ) as cache:
        for episode, length in enumerate(lengths):
            numbers = 1 + 10 * episode + np.arange(length // every + 1)
            frames = np.broadcast_to(numbers[:, None, None, None], (len(numbers), size, size, 3))
            cache.append(frames.astype(np.uint8), "replay")
    frames = FrameCache.open(folder / "film", store)
    return FilmedEpisodes(store, frames, ["open the drawer"] * len(lengths))


def test_a_decision_joins_the_frame_before_it_with_the_actions_after_it(tmp_path):
    policy = tiny()
    source = filmed(tmp_path / "s", [6, 5, 6], [None, None, 2])
    decisions = Decisions(policy, [source])
    assert decisions.counts.tolist() == [3, 3, 2]  # the last one counts up to its success at step 3
    batch = decisions.batch(np.arange(len(decisions)))
    assert batch["frames"][:, 0, 0, 0].tolist() == [1, 2, 3, 11, 12, 13, 21, 22]
    actions = policy.actions(batch["targets"])[:, :, 0]
    expected = [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3], [4, 4], [0, 1], [2, 3]]
    assert actions.numpy() == pytest.approx(np.array(expected) / 100, abs=1 / 256)


def test_actions_that_a_success_cut_off_count_in_no_score(tmp_path):
    """Three actions in chunks of two: the fourth was never taken."""
    policy = tiny()
    decisions = Decisions(policy, [filmed(tmp_path / "s", [3, 4], [2, None])])
    assert decisions.taken.tolist() == [[True, True], [True, False], [True, True], [True, True]]
    batch = decisions.batch(np.arange(4))
    each = policy.token_log_probs(batch["frames"], batch["words"], batch["targets"]).detach()
    first = each[0].sum() + each[1, :2].sum()
    assert float(decisions.scores(policy)[:2].sum()) == pytest.approx(float(first), rel=1e-5)
    assert decisions.mean_scores(policy) == pytest.approx([float(first) / 3, float(each[2:].sum()) / 4])
    loss, _ = policy.loss(batch)
    assert float(loss) == pytest.approx(-float(first + each[2:].sum()) / 14, rel=1e-5)


def test_an_instruction_that_is_too_long_is_refused_with_its_store_and_episode(tmp_path):
    source = filmed(tmp_path / "s", [4, 4], [None, None])
    told = replace(source, instructions=["open the drawer", "open the drawer open the drawer"])
    with pytest.raises(DataError, match=rf"^{tmp_path / 's'}, episode 1: An instruction has at most 4 words"):
        Decisions(tiny(), [told])


def test_groups_are_padded_and_masked(tmp_path):
    policy = tiny()
    source = filmed(tmp_path / "s", [6, 2], [None, None])
    decisions = Decisions(policy, [source])
    reference = decisions.scores(policy)
    groups = TrajectoryGroups(
        decisions,
        np.array([[1, 0]]),
        np.array([[1.0, 0.0]]),
        reference=reference,
        parts=part_numbers(decisions.counts, "window", windows=3),
        imitated=np.array([True]),
    )
    batch = groups.sample(2, torch.Generator().manual_seed(0))
    assert batch["frames"].shape == (4, 3, 16, 16, 3)
    assert batch["mask"].tolist() == [[True, False, False], [True, True, True]] * 2
    assert batch["taken"].shape == (4, 3, 2)
    assert batch["imitated"].tolist() == [True, True]
    assert batch["reference"][1].tolist() == pytest.approx(reference[:3].tolist())
    assert batch["parts"][1].tolist() == [0, 1, 2]


def test_windows_of_long_and_short_trajectories_correspond(tmp_path):
    decisions = Decisions(tiny(), [filmed(tmp_path / "s", [8, 4], [None, None])])
    assert part_numbers(decisions.counts, "window", windows=2).tolist() == [0, 0, 1, 1, 0, 1]
    assert part_numbers(decisions.counts, "trajectory").tolist() == [0] * 6
    assert part_numbers(decisions.counts, "step").tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(ConfigError, match="needs the stage"):
        part_numbers(decisions.counts, "stage")
    with pytest.raises(ConfigError, match="segment must be one of"):
        part_numbers(decisions.counts, "epoch")


def test_frames_at_another_rate_or_of_another_size_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="one frame in 3 states"):
        Decisions(tiny(), [filmed(tmp_path / "a", [6], [None], every=3)])
    with pytest.raises(DataError, match="8 x 8 pixels"):
        Decisions(tiny(), [filmed(tmp_path / "b", [6], [None], size=8)])
