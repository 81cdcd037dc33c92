import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robopref.envs.metaworld import simulation
from robopref.envs.metaworld.behaviours import Behaviour
from robopref.envs.metaworld.quick import _Quaternion
from robopref.envs.metaworld.tasks import TASKS

# What differs between the tasks: orientations, grasping, contacts, several objects.
VARIED = ("drawer-open", "push", "hammer", "stick-push")


def begun(task, quick):
    simulator = simulation.build(task, quick=quick)
    pristine = simulation.capture(task, simulator, np.zeros(39), 0, over=True)
    return simulator, simulation.begin_episode(simulator, pristine, np.random.default_rng(3))


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
            _Quaternion.from_matrix(matrix).as_quat(), Rotation.from_matrix(matrix).as_quat()
        )
