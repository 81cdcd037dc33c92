"""The one training loop, for rewards and policies alike.

A learner says what its loss is; the loop draws batches, takes Adam steps, logs, saves and resumes.

Everything random in step k is a function of (seed, k): the batch, the noise inside the loss, and dropout.
So a checkpoint holds no generator states, and a run that was killed continues with the very numbers of one
that was not (on a CPU: bit for bit).

Whether a loss or gradient is finite is looked at every step on a CPU. On a GPU that would make it wait for
each step, so the finite flags stay there until the next line of the log or the next checkpoint; the batch
that did it is then drawn again, which is possible because it depends on (seed, k) alone.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from robopref.errors import ConfigError, DataError
from robopref.training.interruption import Interruption
from robopref.training.metrics import RunLog
from robopref.training.progress import Progress
from robopref.training.step import Learner, Sampler, Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["HeldOut", "Learner", "Sampler", "fit"]

HeldOut = Callable[[], Mapping[str, float]]


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
    training = Training(learner, sampler, fabric, batch_size, seed, gradient_clip, Path(directory), phase)
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
        Progress(phase, steps, training.step, stream=None if training.leads else io.StringIO()) as bar,
    ):
        learner.train()
        while training.step < steps:
            training.advance()
            step, last = training.step, training.step == steps
            stopping = training.agreed(stop.requested)
            found = {}
            if last or step % log_every == 0:
                training.check_health()
                found = training.means()
            if held_out is not None and (last or step % held_out_every == 0):
                found |= _measure(learner, held_out)
            if found and training.leads:
                log.log(phase, step, found)
            if last or stopping or step % checkpoint_every == 0:
                training.check_health()
                log.sync()
                training.save(found if last else None)
            bar.advance(1, f"loss {found['loss']:.4g}" if "loss" in found else None)
            if stopping and not last:
                stop.leave(
                    f"Stopped {phase} at step {step} of {steps}; it is saved in {training.path}. "
                    "The same command goes on from there."
                )
    learner.eval()
    return found


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
