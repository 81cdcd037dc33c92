"""Behaviours of graded quality (:mod:`robopref.envs.graded`), made from Meta-World's scripted experts."""

import importlib
from collections.abc import Callable
from types import FunctionType

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from ..graded import KINDS, GradedBehaviour, Option

__all__ = ["KINDS", "Behaviour", "Option", "expert"]

ACTION_SIZE = 4
_OBJECT = slice(4, 7)


def expert(task: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the scripted expert of a task: observation (39,) to action (4,), clipped to [-1, 1].

    It is the upstream policy's own code. Only its ``move`` is replaced by one that computes the same and
    leaves out the warning that the response will be clipped, which upstream gives at nearly every step.
    """
    upstream = ENV_POLICY_MAP[f"{task}-v3"]
    module = importlib.import_module(upstream.__module__)
    get_action = FunctionType(upstream.get_action.__code__, {**vars(module), "move": _move})
    policy = upstream()

    def act(observation: np.ndarray) -> np.ndarray:
        return np.clip(get_action(policy, observation), -1, 1).astype(np.float32, copy=False)

    return act


def _move(from_xyz: np.ndarray, to_xyz: np.ndarray | np.floating, p: float) -> np.ndarray:
    return p * (to_xyz - from_xyz)


class Behaviour(GradedBehaviour):
    """One episode's way to act in one task; make a new one for every episode."""

    def __init__(self, task: str, kind: str, rng: np.random.Generator, **options: Option | None):
        super().__init__(expert(task), kind, rng, action_size=ACTION_SIZE, position=_OBJECT, options=options)
