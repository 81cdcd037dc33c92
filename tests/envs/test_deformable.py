# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import functools

import numpy as np
import pytest

from robopref.envs.deformable import pile, rope
from robopref.envs.deformable.behaviours import KINDS
from robopref.envs.deformable.cloud import Sensor, rope_cloud
from robopref.envs.deformable.environment import PileGatherEnv, RopeShapeEnv
from robopref.envs.deformable.metrics import chamfer
from robopref.envs.rendering import gl_backend

can_draw = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)
ENVIRONMENTS = {"rope": RopeShapeEnv, "pile": PileGatherEnv}


@functools.cache
def environment(name, **options):
    return ENVIRONMENTS[name](**options)


def returns(env, kind, seeds, **options):
    totals = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        act = env.behaviour(kind, np.random.default_rng(seed), **options)
        totals.append(sum(env.step(act(observation))[1] for _ in range(env.horizon)))
    return np.array(totals)


@pytest.mark.parametrize("curve", rope.CURVES)
def test_a_curve_is_as_long_as_the_rope(curve):
    points = rope.CURVES[curve](np.linspace(0, 1, 2001))
    length = np.linalg.norm(np.diff(points, axis=0), axis=-1).sum()
    assert length == pytest.approx(rope.LINKS * rope.LINK_M, rel=1e-4)
    assert np.abs(points).max() <= rope.WORKSPACE_M


def test_a_link_is_put_down_where_the_action_says():
    env = environment("rope")
    for seed in range(3):
        env.reset(seed=seed)
        links = env.scene.link_positions(env.states)[0]
        wanted = links[5, :2] + np.array([0.03, -0.04])
        env.step(np.concatenate([links[5, :2], wanted]) / rope.WORKSPACE_M)
        moved = env.scene.link_positions(env.states)[0]
        assert np.linalg.norm(moved[5, :2] - wanted) < 0.02
        assert np.linalg.norm(np.diff(moved, axis=0), axis=-1).max() < rope.LINK_M + 1e-3


def test_a_pick_beside_the_rope_grasps_nothing():
    env = environment("rope")
    env.reset(seed=0)
    links = env.scene.link_positions(env.states)[0]
    corners = rope.WORKSPACE_M * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    far = corners[np.linalg.norm(corners[:, None] - links[:, :2], axis=-1).min(1).argmax()]
    _, reward, *_ = env.step(np.append(far / rope.WORKSPACE_M, [0, 0]))
    assert np.abs(env.scene.link_positions(env.states)[0] - links).max() < 0.005
    assert abs(reward) < 0.2


def test_the_return_is_the_whole_decrease_of_the_distance():
    env = environment("rope")
    _, first = env.reset(seed=2)
    act = env.behaviour("greedy", np.random.default_rng(0))
    steps = [env.step(act(np.zeros(1))) for _ in range(3)]
    decrease = first["emd_m"] - steps[-1][4]["emd_m"]
    assert sum(step[1] for step in steps) == pytest.approx(100 * decrease)


def test_a_sweep_carries_the_grains_in_its_way_and_no_others():
    env = environment("pile")
    env.reset(seed=0)
    before = env.scene.grain_positions(env.states)[0]
    env.step(np.array([-1, 0, 0.4, 0]))
    after = env.scene.grain_positions(env.states)[0]
    lane = np.abs(before[:, 1]) < pile.BLADE_M[0] - pile.RADIUS_M
    swept = lane & (before[:, 0] < 0.08)
    assert swept.any()
    assert (after[swept, 0] > 0.09).mean() > 0.95
    moved = np.linalg.norm(after - before, axis=-1) > 1e-3
    assert not moved[np.abs(before[:, 1]) > 0.2].any()


def test_grains_do_not_overlap():
    env = environment("pile")
    env.reset(seed=1)
    for move in np.random.default_rng(0).uniform(-1, 1, (4, 4)):
        env.step(move)
    grains = env.scene.grain_positions(env.states)[0]
    apart = np.linalg.norm(grains[:, None] - grains, axis=-1) + np.eye(len(grains))
    assert apart.min() > 1.8 * pile.RADIUS_M


def test_coverage_and_distance_of_a_known_layout():
    env = environment("pile", grains=4)
    env.reset(seed=0)
    edge = pile.TARGET_M
    env.states.physics[0, 1:9] = [0, 0, edge - 0.01, 0, edge + 0.03, 0, edge + 0.03, -edge - 0.04]
    _, info = env.scene.judge(env.states, env.states)
    assert info["coverage"][0] == 0.5
    assert info["distance_m"][0] == pytest.approx((0.03 + 0.05) / 4)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_better_behaviours_earn_more(name):
    env, seeds = environment(name), range(3)
    best, random = returns(env, "expert", seeds, tries=4), returns(env, "random", seeds)
    assert (best > random).all()
    assert best.mean() > returns(env, "wrong", seeds).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at_least"), [("rope", 18), ("pile", 14)])
def test_the_expert_succeeds_and_chance_does_not(name, at_least):
    env = environment(name)
    ends = dict.fromkeys(("expert", "random"), 0)
    for kind in ends:
        for seed in range(100, 120):
            returns(env, kind, [seed])
            ends[kind] += env.scene.judge(env.states, env.states)[1]["success"][0]
    assert ends["expert"] >= at_least
    assert ends["random"] <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_equal_generators_give_equal_actions_within_the_range(name, kind):
    env = environment(name)
    observation, _ = env.reset(seed=0)
    first, again = (env.behaviour(kind, np.random.default_rng(3))(observation) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1


def test_a_cloud_lies_on_the_rope():
    env = environment("rope", points=200)
    observation, _ = env.reset(seed=0)
    cloud = observation.reshape(200, 3)
    links = env.scene.link_positions(env.states)[0]
    assert np.linalg.norm(cloud[:, None] - links, axis=-1).min(1).max() < 0.03
    assert chamfer(cloud[None], links)[0] < 0.012


def test_what_lies_under_another_stretch_of_rope_is_not_seen():
    along = (np.arange(20) - 9.5) * rope.LINK_M
    low = np.stack([along, 0 * along, 0 * along + 0.006], -1)
    crossing = np.stack([0 * along, along[::-1], 0 * along + 0.05], -1)
    cloud = rope_cloud(np.concatenate([low, crossing]), 4000, np.random.default_rng(0), radius_m=0.006)
    under = (np.abs(cloud[:, :2]) < 0.004).all(-1) & (cloud[:, 2] < 0.03)
    above = (np.abs(cloud[:, :2]) < 0.004).all(-1) & (cloud[:, 2] > 0.03)
    assert not under.any()
    assert above.any()


@can_draw
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_simulated_cloud_agrees_with_a_drawn_depth_image(name):
    fast, drawn = environment(name, points=512), environment(name, points=512, observation="depth")
    for seed in (0, 1):
        first, _ = fast.reset(seed=seed)
        second, _ = drawn.reset(seed=seed)
        assert chamfer(first.reshape(1, -1, 3), second.reshape(-1, 3))[0] < 0.009
    drawn.close()


@can_draw
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_observed_image_is_the_frame_from_above(name):
    env = environment(name, observation="image", pixels=32, render_mode="rgb_array", width=32, height=32)
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert np.array_equal(seen.reshape(32, 32, 3), env.render())
    env.close()


@can_draw
def test_the_top_view_has_x_to_the_right_and_y_upwards():
    env = RopeShapeEnv(render_mode="rgb_array", width=80, height=80)
    env.reset(seed=0)
    links = env.scene.link_positions(env.states)[0]
    frame = env.render().astype(int)
    rows, columns = np.nonzero(frame[..., 0] - frame[..., 2] > 60)  # the rope is orange
    drawn = np.array([columns.mean() - 39.5, 39.5 - rows.mean()])
    assert np.allclose(drawn / 80 * 2 * 0.95 * np.tan(np.deg2rad(20)), links[:, :2].mean(0), atol=0.02)
    env.close()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RopeShapeEnv(target="cirle"), "Did you mean 'circle'"),
        (lambda: RopeShapeEnv(points=0), "points must be a whole number from 1 on"),
        (lambda: PileGatherEnv(grains=1000), "grains must be at most 300, got 1000"),
        (lambda: PileGatherEnv(observation="sound"), "No observation is called 'sound'"),
        (lambda: Sensor("deep"), "Did you mean 'depth'"),
        (
            lambda: environment("pile").behaviour("expert", np.random.default_rng(0), tries=0),
            "at least 1, got 0",
        ),
        (
            lambda: environment("pile").behaviour("expert", np.random.default_rng(0), tries=1.5),
            "whole number, got 1.5",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_snapshot_of_another_size_is_refused():
    small, large = environment("pile", grains=4), environment("pile")
    small.reset(seed=0)
    with pytest.raises(ValueError, match="an environment with these options 481"):
        large.restore(small.snapshot())
