"""Minari: what the package reads of ours, and what we read of data sets that the package wrote."""

import json

import gymnasium as gym
import h5py
import numpy as np
import pytest

from robopref.data import TrajectoryStore
from robopref.data.interchange.convert import convert
from robopref.errors import ConfigError, DataError

minari = pytest.importorskip("minari")


@pytest.fixture
def ours(new_store, trajectory, tmp_path):
    with new_store((4, 6)) as store:
        store.append(trajectory(2, 3, success_at=2))
    convert(tmp_path / "store", tmp_path / "root/robopref/drawer-open-v0", target_format="minari")
    return tmp_path / "root/robopref/drawer-open-v0"


def test_minari_loads_our_data_set_by_its_name(ours, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    data = minari.load_dataset("robopref/drawer-open-v0")
    assert (data.total_episodes, data.total_steps) == (3, 13)
    assert data.observation_space.shape == (5,)
    with TrajectoryStore.open(tmp_path / "store") as store:
        for read, episode in zip(data.iterate_episodes(), map(store.episode, range(3)), strict=True):
            assert np.array_equal(read.observations, episode.observations)
            assert np.array_equal(read.actions, episode.actions)
            assert np.array_equal(read.rewards, episode.rewards)
            assert read.terminations.tolist() == [False] * (episode.length - 1) + [episode.terminated]
            assert read.truncations[-1] == (not episode.terminated)
            assert np.array_equal(read.infos["keypoint_hand"], episode.keypoints["hand"])
            assert np.array_equal(read.infos["success"][1:], episode.successes)


@pytest.fixture
def theirs(tmp_path):
    """A data set that Minari's own storage writes: a dictionary of observations, in float64."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (tmp_path / "theirs").mkdir()
    box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    space = gym.spaces.Dict({"achieved_goal": box, "observation": box})
    storage = MinariStorage.new(tmp_path / "theirs/data", space, box)
    steps = np.arange(8.0).reshape(4, 2)
    for seed in (5, 6):
        storage.update_episodes(
            [
                EpisodeBuffer(
                    seed=seed,
                    options={"goal": 3},
                    observations={"achieved_goal": steps + seed, "observation": steps},
                    actions=steps[:3] / 8,  # pyright: ignore[reportArgumentType]
                    rewards=[0.5, 0.25, 1.0],
                    terminations=[False, False, seed == 5],
                    truncations=[False, False, seed != 5],
                    infos={"success": np.array([0, 0, 0, 1]), "qpos": np.zeros((4, 9))},
                )
            ]
        )
    storage.update_metadata({"dataset_id": "D4RL/maze-v1", "minari_version": minari.__version__})
    return tmp_path / "theirs"


def test_a_foreign_data_set_becomes_a_store(theirs, tmp_path):
    with pytest.raises(DataError, match=r"would lose: infos/qpos .*options/goal"):
        convert(theirs, tmp_path / "made")
    done = convert(theirs, tmp_path / "made", lossy=True)
    assert any("20 was assumed" in note for note in done.notes)
    with TrajectoryStore.open(tmp_path / "made") as store:
        first = store.episode(0)
        assert first.observations[:, 0].tolist() == [5, 7, 9, 11]  # achieved_goal comes first
        assert first.observations.shape == (4, 4)
        assert first.rewards.tolist() == [0.5, 0.25, 1.0]
        assert first.successes.tolist() == [False, False, True]
        assert (first.terminated, store.episode(1).terminated) == (True, False)
        assert (first.provenance.seed, first.provenance.task) == (5, "D4RL/maze-v1")


def test_one_entry_of_the_dictionary_can_be_chosen_and_the_inner_folder_named(theirs, tmp_path):
    convert(theirs / "data", tmp_path / "made", lossy=True, observation=["observation"])
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.episode(1).observations[:, 1].tolist() == [1, 3, 5, 7]


@pytest.mark.parametrize(
    ("wanted", "sentence"), [(["observatoin"], "Did you mean 'observation'"), ([], "names no observation")]
)
def test_an_entry_that_is_not_there_is_refused_with_the_nearest(theirs, tmp_path, wanted, sentence):
    with pytest.raises(ConfigError, match=sentence):
        convert(theirs, tmp_path / "made", lossy=True, observation=wanted)


def test_an_entry_point_named_in_the_file_is_never_run(theirs, tmp_path):
    """Minari's own reader would make this environment to learn the spaces."""
    (tmp_path / "marker.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    path = theirs / "data/metadata.json"
    about = json.loads(path.read_text())
    del about["observation_space"]
    about["env_spec"] = json.dumps({"id": "x-v0", "entry_point": "marker:run"})
    path.write_text(json.dumps(about))
    convert(theirs, tmp_path / "made", lossy=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_format": "arrow"}, "reads Minari's HDF5 data, this is 'arrow'"),
        ({"total_episodes": "two"}, "total_episodes is 'two'"),
        ({"total_episodes": 0}, "holds no episodes"),
        ({"total_episodes": 3}, "has no group 'episode_2'"),
        ({"robopref": "{"}, "metadata.json, robopref is damaged: it is not JSON"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(ours, tmp_path, change, sentence):
    path = ours / "data/metadata.json"
    about = json.loads(path.read_text()) | ({} if "total_episodes" not in change else {"total_episodes": 2})
    with h5py.File(ours / "data/main_data.hdf5", "a") as file:
        del file["episode_2"]
    path.write_text(json.dumps(about | change))
    with pytest.raises(DataError, match=sentence):
        convert(ours, tmp_path / "made")


def test_an_episode_without_rewards_is_named(theirs, tmp_path):
    with h5py.File(theirs / "data/main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(DataError, match="episode_1 has no array 'rewards'"):
        convert(theirs, tmp_path / "made", lossy=True)


def replaced(episode, name, values):
    del episode[name]
    episode[name] = values


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda episode: replaced(episode, "terminations", [True]),
            "terminations has 1 rows, but there are 3",
        ),
        (lambda episode: episode.attrs.__setitem__("total_steps", 4), "total_steps is 4, but there are 3"),
        (
            lambda episode: episode.attrs.__setitem__("seed", "x"),
            "attribute seed: must be a whole number, got 'x'",
        ),
        (lambda episode: replaced(episode, "actions", np.zeros((0, 2))), "has no actions"),
        (lambda episode: replaced(episode, "rewards", np.zeros(2)), "rewards must have 3 rows"),
        (
            lambda episode: replaced(episode["infos"], "success", np.zeros(9)),
            "infos/success has 9 rows, but there are 3 actions",
        ),
    ],
)
def test_an_episode_that_contradicts_itself_is_named(theirs, tmp_path, change, sentence):
    with h5py.File(theirs / "data/main_data.hdf5", "a") as file:
        change(file["episode_1"])
    with pytest.raises(DataError, match=f"main_data.hdf5, episode_1.*{sentence}"):
        convert(theirs, tmp_path / "made", lossy=True)


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        (lambda file: file["episode_1"].attrs.__setitem__("operator", "ann"), "the attribute 'operator'"),
        (lambda file: file["episode_1"].create_dataset("costs", data=np.zeros(3)), "'costs'"),
        (lambda file: file["episode_1/truncations"].__setitem__(0, True), "truncations before the last step"),
        (lambda file: file.create_group("episode_2"), "the group 'episode_2'"),
        (lambda file: file.attrs.__setitem__("licence", "MIT"), "the attribute 'licence'"),
        (
            lambda file: file["episode_1/infos"].attrs.__setitem__("unit", "m"),
            "the attribute 'unit of infos'",
        ),
        (lambda file: file["episode_1"].attrs.__setitem__("id", 7), "the change of id from 1 to 7"),
        (
            lambda file: file["episode_1/terminations"].__setitem__(-1, True),
            "truncations at a step at which the task ended the episode too",
        ),
        (
            lambda file: file["episode_1/observations"].create_dataset("force", data=np.zeros((4, 3))),
            "the observation 'force'",
        ),
    ],
)
def test_what_has_no_place_is_a_loss_wherever_it_stands(theirs, tmp_path, change, loss):
    with h5py.File(theirs / "data/main_data.hdf5", "a") as file:
        change(file)
    with pytest.raises(DataError, match=rf"would lose: .*{loss} \([^;]*main_data.hdf5"):
        convert(theirs, tmp_path / "made")


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        ({"author": "ann"}, r"the field 'author' \("),
        ({"total_steps": 999}, r"the change of total_steps from 13 to 999 \("),
    ],
)
def test_what_was_changed_in_metadata_of_ours_is_a_loss(ours, tmp_path, change, loss):
    path = ours / "data/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"would lose: .*{loss}"):
        convert(ours, tmp_path / "made")


def test_labels_inside_the_inner_folder_which_nobody_reads_are_a_loss(ours, tmp_path):
    (ours / "data/preferences").mkdir()
    with pytest.raises(DataError, match=r"would lose: the file 'preferences' \([^;]*/data\)"):
        convert(ours, tmp_path / "made")


def test_a_seed_that_was_changed_beside_our_attribute_is_a_loss(ours, tmp_path):
    with h5py.File(ours / "data/main_data.hdf5", "a") as file:
        file["episode_1"].attrs["seed"] = 77
    with pytest.raises(DataError, match=r"the change of seed from 1 to 77 \([^;]*episode_1"):
        convert(ours, tmp_path / "made")


def test_an_episode_that_ends_by_neither_is_taken_as_cut_off_and_this_is_said(theirs, tmp_path):
    with h5py.File(theirs / "data/main_data.hdf5", "a") as file:
        replaced(file["episode_1"], "truncations", [False] * 3)
    assert any("by neither" in note for note in convert(theirs, tmp_path / "made", lossy=True).notes)


def test_what_a_data_set_says_of_itself_is_kept(theirs, tmp_path):
    convert(theirs, tmp_path / "made", lossy=True)
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.metadata["metadata"] == json.loads((theirs / "data/metadata.json").read_text())


@pytest.mark.parametrize("name", ["observations", "infos", "rewards"])
def test_what_lies_in_another_file_is_not_read(ours, tmp_path, name):
    other = tmp_path / "other.hdf5"
    with h5py.File(ours / "data/main_data.hdf5", "a") as file, h5py.File(other, "w") as elsewhere:
        elsewhere.copy(file[f"episode_0/{name}"], "all")
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = h5py.ExternalLink(str(other), "/all")
    with pytest.raises(DataError, match=f"episode_0: '{name}' points into another file"):
        convert(ours, tmp_path / "made")
