"""The one training loop, for rewards and policies alike.

A learner says what its loss is; the loop draws batches, takes Adam steps, logs, saves and resumes.

Everything random in step k is a function of (seed, k): the batch, the noise inside the loss, and dropout.
So a checkpoint holds no generator states, and a run that was killed continues with the very numbers of one
that was not (on a CPU: bit for bit).

Whether a loss or gradient is finite is looked at every step on a CPU. On a GPU that would make it wait for
each step, so the finite flags stay there until the next line of the log or the next checkpoint; the batch
that did it is then drawn again, which is possible because it depends on (seed, k) alone.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, DivergedError
from robopref.training.checkpoint import LAST_NAME, load_checkpoint, remove_leftovers, save_checkpoint
from robopref.training.interruption import Interruption
from robopref.training.metrics import RunLog
from robopref.training.progress import Progress
from robopref.training.run import differences

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = dict[str, Tensor]
HeldOut = Callable[[], Mapping[str, float]]
DIVERGED_NAME = "diverged.safetensors"


@runtime_checkable
class Learner(Protocol):
    """What the loop asks of a model, which is a :class:`torch.nn.Module` besides.

    Several losses (a value, a critic, a policy) are summed where their parameters are disjoint and what they
    share is detached: one backward pass and one Adam over all of them is then the same as one for each.
    """

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar to minimise, and scalars to log (detached)."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return Adam's groups, each with ``params`` and ``lr``."""
        ...

    def after_step(self) -> None:
        """Do what follows an optimiser step, such as averaging a target network."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Batches for a learner; ``sample`` depends on the generator and on nothing else that changes."""

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw a batch, on the learner's device, with a CPU generator."""
        ...

    def __len__(self) -> int:
        """Return how many items there are to draw from."""
        ...


def fit(
    learner: nn.Module,
    sampler: Sampler,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    fabric: "Fabric",
    log: RunLog,
    phase: str,
    directory: str | Path,
    settings: Mapping[str, Any] | None = None,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    held_out: HeldOut | None = None,
    held_out_every: int | None = None,
    gradient_clip: float | None = None,
) -> dict[str, float]:
    """Train ``learner`` for ``steps`` steps, or finish a training that was broken off.

    A checkpoint in ``directory`` is continued if it was made with the same settings: seed, batch size,
    gradient clip, precision, learner and its ``config``, learning rates, data, and ``settings``. ``steps``
    may be larger than before (the training goes on) but not smaller than what was done. A training that has
    done its steps is not repeated: its weights and its metrics are read.

    Args:
        learner: A :class:`Learner`; ends on the device in evaluation mode.
        sampler: Where batches come from.
        steps: Optimiser steps in all.
        batch_size: Items in a batch.
        seed: Of batches and noise; the starting weights are the caller's.
        fabric: From :func:`robopref.training.devices.make_fabric`.
        log: Gets the mean of the metrics over each ``log_every`` steps.
        phase: What the training is called in log and progress.
        directory: Gets ``last.safetensors``.
        settings: What else the result depends on; JSON values.
        checkpoint_every: Steps between two checkpoints.
        log_every: Steps between two lines of the log.
        held_out: Measures the learner on data kept aside; logged as ``held_out/<key>``.
        held_out_every: Steps between two measurements; ``checkpoint_every`` when not given.
        gradient_clip: Largest norm of the whole gradient; None for no limit.

    Returns:
        The last line of the log: mean metrics of the last steps, and what ``held_out`` measured at the end.

    Raises:
        ConfigError: An argument makes no sense, or the checkpoint was made with other settings.
        DataError: The checkpoint is damaged, or cannot be written.
        DivergedError: A loss or gradient was not finite; the batch is in ``diverged.safetensors``.
        KeyboardInterrupt: Ctrl-C; the state was saved, and the message says so.
    """
    _check_arguments(learner, sampler, locals())
    training = _Training(learner, sampler, fabric, batch_size, seed, gradient_clip, Path(directory), phase)
    training.settings = training.describe(settings or {})
    finished = training.resume(steps)
    if finished is not None:
        learner.eval()
        return finished
    log.rewind(phase, training.step)
    held_out_every = held_out_every or checkpoint_every
    found: dict[str, float] = {}
    with (
        _own_randomness(training.device),
        Interruption() as stop,
        Progress(phase, steps, training.step) as bar,
    ):
        learner.train()
        while training.step < steps:
            training.advance()
            step, last = training.step, training.step == steps
            found = {}
            if last or step % log_every == 0:
                training.check_health()
                found = training.means()
            if held_out is not None and (last or step % held_out_every == 0):
                found |= _measure(learner, held_out)
            if found and training.leads:
                log.log(phase, step, found)
            if last or stop.requested or step % checkpoint_every == 0:
                training.check_health()
                log.sync()
                training.save(found if last else None)
            bar.advance(1, f"loss {found['loss']:.4g}" if "loss" in found else None)
            if stop.requested and not last:
                stop.leave(
                    f"Stopped {phase} at step {step} of {steps}; it is saved in {training.path}. "
                    "The same command goes on from there."
                )
    learner.eval()
    return found


class _Training:
    """One training in progress: everything that a step changes, and how it is saved."""

    def __init__(
        self,
        learner: nn.Module,
        sampler: Sampler,
        fabric: "Fabric",
        batch_size: int,
        seed: int,
        gradient_clip: float | None,
        directory: Path,
        phase: str,
    ) -> None:
        self.learner, self.sampler, self.fabric = learner.to(fabric.device), sampler, fabric
        self.batch_size, self.seed, self.gradient_clip = batch_size, seed, gradient_clip
        self.directory, self.path, self.phase = directory, directory / LAST_NAME, phase
        self.device: torch.device = fabric.device
        self.checks_each_step = self.device.type == "cpu"
        self.leads: bool = fabric.is_global_zero
        self.settings: dict[str, Any] = {}
        self.batches = torch.Generator()
        self.noise = torch.Generator(self.device)
        groups = learner.parameter_groups()  # pyright: ignore[reportCallIssue]  (a Learner, checked)
        self.parameters = [p for group in groups for p in group["params"]]
        adam = torch.optim.Adam(groups, fused=self.device.type in ("cpu", "cuda") or None)
        self.objective, self.optimiser = fabric.setup(_Objective(self.learner), adam)
        self.step, self.seconds = 0, 0.0
        self._since = time.monotonic()
        self._names: list[str] = []
        self._totals: Tensor | None = None
        self._counted = 0
        self._unchecked: list[Tensor] = []

    def advance(self) -> None:
        """Take one step of the optimiser, counted once it has been taken."""
        self._seed_step(self.step)
        batch = self.sampler.sample(self.batch_size, self.batches)
        loss, metrics = self.objective(batch, self.noise)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        loss = loss.detach()
        self._unchecked.append(loss + norm)
        if self.checks_each_step:
            self.check_health(batch)
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)
        self.optimiser.step()
        self.learner.after_step()  # pyright: ignore[reportCallIssue]
        self._count({"loss": loss, "gradient_norm": norm, **metrics})
        self.step += 1

    def check_health(self, batch: Batch | None = None) -> None:
        """Raise DivergedError if one of the steps since the last check was not finite."""
        if not self._unchecked:
            return
        values = torch.stack(self._unchecked).tolist()
        # On a CPU this is called in the middle of a step, elsewhere after it.
        first = self.step + (batch is not None) - len(values)
        self._unchecked.clear()
        for step, value in enumerate(values, start=first):
            if not math.isfinite(value):
                self._diverged(step, batch)

    def _diverged(self, step: int, batch: Batch | None) -> None:
        if batch is None:
            self._seed_step(step)
            batch = self.sampler.sample(self.batch_size, self.batches)
        path = self.directory / DIVERGED_NAME
        save_checkpoint(path, batch, {"phase": self.phase, "step": step, "settings": self.settings})
        bad = sorted(k for k, v in batch.items() if v.is_floating_point() and not torch.isfinite(v).all())
        cause = (
            f"The batch itself holds NaN or infinity in {', '.join(bad)}: look at the data."
            if bad
            else "The batch is finite: a smaller learning rate or a gradient_clip is the usual cure."
        )
        raise DivergedError(
            f"{self.phase} diverged in step {step + 1}: the loss or its gradient is not finite. {cause} "
            f"The batch is saved in {path}; {LAST_NAME} beside it, if there is one, is from before."
        )

    def means(self) -> dict[str, float]:
        """Return the metrics, averaged over the steps since the last call."""
        assert self._totals is not None
        values = (self._totals / self._counted).tolist()
        self._totals, self._counted = None, 0
        return dict(zip(self._names, values, strict=True))

    def _count(self, metrics: Mapping[str, Tensor]) -> None:
        stacked = torch.stack([value.detach().float() for value in metrics.values()])
        if self._totals is None:
            self._names, self._totals = list(metrics), stacked
        else:
            self._totals += stacked
        self._counted += 1

    def _seed_step(self, step: int) -> None:
        sequence = np.random.SeedSequence((self.seed, self.fabric.global_rank, step))
        batches, noise, other = (int(word) >> 1 for word in sequence.generate_state(3, np.uint64))
        self.batches.manual_seed(batches)
        self.noise.manual_seed(noise)
        torch.default_generator.manual_seed(other)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(other)

    def describe(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything that decides the result: two trainings with equal settings are the same one."""
        learner = {
            "class": type(self.learner).__name__,
            "config": getattr(self.learner, "config", None),
            "parameters": sum(p.numel() for p in self.parameters),
            "learning_rates": [group["lr"] for group in self.optimiser.param_groups],
        }
        settings = {
            "phase": self.phase,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "gradient_clip": self.gradient_clip,
            "precision": str(self.fabric.strategy.precision.precision),
            "processes": self.fabric.world_size,
            "learner": learner,
            "data": {"items": len(self.sampler), "content": self._probe()},
            "given": dict(given),
        }
        try:
            return json.loads(json.dumps(settings))
        except TypeError as error:
            raise ConfigError(f"The settings of {self.phase} must hold JSON values only: {error}") from error

    def _probe(self) -> str:
        """Digest of one fixed batch: other data give another one."""
        batch = self.sampler.sample(min(self.batch_size, 64), torch.Generator().manual_seed(0))
        digest = hashlib.sha256()
        for name in sorted(batch):
            array = batch[name].detach().cpu().contiguous()
            digest.update(f"{name}{array.dtype}{tuple(array.shape)}".encode())
            digest.update(array.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, metrics: Mapping[str, float] | None) -> None:
        """Write the checkpoint; ``metrics`` mark a training that has done its steps."""
        if not self.leads:
            return
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        tensors = {f"model/{name}": tensor for name, tensor in self.learner.state_dict().items()}
        for index, state in self.optimiser.optimizer.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": tensor for name, tensor in state.items()}
        if self._totals is not None:
            tensors["window/totals"] = self._totals
        record = {
            "step": self.step,
            "phase": self.phase,
            "settings": self.settings,
            "metrics": None if metrics is None else dict(metrics),
            "window": {"names": self._names, "counted": self._counted},
            "seconds": self.seconds,
        }
        save_checkpoint(self.path, tensors, record)

    def resume(self, steps: int) -> dict[str, float] | None:
        """Take up the checkpoint, if there is one; return the metrics if it has done all its steps."""
        if self.leads:
            remove_leftovers(self.path)
        if not self.path.exists():
            return None
        tensors, record = load_checkpoint(self.path)
        changed = differences(record.get("settings"), self.settings)
        if changed:
            raise ConfigError(
                f"{self.path} comes from a training with other settings ({'; '.join(changed)}). "
                "Go back to those, choose another folder, or delete the file to train from the start."
            )
        if record["step"] > steps:
            raise ConfigError(
                f"{self.path} has done {record['step']} steps, more than steps={steps}. "
                "Ask for at least as many, choose another folder, or delete the file to train from the start."
            )
        self._restore(tensors, record)
        return record["metrics"] if record["step"] == steps else None

    def _restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        model = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        try:
            self.learner.load_state_dict(model)
        except RuntimeError as error:
            raise DataError(f"{self.path} does not fit this model: {error}") from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = tensor
        adam = self.optimiser.optimizer
        adam.load_state_dict({"state": state, "param_groups": adam.state_dict()["param_groups"]})
        self.step, self.seconds = record["step"], record["seconds"]
        self._names, self._counted = record["window"]["names"], record["window"]["counted"]
        if "window/totals" in tensors:
            self._totals = tensors["window/totals"].to(self.device)


class _Objective(nn.Module):
    """The loss as a forward pass, so that Fabric's casting and gradient averaging apply to it."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.learner.loss(batch, generator)  # pyright: ignore[reportCallIssue]


def _measure(learner: nn.Module, held_out: HeldOut) -> dict[str, float]:
    learner.eval()
    with torch.no_grad():
        found = {f"held_out/{key}": float(value) for key, value in held_out().items()}
    learner.train()
    return found


def _own_randomness(device: torch.device) -> Any:
    """Leave torch's global generators as they were, for dropout draws from them."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _check_arguments(learner: nn.Module, sampler: Sampler, given: Mapping[str, Any]) -> None:
    for name in ("steps", "batch_size", "checkpoint_every", "log_every", "held_out_every"):
        value = given[name]
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if given["seed"] < 0:
        raise ConfigError(f"seed must not be negative, got {given['seed']}")
    clip = given["gradient_clip"]
    if clip is not None and not clip > 0:
        raise ConfigError(f"gradient_clip must be positive, got {clip}")
    lacking = [name for name in ("loss", "parameter_groups", "after_step") if not hasattr(learner, name)]
    if lacking:
        raise ConfigError(f"{type(learner).__name__} cannot be trained: it lacks {', '.join(lacking)}")
    if len(sampler) == 0:
        raise DataError("There is nothing to train on: the data set is empty")
