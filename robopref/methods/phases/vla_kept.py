"""What was found out about the start of alignments, kept in the run's folder by what it was found from.

All that is aligned from one start by the same rollouts asks the same of it.

Letters used in shapes: D decisions, n of them, E entries of a score, N rollouts.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from robopref.files import finite, read_json, write_json
from robopref.methods.phases.lab import Lab, file_content
from robopref.methods.phases.vla import WEIGHTS
from robopref.nets.checkpoint import load_tensors, save_tensors
from robopref.policies.vla.data import BATCH, Decisions, FilmedEpisodes
from robopref.policies.vla.seeing import SeeingPolicy


def kept_at(lab: Lab, what: str, start: Path, sources: Sequence[FilmedEpisodes], suffix: str = "") -> Path:
    """Return where something is kept that depends on a policy's weights and on episodes."""
    made_of = [file_content(start / WEIGHTS), *(source.frames.content() for source in sources)]
    key = hashlib.sha256("".join(made_of).encode()).hexdigest()[:12]
    return lab.run.directory / what / f"{start.name}-{key}{suffix}"


def kept_scores(
    lab: Lab, start: Path, policy: SeeingPolicy, decisions: Decisions, rows: Int64[np.ndarray, " n"]
) -> Float[Tensor, "D E"]:
    """Return the start's scores of all decisions by entry, zero of those that share no batch with ``rows``.

    Args:
        lab: Where it works.
        start: Folder of the policy.
        policy: What was read from there.
        decisions: What is scored.
        rows: Whose scores are needed; what nobody has asked for yet is computed.
    """
    folder = kept_at(lab, "references", start, decisions.sources, "-entries")
    held = load_tensors(folder) if (folder / WEIGHTS).exists() else {}
    missing = {number for number in np.unique(rows // BATCH).tolist() if str(number) not in held}
    if missing:
        found = decisions.batch_scores(policy, missing)
        held |= {str(number): each.cpu() for number, each in found.items()}
        save_tensors(folder, held, {"kind": "scores", "config": {}, "extra": None})
    one = next(iter(held.values()))
    scores = torch.zeros(len(decisions), one.shape[1], dtype=one.dtype)
    for number, each in held.items():
        first = int(number) * BATCH
        scores[first : first + len(each)] = each
    return scores


def kept_likelihoods(
    lab: Lab, start: Path, source: FilmedEpisodes, load: Callable[[], SeeingPolicy]
) -> Float64[np.ndarray, " N"]:
    """Return the mean score of each rollout under the start, per action taken; loads it where it must."""
    path = kept_at(lab, "likelihoods", start, [source], ".json")
    if not path.exists():
        policy = load()
        found = Decisions(policy, [source], device=lab.fabric.device).mean_scores(policy)
        write_json(path, finite({"likelihoods": found.tolist()}))
    return np.array(read_json(path)["likelihoods"], np.float64)
