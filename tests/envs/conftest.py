import functools

import pytest

from robopref.envs.metaworld.environment import MetaWorldEnv


@pytest.fixture(scope="session")
def environment():
    """Environments by task and number, made once: a test resets what it takes."""
    return functools.cache(lambda task, number=0: MetaWorldEnv(task))
