"""The tabletop tasks as Gymnasium environments."""

import numpy as np

from ..checks import one_of
from ..environment import SceneEnv
from .avoid import AvoidScene
from .behaviours import Behaviour
from .group import GroupScene
from .handle import HandleScene

SCENES = {"group": GroupScene, "avoid": AvoidScene, "handle": HandleScene}
_HORIZONS = {"group": 70, "avoid": 40, "handle": 40}


class TableEnv(SceneEnv):
    """An arm at a table; see :mod:`.group`, :mod:`.avoid` and :mod:`.handle` for what is seen and rewarded.

    ``info`` holds "success" (of the task), "score" (what a person wants, which the reward does not say), and
    what they are made of.

    Args:
        task: "group", "avoid" or "handle".
        embodiment: "panda" (Franka) or "kuka" (LBR iiwa 7): the same tools on another arm.
        distractors: Draw colours, textures, lights, a shifted camera and clutter anew for each episode.
        horizon: Steps of an episode, at 10 per second; None takes the task's.
        threads: CPU threads of :meth:`try_actions`; 0 computes in the calling thread.
        render_mode: None or "rgb_array".
        camera: "front", "side" or "top".
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.
    """

    def __init__(
        self,
        *,
        task: str,
        embodiment: str = "panda",
        distractors: bool = False,
        horizon: int | None = None,
        threads: int = 0,
        render_mode: str | None = None,
        camera: str = "front",
        width: int = 84,
        height: int = 84,
        effects: bool = False,
    ):
        one_of("tabletop task", task, SCENES)
        super().__init__(
            SCENES[task](embodiment=embodiment, distractors=distractors, threads=threads),
            horizon=_HORIZONS[task] if horizon is None else horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
        )

    def behaviour(self, kind: str, rng: np.random.Generator, **options: float | int) -> Behaviour:
        """Return a way to act for one episode, one of :data:`~.behaviours.KINDS` of the task."""
        return Behaviour(self.task, kind, rng, **options)
