"""Starting weights that follow from a seed, for networks that draw them from torch's global generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """Let networks that are built inside start from this seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
