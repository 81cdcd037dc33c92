"""Frames of episodes that another tool simulated, drawn again from what it recorded.

A scene that the file holds is shown in the states that it holds. An environment that it names is made only if
it is one of robopref's or of Gymnasium's in MuJoCo, since a name may stand for any code; its states are those
that were recorded, or else those of a replay. What was observed says whether a replay is the same episode: a
wrong scene would be worse than none.

Letters used in shapes: S states, N positions and velocities of a scene.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from robopref.data.footage import Scene
from robopref.data.interchange import hdf5
from robopref.data.interchange.scenes import MODEL, OURS, ROBOSUITE, STATES
from robopref.data.trajectory import Trajectory
from robopref.errors import DataError, RenderingError
from robopref.training.video import RENDERING_FAILURES, Frames

_MODULE = "robopref.envs:"  # registers robopref's own environments
_HAND = "robot0_eef_pos"
_INFOS = ("qpos", "qvel", "x_position", "y_position")
_TOLERANCE = 1e-3  # between what was observed and what is observed here

View = Mapping[str, float | int | str]


def rerender(scene: Scene, trajectory: Trajectory, wanted: range, view: View) -> Frames:
    """Draw some states of an episode again.

    Args:
        scene: What it is drawn from.
        trajectory: The episode as it was read.
        wanted: Which states; where the episode's last was not recorded, the one before is shown.
        view: Options that concern drawing: camera, width, height, effects, detail_m.

    Raises:
        RenderingError: The scene cannot be made here, or is another one than was recorded.
    """
    if scene.problem:
        raise RenderingError(scene.problem)
    show = {"model": _model, "robosuite": _robosuite, "environment": _environment}[scene.kind]
    try:
        return show(scene, trajectory, wanted, dict(view))
    except RenderingError:
        raise
    except (DataError, *RENDERING_FAILURES, ValueError, TypeError, ArithmeticError) as error:
        raise RenderingError(f"{scene.episode.lstrip('/')} cannot be drawn again: {error}") from error


def _model(scene: Scene, trajectory: Trajectory, wanted: range, view: dict[str, Any]) -> Frames:
    """Show the states that a robomimic file holds in the scene that it holds."""
    with hdf5.opened(scene.file) as file:
        demo = hdf5.group(file, scene.episode, str(scene.file))
        states, xml = hdf5.numbers(demo, STATES, scene.episode), hdf5.text(demo, MODEL) or ""
    player = _player(xml, str(scene.file.parent), tuple(view.items()))
    return _played(player, _rows(states, wanted, scene, trajectory)[:, 1:])  # after the time


def _robosuite(scene: Scene, trajectory: Trajectory, wanted: range, view: dict[str, Any]) -> Frames:
    """Show the states that a robomimic file holds in robopref's scene of the same task."""
    with hdf5.opened(scene.file) as file:
        demo = hdf5.group(file, scene.episode, str(scene.file))
        states = hdf5.numbers(demo, STATES, scene.episode)
        hands = hdf5.numbers(hdf5.group(demo, "obs", scene.episode), _HAND, scene.episode)
    simulator = _made(
        _MODULE + ROBOSUITE[scene.environment], tuple((view | {"render_mode": "rgb_array"}).items())
    )
    simulator.reset(seed=0)
    frames = []
    both = (_rows(recorded, wanted, scene, trajectory) for recorded in (states, hands))
    for state, hand in zip(*both, strict=True):
        simulator.from_robomimic(
            {"states": state, "gripper_action": np.zeros(2), "initial_joint": np.zeros(7)}
        )
        _compare(simulator.keypoints()["hand"], hand)
        frames.append(simulator.render())
    return np.stack(frames)


def _environment(scene: Scene, trajectory: Trajectory, wanted: range, view: dict[str, Any]) -> Frames:
    """Show an episode of a Minari data set in its environment."""
    if scene.environment.startswith(OURS):
        options = {**scene.options, **view, "render_mode": "rgb_array"}
        simulator = _made(_MODULE + scene.environment, tuple(options.items()))
        return _replayed(simulator, scene, trajectory, wanted, simulator.render)
    numbers = {name: value for name, value in scene.options.items() if not isinstance(value, str)}
    simulator = _made(scene.environment, tuple(numbers.items()))  # a word may be the path of another scene
    states = _recorded(simulator, scene, trajectory)
    if states is None:
        data = simulator.data
        states = _replayed(simulator, scene, trajectory, wanted, lambda: np.append(data.qpos, data.qvel))
    else:
        states = _rows(states, wanted, scene, trajectory)
    return _played(_player(simulator.model, "", tuple(view.items())), states)


def _recorded(simulator: Any, scene: Scene, trajectory: Trajectory) -> Float[np.ndarray, "S N"] | None:
    """Return the states of an episode in Gymnasium's MuJoCo, as far as infos and observations hold them.

    Its observations begin with the positions, of which the first ones may be left out, and the velocities.
    """
    with hdf5.opened(scene.file) as file:
        episode = hdf5.group(file, scene.episode, str(scene.file))
        infos = {key: f"infos/{key}" for key in _INFOS if f"infos/{key}" in episode}
        found = {key: hdf5.numbers(episode, place, scene.episode) for key, place in infos.items()}
    if {"qpos", "qvel"} <= set(found):
        return np.hstack([found["qpos"], found["qvel"]])
    about = getattr(simulator, "observation_structure", None)
    places = [f"{axis}_position" for axis in "xy"][: about.get("skipped_qpos", 0) if about else 0]
    if not about or not set(places) <= set(found):
        return None
    numbers = trajectory.observations[:, : about["qpos"] + about["qvel"]]
    return np.hstack([*(found[place].reshape(-1, 1) for place in places), numbers])


def _replayed(
    simulator: Any, scene: Scene, trajectory: Trajectory, wanted: range, look: Callable[[], np.ndarray]
) -> np.ndarray:
    """Go through an episode again from its seed, and look at the states that are wanted."""
    if scene.seed is None:
        raise RenderingError(
            f"{scene.episode} holds neither its simulator's states nor the seed that it began from."
        )
    observation, _ = simulator.reset(seed=scene.seed)
    seen = []
    for state in range(wanted[-1] + 1):
        if state:
            observation, *_ = simulator.step(trajectory.actions[state - 1])
        _compare(observation, trajectory.observations[state])
        if state in wanted:
            seen.append(look())
    return np.stack(seen)


def _compare(observed: np.ndarray, recorded: np.ndarray) -> None:
    if np.shape(observed) != recorded.shape or not np.allclose(observed, recorded, _TOLERANCE, _TOLERANCE):
        raise RenderingError(
            "What its environment observes here is not what was recorded; it was made with another version "
            "or other options."
        )


def _rows(recorded: np.ndarray, wanted: range, scene: Scene, trajectory: Trajectory) -> np.ndarray:
    """Return the states that are wanted; of the last alone, which many formats leave out, the one before."""
    if len(recorded) < trajectory.length:
        raise RenderingError(
            f"{scene.file} has {len(recorded)} states in {scene.episode} for {trajectory.length} actions; "
            "each needs one."
        )
    return recorded[[min(state, len(recorded) - 1) for state in wanted]]


def _played(player: Any, states: Float[np.ndarray, "S N"]) -> Frames:
    """Draw states in their scene."""
    player.reset(options={"states": states})
    frames = [player.render()]
    for _ in states[1:]:
        player.step(0)
        frames.append(player.render())
    return np.stack(frames)


@functools.lru_cache(maxsize=2)  # a pair shows two episodes
def _player(scene: Any, folder: str, view: tuple[tuple[str, Any], ...]) -> Any:
    """Make what shows states of a scene: XML, whose files lie in a folder, or a compiled model."""
    return _new(f"{_MODULE}{OURS}playback-v0", scene=scene, folders=[folder], **dict(view))


@functools.lru_cache(maxsize=1)
def _made(env_id: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return _new(env_id, **dict(options))


def _new(env_id: str, **options: Any) -> Any:
    return gymnasium.make(env_id, disable_env_checker=True, **options).unwrapped
