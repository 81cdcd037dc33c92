import itertools

import numpy as np
import pytest
from metaworld.utils import reward_utils
from scipy.spatial.transform import Rotation

from robopref.envs.metaworld import quick_rewards, simulation
from robopref.envs.metaworld.behaviours import Behaviour
from robopref.envs.metaworld.quick_rewards import Quaternion, norm
from robopref.envs.metaworld.tasks import TASKS

# What differs between the tasks: orientations, grasping, contacts, several objects.
VARIED = ("drawer-open", "push", "hammer", "stick-push")


def begun(task, quick):
    simulator = simulation.build(task, quick=quick)
    pristine = simulation.capture(task, simulator, np.zeros(39), 0, over=True)
    return simulator, simulation.begin_episode(simulator, pristine, np.random.default_rng(3))


def derived(data):
    """All of MuJoCo's data, but for what quick steps leave out and what this solver never writes."""
    left_out = {"cacc", "cfrc_ext", "cfrc_int"}
    for name in dir(data):
        unwritten = name.startswith(("efc_J_", "efc_JT", "efc_AR")) or (not data.nisland and "island" in name)
        if not name.startswith("_") and name not in left_out and not unwritten:
            value = getattr(data, name)
            if isinstance(value, np.ndarray | int | float):
                yield name, np.asarray(value).tobytes()


def differences(task, steps):
    upstream, observation = begun(task, quick=False)
    quick, first = begun(task, quick=True)
    assert np.array_equal(first, observation)
    act = Behaviour(task, "expert", np.random.default_rng(0), noise=0.3)
    for step in range(steps):
        action = act(observation)
        observation, reward, *_, info = upstream.step(action)
        ours, our_reward, *_, our_info = quick.step(action)
        same = np.array_equal(ours, observation) and our_reward == reward and our_info == info
        if not same or not np.array_equal(quick.data.qacc_warmstart, upstream.data.qacc_warmstart):
            return step
        if step % 10 == 0:
            assert dict(derived(quick.data)) == dict(derived(upstream.data))
            digests = {
                simulation.capture(task, side, observation, step, over=False).digest()
                for side in (quick, upstream)
            }
            assert len(digests) == 1
    return None


@pytest.mark.parametrize("task", VARIED)
def test_a_quick_step_gives_the_upstream_numbers_to_the_last_bit(task):
    assert differences(task, 100) is None


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_quick_episodes_of_all_tasks_are_the_upstream_ones_to_the_last_bit(task):
    assert differences(task, 300) is None


def test_quick_quaternions_are_those_of_scipy_to_the_last_bit():
    matrices = [
        *Rotation.from_quat(np.random.default_rng(0).normal(size=(300, 4))).as_matrix(),
        np.eye(3),
        np.diag([1.0, -1, -1]),
    ]
    matrices += [1.01 * matrices[0], matrices[1] + 1e-9]  # no rotations: SciPy corrects them
    for matrix in matrices:
        assert np.array_equal(
            Quaternion.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat()
        )


def test_quick_tolerance_is_the_upstream_one_to_the_last_bit():
    rng = np.random.default_rng(0)
    for sigmoid, number in itertools.product(("long_tail", "gaussian", "reciprocal"), (np.float64, float)):
        for x, upper, margin in rng.exponential(size=(200, 3)) * (1, 0.3, 0.5):
            case = number(x), (0.1 * upper, upper), margin, sigmoid
            assert quick_rewards.REPLACED["tolerance"](*case) == reward_utils.tolerance(*case)
    far = 1e200, (0, 1), 1e-3, "long_tail"
    with np.errstate(over="ignore"):
        assert quick_rewards.REPLACED["tolerance"](*far) == reward_utils.tolerance(*far) == 0


def test_quick_norms_are_those_of_numpy_to_the_last_bit():
    rng = np.random.default_rng(0)
    for x in (
        *rng.normal(size=(200, 3)),
        rng.normal(size=6)[::2],
        rng.normal(size=(2, 2)),
        *rng.normal(size=50),
    ):
        assert norm(x) == np.linalg.norm(x)
        assert type(norm(x)) is np.float64
    assert norm(x := rng.normal(size=3), ord=1) == np.linalg.norm(x, ord=1)


def test_a_step_after_positions_were_changed_is_the_upstream_one():
    sides = [begun("push", quick)[0] for quick in (False, True)]
    for simulator in sides:
        simulator.step(np.array([0.1, 0.2, -0.3, 1], np.float32))
        simulator._set_obj_xyz(np.array([0.05, 0.65, 0.02]))  # upstream's own: ends in mj_forward
    found = [simulator.step(np.array([0.3, 0, -1, -1], np.float32))[0] for simulator in sides]
    assert np.array_equal(*found)


def test_the_model_is_whole_after_a_quick_step():
    quick, _ = begun("reach", quick=True)
    volumes = quick.model.nbvh
    quick.step(np.zeros(4, np.float32))
    assert quick.model.nbvh == volumes == len(quick.model.bvh_depth)
