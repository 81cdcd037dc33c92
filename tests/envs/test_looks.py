from typing import Any

import gymnasium
import numpy as np
import pytest

from robopref.envs.metaworld.looks import rgb


def made(**options) -> Any:
    return gymnasium.make("robopref.envs:robopref/mw-drawer-close-v0", disable_env_checker=True, **options)


def test_light_and_colour_change_the_picture_and_nothing_that_happens():
    frames, states, steps = [], [], []
    for options in ({}, {"light": 0.5}, {"object_colour": "#0000ff"}):
        env = made(render_mode="rgb_array", width=48, height=48, **options)
        env.reset(seed=1)
        states.append(env.unwrapped.state_hash())
        frames.append(env.unwrapped.render().astype(int))
        steps.append(env.step(np.array([0.5, 1.0, -0.3, 0.0], np.float32))[0])
        env.close()
    assert len(set(states)) == 1
    assert all(np.array_equal(steps[0], step) for step in steps)
    plain, dim, blue = frames
    assert dim.mean() < 0.8 * plain.mean()
    changed = np.abs(blue - plain).sum(-1) > 30
    assert 0.005 < changed.mean() < 0.5  # the drawer, and nothing else
    assert (blue - plain)[changed][:, 2].mean() > (blue - plain)[changed][:, 1].mean()


def test_colours_and_lights_that_are_none_are_refused():
    assert rgb("#ff0080") == pytest.approx((1, 0, 128 / 255))
    with pytest.raises(ValueError, match="#3355ee"):
        rgb("blue")
    with pytest.raises(ValueError, match="light must lie"):
        made(light=0.0)
