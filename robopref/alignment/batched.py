"""Many Gromov-Wasserstein problems as one computation in torch, for GPUs.

The problems are those of :mod:`~.gromov`, of any sizes and weights, padded to the largest of a batch. With
the marginals held, the (fused) objective is, up to a constant,

    f(T) = (1 - alpha) <M, T> - 2 alpha <C1 T C2, T>,    gradient G(T) = (1 - alpha) M - 4 alpha C1 T C2.

A sequence of assignments or transport problems, as on a CPU, would leave a GPU idle. Three parts that run on
all problems at once take its place, from each of two starts, and the cheaper end is kept:

1. Proximal steps (Xu et al. 2019, arXiv 1901.06003) T <- argmin <G(T), T'> + gamma KL(T' | T) over plans T',
   by few sweeps of Sinkhorn's algorithm, in single precision. Plans go from soft to hard, and where f is
   concave (Euclidean distances: Maron and Lipman 2018) an exact step never raises it.
2. A corner of the polytope of plans: the largest entry of T takes all that its row and its column have left,
   and so on. Entries that are the largest of both row and column take theirs at the same time.
3. Exchanges while one lowers f: mass x of the entries (i, j) and (k, l) moves to (i, l) and (k, j), which
   changes f by x <G, D> - 2 alpha x^2 <C1 D C2, D> with D = (e_i - e_k)(e_l - e_j)'. That is a concave
   parabola for all distances, so x is the smaller mass. Entries that are each other's best partner exchange
   at the same time; where that raises f, the best pair alone.

What few sweeps leave undone the exchanges do, and they hold the marginals. Where they stop, conditional
gradient might find a way on, and the reverse.

Letters used in shapes: B runs (a problem from one start), M points of the largest source, N points of the
largest target, S entries of a plan that have mass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from robopref.alignment.gromov import Coupling, checked_plan, checked_problem
from robopref.alignment.sequences import sinkhorn
from robopref.alignment.transport import TransportProblem
from robopref.errors import ConfigError, DivergedError

GAMMA = 1.0
"""Weight of the proximal term, in units of the spread of the gradient (:meth:`_Batch.scale`)."""
STEPS, SWEEPS = 100, 20
"""Proximal steps, and sweeps of Sinkhorn's algorithm in each."""
QUANTILES, SOFTNESS, PROFILE_SWEEPS = 64, 0.2, 50
"""Of the second start: how finely distances are read, entropy in units of the mean cost, and sweeps."""
NOTHING = 1e-12
"""Mass, and change of the objective in units of its scale, that counts as none."""
TINY = 1e-35
"""Least entry of a plan in single precision before a logarithm is taken."""
PAIRS = 2**25
"""Pairs of entries of all plans of a batch: some 2 GiB. What goes beyond is another batch."""


def batched_gromov_wasserstein(
    problems: Sequence[Mapping[str, Any]], *, device: torch.device | str = "cpu"
) -> list[Coupling]:
    """Return the best coupling found of each problem, in their order.

    Args:
        problems: Arguments of :func:`~.gromov.gromov_wasserstein` for each, without ``epsilon`` and limits
            of iterations; sizes may differ. Where there is no ``start``, the product plan is one and the
            soft matching of distance profiles (Memoli 2011) another.
        device: Where to compute; it needs double precision.

    Raises:
        ConfigError, DataError: As :func:`~.gromov.gromov_wasserstein`, of the first bad problem; also for
            ``alpha`` = 0 (plain Wasserstein is convex, and exchanges may stop before its end).
        DivergedError: The device did not hold the marginals.
    """
    runs = [run for number, problem in enumerate(problems) for run in _runs(number, **problem)]
    best: dict[int, Coupling] = {}
    for some in _batches(runs):
        for run, found in zip(some, _solve(some, torch.device(device)), strict=True):
            if run.number not in best or found.cost < best[run.number].cost:
                best[run.number] = found
    return [best[number] for number in range(len(problems))]


@dataclass(frozen=True, eq=False)
class _Run:
    """One problem from one start: a plan, the product plan, or the soft matching of distance profiles."""

    number: int
    problem: TransportProblem
    start: np.ndarray | Literal["product", "profiles"]

    @property
    def size(self) -> int:
        return len(self.problem.p) + len(self.problem.q)


def _runs(
    number: int,
    source_distances: Float[np.ndarray, "M M"],
    target_distances: Float[np.ndarray, "N N"],
    *,
    source_weights: Float[np.ndarray, " M"] | None = None,
    target_weights: Float[np.ndarray, " N"] | None = None,
    fused_cost: Float[np.ndarray, "M N"] | None = None,
    alpha: float = 1.0,
    start: Float[np.ndarray, "M N"] | None = None,
) -> list[_Run]:
    if alpha == 0:
        raise ConfigError("alpha must lie in (0, 1] for couplings in a batch: wasserstein solves alpha = 0.")
    first, second, p, q, between = checked_problem(
        source_distances, target_distances, source_weights, target_weights, fused_cost, alpha
    )
    starts: list[Any] = ["product", "profiles"] if start is None else [checked_plan(start, p, q)]
    problem = TransportProblem(first, second, p, q, alpha, between)
    return [_Run(number, problem, begin) for begin in starts]


def _batches(runs: Sequence[_Run]) -> Iterator[list[_Run]]:
    """Put runs of like size together, as many as :data:`PAIRS` allows."""
    batch: list[_Run] = []
    for run in sorted(runs, key=lambda run: run.size):
        if batch and (len(batch) + 1) * run.size**2 > PAIRS:
            yield batch
            batch = []
        batch.append(run)
    if batch:
        yield batch


def _solve(runs: Sequence[_Run], device: torch.device) -> list[Coupling]:
    batch = _Batch.of(runs, device)
    soft = batch.to(torch.float32)
    plan = _corner(_proximal(soft, _starts(soft, runs)).double(), batch.p, batch.q)
    plan = _exchange(batch, plan)
    wrong = max(float((plan.sum(2) - batch.p).abs().max()), float((plan.sum(1) - batch.q).abs().max()))
    if not wrong <= 1e-8:
        raise DivergedError(f"A plan on {device} misses its marginals by {wrong:.3g}; solver=full does not.")
    costs = batch.cost(plan).clamp(min=0).tolist()
    plans = plan.masked_fill(plan <= NOTHING, 0).cpu().numpy()
    return [
        Coupling(own[: len(run.problem.p), : len(run.problem.q)].copy(), cost)
        for run, own, cost in zip(runs, plans, costs, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Problems of B runs, padded by points without mass."""

    first: Float[Tensor, "B M M"]
    second: Float[Tensor, "B N N"]
    p: Float[Tensor, "B M"]
    q: Float[Tensor, "B N"]
    between: Float[Tensor, "B M N"]
    alpha: Float[Tensor, " B"]

    @classmethod
    def of(cls, runs: Sequence[_Run], device: torch.device) -> "_Batch":
        problems = {run.number: run.problem for run in runs}
        places = {number: place for place, number in enumerate(problems)}
        of_run = torch.tensor([places[run.number] for run in runs], device=device)
        values = (
            [np.asarray(getattr(problem, field.name)) for problem in problems.values()]
            for field in fields(cls)
        )
        return cls(*(_padded(arrays, device)[of_run] for arrays in values))

    def to(self, dtype: torch.dtype) -> "_Batch":
        return _Batch(*(getattr(self, field.name).to(dtype) for field in fields(self)))

    def take(self, kept: Bool[Tensor, " B"]) -> "_Batch":
        return _Batch(*(getattr(self, field.name)[kept] for field in fields(self)))

    def product(self, plan: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
        """Return C1 T C2."""
        return self.first @ plan @ self.second

    def gradient(self, product: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
        alpha = self.alpha[:, None, None]
        return (1 - alpha) * self.between - 4 * alpha * product

    def objective(self, plan: Float[Tensor, "B M N"], product: Float[Tensor, "B M N"]) -> Float[Tensor, " B"]:
        """Return f, which is the cost but for a constant."""
        linear, crossed = (plan * self.between).sum((1, 2)), (plan * product).sum((1, 2))
        return (1 - self.alpha) * linear - 2 * self.alpha * crossed

    def cost(self, plan: Float[Tensor, "B M N"]) -> Float[Tensor, " B"]:
        own = _mean(self.first**2, self.p, self.p) + _mean(self.second**2, self.q, self.q)
        return self.alpha * own + self.objective(plan, self.product(plan))

    def scale(self) -> Float[Tensor, " B"]:
        """Return the spread of the gradient, as far as it can be told before there is a plan."""
        spread = _deviation(self.first, self.p, self.p) * _deviation(self.second, self.q, self.q)
        return 4 * self.alpha * spread + (1 - self.alpha) * _deviation(self.between, self.p, self.q)


def _padded(arrays: Sequence[np.ndarray], device: torch.device, shape: Sequence[int] | None = None) -> Tensor:
    shape = shape or [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    padded = np.zeros((len(arrays), *shape))
    for number, array in enumerate(arrays):
        padded[number, *(slice(size) for size in array.shape)] = array
    return torch.from_numpy(padded).to(device)


def _mean(
    values: Float[Tensor, "B M N"], p: Float[Tensor, "B M"], q: Float[Tensor, "B N"]
) -> Float[Tensor, " B"]:
    return torch.einsum("bi,bij,bj->b", p, values, q)


def _deviation(
    values: Float[Tensor, "B M N"], p: Float[Tensor, "B M"], q: Float[Tensor, "B N"]
) -> Float[Tensor, " B"]:
    return _mean((values - _mean(values, p, q)[:, None, None]) ** 2, p, q).sqrt()


def _starts(batch: _Batch, runs: Sequence[_Run]) -> Float[Tensor, "B M N"]:
    plans = batch.p[:, :, None] * batch.q[:, None, :]
    given = {place: run.start for place, run in enumerate(runs) if not isinstance(run.start, str)}
    if given:
        padded = _padded(list(given.values()), plans.device, plans.shape[1:])
        plans[torch.tensor(list(given), device=plans.device)] = padded.to(plans.dtype)
    matched = torch.tensor(
        [isinstance(run.start, str) and run.start == "profiles" for run in runs], device=plans.device
    )
    if bool(matched.any()):
        part = batch.take(matched)
        cost = _profile_cost(part)
        cost = cost / (SOFTNESS * _mean(cost, part.p, part.q).clamp(min=TINY)[:, None, None])
        plans[matched] = sinkhorn(cost, 1.0, mass_a=part.p, mass_b=part.q, iterations=PROFILE_SWEEPS)
    return plans


def _profile_cost(batch: _Batch) -> Float[Tensor, "B M N"]:
    """As :func:`~.gromov.profile_cost`, at a number of quantiles that does not depend on the padding."""
    shares = (torch.arange(QUANTILES, dtype=batch.p.dtype, device=batch.p.device) + 0.5) / QUANTILES - 1e-6

    def profiles(distances: Tensor, weights: Tensor) -> Tensor:
        ordered, order = distances.sort(dim=2)
        reached = weights[:, None, :].expand_as(distances).gather(2, order).cumsum(2)
        wanted = shares.expand(*distances.shape[:2], -1).contiguous()
        index = torch.searchsorted(reached.contiguous(), wanted).clamp(max=distances.shape[2] - 1)
        mean = _mean(distances, weights, weights).clamp(min=TINY)
        return ordered.gather(2, index) / mean[:, None, None]

    a, b = profiles(batch.first, batch.p), profiles(batch.second, batch.q)
    a, b = (of * (mass > 0)[:, :, None] for of, mass in ((a, batch.p), (b, batch.q)))
    apart = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    alpha = batch.alpha[:, None, None]
    return alpha * apart**2 / QUANTILES + (1 - alpha) * batch.between


def _proximal(batch: _Batch, plan: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    unit = GAMMA * batch.scale().clamp(min=TINY)[:, None, None]
    for _ in range(STEPS):
        cost = batch.gradient(batch.product(plan)) / unit - plan.clamp(min=TINY).log()
        plan = sinkhorn(cost, 1.0, mass_a=batch.p, mass_b=batch.q, iterations=SWEEPS)
    return plan


def _corner(
    plan: Float[Tensor, "B M N"], p: Float[Tensor, "B M"], q: Float[Tensor, "B N"]
) -> Float[Tensor, "B M N"]:
    """Return a plan with these marginals and few entries, the largest ones of ``plan`` first."""
    found, rows, columns = torch.zeros_like(plan), p.clone(), q.clone()
    numbers = torch.arange(p.shape[1], device=p.device)
    while True:
        full = (rows <= NOTHING)[:, :, None] | (columns <= NOTHING)[:, None, :]
        plan = plan.masked_fill(full, -1.0)
        largest, column = plan.max(2)
        mutual = (plan.argmax(1).gather(1, column) == numbers) & (largest >= 0)
        if not bool(mutual.any()):
            return found
        moved = torch.minimum(rows, columns.gather(1, column)) * mutual
        found.scatter_add_(2, column[:, :, None], moved[:, :, None])
        rows, columns = rows - moved, columns.scatter_add(1, column, -moved)


def _exchange(batch: _Batch, plan: Float[Tensor, "B M N"]) -> Float[Tensor, "B M N"]:
    """Return the plans at which no exchange gains; problems that are done are left out of further rounds."""
    ends, of = plan.clone(), torch.arange(len(plan), device=plan.device)
    least = NOTHING * batch.scale()
    alone = torch.zeros_like(of, dtype=torch.bool)
    product = batch.product(plan)
    value = batch.objective(plan, product)
    while True:
        step, gain = _exchanges(batch, plan, product, alone)
        ahead = plan + step
        product_ahead = batch.product(ahead)
        value_ahead = batch.objective(ahead, product_ahead)
        lower = value_ahead < value - least / 2
        going = (gain > least) & (lower | ~alone)
        taken = (going & lower)[:, None, None]
        plan, product = torch.where(taken, ahead, plan), torch.where(taken, product_ahead, product)
        value, alone = torch.where(taken[:, 0, 0], value_ahead, value), ~lower
        left = int(going.sum())
        if 2 * left <= len(plan):
            ends[of] = plan
            if left == 0:
                return ends
            batch = batch.take(going)
            of, plan, product, value, alone, least = (
                values[going] for values in (of, plan, product, value, alone, least)
            )


def _exchanges(
    batch: _Batch,
    plan: Float[Tensor, "B M N"],
    product: Float[Tensor, "B M N"],
    alone: Bool[Tensor, " B"],
) -> tuple[Float[Tensor, "B M N"], Float[Tensor, " B"]]:
    """Return the change by all mutually best exchanges, or the best ``alone``, and what the best gains."""
    gradient = batch.gradient(product)
    columns = plan.shape[2]
    mass, place = plan.flatten(1).topk(int((plan > NOTHING).sum((1, 2)).max()), dim=1)
    i, j = place // columns, place % columns
    cross = _pairs(gradient, i, j)
    own = gradient.flatten(1).gather(1, place)
    slope = cross + cross.mT - own[:, :, None] - own[:, None, :]
    curvature = 8 * batch.alpha[:, None, None] * _pairs(batch.first, i, i) * _pairs(batch.second, j, j)
    moved = torch.minimum(mass[:, :, None], mass[:, None, :])
    best, partner = (moved * (slope - moved * curvature)).min(2)
    slots = torch.arange(mass.shape[1], device=mass.device)
    chosen = (partner.gather(1, partner) == slots) & (slots < partner) & (best < 0)
    chosen = torch.where(alone[:, None], slots == best.argmin(1, keepdim=True), chosen)
    x = torch.minimum(mass, mass.gather(1, partner)) * chosen
    k, m = i.gather(1, partner), j.gather(1, partner)
    step = torch.zeros_like(plan).flatten(1)
    for row, column, sign in ((i, j, -1), (k, m, -1), (i, m, 1), (k, j, 1)):
        step.scatter_add_(1, row * columns + column, sign * x)
    return step.view_as(plan), -best.amin(1)


def _pairs(
    values: Float[Tensor, "B M N"], rows: Int[Tensor, "B S"], columns: Int[Tensor, "B S"]
) -> Float[Tensor, "B S S"]:
    """Return the value at row s and column t of all pairs (s, t)."""
    places = rows[:, :, None] * values.shape[2] + columns[:, None, :]
    return values.flatten(1).gather(1, places.flatten(1)).view_as(places)
