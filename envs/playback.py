"""States that somebody else's simulator went through, shown one after another; nothing is simulated.

The scene may come from a stranger's file: it is compiled from text and from files in folders that were named,
and from nothing else on this machine.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names carry no type information)

import importlib.util
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import gymnasium
import mujoco
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Discrete

from .bounds import LARGEST, unbounded_box
from .checks import one_of, positive_whole
from .rendering import Renderer

ROBOSUITE = "robosuite"
_FOLDERS = {"mesh": "meshdir", "hfield": "assetdir", "skin": "assetdir", "texture": "texturedir"}
_ROBOSUITES_COLLISIONS = 0  # the group of geometries that robosuite does not show


class PlaybackEnv(gymnasium.Env):
    """A scene in MuJoCo and the states that it went through.

    ``reset(options={"states": states})`` shows the first of some states, (S, nq + nv), and ``step``, whatever
    its action, the next. An observation is the state that is shown.

    Args:
        scene: The scene as MuJoCo's XML, or compiled.
        folders: Where the files that the XML names are looked for; robosuite's own are always found.
        render_mode: "rgb_array".
        camera: Name of a camera of the scene; None for robosuite's "agentview", else the first, else one that
            sees the whole scene.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
        effects: Draw shadows and reflections, with multisampling; slower.

    Raises:
        ValueError: The scene cannot be compiled, names a file that is not there, or has no such camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        scene: "str | mujoco.MjModel",
        *,
        folders: Sequence[str] = (),
        render_mode: str | None = "rgb_array",
        camera: str | None = None,
        width: int = 224,
        height: int = 224,
        effects: bool = False,
    ):
        positive_whole(width=width, height=height)
        self.model = compiled(scene, folders) if isinstance(scene, str) else scene
        self.render_mode = render_mode
        cameras = [self.model.camera(i).name for i in range(self.model.ncam)]
        if camera is None:
            camera = "agentview" if "agentview" in cameras else cameras[0] if cameras else None
        else:
            one_of("camera", camera, cameras)
        self._frame_options = {"camera": camera, "width": width, "height": height, "effects": effects}
        hides = isinstance(scene, str) and f"/{ROBOSUITE}/" in scene
        self._hidden = (_ROBOSUITES_COLLISIONS,) if hides else ()
        self._data = mujoco.MjData(self.model)
        self._states = np.empty((0, self.model.nq + self.model.nv))
        self._at_rest = np.append(self.model.qpos0, np.zeros(self.model.nv))
        self._shown = 0
        self._renderer: Renderer | None = None
        self.observation_space = unbounded_box(len(self._at_rest), np.float64)
        self.action_space = Discrete(1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Show the first state.

        Args:
            seed: Changes nothing.
            options: ``states`` (S, nq + nv): positions and velocities; without them, the scene stands as its
                XML has it, for two steps.

        Raises:
            ValueError: There are no states, they are of another scene, or hold what is no position.
        """
        super().reset(seed=seed)
        states = np.asarray((options or {}).get("states", [self._at_rest] * 3), np.float64)
        if states.ndim != 2 or states.shape[1] != self._states.shape[1] or not len(states):
            raise ValueError(
                f"A state of this scene has {self.model.nq} positions and {self.model.nv} velocities; "
                f"got states of shape {states.shape}."
            )
        if not (np.abs(states) <= LARGEST).all():
            raise ValueError(f"The states hold NaN, infinity or numbers beyond {LARGEST:g}.")
        self._states = states
        return self._show(0), {}

    def step(self, action: object) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Show the next state.

        Raises:
            ResetNeeded: There is none.
        """
        if self._shown + 1 >= len(self._states):
            raise ResetNeeded("All states were shown: call reset().")
        return self._show(self._shown + 1), 0.0, False, self._shown + 1 >= len(self._states), {}

    def _show(self, index: int) -> np.ndarray:
        self._shown = index
        self._data.qpos[:], self._data.qvel[:] = np.split(self._states[index], [self.model.nq])
        mujoco.mj_forward(self.model, self._data)
        return self._states[index].copy()

    def render(self) -> np.ndarray:
        """Draw the state that is shown, upright: (height, width, 3) uint8.

        Raises:
            DependencyNotInstalled: No OpenGL back end works here; the message says what to install.
        """
        if not len(self._states):
            raise ResetNeeded("There is nothing to show yet: call reset().")
        if self._renderer is None:
            self._renderer = Renderer(self.model, **self._frame_options, hidden_groups=self._hidden)
        return self._renderer.frame(self._data)

    def close(self) -> None:
        """Release the OpenGL context, if one was made."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def compiled(xml: str, folders: Sequence[str] = ()) -> "mujoco.MjModel":
    """Compile a scene from its text and from files in the folders that are named, and no others.

    Args:
        xml: MuJoCo's XML, complete.
        folders: Where files may lie, at the relative paths that the XML names.

    Raises:
        ValueError: It is no MuJoCo XML, is made of several files, or names one that is not there.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ValueError("The scene declares XML entities, which no scene of MuJoCo needs.")
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        raise ValueError(f"The scene is no XML: {error}.") from error
    for tag in ("include", "model", "attach", "plugin"):
        if root.find(f".//{tag}") is not None:
            raise ValueError(f"The scene uses <{tag}>, which is not followed in a recording.")
    compiler = [each.attrib for each in root.iter("compiler")]
    below = {name: value for attributes in compiler for name, value in attributes.items()}
    for attributes in compiler:
        for name in ("meshdir", "texturedir", "assetdir"):
            attributes.pop(name, None)
    contents: dict[str, bytes] = {}
    for element in root.iter():
        folder = below.get(_FOLDERS.get(element.tag, "assetdir"), below.get("assetdir", ""))
        for name in [name for name in element.attrib if name.startswith("file")]:
            path = _found(PurePosixPath(folder) / element.attrib[name], folders)
            if element.tag in ("mesh", "texture", "hfield", "skin") and "name" not in element.attrib:
                element.set("name", path.stem)  # which MuJoCo would take from the file's name
            element.set(name, f"{len(contents)}{path.suffix}")
            contents[element.attrib[name]] = path.read_bytes()
    try:
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"), contents)
    except (ValueError, mujoco.FatalError) as error:
        raise ValueError(f"MuJoCo {mujoco.__version__} cannot compile the scene: {error}") from error


def _found(named: PurePosixPath, folders: Sequence[str]) -> Path:
    """Return the file that a scene names: robosuite's own of that name, or one below the folders."""
    parts = named.parts
    if ROBOSUITE in parts:
        spec = importlib.util.find_spec(ROBOSUITE)
        if spec is None or spec.origin is None:
            raise ValueError("The scene is made of robosuite's meshes: pip install 'robopref[robosuite]'.")
        last = len(parts) - 1 - parts[::-1].index(ROBOSUITE)
        folders, named = [str(Path(spec.origin).parent)], PurePosixPath(*parts[last + 1 :])
    for folder in folders:
        place = (Path(folder) / named).resolve()
        if place.is_relative_to(Path(folder).resolve()) and place.is_file():
            return place
    raise ValueError(f"The scene needs {named}, which is not in {' or '.join(folders) or 'any folder'}.")
