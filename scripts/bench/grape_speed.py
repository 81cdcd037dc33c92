"""What a step of alignment costs against a plain pass of the same tokens: time, tokens per second, memory."""

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from robopref.cli import build
from robopref.cli.nodes import plain
from robopref.cli.types import make_of
from robopref.methods.phases.vla_align import preferring
from robopref.methods.phases.vla_how import Alignment
from robopref.policies.vla.advantage import ClippedAdvantage
from robopref.policies.vla.data import part_numbers
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.policies.vla.seeing import SeeingPolicy
from robopref.training.run import PeakMemory, machine

ACTIONS = 4  # entries of an action of Meta-World


def batch_of(policy: SeeingPolicy, how: Alignment, pairs: int, decisions: int) -> dict[str, Tensor]:
    """Return random pairs of trajectories of so many decisions, in the segments of an alignment."""
    rng, size = np.random.default_rng(0), policy.image_size
    members = 2 * pairs
    words = policy.tokenizer.encode("open the drawer")
    actions = rng.uniform(-1, 1, (members * decisions, policy.horizon, policy.action_size))
    targets = policy.targets(torch.from_numpy(actions.astype(np.float32)))
    parts = part_numbers(np.full(members, decisions), how.segment, windows=how.windows)
    return {
        "frames": torch.from_numpy(rng.integers(0, 256, (members, decisions, size, size, 3), np.uint8)),
        "words": torch.from_numpy(np.stack([words] * members)),
        "targets": targets.unflatten(0, (members, decisions)),
        "mask": torch.ones(members, decisions, dtype=torch.bool),
        "taken": torch.ones(members, decisions, policy.horizon, dtype=torch.bool),
        "reference": torch.full((members, decisions), -110.0),
        "parts": torch.from_numpy(parts.reshape(members, decisions)),
        "grades": torch.tensor([[1.0, 0.0]] * pairs),
        "imitated": torch.zeros(pairs, dtype=torch.bool),
        "weights": torch.ones(pairs),
    }


def credited(batch: dict[str, Tensor], policy: SeeingPolicy) -> dict[str, Tensor]:
    """Return the same decisions one by one, with advantages of either sign."""
    members, length = batch["mask"].shape
    flat = {name: batch[name].flatten(0, 1) for name in ("frames", "targets")}
    count = members * length
    return {
        **flat,
        "words": batch["words"].repeat_interleave(length, 0),
        "mask": batch["taken"].flatten(0, 1),
        "sign": torch.tensor([1.0, -1.0], device=batch["mask"].device).repeat(count // 2),
        "reference": torch.full((count, policy.entries), -5.5, device=batch["mask"].device),
    }


def steps(config: DictConfig, device: str) -> tuple[SeeingPolicy, int, dict[str, Callable[[], None]]]:
    """Return a policy, a number of decisions, and what goes over them, a plain pass first."""
    part = build.component(config.policy)
    policy: SeeingPolicy = part.build(action_size=ACTIONS, seed=0).to(device)
    given = plain(config.grape.alignment)
    of_others = Alignment.unread("preference")
    own = {name: value for name, value in given.items() if name not in of_others}
    how = make_of(Alignment, "grape.alignment", {**own, "kind": "preference"})
    pairs = config.training.policy.batch_size
    if how.adapter is not None and policy.adapter is None:
        policy.adopt(how.adapter)
    length = config.env.options.horizon // policy.horizon
    batch = {name: value.to(device) for name, value in batch_of(policy, how, pairs, length).items()}
    one_by_one = credited(batch, policy)
    rows = {name: one_by_one[name] for name in ("frames", "words", "targets")}
    count = len(one_by_one["targets"])
    draw = policy.draw(count, generator=torch.Generator(device).manual_seed(0))

    def plain_pass() -> None:
        policy.decision_scores(**rows, draw=draw).sum().backward()

    def over_pairs(window: int) -> Callable[[], None]:
        return _step(preferring(policy, dataclasses.replace(how, window=window)), batch)

    usual = min(how.window, count)
    kinds = {
        f"plain forward and backward of {count} decisions": plain_pass,
        f"a step over {pairs} pairs, all at once": over_pairs(count),
        f"in windows of {usual} (default)": over_pairs(usual),
        **{f"in windows of {w}": over_pairs(w) for w in (count // 10, count // 20) if 0 < w < usual},
    }
    by_advantage = ClippedAdvantage(policy, clip=given["clip"], window=usual)
    kinds[f"a step over advantages, in windows of {usual}"] = _step(by_advantage, one_by_one)
    return policy, count, kinds


def _step(learner: TrajectoryPreference | ClippedAdvantage, batch: dict[str, Tensor]) -> Callable[[], None]:
    return lambda: learner.loss(batch)[0].backward()


def speed(config: DictConfig, repeats: int) -> str:
    """Measure steps of alignment by pairs, in windows, and by advantages, and a plain pass over the same."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy, count, kinds = steps(config, device)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for work in kinds.values():  # the first of each is slower
        work()
    for _ in range(repeats):  # in turn, so that a busy machine is busy for all
        for name, work in kinds.items():
            policy.zero_grad()
            found[name].append(_timed(work, device))
    about, size = machine(), sum(p.numel() for p in policy.parameters())
    clock = "wall time" if device == "cuda" else "CPU time of one thread"
    lines = [
        f"{type(policy).__name__} of {size / 1e6:.2f} million parameters, {count} decisions of "
        f"{policy.entries} tokens or numbers; {about['gpu'] or about['processor']}, {clock}, "
        f"medians of {repeats}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| what | seconds | times a plain pass | tokens per second | peak memory, MiB |",
        "|---|---|---|---|---|",
    ]
    first = statistics.median(seconds for seconds, _ in next(iter(found.values())))
    for name, each in found.items():
        middle, memory = (statistics.median(column) for column in zip(*each, strict=True))
        rate = count * policy.entries / middle
        lines.append(f"| {name} | {middle:.2f} | {middle / first:.2f} | {rate:,.0f} | {memory:,.0f} |")
    return "\n".join(lines)


def _timed(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds, and MiB at the peak: of the GPU's memory, or of the whole process."""
    memory = PeakMemory()
    memory.restart()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    return seconds, torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else memory.mebibytes()
