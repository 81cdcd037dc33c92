"""What the episodes of a foreign data set can be drawn from again, where they were simulated; only looked up.

- robomimic HDF5: ``data/demo_<i>/states`` holds time, positions and velocities before each action, and the
  attribute ``model_file`` MuJoCo's XML of the scene; ``env_args`` names the environment.
- Minari: the metadata's ``env_spec`` names the environment, each episode its seed.

Source: ``robomimic/scripts/dataset_states_to_obs.py`` 0.3.0; ``minari/data_collector`` 0.5.4.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from robopref.data.footage import Scene
from robopref.data.interchange import hdf5
from robopref.data.interchange.carried import KEY, parse
from robopref.data.interchange.convert import format_of
from robopref.data.interchange.minari import MAIN, METADATA, minari_folder, minari_names
from robopref.data.interchange.robomimic import demo_names
from robopref.files import read_json

STATES, MODEL = "states", "model_file"
OURS = "robopref/"
ROBOSUITE = {
    name: f"{OURS}rs-{task}-v0"
    for name, task in (("Lift", "lift"), ("PickPlaceCan", "can"), ("NutAssemblySquare", "square"))
}
"""robosuite's environments, and robopref's of the same scene."""
_DRAWING = ("render_mode", "camera", "width", "height", "effects", "detail_m")


def scenes_of(path: Path) -> list[Scene]:
    """Return a scene for each episode; none for recordings of robots, and for what robopref itself wrote.

    Raises:
        DataError: The data set is damaged.
    """
    kind = format_of(path)
    if kind == "robomimic":
        return _robomimic(path)
    return _minari(minari_folder(path)) if kind == "minari" else []


def _robomimic(path: Path) -> list[Scene]:
    with hdf5.opened(path) as file:
        data = hdf5.group(file, "data", str(path))
        if KEY in data.attrs:
            return []
        about = parse(hdf5.text(data, "env_args") or "{}", f"{path}, attribute env_args")
        name = str(about.get("env_name", ""))
        demos = [hdf5.group(data, demo, str(path)) for demo in demo_names(data, path)]
        return [_of_demo(path, demo, name) for demo in demos]


def _of_demo(path: Path, demo: h5py.Group, name: str) -> Scene:
    problem = ""
    if STATES not in demo:
        problem = f"{path} holds neither camera frames nor states of a simulator."
    elif MODEL not in demo.attrs and name not in ROBOSUITE:
        problem = (
            f"{path} holds states of a simulator, but not their scene ({MODEL}), and its environment "
            f"'{name}' is none of {', '.join(ROBOSUITE)}."
        )
    kind = "model" if MODEL in demo.attrs else "robosuite"
    return Scene(path, str(demo.name), name, {}, None, kind, problem)


def _minari(folder: Path) -> list[Scene]:
    about = read_json(folder / METADATA)
    if KEY in about:
        return []
    text = about.get("env_spec")
    spec = parse(text, f"{folder / METADATA}, env_spec") if isinstance(text, str) else {}
    name, options, problem = str(spec.get("id") or ""), _plain(spec.get("kwargs")), ""
    if not name:
        problem = f"{folder / METADATA} names no environment that could draw its episodes."
    elif not (name.startswith(OURS) or is_gymnasiums_mujoco(name)):
        problem = (
            f"Its environment '{name}' is neither one of robopref's nor one of Gymnasium's in MuJoCo; what "
            "else a file names is not made."
        )
    found = []
    with hdf5.opened(folder / MAIN) as file:
        for episode in minari_names(folder):
            seed = hdf5.group(file, episode, str(folder / MAIN)).attrs.get("seed")
            known = int(seed) if seed is not None and str(seed).isdecimal() else None
            found.append(Scene(folder / MAIN, episode, name, options, known, "environment", problem))
    return found


def is_gymnasiums_mujoco(name: str) -> bool:
    """Whether Gymnasium itself registers a MuJoCo environment of this name."""
    import gymnasium

    spec = gymnasium.registry.get(name)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco")


def _plain(options: Any) -> dict[str, float | int | str]:
    """Return the options that are numbers or words, and do not concern drawing."""
    given = options if isinstance(options, Mapping) else {}
    return {
        name: value
        for name, value in given.items()
        if name not in _DRAWING and isinstance(value, float | int | str)
    }
