"""A bundle: the directory that a robot acts with. What can be refused is refused when it is loaded.

``manifest.json`` says what is in it, ``parity.json`` how far ONNX Runtime differs from torch, and the ONNX
files hold the networks, each with its normaliser.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopref.deploy import parity
from robopref.deploy.denoising import PATHS, DenoisingSampler
from robopref.deploy.manifest import NAME, Manifest, flatten
from robopref.deploy.runtime import BROKEN, GaussianSampler, Sampler, Session
from robopref.deploy.scoring import Scorer, scorer
from robopref.errors import ConfigError, DataError, unknown_name
from robopref.files import read_json


class Bundle:
    """What :func:`load` found: a policy that samples, a scorer or None, and the manifest.

    Attributes:
        path: Its directory.
        manifest: What it says of itself.
        fingerprint: SHA-256 of the manifest, which holds the hashes of all networks.
    """

    def __init__(
        self, path: Path, manifest: Manifest, fingerprint: str, sessions: Mapping[str, Session]
    ) -> None:
        self.path, self.manifest, self.fingerprint = path, manifest, fingerprint
        self.sampler = _sampler(manifest, sessions)
        self.scorer: Scorer | None = scorer(manifest, sessions)

    @property
    def keys(self) -> list[str]:
        """Names of the parts of an observation."""
        return [part.name for part in self.manifest.observation]

    def flatten(self, observation: Mapping[str, Any], ignored: Sequence[str] = ()) -> np.ndarray:
        """Put the parts of an observation together, (O,) float32.

        Raises:
            DataError: A part is missing, unknown, of another shape, no numbers, NaN, or out of its range.
        """
        return flatten(self.manifest.observation, observation, ignored)

    def metadata(self, ignored: Sequence[str] = ()) -> dict[str, Any]:
        """What a server that accepts some more keys tells its clients first; :class:`.Rules` reads it."""
        manifest = self.manifest.record()
        keys = ("task", "control_hz", "observation", "action", "limits", "versions")
        return {"bundle": self.fingerprint, **{key: manifest[key] for key in keys}, "ignored": list(ignored)}


def load(path: Path | str, *, threads: int = 1) -> Bundle:
    """Load a bundle.

    Args:
        path: Its directory.
        threads: For each network; on small ones more cost more than they give.

    Raises:
        DataError: A file is missing or truncated, a hash differs, the schema is newer, a network takes or
            gives other shapes than the manifest says, or a setting makes no sense.
        ConfigError: ``threads`` is below 1.
    """
    if threads < 1:
        raise ConfigError(f"threads must be 1 or more, got {threads}")
    path = Path(path)
    if not (path / NAME).is_file():
        raise DataError(f"There is no bundle in {path}: {NAME} is missing. robopref export makes one.")
    manifest = Manifest.read(read_json(path / NAME), str(path / NAME))
    _read(path / parity.NAME, manifest.parity)
    sessions = {}
    for name, network in manifest.networks.items():
        file = path / network.file
        sessions[name] = Session(_read(file, network.sha256), network, str(file), threads=threads)
    bundle = Bundle(path, manifest, hashlib.sha256((path / NAME).read_bytes()).hexdigest(), sessions)
    _rehearse(bundle)
    return bundle


def _read(file: Path, sha256: str | None) -> bytes:
    """A file of a bundle, checked against its hash, if that is known."""
    try:
        data = file.read_bytes()
    except OSError as error:
        listed = "the manifest lists" if sha256 is not None else "is part of every bundle"
        raise DataError(f"{file}, which {listed}, cannot be read: {error.strerror}") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise DataError(
            f"{file} is not what was exported: its SHA-256 is {found[:12]}..., the manifest says "
            f"{sha256[:12]}... Copy the bundle again, or export it again."
        )
    return data


def _sampler(manifest: Manifest, sessions: Mapping[str, Session]) -> Sampler:
    kind, action = manifest.policy["kind"], manifest.action
    if kind == "gaussian":
        return GaussianSampler(manifest.policy, action, sessions)
    if kind in PATHS:
        return DenoisingSampler(manifest.policy, (action.horizon, action.size), sessions)
    raise DataError(f"manifest: {unknown_name('kind of policy', kind, ['gaussian', *PATHS])}")


def _rehearse(bundle: Bundle) -> None:
    """One decision on zeros, so that networks that do not fit together are refused now."""
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    try:
        observation = np.zeros(manifest.observation_size, np.float32)
        chunks = bundle.sampler.sample(observation, bundle.sampler.noise(rng, 2), _no_pause)
        scores = None if bundle.scorer is None else bundle.scorer.score(observation, chunks, rng, _no_pause)
    except (ValueError, TypeError, MemoryError, *BROKEN) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"The networks of {bundle.path} do not fit together: {reason}") from error
    wanted = (2, manifest.action.horizon, manifest.action.size)
    if chunks.shape != wanted:
        raise DataError(
            f"The policy of {bundle.path} gives chunks {chunks.shape}, the manifest says {wanted}"
        )
    if scores is not None and (found := [np.shape(column) for column in scores]) != [(2,)] * len(scores):
        raise DataError(
            f"The scorer of {bundle.path} gives scores {found} of two candidates, not one of each"
        )


def _no_pause() -> None:
    pass
