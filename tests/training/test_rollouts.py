import numpy as np
import pytest
import torch

from robopref.data.queries import initial_states
from robopref.errors import ConfigError
from robopref.training.filming import film_store
from robopref.training.rollouts import Assignment, collect_rollouts
from robopref.training.signals import _replay, replayed_signals
from tests.training.seen_env import SEEN
from tests.training.toy_env import TOY


class Reader:
    """A policy that sees: it writes the frame's red and the instruction's length into its actions."""

    image_size = 16

    def __init__(self):
        self.asked = []

    def see(self, frames, instructions):
        return torch.tensor(
            [[int(f[0, 0, 0]), len(text)] for f, text in zip(frames, instructions, strict=True)]
        ).float()

    def act(self, observations, *, generator=None, deterministic=True):
        self.asked.append(len(observations))
        reach = observations[:, 0] / 255
        if not deterministic:
            reach = reach + 0.1 * torch.randn(len(reach), generator=generator)
        chunk = torch.stack([reach, observations[:, 1] / 100], 1)
        return chunk[:, None].expand(-1, 3, -1)


def assignment(name="toy", env_id=SEEN, **options):
    settings = {
        "env_options": {"horizon": 7, "width": 16, "height": 16},
        "instructions": ("go", "go there"),
        "seeds": (3, 5),
        "repeats": 2,
        "deterministic": False,
        **options,
    }
    return Assignment(name, env_id, **settings)


def collected(folder, policy=None, **options):
    stores = collect_rollouts(
        folder, policy or Reader(), [assignment(**options)], policy_content="abc", progress=False
    )
    return stores["toy"]


def test_rollouts_advance_together_and_each_goes_its_own_way(tmp_path):
    policy = Reader()
    store = collected(tmp_path, policy)
    assert policy.asked == [4, 4, 4]  # seven steps in chunks of three: all four rollouts at once
    assert len(store) == 4
    assert store.lengths.tolist() == [7] * 4
    first = store.episode(0)
    assert first.observations[0, 0] == pytest.approx(store.episode(2).observations[0, 0])
    for episode in range(4):  # positions follow from the recorded actions: no rollout leaked into another
        one = store.episode(episode)
        expected = one.observations[0, :2] + 0.5 * np.cumsum(one.actions, 0)
        assert one.observations[1:, :2] == pytest.approx(expected, abs=1e-5)


def test_rollouts_of_a_seed_share_their_initial_state_and_instruction(tmp_path):
    store = collected(tmp_path)
    for episodes in initial_states(store).values():
        assert len(episodes) == 2
        options = [store.provenance(int(e)).options for e in episodes]
        assert options[0]["instruction"] == options[1]["instruction"]
        assert [o["repeat"] for o in options] == [0, 1]
    told = {store.provenance(e).seed: store.provenance(e).options["instruction"] for e in range(4)}
    assert told == {3: "go", 5: "go there"}
    assert store.episode(0).actions[0, 1] == pytest.approx(0.02)  # the length of what it was told
    assert store.episode(1).actions[0, 1] == pytest.approx(0.08)


def test_drawn_rollouts_differ_by_their_repeat_and_come_back_by_their_seed(tmp_path):
    one, again = collected(tmp_path / "a"), collected(tmp_path / "b")
    other = collected(tmp_path / "c", draw_seed=1)
    assert not np.array_equal(one.episode(0).actions, one.episode(2).actions)
    assert one.fingerprint() == again.fingerprint()
    assert one.fingerprint() != other.fingerprint()


def test_what_is_there_is_read_and_what_was_made_otherwise_is_refused(tmp_path):
    policy = Reader()
    collected(tmp_path, policy)
    asked = len(policy.asked)
    collected(tmp_path, policy)
    assert len(policy.asked) == asked
    with pytest.raises(ConfigError, match="made otherwise"):
        collected(tmp_path, policy, deterministic=True)


def test_an_environment_without_snapshots_and_a_repeated_seed_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"snapshot\(\)"):
        collected(tmp_path, env_id=TOY, env_options={})
    with pytest.raises(ConfigError, match="twice"):
        assignment(seeds=(1, 1))


def test_kept_frames_are_those_that_a_replay_would_film(tmp_path):
    options = {"horizon": 6, "width": 16, "height": 16}  # two decisions, and a last frame after the second
    view = {"width": 16, "height": 16}
    store = collected(tmp_path, env_options=options, view=view)
    kept = film_store(store, view=view, every=3, workers=0, progress=False)
    assert '"rollout"' in (kept.path / "episodes.jsonl").read_text().replace("\\", "")
    filmed = film_store(store, view=view, every=3, folder=tmp_path / "again", workers=0, progress=False)
    assert len(kept) == len(store) == len(filmed)
    assert np.array_equal(kept.frames, filmed.frames)


def test_frames_are_kept_as_they_were_seen_or_not_at_all():
    with pytest.raises(ConfigError, match="kept as they are seen"):
        assignment(view={"width": 32})


def test_a_rollout_ends_at_its_first_success_and_its_signals_are_those_of_a_replay(tmp_path):
    """Drawer-close, pushed blindly: the arm moves forward until the drawer is shut or time is over."""

    class Pusher(Reader):
        def act(self, observations, *, generator=None, deterministic=True):
            chunk = torch.tensor([0.0, 1.0, -0.35, 0.0])
            return chunk.expand(len(observations), 5, 4)

    store = collected(
        tmp_path,
        Pusher(),
        env_id="robopref.envs:robopref/mw-drawer-close-v0",
        env_options={"horizon": 60, "width": 16, "height": 16},
        repeats=1,
        until_success=True,
    )
    for episode in range(len(store)):
        successes = store.episode(episode).successes
        assert not successes[:-1].any()
    kept = replayed_signals(store)
    again = _replay(store)
    for name, column in kept.items():
        assert np.array_equal(column, np.concatenate([part[name] for part in again]))
