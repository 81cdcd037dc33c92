"""Networks by ONNX Runtime, and what turns their outputs into candidate chunks, in NumPy.

Letters used in shapes: O observation entries, K candidates, H actions in a chunk, A entries of an action.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime
from onnxruntime.capi import (
    onnxruntime_pybind11_state as refusals,  # pyright: ignore[reportAttributeAccessIssue]
)

from robopref.deploy.fields import Fields
from robopref.deploy.manifest import Action, Network
from robopref.errors import DataError, unknown_name

Pause = Callable[[], None]  # called before each run of a network; raises TimeUp where no time is left

BROKEN = (  # what ONNX Runtime raises
    refusals.Fail,
    refusals.InvalidArgument,
    refusals.InvalidGraph,
    refusals.InvalidProtobuf,
    refusals.NotImplemented,
    refusals.RuntimeException,
)


class TimeUp(Exception):
    """The deadline does not leave time for another run of a network."""


class Session:
    """One network, ready to run on one thread.

    Args:
        data: The ONNX file.
        network: What the manifest says of it.
        where: Names the file in a refusal.

    Raises:
        DataError: ONNX Runtime cannot load it, or it takes or gives other shapes than the manifest says.
    """

    def __init__(self, data: bytes, network: Network, where: str, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except BROKEN as error:
            raise DataError(f"ONNX Runtime cannot load {where}: {str(error).splitlines()[0]}") from error
        for side, declared, ports in (
            ("takes", network.inputs, self._session.get_inputs()),
            ("gives", network.outputs, self._session.get_outputs()),
        ):
            found = {port.name: tuple(port.shape[1:]) for port in ports}
            if found != dict(declared) or any(port.type != "tensor(float)" for port in ports):
                raise DataError(f"{where} {side} {found}, but the manifest says {dict(declared)} of float32")
        self._outputs = list(network.outputs)

    def __call__(self, *outputs: str, **inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Outputs of these names, or all in the manifest's order; inputs are float32 with a batch axis.

        Raises:
            ValueError: There is no output of that name.
        """
        if unknown := set(outputs) - set(self._outputs):
            raise ValueError(unknown_name("output", min(unknown), self._outputs))
        return tuple(
            np.asarray(output) for output in self._session.run(list(outputs) or self._outputs, inputs)
        )


@runtime_checkable
class Sampler(Protocol):
    """Draws chunks in [-1, 1] for one observation; what it draws depends on the noise alone."""

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Noise of so many candidates, the candidate's axis first."""
        ...

    def sample(self, observation: np.ndarray, noise: np.ndarray, pause: Pause) -> np.ndarray:
        """Chunks (K, H, A) for an observation (O,), float32."""
        ...


class GaussianSampler:
    """N(mean(observation), deviation^2), clipped to [-1, 1]; the first candidate is the mean itself."""

    def __init__(self, settings: Mapping[str, Any], action: Action, sessions: Mapping[str, Session]) -> None:
        fields = Fields(settings, "manifest: policy", ("kind", "network", "deviation"))
        self._mean = find(sessions, fields.text("network"))
        self._deviation = fields.vector("deviation", action.size).astype(np.float32)
        self._shape = (action.horizon, action.size)

    def noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Standard normal, (K, H, A); none for the first."""
        drawn = rng.standard_normal((count, *self._shape), np.float32)
        drawn[0] = 0
        return drawn

    def sample(self, observation: np.ndarray, noise: np.ndarray, pause: Pause) -> np.ndarray:
        """Chunks (K, H, A)."""
        pause()
        (mean,) = self._mean(observations=observation[None])
        return np.clip(mean + noise * self._deviation, -1, 1)


def find(sessions: Mapping[str, Session], name: str) -> Session:
    """The session of a network.

    Raises:
        DataError: There is none of that name.
    """
    if name not in sessions:
        raise DataError(f"manifest: {unknown_name('network', name, sessions)}")
    return sessions[name]
