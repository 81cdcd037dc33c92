"""Point clouds, as a depth camera above the table sees them, of always as many points; or a picture.

``geometry`` (the default, because it needs no OpenGL and is some fifty times faster) draws points from the
true surfaces that face up, leaves out what lies under something else, and adds noise. ``depth`` draws a real
depth image of 128 x 128 pixels and turns what stands above the table into points. ``image`` is what the
camera sees in colours.

Letters used in shapes: B episodes, N points seen, P points drawn, L links, G grains, S pixels of a side.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

from collections.abc import Callable

import mujoco
import numpy as np

from ..checks import one_of, positive_whole
from ..rendering import Renderer
from ..scene import Scene, States, sensor_noise

SOURCES = ("geometry", "depth", "image")
NOISE_M = 0.002
_PIXELS = 128
_ABOVE_TABLE_M = 0.003


class Sensor:
    """How a scene is seen.

    Args:
        source: "geometry", "depth" or "image".
        count: Points of a cloud.
        pixels: Of a side of the image, which is square.

    Raises:
        ValueError: Another source, or a number that is not positive.

    Attributes:
        size: Numbers of an observation.
    """

    def __init__(self, source: str = "geometry", count: int = 128, pixels: int = 48):
        one_of("observation", source, SOURCES)
        positive_whole(points=count, pixels=pixels)
        self.source = source
        self.count, self.pixels = count, pixels
        self.size = 3 * (pixels**2 if source == "image" else count)
        self._renderer: Renderer | None = None
        self._canvas: mujoco.MjData | None = None

    def see(
        self,
        scene: Scene,
        states: States,
        centres: np.ndarray,
        surface: Callable[[np.ndarray, int, np.random.Generator], np.ndarray],
    ) -> np.ndarray:
        """Return the clouds of a batch, (B, N * 3) float32, in metres in the world frame.

        An image is (B, S * S * 3) numbers from 0 to 255 instead, row by row, three to a pixel.

        Args:
            scene: What is seen.
            states: (B,).
            centres: (B, P, 3) of what the scene's things are made of.
            surface: (centres (P, 3), count, generator) to ``count`` points that can be seen, (N, 3).
        """
        if self.source == "image":
            frames = [
                self._camera(scene, states.rows([row])).frame(self._canvas) for row in range(len(states))
            ]
            return np.stack(frames).reshape(len(states), -1).astype(np.float32)
        clouds = np.empty((len(states), self.count, 3), np.float32)
        for row in range(len(states)):
            rng = sensor_noise(states, row)
            if self.source == "geometry":
                points = surface(centres[row], self.count, rng)
                clouds[row] = points + rng.normal(0, NOISE_M, points.shape)
            else:
                clouds[row] = _chosen(self._depth_points(scene, states.rows([row])), self.count, rng)
        return clouds.reshape(len(states), -1)

    def _depth_points(self, scene: Scene, states: States) -> np.ndarray:
        depth = self._camera(scene, states).depth(self._canvas)
        points = unproject(depth, scene.model, self._canvas, "top")
        return points[points[:, 2] > _ABOVE_TABLE_M]

    def _camera(self, scene: Scene, states: States) -> Renderer:
        """The camera above the table, with one episode before it on ``_canvas``."""
        if self._renderer is None or self._canvas is None:
            side = self.pixels if self.source == "image" else _PIXELS
            self._canvas = mujoco.MjData(scene.model)
            self._renderer = Renderer(scene.model, "top", side, side)
        scene.dress(self._canvas, states)
        return self._renderer

    def close(self) -> None:
        """Free the camera."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def unproject(depth: np.ndarray, model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Turn a depth image (height, width) in metres into points (height * width, 3) in the world frame."""
    height, width = depth.shape
    camera_id = model.camera(camera).id
    scale = 2 * np.tan(np.deg2rad(model.cam_fovy[camera_id]) / 2) / height
    right = (np.arange(width) + 0.5 - width / 2) * scale
    up = (height / 2 - np.arange(height) - 0.5) * scale
    rays = np.stack([*np.meshgrid(right, up), -np.ones_like(depth)], -1)  # a camera looks along -z
    local = (depth[..., None] * rays).reshape(-1, 3)
    return local @ data.cam_xmat[camera_id].reshape(3, 3).T + data.cam_xpos[camera_id]


def _chosen(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` of the points (P, 3), some twice if there are fewer; zeros if there are none."""
    if len(points) == 0:
        return np.zeros((count, 3))
    return points[rng.choice(len(points), count, replace=len(points) < count)]


def rope_cloud(centres: np.ndarray, count: int, rng: np.random.Generator, *, radius_m: float) -> np.ndarray:
    """Return points (N, 3) of a rope's upper side that nothing of the rope covers.

    Args:
        centres: (L, 3) of its links, in order.
        count: N.
        rng: Draws the points.
        radius_m: Of the rope.
    """
    between = (centres[1:] + centres[:-1]) / 2
    ends = np.concatenate([2 * centres[:1] - between[:1], between, 2 * centres[-1:] - between[-1:]])
    link = rng.integers(len(centres), size=3 * count)
    start, along = ends[link], ends[link + 1] - ends[link]
    middle = start + rng.random((3 * count, 1)) * along
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    across /= np.maximum(np.linalg.norm(across, axis=-1, keepdims=True), 1e-9)
    aside = radius_m * rng.uniform(-0.95, 0.95, 3 * count)
    points = middle.copy()
    points[:, :2] += aside[:, None] * across
    points[:, 2] += np.sqrt(radius_m**2 - aside**2)
    # covered: within another link's width, seen from above, and more than a radius below its middle
    low, span = ends[:-1, :2], (ends[1:] - ends[:-1])[:, :2]
    share = ((points[:, None, :2] - low) * span).sum(-1) / np.maximum((span**2).sum(-1), 1e-12)
    nearest = low + np.clip(share, 0, 1)[..., None] * span
    below = np.linalg.norm(points[:, None, :2] - nearest, axis=-1) < radius_m
    covered = (below & (centres[:, 2] > middle[:, None, 2] + radius_m)).any(1)
    return _chosen(points[~covered], count, rng)


def grain_cloud(centres: np.ndarray, count: int, rng: np.random.Generator, *, radius_m: float) -> np.ndarray:
    """Return points (N, 3) of the upper halves of balls at ``centres`` (G, 3); none covers another."""
    grain = rng.integers(len(centres), size=count)
    out, angle = radius_m * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    up = np.sqrt(radius_m**2 - out**2)
    return centres[grain] + np.stack([out * np.cos(angle), out * np.sin(angle), up], -1)
