"""Simulators, reached by Gymnasium id; importing this registers the ids and starts no simulator.

``gymnasium.make("robopref.envs:robopref/mw-drawer-open-v0")`` imports this module by itself.
"""

import functools
from typing import Any

import gymnasium

from .metaworld.tasks import TASKS, environment_id
from .robosuite import tasks as robosuite

SCENES: dict[str, tuple[str, dict[str, str]]] = {
    "robopref/rope-shape-v0": ("deformable.environment:RopeShapeEnv", {}),
    "robopref/pile-gather-v0": ("deformable.environment:PileGatherEnv", {}),
    "robopref/planar-group-v0": ("planar.environment:PlanarGroupEnv", {}),
    "robopref/table-group-v0": ("table.environment:TableEnv", {"task": "group"}),
    "robopref/table-avoid-v0": ("table.environment:TableEnv", {"task": "avoid"}),
    "robopref/table-handle-v0": ("table.environment:TableEnv", {"task": "handle"}),
}
"""Our own scenes: id to class and its fixed arguments."""


PLAYBACK = "robopref/playback-v0"
"""States that were recorded elsewhere."""


def _make_vector(env_id: str, num_envs: int, **options: Any) -> gymnasium.vector.VectorEnv:
    from .vector import make_vector  # imports MuJoCo

    return make_vector(env_id, num_envs, **options)


for _task in TASKS:
    if environment_id(_task) not in gymnasium.registry:
        gymnasium.register(
            id=environment_id(_task),
            entry_point=f"{__name__}.metaworld.environment:MetaWorldEnv",
            kwargs={"task": _task},
        )

for _task in robosuite.TASKS:
    if robosuite.environment_id(_task) not in gymnasium.registry:
        gymnasium.register(
            id=robosuite.environment_id(_task),
            entry_point=f"{__name__}.robosuite.environment:RobosuiteEnv",
            kwargs={"task": _task},
        )

for _id, (_class, _fixed) in SCENES.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point=f"{__name__}.{_class}",
            kwargs=_fixed,
            vector_entry_point=functools.partial(_make_vector, _id),
        )

if PLAYBACK not in gymnasium.registry:
    gymnasium.register(id=PLAYBACK, entry_point=f"{__name__}.playback:PlaybackEnv")
