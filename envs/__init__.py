"""Simulators, reached by Gymnasium id; importing this registers the ids and starts no simulator.

``gymnasium.make("robopref.envs:robopref/mw-drawer-open-v0")`` imports this module by itself.
"""

import gymnasium

from .metaworld.tasks import TASKS, environment_id

for _task in TASKS:
    if environment_id(_task) not in gymnasium.registry:
        gymnasium.register(
            id=environment_id(_task),
            entry_point=f"{__name__}.metaworld.environment:MetaWorldEnv",
            kwargs={"task": _task},
        )
