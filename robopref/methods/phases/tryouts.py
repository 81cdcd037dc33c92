"""Trying things out: what each of a policy's proposals leads to, from the very same state.

Needs a simulator that can be set back. A scripted teacher reads the rewards; people see the films of episodes
that end with one candidate each.

Letters used in shapes: K candidates of a state, H actions in a chunk, A entries of an action, O entries of an
observation.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float

from robopref.data.candidate_rankings import candidates_of
from robopref.data.label_store import LabelStore
from robopref.data.layout import Layout
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, WaitingError
from robopref.methods.components import Scene
from robopref.methods.phases.lab import Lab, file_content, stream
from robopref.policies.chunks import ChunkPolicy
from robopref.policies.saved import load_policy
from robopref.training.rollout import (
    ENVIRONMENT_PREFIX,
    keypoints_of,
    make_environment,
    plain_options,
    task_of,
    versions,
)


@dataclasses.dataclass
class Stretch:
    """Some actions that were carried out, and what followed each of them."""

    observations: list[np.ndarray]
    actions: list[np.ndarray]
    rewards: list[float]
    successes: list[bool]
    keypoints: list[dict[str, np.ndarray]]
    terminated: bool = False
    over: bool = False

    def followed_by(self, other: "Stretch") -> "Stretch":
        """Both, one after the other."""
        joined = {
            name: getattr(self, name) + getattr(other, name)
            for name in ("observations", "actions", "rewards", "successes", "keypoints")
        }
        return Stretch(**joined, terminated=other.terminated, over=other.over)


@dataclasses.dataclass(frozen=True)
class State:
    """A state that a policy met, what it proposed there (K, H, A), and what each proposal led to.

    ``before`` begins with the first observation, so it has one more of them than actions.
    """

    seed: int
    start_hash: str
    before: Stretch
    chunks: Float[np.ndarray, "K H A"]
    tried: list[Stretch]

    @property
    def step(self) -> int:
        """Actions before it."""
        return len(self.before.actions)

    @property
    def observation(self) -> np.ndarray:
        """What is seen there, (O,)."""
        return self.before.observations[-1]


def states_met(
    env: gymnasium.Env, policy: ChunkPolicy, count: int, execute: int | None, seed: int
) -> Iterator[State]:
    """Let the policy play, and try out ``count`` proposals wherever it comes; it goes on with the first.

    Raises:
        ConfigError: The environment cannot be set back.
    """
    simulator: Any = env.unwrapped
    if not (hasattr(simulator, "snapshot") and hasattr(simulator, "restore")):
        raise ConfigError(f"{env.spec and env.spec.id} offers no snapshot() and restore() to try things out")
    generator = torch.Generator().manual_seed(seed)
    rng = stream(seed, "candidates")
    while True:
        episode = int(rng.integers(2**30))  # below those of evaluations
        observation, _ = env.reset(seed=episode)
        start = simulator.state_hash()
        way = Stretch([np.asarray(observation, np.float32)], [], [], [], [keypoints_of(simulator)])
        while not way.over:
            seen = torch.as_tensor(way.observations[-1])[None]
            chunks = policy.sample(seen, count, generator=generator)[0].numpy()
            snapshot = simulator.snapshot()
            tried = []
            for chunk in chunks:
                simulator.restore(snapshot)
                tried.append(_carried_out(simulator, chunk[:execute]))
            yield State(episode, start, way, chunks, tried)
            simulator.restore(snapshot)
            way = way.followed_by(_carried_out(simulator, chunks[0][:execute]))


def _carried_out(simulator: Any, actions: Float[np.ndarray, "H A"]) -> Stretch:
    """Act until the episode is over; then the rest is left out."""
    done = Stretch([], [], [], [], [])
    for action in actions:
        observation, reward, done.terminated, truncated, info = simulator.step(action)
        done.observations.append(np.asarray(observation, np.float32))
        done.actions.append(action)
        done.rewards.append(float(reward))
        done.successes.append(bool(info.get("success", False)))
        done.keypoints.append(keypoints_of(simulator))
        done.over = bool(done.terminated or truncated)
        if done.over:
            break
    return done


def film_candidates(lab: Lab, scene: Scene, policy: Path, *, states: int, count: int) -> TrajectoryStore:
    """Write what a policy proposes as episodes, each of which ends with one candidate, for people to rank.

    Chunks that the episode's end cuts short are left out. ``robopref label data=<run>/candidates
    feedback=ranking query=candidates`` asks about the last H actions of each.

    Raises:
        ConfigError: The environment cannot be set back, or a number makes no sense.
    """
    if states < 1 or count < 2:
        raise ConfigError(f"Labels need at least 1 state and 2 candidates, got {states=} and {count=}")
    folder = lab.run.directory / "candidates"
    proposer = load_policy(policy)
    settings = {
        "policy": file_content(policy / "model.safetensors"),
        "scene": scene.identity,
        "states": states,
        "count": count,
        "seed": lab.seed,
    }

    def work() -> dict[str, Any]:
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        env = make_environment(scene.id, scene.options)
        try:
            met = states_met(env, proposer, count, None, lab.seed)
            whole = (s for s in met if all(len(tried.actions) == proposer.horizon for tried in s.tried))
            _write(env, scene, list(islice(whole, states)), temporary)
        finally:
            env.close()
        temporary.rename(folder)
        return {"states": states, "episodes": states * count}

    lab.run.phase("film-candidates", settings, work)
    return TrajectoryStore.open(folder)


def _write(env: gymnasium.Env, scene: Scene, states: list[State], folder: Path) -> None:
    simulator: Any = env.unwrapped
    count, length, action_size = states[0].chunks.shape
    layout = Layout(
        len(states[0].observation),
        action_size,
        tuple(sorted(states[0].before.keypoints[0])),
        float(simulator.control_hz),
        {"candidates": {"count": count, "length": length}},
    )
    with TrajectoryStore.create_with(folder, layout) as store:
        for state in states:
            for number, tried in enumerate(state.tried):
                store.append(_episode(env, scene, state, tried, number))


def _episode(env: gymnasium.Env, scene: Scene, state: State, tried: Stretch, number: int) -> Trajectory:
    whole = state.before.followed_by(tried)
    names = sorted(whole.keypoints[0])
    return Trajectory(
        observations=np.stack(whole.observations),
        actions=np.stack(whole.actions),
        rewards=np.array(whole.rewards, np.float32),
        successes=np.array(whole.successes),
        keypoints={name: np.stack([points[name] for points in whole.keypoints]) for name in names},
        terminated=whole.terminated,
        provenance=Provenance(
            task=task_of(env),
            env_id=scene.id,
            seed=state.seed,
            behaviour="candidate",
            options={"candidate": number, **plain_options(scene.options, prefix=ENVIRONMENT_PREFIX)},
            initial_state_hash=state.start_hash,
            versions=dict(versions()),
        ),
    )


def ranked_by_people(lab: Lab, store: TrajectoryStore, *, annotator: str | None = None) -> Path:
    """Read people's rankings of filmed candidates; returns the file of candidates.

    Raises:
        WaitingError: Nobody has ranked any yet.
    """
    path = lab.run.directory / "candidates.parquet"
    with LabelStore.beside(store) as labels:
        labels.check_data(store)
        lists = labels.rankings(source="human", annotator=annotator)
    if not lists:
        raise WaitingError(
            f"The candidates are in {store.path}, and nobody has ranked them yet. Do it with\n"
            f"  robopref label data={store.path} feedback=ranking query=candidates "
            f"k={store.metadata['candidates']['count']}\nand then give this command again."
        )
    found = candidates_of(store, lists)

    def work() -> dict[str, Any]:
        found.save(path)
        return {"states": len(found), "pairs": len(found.pairs()), "content": found.content()}

    lab.run.phase("label-candidates", {"people": found.content(), "annotator": annotator}, work)
    return path
