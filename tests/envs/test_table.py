# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import functools
import itertools
from pathlib import Path

import mujoco
import numpy as np
import pytest

from robopref.envs.rendering import gl_backend
from robopref.envs.table import avoid, group, handle
from robopref.envs.table.arm import EMBODIMENTS, HAND_M, joint_angles, tool_points
from robopref.envs.table.behaviours import KINDS
from robopref.envs.table.environment import TableEnv
from robopref.envs.table.scene import HIGH_M, LOW_M, STEP_M

can_draw = pytest.mark.skipif(gl_backend().name is None, reason=gl_backend().reason)
TASKS = ("group", "avoid", "handle")
SCRIPTED = [(task, kind) for task in TASKS for kind in KINDS[f"table-{task}"] if kind != "random"]


@functools.cache
def environment(task, **options):
    return TableEnv(task=task, **options)


def episode(env, kind, seed, **options):
    """Return and last info of an episode."""
    observation, _ = env.reset(seed=seed)
    act, total, info = env.behaviour(kind, np.random.default_rng(seed), **options), 0.0, {}
    for _ in range(env.horizon):
        observation, reward, _, _, info = env.step(act(observation))
        total += reward
    return total, info


@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_joint_angles_put_the_tool_where_it_was_wanted(embodiment):
    env = environment("avoid", embodiment=embodiment)
    shape, data = EMBODIMENTS[embodiment], mujoco.MjData(env.scene.model)
    env.reset(seed=0)
    for place in np.random.default_rng(0).uniform(LOW_M, HIGH_M, (10, 3)):
        env.states.physics[0, 1:6] = joint_angles(shape, place)
        wrist = env.scene.body_positions(env.states)[0, env.scene.hand_body]
        assert wrist - [0, 0, HAND_M] == pytest.approx(place, abs=1e-9)
        assert env.scene.tool(env.states)[0] == pytest.approx(place, abs=1e-9)
        env.states.physics[0, 1:6] += [0.1, -0.1, 0.2, 0.05, 0.3]  # tilted as well
        env.scene.dress(data, env.states)
        tool = data.xpos[env.scene.hand_body] - HAND_M * data.xmat[env.scene.hand_body].reshape(3, 3)[:, 2]
        assert env.scene.tool(env.states)[0] == pytest.approx(tool, abs=1e-9)


def test_the_arms_have_the_lengths_that_robosuite_gives_them():
    robosuite = pytest.importorskip("robosuite")
    robots = Path(robosuite.__file__).parent / "models" / "assets" / "robots"
    numbers = {"panda": [1, 2, 4, 6, 7], "kuka": [1, 2, 4, 6, 7]}
    for name, folder, joint in (("panda", "panda", "joint{}"), ("kuka", "iiwa", "joint_{}")):
        theirs = mujoco.MjModel.from_xml_path(str(robots / folder / "robot.xml"))
        data, shape = mujoco.MjData(theirs), EMBODIMENTS[name]
        for place in np.random.default_rng(0).uniform(LOW_M, HIGH_M, (5, 3)):
            for number, angle in zip(numbers[name], joint_angles(shape, place), strict=True):
                data.joint(joint.format(number)).qpos[:] = angle
            mujoco.mj_kinematics(theirs, data)
            last = data.joint(joint.format(7)).xanchor + np.array([shape.base_x, 0, 0])
            assert last[:2] == pytest.approx(place[:2], abs=1e-3)  # the hand's axis is above the tool
            hand = data.body("right_hand").xmat.reshape(3, 3)
            assert abs(hand[2]) == pytest.approx([0, 0, 1], abs=1e-3)
            height = data.joint(joint.format(6)).xanchor[2] - HAND_M - shape.drop
            assert height == pytest.approx(place[2], abs=1e-3)


def test_no_joint_of_the_panda_leaves_its_range_anywhere_in_the_workspace():
    places = np.random.default_rng(0).uniform(LOW_M, HIGH_M, (500, 3))
    places = np.concatenate([places, list(itertools.product(*zip(LOW_M, HIGH_M, strict=True)))])
    least, most = np.array(EMBODIMENTS["panda"].limits).T
    angles = joint_angles(EMBODIMENTS["panda"], places)
    assert ((least <= angles) & (angles <= most)).all()
    assert tool_points(EMBODIMENTS["panda"], angles) == pytest.approx(places, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_the_arm_follows_commands_and_stays_in_its_workspace(task):
    env = environment(task, horizon=100)
    env.reset(seed=0)
    still = np.zeros(env.scene.action_size)
    still[3:] = -1
    before = env.scene.tool(env.states)[0]
    env.step(still + np.eye(len(still))[2])
    for _ in range(3):
        env.step(still)
    assert env.scene.tool(env.states)[0] - before == pytest.approx([0, 0, STEP_M], abs=2e-3)
    for _ in range(30):
        env.step(still + np.eye(len(still))[0])
    assert env.scene.tool(env.states)[0, 0] == pytest.approx(HIGH_M[0], abs=5e-3)


@pytest.mark.parametrize(("task", "kind"), SCRIPTED)
@pytest.mark.parametrize("embodiment", EMBODIMENTS)
def test_every_scripted_way_succeeds_at_the_task(task, kind, embodiment):
    env = environment(task, embodiment=embodiment)
    assert all(episode(env, kind, seed)[1]["success"] for seed in range(3))


@pytest.mark.parametrize("task", TASKS)
def test_what_a_person_wants_differs_where_the_reward_does_not(task):
    env = environment(task)
    kinds = [kind for kind in KINDS[f"table-{task}"] if kind != "random"]
    ends = [episode(env, kind, 5) for kind in kinds]
    assert [total for total, _ in ends] == pytest.approx([ends[0][0]] * len(kinds), rel=0.05)
    scores = [info["score"] for _, info in ends]
    assert scores == sorted(scores, reverse=True)
    assert np.diff(scores).max() < -0.1


@pytest.mark.parametrize("task", TASKS)
def test_more_noise_earns_less_and_chance_nothing(task):
    env = environment(task)
    means = [np.mean([episode(env, "expert", s, noise=n)[1]["score"] for s in range(4)]) for n in (0.0, 3.0)]
    assert means[0] > means[1]
    assert sum(episode(env, "random", seed)[1]["success"] for seed in range(4)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_expert_succeeds(task):
    ends = [episode(environment(task), "expert", seed)[1] for seed in range(100, 200)]
    assert sum(info["success"] for info in ends) >= 97
    assert np.mean([info["score"] for info in ends]) > 0.95


def test_the_score_of_a_known_way_past_the_vase():
    env = environment("avoid")
    env.reset(seed=0)
    memory = env.states.memory
    x, y = env.scene.tool(env.states)[0, :2]
    memory["goal"][0] = [x + 0.1, y]
    memory["nearest"][0] = (avoid.SAFE_M + avoid.TOUCH_M) / 2
    _, info = env.scene.judge(env.states, env.states)
    assert info["distance_m"][0] == pytest.approx(0.1)
    assert info["score"][0] == pytest.approx((1 - 0.1 / 0.4) * (0.3 + 0.7 * 0.5))


def test_the_score_of_blocks_at_known_places():
    env = environment("group")
    env.reset(seed=0)
    inside = group.ZONE_X_M + 0.05
    env.states.physics[0, 6:10] = [inside, -0.1, 0.0, 0.055]  # 0.25 m and more apart
    env.step(np.zeros(3))
    env.states.physics[0, 6:10] = [inside, -0.1, inside, 0.1]
    *_, info = env.step(np.zeros(3))
    assert info["success"]
    assert info["tightness"] == 0
    assert info["score"] == pytest.approx(0.5)


def test_the_handle_is_where_the_observation_says():
    env = environment("handle")
    observation, _ = env.reset(seed=3)
    middle, grip = observation[7:10], observation[10:13]
    assert np.linalg.norm(grip - middle) == pytest.approx(handle.HANDLE_M, abs=1e-6)
    assert env.keypoints()["handle"] == pytest.approx(grip, abs=1e-6)


@can_draw
@pytest.mark.parametrize("task", TASKS)
def test_distractors_change_what_is_seen_and_nothing_else(task):
    plain, distracted = (
        TableEnv(task=task, distractors=distractors, render_mode="rgb_array") for distractors in (False, True)
    )
    frames = []
    for seed in (0, 1):
        assert np.array_equal(plain.reset(seed=seed)[0], distracted.reset(seed=seed)[0])
        assert plain.state_hash() == distracted.state_hash()
        action = np.ones(plain.scene.action_size)
        assert np.array_equal(plain.step(action)[0], distracted.step(action)[0])
        frames += [plain.render(), distracted.render()]
    wall = [frame[2, 2].astype(int) for frame in frames]
    assert np.abs(wall[0] - wall[2]).max() < 5  # the wall keeps its colour
    assert np.abs(wall[1] - wall[3]).max() > 10
    distracted.reset(seed=0)
    distracted.step(action)
    assert np.array_equal(distracted.render(), frames[1])
    plain.close()
    distracted.close()


@can_draw
def test_the_arm_stands_behind_the_table_and_looks_like_itself():
    colours = []
    for embodiment in EMBODIMENTS:
        env = TableEnv(task="avoid", embodiment=embodiment, render_mode="rgb_array")
        env.reset(seed=0)
        colours.append(env.render()[:30].astype(int))
        env.close()
    orange = [((c[..., 0] - c[..., 2] > 80) & (c[..., 0] > 120)).mean() for c in colours]
    assert orange[0] < 0.01 < orange[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "grup"}, "Did you mean 'group'"),
        ({"task": "group", "embodiment": "pandas"}, "Did you mean 'panda'"),
        ({"task": "avoid", "horizon": 0}, "horizon must be"),
    ],
)
def test_what_cannot_be_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TableEnv(**options)
