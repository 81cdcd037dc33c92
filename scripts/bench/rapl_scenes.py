"""The tasks on which rewards from pixels are measured: episodes, frames, criteria, and how they are split.

Letters used in shapes: N episodes, T steps of each.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401  (Triton must be loaded before Mesa draws)
import numpy as np
import torch

from robopref.data.criteria import Criterion, scored_rows
from robopref.data.frames import FrameCache
from robopref.data.store import TrajectoryStore
from robopref.nets.features import encode
from robopref.nets.vision import PcaEncoder
from robopref.rewards.sequences import FeatureSequences
from robopref.training.collect import collect
from robopref.training.filming import film_store

EPISODES, TEST, SIDE = 168, 72, 84
OTHER_ARM = "kuka"


@dataclass(frozen=True)
class Task:
    """A task and what people may want of it.

    Attributes:
        env_id: Of the environment.
        horizon: Steps of an episode.
        every: Steps from one frame to the next.
        camera: That films it.
        behaviours: Of its episodes, in equal shares.
        criteria: What a teacher looks at, by name.
        easy: Behaviour that ``strict`` leaves out beside the experts.
        scene_distracts: Whether the scene itself has distractors, and a second arm.
    """

    env_id: str
    horizon: int
    every: int
    camera: str
    behaviours: list[dict[str, Any]]
    criteria: Mapping[str, dict[str, Any]]
    easy: str
    scene_distracts: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def _metaworld(name: str) -> Task:
    away = {"kind": "keep_away", "point": "hand", "anchor": "object", "offset_m": [0, 0, 0.12]}
    return Task(
        f"robopref.envs:robopref/mw-{name}-v0",
        horizon=120,
        every=5,
        camera="corner2",
        behaviours=[
            {"kind": "expert", "noise": 0.1},
            {"kind": "expert", "noise": 0.8},
            {"kind": "displaced"},
            {"kind": "stall", "before_step": 90},
            {"kind": "switch", "before_step": 90},
            {"kind": "random"},
        ],
        criteria={
            "keep_away": {**away, "radius_m": 0.1, "weight": 2.0, "reward_scale": 10.0},
            "stay_low": {"kind": "stay_low", "point": "hand", "height_m": 0.15, "reward_scale": 10.0},
        },
        easy="stall",
        options={"horizon": 120},
    )


def _table(name: str, horizon: int, every: int, unwanted: tuple[str, ...], criterion: dict[str, Any]) -> Task:
    kinds = [("expert", 0.1), ("expert", 0.8), *((kind, noise) for kind in unwanted for noise in (0.1, 0.8))]
    return Task(
        f"robopref.envs:robopref/table-{name}-v0",
        horizon=horizon,
        every=every,
        camera="front",
        behaviours=[*({"kind": kind, "noise": noise} for kind, noise in kinds), {"kind": "random"}],
        criteria={criterion["kind"]: criterion},
        easy="random",
        scene_distracts=True,
    )


_VASE = {"kind": "keep_away", "point": "hand", "anchor": "vase", "radius_m": 0.15, "weight": 0.3}
_BLOCKS = {"kind": "gather_first", "objects": ["block0", "block1"], "weight": 0.05}
_SPATULA = {"kind": "grasp_at", "point": "hand", "wanted": "handle", "unwanted": "head", "weight": 0.05}
TASKS: Mapping[str, Task] = {
    "table-avoid": _table("avoid", 40, 2, ("close", "straight"), _VASE),
    "table-handle": _table("handle", 40, 2, ("neck", "head"), _SPATULA),
    "table-group": _table("group", 70, 5, ("separate",), _BLOCKS),
    "drawer-open": _metaworld("drawer-open"),
    "door-open": _metaworld("door-open"),
    "window-open": _metaworld("window-open"),
}


class Lab:
    """Episodes, frames and features of one task.

    Args:
        out: Where episodes are kept.
        name: Of :data:`TASKS`.
        workers: That simulate.
        distractors: Disturb light, colours, textures and camera, anew for each episode.
        embodiment: None for the scene's usual arm.
        seed: Of the episodes.
    """

    def __init__(
        self,
        out: Path,
        name: str,
        workers: int,
        *,
        distractors: bool = False,
        embodiment: str | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.task, self.distractors = name, TASKS[name], distractors
        self._out, self._workers = out, workers
        arm = {} if embodiment is None else {"embodiment": embodiment}
        self.options = {**self.task.options, **arm}
        self.store: TrajectoryStore = collect(
            out / "-".join([name, *arm.values()]),
            env_id=self.task.env_id,
            env_options=self.options,
            behaviours=self.task.behaviours,
            episodes=EPISODES,
            seed=seed,
            workers=workers,
        )
        self.kinds = np.array([self.store.provenance(i).behaviour for i in range(len(self.store))])
        self.poses = _initial_poses(self.store)
        self._features: dict[int, tuple[PcaEncoder, FeatureSequences]] = {}

    @cached_property
    def cache(self) -> FrameCache:
        """Frames of all episodes, in the scene's own distractors where it has some."""
        view: dict[str, Any] = {"width": SIDE, "height": SIDE, "camera": self.task.camera}
        if self.distractors and self.task.scene_distracts:
            view["distractors"] = True
        return film_store(self.store, view=view, every=self.task.every, workers=self._workers)

    @cached_property
    def frames(self) -> np.ndarray:
        """All frames."""
        drawn_over = self.distractors and not self.task.scene_distracts
        return _disturbed(self.cache) if drawn_over else self.cache.frames

    @cached_property
    def other_arm(self) -> "Lab":
        """The same task, from the same initial poses, with another arm."""
        return Lab(self._out, self.name, self._workers, distractors=self.distractors, embodiment=OTHER_ARM)

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and test episodes: no initial pose is in both."""
        order = np.random.default_rng(seed).permutation(self.poses.max() + 1)
        rank = np.argsort(order)[self.poses]
        by_pose = np.argsort(rank, kind="stable")
        cut = len(by_pose) - TEST
        while rank[by_pose[cut]] == rank[by_pose[cut - 1]]:
            cut += 1
        return np.sort(by_pose[:cut]), np.sort(by_pose[cut:])

    def features(self, seed: int) -> tuple[PcaEncoder, FeatureSequences]:
        """The encoder that saw the unlabelled training frames, and all features."""
        if seed not in self._features:
            encoder = PcaEncoder(width=32, seed=seed)
            first = self.cache.first
            rows = np.concatenate([np.arange(*first[i : i + 2]) for i in self.split(seed)[0]])
            rows = rows[np.linspace(0, len(rows) - 1, 800).astype(int)]
            encoder.fit(torch.from_numpy(self.frames[rows]).permute(0, 3, 1, 2))
            self._features[seed] = encoder, self.seen_by(encoder)
        return self._features[seed]

    def seen_by(self, encoder: PcaEncoder) -> FeatureSequences:
        """Features of all episodes."""
        return FeatureSequences.of(self.cache, encode(encoder, self.frames))

    def truth(self, criterion: str) -> np.ndarray:
        """The criterion's score of every step, (N, T)."""
        return truth_of(self.store, self.task, criterion)


def truth_of(store: TrajectoryStore, task: Task, criterion: str) -> np.ndarray:
    """The criterion's score of every step of a store's episodes, (N, T)."""
    scores = scored_rows(store, Criterion.parse(task.criteria[criterion]))
    return np.stack([scores[row : row + task.horizon] for row in store.first_rows]).astype(np.float64)


def _initial_poses(store: TrajectoryStore) -> np.ndarray:
    """Number of each episode's initial pose: observations that agree to a tenth of a millimetre are one."""
    first = store.array("observations")[store.first_rows].astype(np.float64)
    return np.unique(first.round(4), axis=0, return_inverse=True)[1]


def _disturbed(cache: FrameCache) -> np.ndarray:
    """Frames under other light, colours and camera in every episode, with a patch that means nothing."""
    frames = np.array(cache.frames)
    first = cache.first
    for episode in range(len(cache)):
        rng = np.random.default_rng([7, episode])
        part = frames[first[episode] : first[episode + 1]].astype(np.float32)
        part = np.roll(part, rng.integers(-4, 5, 2), axis=(1, 2))  # the camera was knocked
        part = part * rng.uniform(0.6, 1.3) * rng.uniform(0.8, 1.2, 3)  # light and tint
        y, x = rng.integers(0, SIDE - 14, 2)
        part[:, y : y + 14, x : x + 14] = rng.uniform(0, 255, 3)  # something lies there
        frames[first[episode] : first[episode + 1]] = np.clip(part, 0, 255).astype(np.uint8)
    return frames
