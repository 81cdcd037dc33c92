"""Episodes of other tools' simulators are drawn again as they looked when they were recorded."""

import json
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from robopref.cli import main
from robopref.data.interchange.convert import convert
from robopref.data.interchange.imported import read_in
from robopref.data.interchange.scenes import scenes_of
from robopref.data.store import TrajectoryStore
from robopref.envs.rendering import Renderer, gl_backend
from robopref.errors import RenderingError
from robopref.labeling.clips import Library, Segment, film
from robopref.labeling.rerendering import rerender
from robopref.training.collect import collect

pytestmark = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)

STEPS = 12
VIEW = {"width": 64, "height": 48}
SCENE = """
<mujoco>
  <asset><texture name="sky" type="skybox" builtin="flat" rgb1="0.2 0.3 0.4" width="8" height="8"/></asset>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="side" pos="0 -2 0.3" xyaxes="1 0 0 0 0 1"/>
    <body><joint name="slide" type="slide" axis="1 0 0"/><geom size="0.1" rgba="1 0 0 1"/>
      <body pos="0.3 0 0"><joint type="hinge" axis="0 1 0"/><geom type="box" size="0.2 0.05 0.05"/></body>
    </body>
  </worldbody>
</mujoco>"""


def simulated():
    """States (T + 1, 1 + nq + nv) of the scene above, and what its camera saw of each."""
    import mujoco

    model: Any = mujoco.MjModel.from_xml_string(SCENE)  # pyright: ignore[reportAttributeAccessIssue]
    data = mujoco.MjData(model)  # pyright: ignore[reportAttributeAccessIssue]
    data.qvel[:] = 1.5, -3.0
    states, frames = [], []
    renderer = Renderer(model, "side", VIEW["width"], VIEW["height"])
    for _ in range(STEPS + 1):
        mujoco.mj_forward(model, data)  # pyright: ignore[reportAttributeAccessIssue]
        states.append([data.time, *data.qpos, *data.qvel])
        frames.append(renderer.frame(data))
        mujoco.mj_step(model, data, 20)  # pyright: ignore[reportAttributeAccessIssue]
    renderer.close()
    return np.array(states), np.stack(frames)


def robomimic_file(path, states, *, model: str | None = SCENE, name="Cart"):
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": name, "type": 2})
        demo: Any = file.create_group("data/demo_0")
        if model is not None:
            demo.attrs["model_file"] = model
        demo["states"] = states[:-1]
        demo["actions"] = np.zeros((len(states) - 1, 1), np.float32)
        demo["rewards"], demo["dones"] = np.zeros(len(states) - 1), np.zeros(len(states) - 1, int)
        demo["obs/state"] = states[:-1, 1:]
    return path


def drawn_again(source, folder, wanted, view=VIEW):
    """What there is to see of some states of the first episode."""
    with TrajectoryStore.open(read_in(source, folder / "imported").path) as store:
        return rerender(scenes_of(source)[0], store.episode(0), wanted, view)


def test_a_scene_in_the_file_is_drawn_as_it_was_seen(tmp_path):
    states, seen = simulated()
    source = robomimic_file(tmp_path / "cart.hdf5", states)
    frames = drawn_again(source, tmp_path, range(2, STEPS + 1, 3))
    assert np.array_equal(frames, seen[2 : STEPS + 1 : 3])
    assert not np.array_equal(seen[2], seen[5])
    frames = drawn_again(source, tmp_path, range(STEPS - 1, STEPS + 1))
    assert np.array_equal(frames, seen[[-2, -2]])  # no state was recorded after the last action
    made = read_in(source, tmp_path / "imported")
    library = Library(TrajectoryStore.open(made.path), tmp_path / "clips", VIEW, scenes=scenes_of(source))
    filmed = film(library.clip(Segment(0, 3, 6)))
    assert (filmed.drawn_by, filmed.reason, filmed.frames) == ("renderer", "", 7)


def test_states_fewer_than_the_actions_are_not_shown_as_a_clip_that_stands_still(tmp_path):
    source = robomimic_file(tmp_path / "cart.hdf5", simulated()[0])
    with h5py.File(source, "r+") as file:
        kept = np.asarray(file["data/demo_0/states"])[:5]
        del file["data/demo_0/states"]
        file["data/demo_0/states"] = kept
    for wanted in (range(2), range(3, STEPS + 1)):
        with pytest.raises(RenderingError, match=r"cart\.hdf5 has 5 states in /data/demo_0 for 12 actions"):
            drawn_again(source, tmp_path, wanted)


def test_a_camera_can_be_chosen_and_one_that_is_not_there_is_refused(tmp_path):
    source = robomimic_file(tmp_path / "cart.hdf5", simulated()[0])
    assert drawn_again(source, tmp_path, range(1), VIEW | {"camera": "side"}).shape == (1, 48, 64, 3)
    with pytest.raises(RenderingError, match="Did you mean 'side'"):
        drawn_again(source, tmp_path, range(1), VIEW | {"camera": "sied"})


def test_a_scene_without_a_camera_is_seen_whole(tmp_path):
    lines = [line for line in SCENE.splitlines() if "<camera" not in line]
    source = robomimic_file(tmp_path / "cart.hdf5", simulated()[0], model="\n".join(lines))
    frame = drawn_again(source, tmp_path, range(1))[0].astype(int)
    assert (frame[..., 0] - frame[..., 1] > 60).any()  # the red ball is in the picture


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("<mujoco", "no XML"),
        ("<mujoco><worldbody><geom size='-1'/></worldbody></mujoco>", "cannot compile"),
        ("<mujoco><include file='/etc/passwd'/></mujoco>", "<include>, which is not followed"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><mujoco/>", "declares XML entities"),
        (
            "<mujoco><asset><mesh name='m' file='/etc/passwd.stl'/></asset></mujoco>",
            r"needs /etc/passwd\.stl",
        ),
        ("<mujoco><asset><mesh name='m' file='../secret.stl'/></asset></mujoco>", r"needs \.\./secret\.stl"),
        ("<mujoco><asset><mesh name='m' file='/old/robosuite/no.stl'/></asset></mujoco>", r"needs no\.stl"),
        (SCENE.replace('type="hinge" axis="0 1 0"', 'type="ball"'), "5 positions and 4 velocities"),
        (None, "its environment 'Cart' is none of Lift"),
    ],
)
def test_a_scene_that_cannot_be_drawn_is_refused_with_a_reason(tmp_path, model, sentence):
    (tmp_path.parent / "secret.stl").write_bytes(b"solid")
    states = np.zeros((STEPS + 1, 5))
    with pytest.raises(RenderingError, match=sentence):
        drawn_again(robomimic_file(tmp_path / "cart.hdf5", states, model=model), tmp_path, range(4))


def test_what_cannot_be_drawn_again_costs_curves_with_the_reason(tmp_path):
    source = robomimic_file(tmp_path / "cart.hdf5", np.zeros((STEPS + 1, 5)), model="<mujoco")
    with TrajectoryStore.open(read_in(source, tmp_path / "imported").path) as store:
        filmed = film(
            Library(store, tmp_path / "clips", VIEW, scenes=scenes_of(source)).clip(Segment(0, 0, 4))
        )
    assert filmed.drawn_by == "plots"
    assert "demo_0 cannot be drawn again: The scene is no XML" in filmed.reason


def test_files_beside_the_recording_belong_to_its_scene(tmp_path):
    from PIL import Image

    (tmp_path / "assets").mkdir()
    Image.new("RGB", (8, 8), (0, 255, 0)).save(tmp_path / "assets/green.png")
    model = SCENE.replace(
        "<asset>",
        '<compiler texturedir="assets"/><asset><texture name="t" type="2d" '
        'file="green.png"/><material name="m" texture="t"/>',
    ).replace('rgba="1 0 0 1"', 'material="m"')
    frame = drawn_again(
        robomimic_file(tmp_path / "cart.hdf5", simulated()[0], model=model), tmp_path, range(1)
    )[0]
    assert ((frame[..., 1].astype(int) - frame[..., 0]) > 60).any()


def minari_set(folder, env, *, infos: tuple[str, ...] = (), seed=7):
    """What Minari's own storage keeps of an episode of an environment, and the simulator's states."""
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir()
    storage = MinariStorage.new(folder / "data", env.observation_space, env.action_space)
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    observations, told, looked = [observation], [info], [look_at(env)]
    actions = rng.uniform(-1, 1, (STEPS, *env.action_space.shape)).astype(np.float32)
    for action in actions:
        observation, _, _, _, info = env.step(action)
        observations.append(observation)
        told.append(info)
        looked.append(look_at(env))
    told = {name: np.array([each[name] for each in told]) for name in infos if name in told[0]}
    if "qpos" in infos:
        told |= dict(
            zip(("qpos", "qvel"), np.split(np.stack(looked), [env.unwrapped.model.nq], 1), strict=True)
        )
    last: Any = np.arange(STEPS) == STEPS - 1
    values: Any = {"observations": np.stack(observations), "actions": actions, "rewards": np.zeros(STEPS)}
    ends: Any = {"terminations": np.zeros(STEPS, bool), "truncations": last}
    storage.update_episodes([EpisodeBuffer(seed=seed, infos=told or None, **values, **ends)])
    spec = {"id": env.spec.id, "entry_point": "os:system", "kwargs": dict(env.spec.kwargs)}
    storage.update_metadata({"dataset_id": "toy/made-v0", "env_spec": json.dumps(spec)})
    return folder, np.stack(looked)


def look_at(env):
    """A frame where the environment draws, else the positions and velocities."""
    if env.render_mode:
        return env.render()
    return np.append(env.unwrapped.data.qpos, env.unwrapped.data.qvel)


def made(env_id, **options) -> Any:
    return gymnasium.make(env_id, disable_env_checker=True, **options)


@pytest.mark.parametrize("infos", [("x_position",), ("qpos",), ()])
def test_gymnasiums_mujoco_is_drawn_from_infos_observations_or_a_replay(tmp_path, infos):
    """Hopper observes all but how far it is; a replay needs the seed alone."""
    env = made("Hopper-v5")
    source, states = minari_set(tmp_path / "hopper", env, infos=infos)
    renderer = Renderer(env.unwrapped.model, "track", VIEW["width"], VIEW["height"])
    expected = []
    for state in states[4::4]:
        env.unwrapped.set_state(*np.split(state, [env.unwrapped.model.nq]))
        expected.append(renderer.frame(env.unwrapped.data).astype(int))
    renderer.close()
    frames = drawn_again(source, tmp_path, range(4, STEPS + 1, 4))
    assert np.abs(frames - np.stack(expected)).mean() < 0.5  # observations were stored as float32
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 2


def test_an_environment_of_ours_is_replayed_and_looks_as_it_did(tmp_path):
    env = made("robopref.envs:robopref/planar-group-v0", render_mode="rgb_array", horizon=30, **VIEW)
    source, seen = minari_set(tmp_path / "group", env)
    assert np.array_equal(drawn_again(source, tmp_path, range(2, STEPS + 1, 5)), seen[2::5])


def edited(source, **changes):
    """Change the environment that a Minari data set names."""
    path = source / "data/metadata.json"
    about = json.loads(path.read_text())
    about["env_spec"] = json.dumps(json.loads(about["env_spec"]) | changes)
    path.write_text(json.dumps(about))
    return source


def test_another_environment_than_was_recorded_is_not_shown(tmp_path):
    source, _ = minari_set(tmp_path / "hopper", made("Hopper-v5"))
    for name, sentence in (
        ("os:system-v0", "is neither one of robopref's"),
        ("Walker2d-v5", "not what was recorded"),
    ):
        with pytest.raises(RenderingError, match=sentence):
            drawn_again(edited(source, id=name), tmp_path, range(4))
    with h5py.File(source / "data/main_data.hdf5", "a") as file:
        del file["episode_0"].attrs["seed"]
    with pytest.raises(RenderingError, match="neither its simulator's states nor the seed"):
        drawn_again(edited(source, id="Hopper-v5"), tmp_path, range(4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "robosuite"])
def test_robosuites_states_look_as_they_did_when_they_were_collected(tmp_path, kind):
    pytest.importorskip("robosuite")
    pytest.importorskip("six")
    from robopref.training.robomimic_env import add_states

    env_id = "robopref.envs:robopref/rs-lift-v0"
    store = collect(
        tmp_path / "store",
        env_id=env_id,
        env_options={"horizon": 30},
        behaviours=[{"kind": "expert"}],
        episodes=1,
        seed=3,
        workers=0,
        progress=False,
    )
    source = tmp_path / "lift.hdf5"
    convert(tmp_path / "store", source)
    add_states(store, source)
    with h5py.File(source, "a") as file:  # as robomimic's own files are
        data: Any = file["data"]
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_version": "1.5.2", "type": 1})
        del data.attrs["robopref"], data["demo_0"].attrs["robopref"]
        hands = data["demo_0/obs/flat"][:, 10:13]
        data["demo_0/obs/robot0_eef_pos"] = hands
        del data["demo_0/next_obs"]
        if kind == "robosuite":
            del data["demo_0"].attrs["model_file"]
        else:  # recorded on another machine
            model = data["demo_0"].attrs["model_file"]
            data["demo_0"].attrs["model_file"] = model.replace(
                model.split("/robosuite/")[0].split('"')[-1], "/mnt/x"
            )
    env = made(env_id, render_mode="rgb_array", **VIEW)
    episode = store.episode(0)
    env.reset(seed=episode.provenance.seed)
    seen = [env.render()]
    for action in episode.actions:
        env.step(action)
        seen.append(env.render())
    frames = drawn_again(source, tmp_path, range(3, 30, 9)).astype(int)
    assert np.abs(frames - seen[3:30:9]).max() <= 1  # the file's text rounds numbers


def test_a_store_that_went_through_another_format_is_still_replayed(tmp_path):
    from tests.labeling.test_clips import collected, frames_of, red_columns

    collected(tmp_path / "store")
    for name, target_format in (("there.hdf5", None), ("there", "minari")):
        convert(tmp_path / "store", tmp_path / name, target_format=target_format)
        assert scenes_of(tmp_path / name) == []
        back = read_in(tmp_path / name, tmp_path / "imported")
        clip = Library(TrajectoryStore.open(back.path), tmp_path / "clips").clip(Segment(0, 3, 4))
        assert film(clip).drawn_by == "renderer"
        assert [red_columns(frame) for frame in frames_of(clip.path)] == [1 + step for step in range(3, 8)]


def test_data_show_says_what_clips_will_show(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    states = np.zeros((STEPS + 1, 5))
    for model, sentence in ((SCENE, "states, drawn again: Cart"), (None, "but not their scene (model_file)")):
        path = robomimic_file(tmp_path / "cart.hdf5", states, model=model)
        assert main(["data", "show", str(path)]) == 0
        assert sentence in " ".join("".join(capfd.readouterr()).split())
