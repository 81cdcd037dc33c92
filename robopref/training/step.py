"""One training in progress: what a step does, what it changes, and how that is saved and taken up again."""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from robopref.errors import ConfigError, DataError, DivergedError
from robopref.nets.sharded import share, whole, wholes
from robopref.training.checkpoint import LAST_NAME, load_checkpoint, remove_leftovers, save_checkpoint
from robopref.training.run import differences

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = dict[str, Tensor]
DIVERGED_NAME = "diverged.safetensors"


@runtime_checkable
class Learner(Protocol):
    """What the loop asks of a model, which is a :class:`torch.nn.Module` besides.

    Two things are optional. ``shard(mesh)`` shares out its weights among processes (PyTorch's
    ``fully_shard``), before Adam is made of them; without it, a learner trains in one process. ``changing()``
    names the entries of its ``state_dict`` that training changes, which are all that a checkpoint then holds:
    that of a 7 B model with an adapter is the adapter.

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


class Training:
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
        if fabric.world_size > 1 and not hasattr(learner, "shard"):
            raise ConfigError(
                f"A {type(learner).__name__} learns in one process; policies that see (experiment=grape) "
                "learn in several"
            )
        self.objective = fabric.setup_module(_Objective(self.learner))
        groups = learner.parameter_groups()  # pyright: ignore[reportCallIssue]  (a Learner, checked)
        self.parameters = [p for group in groups for p in group["params"]]
        adam = torch.optim.Adam(groups, fused=self.device.type in ("cpu", "cuda") or None)
        self.optimiser: Any = fabric.setup_optimizers(adam)
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
        norm = whole(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
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

    def agreed(self, wish: bool) -> bool:
        """Whether any process of this training wants something; asked of all of them in the same step."""
        if self.fabric.world_size == 1:
            return wish
        return bool(self._mean(torch.tensor(float(wish), device=self.device)) > 0)

    def _mean(self, value: Tensor) -> Tensor:
        """Average over the processes of this training."""
        found: Any = self.fabric.all_reduce(value)
        return found

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
        values = self._mean(self._totals / self._counted).tolist()
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
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        tensors = {f"model/{name}": tensor for name, tensor in self._changing().items()}
        for index, state in self.optimiser.optimizer.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": tensor for name, tensor in state.items()}
        if self.fabric.world_size > 1:
            tensors = wholes(tensors)
        if not self.leads:
            return
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

    def _changing(self) -> dict[str, Tensor]:
        everything = self.learner.state_dict()
        if not hasattr(self.learner, "changing"):
            return everything
        names: set[str] = self.learner.changing()  # pyright: ignore[reportCallIssue]
        return {name: tensor for name, tensor in everything.items() if name in names}

    def resume(self, steps: int) -> dict[str, float] | None:
        """Take up the checkpoint, if there is one; return the metrics if it has done all its steps."""
        if self.leads:
            remove_leftovers(self.path)
        if not self.path.exists():
            return None
        tensors, record = load_checkpoint(self.path)
        changed = differences(record.get("settings"), self.settings)
        if changed and self.leads:  # what it wrote are its own
            raise ConfigError(
                f"{self.path} comes from a training with other settings ({changed}). "
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
        present = self._changing()
        if wrong := sorted(set(model) ^ set(present)):
            raise DataError(f"{self.path} does not fit this model: it lacks, or has besides, {wrong[:5]}")
        try:
            self.learner.load_state_dict(
                {name: share(tensor, present[name]) for name, tensor in model.items()}, strict=False
            )
        except RuntimeError as error:
            raise DataError(f"{self.path} does not fit this model: {error}") from error
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser/"):
                _, index, key = name.split("/")
                weight = self.parameters[int(index)]  # the moments of Adam are shared out as it is
                moment = tensor.shape == weight.shape
                state.setdefault(int(index), {})[key] = share(tensor, weight) if moment else tensor
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
