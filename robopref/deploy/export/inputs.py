"""What torch and ONNX Runtime are compared on: random inputs, and what was recorded.

Letters used in shapes: B rows, O observation entries, H actions in a chunk, A action entries.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robopref.data.store import TrajectoryStore
from robopref.deploy.export.description import statistics
from robopref.deploy.export.networks import Part
from robopref.policies.chunks import Draw
from robopref.policies.dataset import chunk_tensors
from robopref.policies.offline import OfflinePolicy

RANDOM_BATCHES = (1, 7, 256)  # rows: one, an odd number, and more than any decision takes
RECORDED_ROWS = 1024
REACH = 12.0  # random inputs lie within so many deviations of the mean: the normaliser clips at 10

Inputs = dict[str, np.ndarray]


def random_inputs(part: Part, policy: OfflinePolicy, rng: np.random.Generator) -> Iterator[Inputs]:
    """Observations from well within to beyond where the normaliser clips; all else uniform in [-1, 1]."""
    mean, deviation, _ = statistics(policy.actor)
    for rows in RANDOM_BATCHES:
        inputs = {key: rng.uniform(-1, 1, (rows, *shape)) for key, shape in part.inputs.items()}
        if "observations" in inputs:
            inputs["observations"] *= rng.uniform(0, REACH, (rows, 1)) * deviation
            inputs["observations"] += mean
        yield {key: value.astype(np.float32) for key, value in inputs.items()}


def recorded_inputs(
    part: Part, store: TrajectoryStore, horizon: int, rng: np.random.Generator
) -> Iterator[Inputs]:
    """Observations of the store, which is not empty, and the actions that followed them.

    A reward of single actions gets the first of a chunk. A denoiser gets chunks at levels of noise from 0 to
    1, and the features of the observations.
    """
    sampler = chunk_tensors(store, horizon=horizon)
    chosen = np.sort(rng.choice(len(sampler), min(RECORDED_ROWS, len(sampler)), replace=False))
    batch = sampler.batch(torch.from_numpy(chosen))
    observations, chunks = batch["observations"], batch["actions"]
    found: dict[str, Tensor] = {"observations": observations}
    if "actions" in part.inputs:
        found["actions"] = chunks.flatten(1)[:, : part.inputs["actions"][0]]
    if part.denoises is not None:
        levels = torch.from_numpy(rng.permutation(np.linspace(0, 1, len(chosen), dtype=np.float32)))
        noise = torch.from_numpy(rng.standard_normal(chunks.shape, np.float32))
        draw = Draw(part.denoises.times(levels[None]), noise[None])
        with torch.no_grad():
            noisy, times, _ = part.denoises.path(chunks[None], draw)
            features = part.denoises.encoder(observations)
        found |= {"noisy": noisy[0], "times": times[0].float(), "condition": features}
    yield {key: found[key].numpy() for key in part.inputs}
