"""Gymnasium's own checker, whose warnings are errors here, on every id."""

import warnings
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from gymnasium.utils.env_checker import check_env

import robopref.envs
from robopref.envs.bounds import LARGEST, observation_box
from robopref.envs.rendering import gl_backend

IDS = sorted(env_id for env_id in gymnasium.registry if env_id.startswith("robopref/"))
SAMPLE = [env_id for env_id in IDS if not env_id.startswith("robopref/mw-")]
SAMPLE += ["robopref/mw-drawer-open-v0", "robopref/mw-assembly-v0"]  # whose goal stays at one height
BALL = "<mujoco><worldbody><light/><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


def made(env_id: str) -> Any:
    size = {"width": 32, "height": 32}
    options: dict[str, Any] = {"scene": BALL} if env_id == robopref.envs.PLAYBACK else size
    try:
        return gymnasium.make(f"robopref.envs:{env_id}", disable_env_checker=True, **options).unwrapped
    except DependencyNotInstalled as missing:
        pytest.skip(str(missing))


def complaints(env_id: str, *, drawn: bool) -> list[str]:
    with closing(made(env_id)) as env, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # only now: packages may warn while they are imported
        check_env(env, skip_render_check=not drawn)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("env_id", SAMPLE)
def test_gymnasium_has_nothing_to_complain_about(env_id):
    assert complaints(env_id, drawn=False) == []


@pytest.mark.slow
@pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_has_nothing_to_complain_about_in_any_environment_nor_in_its_frames(env_id):
    assert complaints(env_id, drawn=True) == []


def test_there_are_fifty_tasks_of_meta_world_three_of_robosuite_six_scenes_and_recordings():
    assert len(IDS) == 50 + 3 + 6 + 1


def test_bounds_that_are_known_stay_and_the_others_become_finite_and_apart():
    space = observation_box(np.array([-0.5, -np.inf, 0.1]), np.array([0.5, np.inf, 0.1]), np.float64)
    assert space.low == pytest.approx([-0.5, -LARGEST, 0.099])
    assert space.high == pytest.approx([0.5, LARGEST, 0.101])
