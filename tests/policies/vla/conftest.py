import numpy as np
import pytest
import torch

from robopref.policies.vla.continuous import ContinuousVLA
from robopref.policies.vla.policy import VLAPolicy

WORDS = ["open", "close", "the", "drawer", "door"]


SIZES = {
    "horizon": 2,
    "image_size": 16,
    "words": WORDS,
    "length": 4,
    "channels": (4, 8),
    "patch": 4,
    "vision_width": 8,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "shift": 0,
}


def tiny(**options):
    """A policy of some 20,000 parameters that sees 16 x 16 pixels and writes two actions of two numbers."""
    return VLAPolicy(2, **{**SIZES, **options})


def continuous(head, **options):
    """Likewise, with a Gaussian, flow or diffusion head."""
    return ContinuousVLA(2, head=head, hidden=(16,), sample_steps=3, draws=2, **{**SIZES, **options})


@pytest.fixture
def policy():
    return tiny()


@pytest.fixture
def seen():
    """Three frames with instructions of different lengths."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    return frames, ["open the drawer", "close", "close the door"]


@pytest.fixture
def chunks():
    return torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
