"""The rope and the pile as Gymnasium environments."""

import numpy as np

from ..environment import SceneEnv
from .behaviours import Behaviour, pile_proposals, rope_proposals
from .cloud import Sensor
from .pile import PileScene
from .rope import RopeScene


class RopeShapeEnv(SceneEnv):
    """Lay a rope of 0.5 m into a curve; see :mod:`.rope` for actions and rewards.

    ``info`` holds "chamfer_m" and "emd_m" (distances of the links to the target), "score" (minus the latter)
    and "success" (a chamfer distance of at most 15 mm).

    Args:
        target: "circle", "arc" or "line".
        observation: "geometry", a simulated point cloud, "depth", one from a drawn depth image, or "image",
            what the camera above the table sees.
        points: Points of a cloud; an observation has three times as many numbers.
        pixels: Of a side of the image; an observation has three numbers for each pixel.
        horizon: Primitives of an episode.
        threads: CPU threads of :meth:`try_actions`; 0 computes in the calling thread.
        render_mode: None or "rgb_array".
        camera: "top" or "front".
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.
    """

    def __init__(
        self,
        *,
        target: str = "circle",
        observation: str = "geometry",
        points: int = 128,
        pixels: int = 48,
        horizon: int = 8,
        threads: int = 0,
        render_mode: str | None = None,
        camera: str = "top",
        width: int = 224,
        height: int = 224,
        effects: bool = False,
    ):
        super().__init__(
            RopeScene(target=target, sensor=Sensor(observation, points, pixels), threads=threads),
            horizon=horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
        )

    def behaviour(self, kind: str, rng: np.random.Generator, **options: float | int) -> Behaviour:
        """Return a way to act for one episode, one of :data:`~.behaviours.KINDS`."""
        return Behaviour(self, rope_proposals, kind, rng, **options)


class PileGatherEnv(SceneEnv):
    """Gather grains into a square of 0.24 m; see :mod:`.pile` for actions and rewards.

    ``info`` holds "coverage" (the share of grains inside), "iou" (of the cells that grains cover with the
    square's), "distance_m" (the grains' mean distance to the square), "score" (the coverage) and "success"
    (a coverage of at least 0.9).

    Args:
        grains: How many there are.
        observation: "geometry", a simulated point cloud, "depth", one from a drawn depth image, or "image",
            what the camera above the table sees.
        points: Points of a cloud; an observation has three times as many numbers.
        pixels: Of a side of the image; an observation has three numbers for each pixel.
        horizon: Primitives of an episode.
        threads: CPU threads of :meth:`try_actions`; 0 computes in the calling thread.
        render_mode: None or "rgb_array".
        camera: "top" or "front".
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.
    """

    def __init__(
        self,
        *,
        grains: int = 120,
        observation: str = "geometry",
        points: int = 256,
        pixels: int = 48,
        horizon: int = 8,
        threads: int = 0,
        render_mode: str | None = None,
        camera: str = "top",
        width: int = 224,
        height: int = 224,
        effects: bool = False,
    ):
        super().__init__(
            PileScene(grains=grains, sensor=Sensor(observation, points, pixels), threads=threads),
            horizon=horizon,
            render_mode=render_mode,
            camera=camera,
            width=width,
            height=height,
            effects=effects,
        )

    def behaviour(self, kind: str, rng: np.random.Generator, **options: float | int) -> Behaviour:
        """Return a way to act for one episode, one of :data:`~.behaviours.KINDS`."""
        return Behaviour(self, pile_proposals, kind, rng, **options)
