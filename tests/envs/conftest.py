import functools

import pytest

from robopref.envs.metaworld.environment import MetaWorldEnv


@pytest.fixture(scope="module")
def environment():
    """Environments by task and number, made once in a module: a test resets what it takes.

    Not once in a session: fifty tasks hold more than a gigabyte.
    """
    return functools.cache(lambda task, number=0: MetaWorldEnv(task))
