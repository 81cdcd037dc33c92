"""robomimic HDF5: what robomimic itself reads of ours, and what we read of files made in its layout."""

import json
import re
from typing import Any

import h5py
import numpy as np
import pytest

from robopref.data import TrajectoryStore
from robopref.data.interchange.convert import convert
from robopref.data.interchange.footage import cameras_of
from robopref.errors import ConfigError, DataError


@pytest.fixture
def ours(new_store, trajectory, tmp_path):
    with new_store((4, 6)) as store:
        store.append(trajectory(2, 3, success_at=2))
    convert(tmp_path / "store", tmp_path / "ours.hdf5")
    return tmp_path / "ours.hdf5"


def test_robomimics_own_reader_sees_our_numbers(ours, tmp_path):
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["flat", "keypoint_hand"]}})
    read = SequenceDataset(
        str(ours),
        obs_keys=("flat", "keypoint_hand"),
        dataset_keys=("actions", "rewards", "dones"),
        seq_length=2,
        hdf5_cache_mode="low_dim",
    )
    assert len(read) == 4 + 6 + 3
    with TrajectoryStore.open(tmp_path / "store") as store:
        index = 0
        for episode in map(store.episode, range(3)):
            for step in range(episode.length):
                item: Any = read[index]
                index += 1
                after = min(step + 1, episode.length - 1)  # robomimic repeats the last step
                for key, shift in (("obs", 0), ("next_obs", 1)):
                    rows = [step + shift, after + shift]
                    assert np.array_equal(item[key]["flat"], episode.observations[rows])
                    assert np.array_equal(item[key]["keypoint_hand"], episode.keypoints["hand"][rows])
                assert np.array_equal(item["actions"], episode.actions[[step, after]])
                assert np.array_equal(item["rewards"], episode.rewards[[step, after]])
                assert item["dones"][0] == (episode.terminated and step == episode.length - 1)


def test_the_environment_is_named_as_robomimic_names_it(ours):
    with h5py.File(ours) as file:
        assert json.loads(str(file["data"].attrs["env_args"]))["env_name"].endswith("mw-drawer-open-v0")
        assert file["data"].attrs["total"] == 13


@pytest.fixture
def theirs(tmp_path):
    """A file as robomimic's own are: several observations in float64, images, states, sparse rewards."""
    rng, path = np.random.default_rng(0), tmp_path / "low_dim.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        arguments = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        data.attrs["env_args"] = json.dumps(arguments)
        for number in (10, 2):  # names sort differently than numbers
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = 5
            demo.attrs["model_file"] = "<mujoco/>"
            demo["actions"] = rng.uniform(-1, 1, (5, 7))
            demo["rewards"] = np.array([0, 0, 0, 0, 1.0])
            demo["dones"] = np.array([0, 0, 0, 0, 1])
            demo["states"] = rng.normal(size=(5, 32))
            path_of_hand, cube = rng.normal(size=(6, 3)), rng.normal(size=(6, 10))
            for group, rows in (("obs", slice(0, 5)), ("next_obs", slice(1, 6))):
                demo[f"{group}/robot0_eef_pos"], demo[f"{group}/object"] = path_of_hand[rows], cube[rows]
            demo["obs/agentview_image"] = np.zeros((5, 8, 8, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_2"])
    return path


def test_every_loss_of_a_foreign_file_is_named_before_it_happens(theirs, tmp_path):
    with pytest.raises(DataError) as refusal:
        convert(theirs, tmp_path / "made")
    said = str(refusal.value)
    for loss in (
        "splits in mask",
        "agentview_image",
        "'states'",
        "model_file",
        "digits of actions",
        "float64",
    ):
        assert loss in said
    assert "demo_2" in said
    assert "lossy=true" in said


def test_a_foreign_file_becomes_a_store(theirs, tmp_path):
    done = convert(theirs, tmp_path / "made", lossy=True)
    assert any("reward of 1 was taken for success" in note for note in done.notes)
    with TrajectoryStore.open(tmp_path / "made") as store, h5py.File(theirs) as file:
        assert store.lengths.tolist() == [5, 5]
        assert store.control_hz == 20
        assert store.metadata["observation"] == {"object": 10, "robot0_eef_pos": 3}
        first = store.episode(0)
        demo: Any = file["data/demo_2"]
        expected = np.hstack([demo["obs/object"][()], demo["obs/robot0_eef_pos"][()]])
        assert np.array_equal(first.observations[:-1], expected.astype(np.float32))
        assert np.array_equal(first.observations[-1, :10], demo["next_obs/object"][-1].astype(np.float32))
        assert first.successes.tolist() == [False] * 4 + [True]
        assert first.terminated
        assert first.provenance.task == "Lift"


def test_single_observations_can_be_chosen(theirs, tmp_path):
    convert(theirs, tmp_path / "made", lossy=True, observation=["robot0_eef_pos"])
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.layout.observation_size == 3
    hint = r"'robot1_eef_pos'\. Did you mean 'robot0_eef_pos'\? There are: object, robot0_eef_pos"
    with pytest.raises(ConfigError, match=hint):
        convert(theirs, tmp_path / "other", lossy=True, observation=["robot1_eef_pos"])


def spoil(path, change):
    with h5py.File(path, "a") as file:
        change(file["data"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda data: data["demo_2"].attrs.__setitem__("num_samples", 9),
            "demo_2: num_samples is 9, but there are 5",
        ),
        (
            lambda data: data["demo_2"].__delitem__("rewards"),
            "demo_2 has no array 'rewards'. There are: actions",
        ),
        (lambda data: data["demo_2"].__delitem__("obs"), "demo_2 has no group 'obs'"),
        (lambda data: data["demo_10/obs"].__delitem__("object"), "demo_10 has no array 'object'"),
        (lambda data: data["demo_2/next_obs"].__delitem__("object"), "demo_2 has no array 'object'"),
        (
            lambda data: data["demo_10/actions"].__setitem__((0, 0), np.nan),
            r"hdf5, demo_10: actions holds nan at \(0, 0\)",
        ),
        (
            lambda data: [
                data["demo_2"].pop("rewards"),
                data["demo_2"].create_dataset("rewards", data=[0.0]),
            ],
            r"hdf5, demo_2: rewards must have \d rows to fit the actions, got 1",
        ),
        (
            lambda data: data["demo_2"].attrs.__setitem__("num_samples", "four"),
            "hdf5, demo_2: num_samples is four, but there are",
        ),
        (
            lambda data: data.attrs.__setitem__("env_args", '{"env_kwargs": {"control_freq": 0}}'),
            "hdf5, attribute env_args: control_freq must be a positive number, got 0",
        ),
        (lambda data: data["demo_2/dones"].__setitem__(0, 7), "dones must be one true or false a step"),
        (lambda data: [data.__delitem__(name) for name in list(data)], "no demo_<number>"),
        (
            lambda data: [data["demo_2"].pop("dones"), data["demo_2"].create_dataset("dones", data=[0, 1])],
            "demo_2: dones has 2 rows, but there are 5 actions",
        ),
    ],
)
def test_a_damaged_demo_is_named(theirs, tmp_path, change, sentence):
    spoil(theirs, change)
    with pytest.raises(DataError, match=sentence):
        convert(theirs, tmp_path / "made", lossy=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        (lambda data: data.file.create_group("videos"), "the group 'videos' ("),
        (lambda data: data.create_group("notes"), "the group 'notes' ("),
        (lambda data: data.attrs.__setitem__("date", "2021"), "the attribute 'date' ("),
        (lambda data: data["demo_10"].attrs.__setitem__("ep_meta", "{}"), "the attribute 'ep_meta' ("),
        (
            lambda data: data["demo_10/obs"].create_dataset("hand_image", data=np.zeros((5, 2, 2, 3))),
            "the observation 'hand_image' (",
        ),
        (
            lambda data: data["demo_10/next_obs"].create_dataset("force", data=np.zeros((5, 3))),
            "the observation after a step 'force' (",
        ),
        (lambda data: data["demo_10/dones"].__setitem__(1, 1), "dones before the last step ("),
        (lambda data: data.file.attrs.__setitem__("licence", "MIT"), "the attribute 'licence' ("),
        (
            lambda data: data["demo_2/actions"].attrs.__setitem__("unit", "m"),
            "the attribute 'unit of actions' (",
        ),
        (
            lambda data: data["demo_2/obs"].attrs.__setitem__("camera", "top"),
            "the attribute 'camera of obs' (",
        ),
        (lambda data: data.attrs.__setitem__("total", 999), "the change of total from 10 to 999 ("),
    ],
)
def test_what_has_no_place_is_a_loss_wherever_it_stands(theirs, tmp_path, change, loss):
    spoil(theirs, change)
    with pytest.raises(DataError, match=rf"would lose: .*{re.escape(loss)}{re.escape(str(theirs))}"):
        convert(theirs, tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "loss"),
    [
        (
            lambda data: data.attrs.__setitem__("env_args", '{"env_name": "x"}'),
            "the change of env_args from ",
        ),
        (lambda data: data["demo_1/dones"].__setitem__(-1, 1), "the change of dones from False to True ("),
    ],
)
def test_what_was_changed_beside_our_attribute_is_a_loss(ours, tmp_path, change, loss):
    spoil(ours, change)
    with pytest.raises(DataError, match=rf"would lose: .*{re.escape(loss)}"):
        convert(ours, tmp_path / "made")


def test_an_observation_added_to_a_file_of_ours_is_a_loss(ours, tmp_path):
    def add(data):
        for demo in data.values():
            demo["obs/extra"] = demo["next_obs/extra"] = np.zeros((len(demo["actions"]), 2))

    spoil(ours, add)
    with pytest.raises(DataError, match=r"would lose: the observation 'extra' \("):
        convert(ours, tmp_path / "made")


def test_how_a_file_was_recorded_is_kept_and_its_simulators_version_named(theirs, tmp_path):
    arguments = {
        "env_name": "Lift",
        "env_version": "1.2.0",
        "env_kwargs": {"control_freq": 20, "robots": ["Panda"]},
    }
    spoil(theirs, lambda data: data.attrs.__setitem__("env_args", json.dumps(arguments)))
    notes = convert(theirs, tmp_path / "made", lossy=True).notes
    assert f"{theirs}, attribute env_args: recorded in version 1.2.0 of its simulator" in notes
    with TrajectoryStore.open(tmp_path / "made") as store:
        assert store.metadata["env_args"] == arguments


def test_actions_beyond_our_range_are_kept_and_named_with_episode_and_step(theirs, tmp_path):
    spoil(theirs, lambda data: data["demo_10/actions"].__setitem__((1, 0), 4.0))
    notes = convert(theirs, tmp_path / "made", lossy=True).notes
    assert any("hdf5, episode 1: 'actions' reaches 4 at step 1, and 1 steps" in note for note in notes)


def test_what_is_not_followed_by_itself_is_a_loss(theirs, tmp_path):
    spoil(theirs, lambda data: data["demo_2/next_obs/object"].__setitem__((1, 0), 99.0))
    spoil(theirs, lambda data: data["demo_10"].__delitem__("next_obs"))
    with pytest.raises(DataError) as refusal:
        convert(theirs, tmp_path / "made")
    assert "next_obs/object, which is not obs/object one step later" in str(refusal.value)
    assert "the state after the last action" in str(refusal.value)


def test_objects_and_links_to_other_files_are_not_read(theirs, tmp_path):
    def text(data):
        del data["demo_2/actions"]
        data["demo_2"].create_dataset("actions", data=["a", "b"], dtype=h5py.string_dtype())

    def link(data):
        del data["demo_2/actions"]
        data["demo_2/actions"] = h5py.ExternalLink("/etc/passwd", "/")

    def storage(data):
        del data["demo_2/actions"]
        data["demo_2"].create_dataset("actions", (4, 7), "u1", external=[(str(secret), 0, 28)])

    def part(data):
        del data["demo_2/actions"]
        layout = h5py.VirtualLayout((5, 7), "f8")
        layout[:] = h5py.VirtualSource(str(other), "actions", (5, 7))
        data["demo_2"].create_virtual_dataset("actions", layout)

    def way_round(data):
        del data["demo_2/actions"]
        data["demo_2/aside"] = h5py.ExternalLink(str(other), "/")
        data["demo_2/actions"] = h5py.SoftLink(f"{data.name}/demo_2/aside/actions")

    def nothing(data):
        del data["demo_2/actions"]
        data["demo_2/actions"] = h5py.SoftLink("/nowhere")

    def observations(data):
        del data["demo_2/obs"]
        data["demo_2/obs"] = h5py.ExternalLink(str(other), "/")

    secret, other = tmp_path / "secret", tmp_path / "other.hdf5"
    secret.write_bytes(b"nobody should read these bytes")
    with h5py.File(other, "w") as file:
        file["actions"] = np.zeros((5, 7))
    for change, sentence in (
        (text, "'actions' must be numbers"),
        (link, "hdf5, demo_2: 'actions' points into another file"),
        (storage, "hdf5, demo_2: 'actions' takes its numbers from other files"),
        (part, "hdf5, demo_2: 'actions' takes its numbers from other files"),
        (way_round, "hdf5, demo_2: 'actions' points into another file"),
        (nothing, "hdf5, demo_2: 'actions' is a link to nothing"),
        (observations, "hdf5, demo_2: 'obs' points into another file"),
    ):
        spoil(theirs, change)
        with pytest.raises(DataError, match=sentence):
            convert(theirs, tmp_path / "made", lossy=True)
    with pytest.raises(DataError, match="'obs' points into another file"):
        cameras_of(theirs)


def test_a_file_of_another_version_of_ours_is_refused(ours, tmp_path):
    with h5py.File(ours, "a") as file:
        header = json.loads(str(file["data"].attrs["robopref"]))
        file["data"].attrs["robopref"] = json.dumps(header | {"version": 2})
    with pytest.raises(DataError, match="robopref-interchange 2; this robopref reads robopref-interchange 1"):
        convert(ours, tmp_path / "made")
