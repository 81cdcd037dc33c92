"""Phase of GRAPE behind each alignment: the gate that says whether the policy has collapsed.

Letters used in shapes: n decisions, N rollouts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from robopref.data.preferences import Preferences
from robopref.files import finite, read_json, write_json
from robopref.methods.phases.lab import Lab, file_content
from robopref.methods.phases.label import content
from robopref.methods.phases.vla import WEIGHTS
from robopref.methods.phases.vla_compared import labels_of
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_kept import kept_at
from robopref.methods.phases.vla_scores import Judged, task_of
from robopref.objectives.tokens import categorical_kl
from robopref.policies.vla.data import Decisions
from robopref.policies.vla.health import Condition, Trials, condition, verdict
from robopref.policies.vla.policy import TokenPolicy
from robopref.policies.vla.saved import Beside, load_beside, load_vla
from robopref.policies.vla.seeing import SeeingPolicy

GATE = "gate.json"
MOST = 100  # preferred rollouts that are looked at


def gate(
    lab: Lab,
    name: str,
    start: Path,
    aligned: Path,
    judged: Judged,
    how: Alignment,
    trials: Trials | None,
    first: Path | None = None,
) -> dict[str, Any]:
    """Say whether an aligned policy has collapsed, see :mod:`robopref.policies.vla.health`.

    Args:
        lab: Where it works.
        name: What the phase is called.
        start: What was aligned.
        aligned: What came of it.
        judged: The rollouts of ``start`` that it learned from.
        how: How it learned.
        trials: Success of both from the validation states.
        first: The supervised policy, where ``start`` is one of an earlier round: drift adds up.
    """
    labels = labels_of(lab, judged, how)
    settings = {
        "start": file_content(start / WEIGHTS),
        "aligned": file_content(aligned / WEIGHTS),
        "labels": {task: content(found) for task, found in labels.items()},
        "trials": None if trials is None else [trials.start.tolist(), trials.now.tolist()],
        "first": None if first is None else file_content(first / WEIGHTS),
    }

    def work() -> dict[str, Any]:
        after = load_vla(aligned, device=lab.fabric.device)
        decisions = Decisions(after, judged.rollouts, device=lab.fabric.device)
        chosen = _better(decisions, judged, labels)
        rows = decisions.rows_of(chosen.tolist())
        from_first = None if first is None else _divergence(load_beside(after, first), after, decisions, rows)
        before = load_beside(after, start)
        found = verdict(
            _condition_of_start(lab, start, before, decisions, rows),
            condition(after, decisions, rows),
            np.repeat(chosen, decisions.counts[chosen]),
            divergence=_divergence(before, after, decisions, rows),
            exact=after.exact,
            trials=trials,
            from_first=from_first,
        )
        write_json(aligned / GATE, finite(found))
        return found

    found = lab.run.phase(f"gate/{name}", settings, work)
    if found["collapsed"]:
        lab.run.say(f"  COLLAPSED: {found['reason']}")
    return found


def _condition_of_start(
    lab: Lab, start: Path, before: Beside, decisions: Decisions, rows: Int64[np.ndarray, " n"]
) -> Condition:
    """Measure a start in those decisions in which no gate has done so yet, and keep what was found.

    All that is aligned from one start by the same rollouts asks the same of it.
    """
    path = kept_at(lab, "conditions", start, decisions.sources, ".json")
    held = read_json(path) if path.exists() else {}
    missing = np.setdiff1d(rows, held.get("rows", []))
    if len(missing):
        with before() as policy:
            found = {"rows": missing, **condition(policy, decisions, missing).columns()}
        held = {name: [*held.get(name, []), *column.tolist()] for name, column in found.items()}
        write_json(path, finite(held))
    place = {row: number for number, row in enumerate(held.pop("rows"))}
    where = [place[row] for row in rows.tolist()]
    return Condition(
        **{"entropy": None, **{name: np.array(column, float)[where] for name, column in held.items()}}
    )


@torch.no_grad()
def _divergence(
    before: Beside, after: SeeingPolicy, decisions: Decisions, rows: Int64[np.ndarray, " n"]
) -> float | None:
    """KL(start || policy) of token policies in nats per token, in the states of preferred rollouts."""
    if not isinstance(after, TokenPolicy):
        return None
    total = 0.0
    for first in range(0, len(rows), 64):
        batch = decisions.batch(rows[first : first + 64])
        seen = batch["frames"], batch["words"], batch["targets"]
        with before() as policy:
            assert isinstance(policy, TokenPolicy)  # an alignment changes no family
            logits = policy.token_logits(*seen)
        each = categorical_kl(logits, after.token_logits(*seen))
        total += float(each[after.counting(batch["targets"], batch["mask"])].sum())
    return total / (int(decisions.taken[rows].sum()) * after.action_size)


def _better(decisions: Decisions, judged: Judged, labels: dict[str, Preferences]) -> Int64[np.ndarray, " N"]:
    """Numbers of trajectories that won a comparison, every so-manieth of more than :data:`MOST`.

    Of all where single rollouts were graded alike.
    """
    found = set()
    for source, episodes in enumerate(judged.rollouts):
        pairs = labels.get(task_of(episodes))
        if pairs is not None:
            won = np.where(pairs.label >= 0.5, pairs.a.episode, pairs.b.episode)
            found |= {decisions.trajectory(source, int(episode)) for episode in won}
    winners = np.array(sorted(found) or range(len(decisions.names)), np.int64)
    return winners[np.linspace(0, len(winners) - 1, min(len(winners), MOST)).round().astype(np.int64)]
