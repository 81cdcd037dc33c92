# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import subprocess
import sys

import mujoco
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from robopref.envs import rendering
from robopref.envs.metaworld.environment import CAMERAS, MetaWorldEnv
from robopref.envs.rendering import Renderer, gl_backend

can_draw = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)

LAMP = """
<mujoco><worldbody>
  <light pos="0 0 5" dir="0 0 -1"/><light pos="0 -5 1" dir="0 1 0"/>
  <geom type="sphere" size=".3" pos="0 0 1.6" rgba="1 0 0 1"/>
  <geom type="sphere" size=".3" pos="0.7 0 1" rgba="0 0 1 1"/>
  <camera name="upright" pos="0 -4 1" xyaxes="1 0 0 0 0 1"/>
  <camera name="hanging" pos="0 -4 1" xyaxes="-1 0 0 0 0 -1"/>
</worldbody></mujoco>
"""


def centre(frame, channel):
    """Row and column of the middle of what is drawn in one pure colour."""
    others = [other for other in range(3) if other != channel]
    return np.argwhere((frame[..., channel] > 60) & (frame[..., others].max(-1) < 30)).mean(0)


@can_draw
@pytest.mark.parametrize("camera", ["upright", "hanging"])
def test_up_is_up_and_right_is_right_even_for_a_camera_that_hangs(camera):
    model = mujoco.MjModel.from_xml_string(LAMP)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, camera, 120, 80)
    frame = renderer.frame(data)
    renderer.close()
    assert frame.shape == (80, 120, 3)
    (red_row, red_column), (blue_row, blue_column) = centre(frame, 0), centre(frame, 2)
    assert red_row < blue_row - 5
    assert red_column < blue_column - 5


@can_draw
def test_the_cameras_are_those_of_every_scene_and_draw_something():
    env = MetaWorldEnv("drawer-open", render_mode="rgb_array", width=32, height=24)
    model = env._simulator.model
    assert set(CAMERAS) == {model.camera(index).name for index in range(model.ncam)}
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (24, 32, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10
    env.close()


@can_draw
def test_drawing_changes_no_state_and_equal_states_look_equal():
    env = MetaWorldEnv("reach", render_mode="rgb_array", width=48, height=48)
    env.reset(seed=0)
    saved = env.snapshot()
    first = env.render()
    assert env.state_hash() == saved.digest()
    env.step(np.ones(4))
    assert not np.array_equal(env.render(), first)
    env.restore(saved)
    assert np.array_equal(env.render(), first)
    env.close()


@can_draw
def test_two_environments_draw_in_turn_and_close_twice():
    pair = [MetaWorldEnv(task, render_mode="rgb_array", width=48, height=48) for task in ("reach", "hammer")]
    for env in pair:
        env.reset(seed=0)
    frames = [env.render() for env in pair]
    pair[0].close()
    pair[0].close()
    assert np.array_equal(pair[1].render(), frames[1])
    assert np.array_equal(pair[0].render(), frames[0])  # opens a new context
    for env in pair:
        env.close()


@can_draw
def test_a_program_that_never_closes_ends_without_a_word():
    code = (
        "from robopref.envs.metaworld.environment import MetaWorldEnv; "
        "env = MetaWorldEnv('reach', render_mode='rgb_array'); env.reset(); env.render()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@can_draw
@pytest.mark.parametrize("library", ["lightning_fabric", "diffusers.schedulers.scheduling_ddim"])
def test_libraries_that_load_triton_can_be_imported_after_something_was_drawn(library):
    code = (
        "from robopref.envs.metaworld.environment import MetaWorldEnv; "
        "env = MetaWorldEnv('reach', render_mode='rgb_array'); env.reset(); env.render(); "
        f"import {library}; env.render(); env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@can_draw
def test_effects_change_the_frame():
    frames = []
    for effects in (False, True):
        env = MetaWorldEnv("reach", render_mode="rgb_array", width=48, height=48, effects=effects)
        env.reset(seed=0)
        frames.append(env.render())
        env.close()
    assert not np.array_equal(*frames)


def test_frames_must_have_been_asked_for():
    env = MetaWorldEnv("reach")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="render_mode='rgb_array'"):
        env.render()


@pytest.fixture
def fresh_choice(monkeypatch):
    rendering._choose.cache_clear()
    yield monkeypatch
    rendering._choose.cache_clear()


def test_without_any_back_end_the_error_says_what_to_install(fresh_choice):
    fresh_choice.delenv("MUJOCO_GL", raising=False)
    fresh_choice.setattr(rendering, "_problem", lambda name: "no such library")
    backend = gl_backend()
    assert backend.name is None
    assert "egl: no such library; osmesa: no such library" in backend.reason
    env = MetaWorldEnv("reach", render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(DependencyNotInstalled, match=r"Cannot draw frames.*apt-get install libegl1"):
        env.render()
    env.close()


@pytest.mark.parametrize(
    ("working", "display", "expected"),
    [
        (("egl", "osmesa"), "", "egl"),
        (("osmesa",), "", "osmesa"),
        (("glfw",), ":0", "glfw"),
        (("glfw",), "", None),
    ],
)
def test_the_first_back_end_that_works_is_taken(working, display, expected, fresh_choice):
    fresh_choice.setattr(rendering.platform, "system", lambda: "Linux")
    fresh_choice.delenv("MUJOCO_GL", raising=False)
    fresh_choice.delenv("WAYLAND_DISPLAY", raising=False)
    fresh_choice.setenv("DISPLAY", display)
    fresh_choice.setattr(rendering, "_problem", lambda name: None if name in working else "broken")
    assert gl_backend().name == expected


@pytest.mark.parametrize(
    ("wish", "words"), [("off", "switched off by MUJOCO_GL=off"), ("elg", "MUJOCO_GL=elg names no back end")]
)
def test_a_wish_that_cannot_be_met_is_said(wish, words, fresh_choice):
    fresh_choice.setenv("MUJOCO_GL", wish)
    backend = gl_backend()
    assert backend.name is None
    assert words in backend.reason


def test_a_back_end_whose_attempt_crashes_is_only_a_problem(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "import os; os.abort()")
    assert rendering._problem("egl") == "the attempt ended with exit code -6"


def test_a_back_end_that_fails_says_its_last_words(monkeypatch):
    monkeypatch.setattr(rendering, "_PROBE", "raise ImportError('libEGL.so not found')")
    assert rendering._problem("egl") == "ImportError: libEGL.so not found"
