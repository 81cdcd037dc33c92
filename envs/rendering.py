"""Drawing frames without a window: which OpenGL back end works here, and a renderer that uses it.

Importing this module imports neither MuJoCo nor OpenGL. Whether a back end works is tried in a process of
its own, because a broken driver can take the whole process down and because PyOpenGL, once loaded for one
back end, cannot change to another.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import atexit
import contextlib
import functools
import importlib
import os
import platform
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from gymnasium.error import DependencyNotInstalled

from .detail import drawn_at

if TYPE_CHECKING:
    import mujoco

_SWITCHED_OFF = ("disable", "disabled", "off", "false", "0")
_AUTOMATIC = ("", "enable", "enabled", "on", "true", "1")
_KNOWN = ("egl", "osmesa", "glfw", "cgl", "wgl")

_PROBE = """
import sys, importlib, mujoco
context = importlib.import_module("mujoco." + sys.argv[1]).GLContext(64, 64)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
drawing.free()
context.free()
print("drawn")
"""

_CURE = (
    "Install one: 'apt-get install libegl1 libgl1-mesa-dri' (EGL, also for NVIDIA drivers without a display) "
    "or 'apt-get install libosmesa6' (software)."
)


class GLBackend(NamedTuple):
    """An OpenGL back end of MuJoCo, or none.

    Attributes:
        name: "egl", "osmesa", "glfw", "cgl" or "wgl"; None if nothing can draw here.
        reason: Why this one, or why none, and what to do about it.
    """

    name: str | None
    reason: str


def gl_backend() -> GLBackend:
    """Say which back end draws frames here, and why; never crashes, takes a second at the first call.

    ``MUJOCO_GL`` decides if it is set. Otherwise EGL, OSMesa and, with a display, GLFW are tried in turn.
    """
    return _choose(os.environ.get("MUJOCO_GL", "").lower().strip(), _has_display(), platform.system())


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


@functools.lru_cache(maxsize=8)
def _choose(wish: str, display: bool, system: str) -> GLBackend:
    if wish in _SWITCHED_OFF:
        return GLBackend(None, f"Drawing is switched off by MUJOCO_GL={wish}. Unset it.")
    if wish not in _AUTOMATIC:
        if wish not in _KNOWN:
            return GLBackend(None, f"MUJOCO_GL={wish} names no back end. Unset it, or use egl or osmesa.")
        problem = _problem(wish)
        if problem is None:
            return GLBackend(wish, f"MUJOCO_GL={wish} asks for it.")
        return GLBackend(None, f"MUJOCO_GL={wish} does not work here ({problem}). Unset it. {_CURE}")
    candidates = {"Darwin": ["cgl"], "Windows": ["glfw"]}.get(
        system, ["egl", "osmesa", *(["glfw"] if display else [])]
    )
    problems = []
    for name in candidates:
        problem = _problem(name)
        if problem is None:
            return GLBackend(name, "; ".join(["The first that works", *problems]) + ".")
        problems.append(f"{name}: {problem}")
    return GLBackend(None, f"No OpenGL back end works here ({'; '.join(problems)}). {_CURE}")


def _problem(name: str) -> str | None:
    """Try a back end in a process of its own; return None if it draws, else its last words."""
    loaded = os.environ.get("PYOPENGL_PLATFORM", "")
    if "OpenGL" in sys.modules and loaded and name in ("egl", "osmesa") and loaded != name:
        return f"PyOpenGL is already loaded for {loaded} in this process"
    environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"}
    environment["MUJOCO_GL"] = name
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__} while trying it"
    if done.returncode == 0 and "drawn" in done.stdout:
        return None
    words = done.stderr.strip().splitlines()
    return words[-1] if words else f"the attempt ended with exit code {done.returncode}"


class Renderer:
    """Draws one camera of one model; holds an OpenGL context until closed.

    Cameras that hang upside down are turned by 180 degrees (turning only one axis would mirror the scene).

    Args:
        model: The MuJoCo model. Its offscreen buffer is enlarged if too small.
        camera: Name of a camera in the model; None for one that sees the whole scene.
        width: Pixels.
        height: Pixels.
        effects: Draw shadows and reflections, with multisampling: some ten times slower in software.
        hidden_groups: Groups of geometries that are not drawn, such as shapes for collisions alone.
        detail_m: Length in metres below which meshes are not detailed, see :mod:`~.detail`; 0 draws them as
            they are.

    Raises:
        DependencyNotInstalled: No OpenGL back end works here; the message says what to install.
    """

    def __init__(
        self,
        model: "mujoco.MjModel",
        camera: str | None,
        width: int,
        height: int,
        *,
        effects: bool = False,
        hidden_groups: tuple[int, ...] = (),
        detail_m: float = 0.0,
    ):
        backend = gl_backend()
        if backend.name is None:
            raise DependencyNotInstalled(f"Cannot draw frames. {backend.reason}")
        import mujoco

        self._mujoco = mujoco
        self._model = model
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.quality.offsamples = 4 if effects else 0
        self._context = _Context(backend.name, drawn_at(model, detail_m))
        weakref.finalize(self, self._context.free)
        self._scene = mujoco.MjvScene(model, maxgeom=2000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = effects
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = effects
        self._options = mujoco.MjvOption()
        self._options.geomgroup[list(hidden_groups)] = 0
        self._view = mujoco.MjvCamera()
        self._turned: bool | None = None
        if camera is None:
            mujoco.mjv_defaultFreeCamera(model, self._view)
            self._turned = False
        else:
            self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._view.fixedcamid = model.camera(camera).id
        self._viewport = mujoco.MjrRect(0, 0, width, height)

    def frame(self, data: "mujoco.MjData") -> np.ndarray:
        """Draw the state that ``data`` holds; returns (height, width, 3) uint8, upright."""
        self._draw(data)
        pixels = np.empty((self._viewport.height, self._viewport.width, 3), np.uint8)
        self._mujoco.mjr_readPixels(pixels, None, self._viewport, self._context.drawing)
        return self._upright(pixels)

    def depth(self, data: "mujoco.MjData") -> np.ndarray:
        """Measure how far things are along the camera's axis: (height, width) float32, metres, upright."""
        self._draw(data)
        buffer = np.empty((self._viewport.height, self._viewport.width), np.float32)
        self._mujoco.mjr_readPixels(None, buffer, self._viewport, self._context.drawing)
        extent, planes = self._model.stat.extent, self._model.vis.map
        near, far = planes.znear * extent, planes.zfar * extent
        return self._upright(near / (1 - buffer * (1 - near / far)))

    def _draw(self, data: "mujoco.MjData") -> None:
        mujoco = self._mujoco
        if self._turned is None:
            self._turned = bool(data.cam_xmat[self._view.fixedcamid].reshape(3, 3)[2, 1] < -0.1)
        self._context.gl.make_current()
        mujoco.mjv_updateScene(
            self._model, data, self._options, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        mujoco.mjr_render(self._viewport, self._scene, self._context.drawing)

    def _upright(self, pixels: np.ndarray) -> np.ndarray:
        # OpenGL counts rows from below: turning a camera by 180 degrees leaves only the columns to swap.
        return np.ascontiguousarray(pixels[:, ::-1] if self._turned else pixels[::-1])

    def close(self) -> None:
        """Free the drawing memory and the context; a second call does nothing."""
        self._context.free()


class _Context:
    """An OpenGL context and MuJoCo's drawing memory in it; freed once, at the latest when Python exits."""

    def __init__(self, backend: str, model: "mujoco.MjModel"):
        import mujoco

        # Mesa's software OpenGL and PyTorch's Triton each bring an LLVM, and a process dies if Triton, which
        # Fabric, diffusers and PEFT import, is loaded after something was drawn. So it is loaded before.
        with contextlib.suppress(ImportError):
            importlib.import_module("triton._C.libtriton")
        gl_context = importlib.import_module(f"mujoco.{backend}").GLContext
        self.gl = gl_context(model.vis.global_.offwidth, model.vis.global_.offheight)
        self.gl.make_current()
        self.drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.drawing)
        self._freed = False
        atexit.register(
            self.free
        )  # registered after the back end's own, so that it runs before the driver ends

    def free(self) -> None:
        if self._freed:
            return
        self._freed = True
        atexit.unregister(self.free)
        self.gl.make_current()
        self.drawing.free()
        self.gl.free()
