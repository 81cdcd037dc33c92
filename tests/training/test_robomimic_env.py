from typing import Any

import h5py
import numpy as np
import pytest

from robopref.data.interchange.convert import convert
from robopref.data.store import TrajectoryStore
from robopref.errors import DataError
from robopref.training.collect import collect

pytest.importorskip("robosuite")
pytest.importorskip("six")
ENV = "robopref.envs:robopref/rs-lift-v0"
MIDDLE = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A robomimic file of an episode that grasps, with the states of its replay."""
    from robopref.training.robomimic_env import add_states

    folder = tmp_path_factory.mktemp("lift")
    store = collect(
        folder / "store",
        env_id=ENV,
        env_options={"horizon": 30},
        behaviours=[{"kind": "expert", "noise": 0.05}],
        episodes=1,
        seed=0,
        workers=0,
        progress=False,
    )
    convert(folder / "store", folder / "lift.hdf5")
    add_states(store, folder / "lift.hdf5")
    return folder / "lift.hdf5"


@pytest.fixture(scope="module")
def env() -> Any:
    from robopref.training.robomimic_env import RobomimicEnv

    return RobomimicEnv(ENV, horizon=30)


@pytest.mark.parametrize("start", [0, MIDDLE])
def test_replayed_states_agree_with_the_file(file, env, start):
    env.reset(seed=5)
    with h5py.File(file) as opened:
        demo: Any = opened["data/demo_0"]
        states, actions = demo["states"][:], demo["actions"][:]
        begun = {"states": states[start], "gripper_action": demo["gripper_action"][start]}
        env.reset_to(begun | {"initial_joint": demo.attrs["initial_joint"]})
        for step in range(start, len(actions)):
            assert env.get_state()["states"] == pytest.approx(states[step], abs=1e-4)
            seen, *_ = env.step(actions[step])
            assert seen["flat"] == pytest.approx(demo["next_obs/flat"][step], abs=1e-4)


def test_without_the_grippers_command_a_replay_drifts(file, env):
    with h5py.File(file) as opened:
        demo: Any = opened["data/demo_0"]
        states, actions = demo["states"][:], demo["actions"][:]
        joint = demo.attrs["initial_joint"]
        env.reset_to({"states": states[MIDDLE], "gripper_action": np.zeros(2), "initial_joint": joint})
        drift = 0.0
        for step in range(MIDDLE, len(actions)):
            drift = max(drift, np.abs(env.get_state()["states"] - states[step]).max())
            env.step(actions[step])
        assert drift > 1e-3
        with pytest.raises(DataError, match="initial_joint is missing"):
            env.reset_to({"states": states[0], "gripper_action": np.zeros(2)})


def test_the_states_of_a_replay_are_no_loss_on_the_way_back(file, tmp_path):
    assert convert(file, tmp_path / "back").notes == []
    with (
        TrajectoryStore.open(tmp_path / "back") as back,
        TrajectoryStore.open(file.parent / "store") as store,
    ):
        assert back.fingerprint() == store.fingerprint()


def test_states_of_other_episodes_are_refused(file, tmp_path):
    from robopref.training.robomimic_env import add_states

    with TrajectoryStore.open(file.parent / "store") as store:
        with h5py.File(tmp_path / "other.hdf5", "w") as other:
            other.create_group("data/demo_0").attrs["num_samples"] = 3
        before = (tmp_path / "other.hdf5").read_bytes()
        with pytest.raises(DataError, match="demo_0 is not episode 0"):
            add_states(store, tmp_path / "other.hdf5")
        assert (tmp_path / "other.hdf5").read_bytes() == before
        with pytest.raises(DataError, match="convert the store to it first"):
            add_states(store, tmp_path / "none.hdf5")


def test_robomimics_interface_is_complete(env):
    from robomimic.envs.env_base import EnvBase

    assert issubclass(type(env), EnvBase)
    seen = env.reset(seed=1)
    after, reward, done, _ = env.step(np.zeros(env.action_dimension))
    assert seen["flat"].shape == after["flat"].shape == (19,)
    assert 0 <= reward <= 1
    assert not done
    assert env.is_success() == {"task": False}
    again = type(env)(env.serialize()["env_name"], **env.serialize()["env_kwargs"])
    assert again.reset(seed=1)["flat"] == pytest.approx(seen["flat"], abs=0)
