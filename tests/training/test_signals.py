from pathlib import Path

import numpy as np
import pytest

from robopref.errors import ConfigError, DataError
from robopref.rewards.staged.costs import store_costs
from robopref.rewards.staged.language import load_costs, parse_costs
from robopref.rewards.staged.tasks import cost_file
from robopref.training.collect import collect
from robopref.training.signals import costs_in, keep_signals, replayed_poses, replayed_signals


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """An expert and a random episode of drawer-open, in this order."""
    return collect(
        tmp_path_factory.mktemp("signals") / "store",
        env_id="robopref.envs:robopref/mw-drawer-open-v0",
        env_options={"horizon": 110},
        behaviours=[{"kind": "expert", "noise": 0.1}, {"kind": "random"}],
        episodes=2,
        seed=0,
        workers=0,
        progress=False,
    )


def test_contacts_are_read_from_the_simulator_state_by_state(store):
    signals = replayed_signals(store)
    first = slice(0, 111)
    assert set(signals) == {"touch", "collision", "force", "gripper"}
    assert all(len(column) == 222 for column in signals.values())
    assert signals["touch"][0] == 0
    touching = signals["touch"][first] + signals["collision"][first] > 0
    assert touching.any()
    assert (signals["force"][first][touching] > 0).any()
    assert (signals["force"][first][~touching] == 0).all()
    again = replayed_signals(store)
    assert all(np.array_equal(again[name], signals[name]) for name in signals)


def test_the_gripper_is_as_open_as_the_observation_says(store):
    seen = np.concatenate([store.episode(episode).observations[:, 3] for episode in range(2)])
    assert replayed_signals(store)["gripper"].astype(np.float32).tolist() == seen.tolist()


def test_signals_of_before_that_lack_one_are_made_again(store):
    whole = replayed_signals(store)
    kept = {name: column for name, column in whole.items() if name != "gripper"}
    lengths = np.cumsum(store.lengths + 1)[:-1]
    parts = {name: np.split(column, lengths) for name, column in kept.items()}
    keep_signals(store, [{name: parts[name][episode] for name in kept} for episode in range(2)])
    assert set(replayed_signals(store, ["touch"])) == set(kept)
    assert np.array_equal(replayed_signals(store, ["gripper"])["gripper"], whole["gripper"])


ANSWER = Path(__file__).parents[1] / "rewards" / "answers" / "drawer-open.md"


def test_poses_that_a_proposal_names_are_those_of_the_simulator(store):
    """The drawer of Meta-World slides and does not turn; its handle moves with it."""
    costs = load_costs(ANSWER, task="drawer-open")
    poses = replayed_poses(store, costs)["drawer"]
    handle = store.array("keypoints/object")
    assert poses.shape == (222, 3, 4)
    assert np.allclose(poses[:, :, 3] - poses[0, :, 3], handle - handle[0], atol=1e-5)
    assert np.allclose(np.linalg.det(poses[:, :, :3]), 1)
    expert, random = costs_in(costs, store)
    assert expert.missed == []
    assert random.missed == ["reach", "pull"]
    assert np.array_equal(replayed_poses(store, costs)["drawer"], poses)  # now from beside the store


def test_a_place_that_the_simulator_lacks_is_refused_by_file_and_line(store):
    for kind, name in (("bodies", "drawer_lnk"), ("sites", "drawer_link")):
        text = ANSWER.read_text().replace("bodies:", f"{kind}:").replace("drawer_link", name)
        with pytest.raises(ConfigError, match=f"^answer, line 9: No .* of this simulator is called '{name}'"):
            costs_in(parse_costs(text, name="answer"), store)


def test_a_signal_that_the_simulator_lacks_is_refused_beside_all_that_it_has(store):
    text = cost_file("drawer-open").read_text().replace("touch", "tuch")
    with pytest.raises(ConfigError) as refusal:
        costs_in(parse_costs(text, name="own.yaml"), store)
    assert str(refusal.value) == (
        "own.yaml, line 4: No recorded signal is called 'tuch'. Did you mean 'touch'? There are: collision, "
        "force, gripper, touch."
    )


def test_an_expert_reaches_every_stage_and_random_actions_none(store):
    expert, random = store_costs(load_costs(cost_file("drawer-open")), store, replayed_signals(store))
    assert expert.missed == []
    assert random.missed == ["touch", "open"]
    assert expert.total < random.total


def test_a_damaged_file_of_signals_is_refused(store):
    replayed_signals(store)
    path = next((store.path / "signals").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="is damaged"):
        replayed_signals(store)
    path.unlink()
