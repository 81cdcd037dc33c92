"""Time losses of 65,536 pairs, forward and backward, against TRL's arithmetic on the same tensors.

The reference formulas are those of TRL 1.16 for (chosen, rejected) scores, written out with the same torch
operations; they have no soft labels, checks or weights. Ours are timed with ``labels=None`` ("hard") and with
soft labels and all checks ("soft"; ``aot`` takes labels of 0 and 1 alone). All run in turn within one run;
printed is the median over the rounds, and the number of passes over the batch in the forward direction.
Scores come scaled to both: TRL multiplies the margin by beta, one pass more, robopref both scores, two.
``--compile`` adds the soft one under ``torch.compile``, which fuses it: its time, and how many kernels the
forward and the backward direction together are.

    python scripts/bench/objectives.py [--device cuda] [--pairs 65536] [--rounds 200] [--compile]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robopref.objectives import pairs, reference_free, sorted_pairs, unpaired
from robopref.objectives.divergences import divergence_scores
from robopref.training.run import machine

Formula = Callable[[Tensor, Tensor], Tensor]
EPSILON, TAU, MARGIN = 1e-3, 0.1, 0.5
REFERENCE_MARGIN = torch.linspace(-5.0, 5.0, 65_536)  # of `aot`; cut to the number of pairs


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x), as TRL writes it."""
    return torch.log1p(-torch.exp(x))


def log_odds(w: Tensor, r: Tensor) -> Tensor:
    """TRL's log odds ratio, of log-probabilities."""
    return (w - r) - (log1mexp(w) - log1mexp(r))


def entropic(h: Tensor) -> Tensor:
    """KL([s(h), s(-h)] || [1 - e, e]), as TRL writes it."""
    up = torch.sigmoid(h) * (F.logsigmoid(h) - math.log1p(-EPSILON))
    return up + torch.sigmoid(-h) * (F.logsigmoid(-h) - math.log(EPSILON))


def discovered(h: Tensor) -> Tensor:
    """DiscoPOP, as TRL writes it."""
    m = torch.sigmoid(h / 0.05)
    return -F.logsigmoid(h) * (1 - m) + torch.exp(-h) * m


def prospect(w: Tensor, r: Tensor) -> Tensor:
    """KTO with every w up and every r down, as TRL writes it; the baseline is the batch's mean."""
    kl = torch.cat([w, r]).mean().clamp(min=0).detach()
    return torch.cat([1 - torch.sigmoid(w - kl), 1 - torch.sigmoid(kl - r)])


def by_rank(w: Tensor, r: Tensor) -> Tensor:
    """AOT, as TRL writes it."""
    reference = REFERENCE_MARGIN[: len(w)].to(w.device)
    return -F.logsigmoid(torch.sort(w - r).values - torch.sort(reference).values)


TRL: dict[str, Formula] = {
    "dpo": lambda w, r: -F.logsigmoid(w - r),
    "robust": lambda w, r: (-F.logsigmoid(w - r) * 0.9 + F.logsigmoid(r - w) * 0.1) / 0.8,
    "hinge": lambda w, r: torch.relu(1 - (w - r)),
    "ipo": lambda w, r: (w - r - 1 / (2 * TAU)) ** 2,
    "exo": lambda w, r: entropic(w - r),
    "nca": lambda w, r: -F.logsigmoid(w) - 0.5 * F.logsigmoid(-w) - 0.5 * F.logsigmoid(-r),
    "bco_pair": lambda w, r: -F.logsigmoid(w) - F.logsigmoid(-r),
    "sppo": lambda w, r: (w - 0.5 / TAU) ** 2 + (r + 0.5 / TAU) ** 2,
    "apo_zero": lambda w, r: 1 - torch.sigmoid(w) + torch.sigmoid(r),
    "apo_down": lambda w, r: torch.sigmoid(w) + 1 - torch.sigmoid(w - r),
    "discopop": lambda w, r: discovered(w - r),
    "forward_kl": lambda w, r: -F.logsigmoid((1 - torch.exp(-w)) - (1 - torch.exp(-r))),
    "js": lambda w, r: -F.logsigmoid((math.log(2) + F.logsigmoid(w)) - (math.log(2) + F.logsigmoid(r))),
    "kto": prospect,
    "cpo": lambda w, r: -F.logsigmoid(w - r) - w,
    "simpo": lambda w, r: -F.logsigmoid(w - r - MARGIN),
    "orpo": lambda w, r: -w - TAU * F.logsigmoid(log_odds(w, r)),
    "aot": by_rank,
}
OURS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "dpo": pairs.bradley_terry,
    "robust": pairs.robust,
    "hinge": pairs.hinge,
    "ipo": lambda a, b, y: pairs.ipo(a, b, y, tau=TAU),
    "exo": lambda a, b, y: pairs.exo(a, b, y, flip_prob=EPSILON),
    "nca": pairs.nca,
    "bco_pair": pairs.bco_pair,
    "sppo": lambda a, b, y: pairs.sppo(a, b, y, tau=TAU),
    "apo_zero": pairs.apo_zero,
    "apo_down": pairs.apo_down,
    "discopop": pairs.discopop,
    "forward_kl": lambda a, b, y: diverging(a, b, y, "forward_kl"),
    "js": lambda a, b, y: diverging(a, b, y, "js"),
    "kto": lambda a, b, y: unpaired.kto(torch.cat([a, b]), thumbs(a, y)),
    "cpo": lambda a, b, y: reference_free.cpo(a, b, y, beta=1.0),
    "simpo": lambda a, b, y: reference_free.simpo(a, b, y, beta=1.0, margin=MARGIN),
    "orpo": lambda a, b, y: reference_free.orpo(a, b, y, beta=TAU),
    "aot": lambda a, b, y: sorted_pairs.aot(a, b, y, REFERENCE_MARGIN[: len(a)].to(a.device)),
}
SCORES = {"orpo": lambda x: -x.abs() - 0.1, "forward_kl": lambda x: 0.5 * x}  # probabilities; no e^15
HARD = ("aot",)  # takes labels of 0 and 1 alone


def diverging(a: Tensor, b: Tensor, y: Tensor | None, kind: str) -> Tensor:
    """DPO under another divergence."""
    return pairs.bradley_terry(divergence_scores(a, kind), divergence_scores(b, kind), y)


def thumbs(a: Tensor, y: Tensor | None) -> Tensor:
    """The labels of both members of each pair, one by one."""
    y = torch.ones_like(a) if y is None else y
    return torch.cat([y, 1 - y])


class CountPasses(TorchDispatchMode):
    """Counts how often kernels write as many numbers as the batch has pairs; views write nothing."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length
        self.passes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) else result
        view = any(
            alias.alias_info is not None and not alias.alias_info.is_write for alias in func._schema.returns
        )
        if isinstance(first, Tensor) and first.numel() >= self.length and not view:
            self.passes += first.numel() // self.length
        return result


def count(loss: Callable[[], Tensor], length: int) -> int:
    """Forward passes over the batch."""
    with CountPasses(length) as counter:
        loss()
    return counter.passes


def seconds(loss: Callable[[], Tensor], leaves: tuple[Tensor, Tensor]) -> float:
    """Seconds of one forward and backward run."""
    for leaf in leaves:
        leaf.grad = None
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss().mean().backward()
    if leaves[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compiled(loss: Callable[[], Tensor], rounds: int, leaves: tuple[Tensor, Tensor]) -> tuple[float, int]:
    """Median microseconds of the compiled loss, forward and backward, and how many kernels that takes."""
    from torch._inductor import metrics

    torch.compiler.reset()
    metrics.reset()
    fused = torch.compile(loss, fullgraph=True)
    fused().sum().backward()
    times = [seconds(fused, leaves) for _ in range(rounds)]
    return 1e6 * statistics.median(times[rounds // 10 :]), metrics.generated_kernel_count


def main() -> None:
    """Print one line per objective."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    a, b = (5 * torch.randn(2, options.pairs, generator=generator)).to(options.device)
    y = torch.rand(options.pairs, generator=generator).to(options.device)
    print(
        f"{options.pairs} pairs, {options.device} ({machine()['processor']}), "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n"
    )
    heads = ["objective", "TRL us", "hard us", "soft us", "TRL passes", "hard", "soft", "soft adds"]
    heads += ["compiled us", "kernels"] if options.compile else []
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, reference in TRL.items():
        shape = SCORES.get(name, lambda x: x)
        leaves = (shape(a).clone().requires_grad_(), shape(b).clone().requires_grad_())
        soft = (y > 0.5).float() if name in HARD else y
        runs: list[Callable[[], Tensor]] = [
            lambda reference=reference, leaves=leaves: reference(*leaves),
            lambda name=name, leaves=leaves: OURS[name](*leaves, None),
            lambda name=name, leaves=leaves, soft=soft: OURS[name](*leaves, soft),
        ]
        torch.testing.assert_close(runs[0](), runs[1](), rtol=1e-4, atol=1e-4)
        times: list[list[float]] = [[], [], []]
        for _ in range(options.rounds):
            for run, kept in zip(runs, times, strict=True):
                kept.append(seconds(run, leaves))
        shown = [f"{1e6 * statistics.median(kept[len(kept) // 10 :]):.0f}" for kept in times]
        passes = [count(run, options.pairs) for run in runs]
        shown += [str(x) for x in (*passes, passes[2] - passes[0])]
        if options.compile:
            shown += [str(round(x)) for x in compiled(runs[2], options.rounds, leaves)]
        print("| " + " | ".join([f"`{name}`", *shown]) + " |", flush=True)


if __name__ == "__main__":
    main()
