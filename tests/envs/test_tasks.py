import subprocess
import sys

import gymnasium
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from robopref.envs.metaworld.environment import MetaWorldEnv
from robopref.envs.metaworld.tasks import TASKS, task_id


def test_the_tasks_are_the_fifty_of_upstream():
    assert len(TASKS) == 50
    assert {f"{task}-v3" for task in TASKS} == set(ALL_V3_ENVIRONMENTS)


def test_registering_starts_no_simulator():
    code = (
        "import sys, robopref.envs, robopref.envs.rendering, gymnasium; "
        "assert not {'mujoco', 'metaworld', 'OpenGL'} & set(sys.modules); "
        "assert sum(name.startswith('robopref/mw-') for name in gymnasium.registry) == 50"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_id_with_its_module_needs_no_import_before():
    code = "import gymnasium; print(gymnasium.make('robopref.envs:robopref/mw-reach-v0').unwrapped.task)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "reach"


def test_options_pass_through_gymnasium():
    env = gymnasium.make(task_id("reach"), horizon=3)
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("make", [task_id, MetaWorldEnv])
def test_a_misspelt_task_names_the_nearest_one(make):
    with pytest.raises(ValueError, match=r"'drawer_open'\. Did you mean 'drawer-open'\?"):
        make("drawer_open")


def test_a_misspelt_id_names_the_nearest_one():
    with pytest.raises(gymnasium.error.NameNotFound, match="Did you mean: `mw-drawer-open`"):
        gymnasium.make("robopref.envs:robopref/mw-drawer_open-v0")
