"""Ranking what a diffusion policy proposes: against K and the number of labels, on paired initial states.

    python scripts/bench/deformpam.py --tasks rope pile --seeds 0 1 2     # some 25 minutes of CPU time;
                                                                          # run again to go on
    python scripts/bench/deformpam.py --page table.md                     # what has been measured so far
    python scripts/bench/deformpam.py --picture docs/images/deformpam.png # the same, drawn, with films
    python scripts/bench/deformpam.py --primitives                        # what is gained when, played again
    python scripts/bench/deformpam.py --latency                           # of one decision, torch eager

Every number comes from a run directory under --out, whose finished phases are not repeated, so a later call
goes on where this one was stopped, and several calls may work on different tasks and seeds at once.
``--minutes`` begins nothing new after so long. Overrides of the experiment may follow ``--``, such as ``--
training.clone.steps=1000``; other overrides need another --out.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from t_interval import half_width

from robopref.cli import build
from robopref.cli.launch import register_resolvers
from robopref.files import write_text
from robopref.methods.deformpam import DeformPAM
from robopref.methods.phases.candidates import (
    evaluate_ranked,
    label_candidates,
    prefer,
    train_candidate_reward,
)
from robopref.methods.phases.collect import collect
from robopref.methods.phases.direct import clone_reference
from robopref.methods.phases.lab import Lab
from robopref.policies.diffusion import DiffusionPolicy
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy
from robopref.rewards.candidates import (
    CandidateReward,
    ExplicitReward,
    ImplicitReward,
    ProductReward,
    RankedPolicy,
)
from robopref.rewards.saved import load_reward
from robopref.training.evaluation import evaluation_seeds
from robopref.training.results import Evaluation
from robopref.training.rollout import make_environment
from robopref.training.run import Run, processor

COUNTS = (2, 4, 8, 16, 32, 64)  # 1 is random-of-K
RANKINGS = ("implicit", "explicit", "product")
MORE = {2: "supervised, twice the data", 4: "supervised, four times the data"}
KEYS = ("task", "seed", "what", "count", "states")
Cell = tuple[str, int, int, Path]  # what, candidates, labelled states, where its evaluation is


def cells(task: str, seed: int, arguments: argparse.Namespace) -> Iterator[Cell]:
    """Every evaluation of one task and seed, one by one; the most telling first."""
    parts, record, lab = opened(task, seed, arguments)
    scene, labels, usual = parts.target, arguments.labels, parts.selection.count
    demonstrations = collect(lab, scene, parts.collection, parts.data_dir)
    views: dict[str, Any] = {"symmetry": parts.symmetry}
    supervised = clone_reference(lab, parts.policy, demonstrations, parts.clone_fit, **views)

    def attempt(what: str, count: int, states: int, **how: Any) -> Cell:
        name = f"{what}-K{count}-N{states}".replace(",", "").replace(" ", "-")
        chosen = {"draws": parts.selection.draws, "caution": parts.selection.caution}
        how = {"proposer": supervised, "ranking": what, "count": count, **chosen, **how}
        evaluate_ranked(lab, name, scene, parts.evaluation, **how)
        return what, count, states, record.directory / "evaluation" / f"{name}.json"

    yield attempt("supervised", 1, 0, ranking="sample")
    yield attempt("random", usual, 0)
    candidates = label_candidates(lab, scene, supervised, states=max(labels), count=parts.selection.labelled)

    def learned(states: int) -> dict[str, Path]:
        name, how = f"N{states}", {"states": states, **views}
        preferred = prefer(
            lab, f"policy-{name}", parts.policy, candidates, supervised, parts.policy_fit, **how
        )
        reward = train_candidate_reward(
            lab, f"reward-{name}", parts.reward, candidates, parts.reward_fit, **how
        )
        return {"preferred": preferred, "reward": reward}

    most = learned(max(labels))
    yield attempt("DPO sampling", 1, max(labels), ranking="sample", proposer=most["preferred"])
    for ranking in RANKINGS:
        yield attempt(ranking, usual, max(labels), **most)
    for times, what in MORE.items():
        larger = dataclasses.replace(parts.collection, episodes=times * parts.collection.episodes)
        more = collect(lab, scene, larger, parts.data_dir, name=f"times-{times}")
        policy = clone_reference(
            lab, parts.policy, more, parts.clone_fit, name=f"reference-times-{times}", **views
        )
        yield attempt(what, 1, 0, ranking="sample", proposer=policy)
    for states in sorted(set(labels) - {max(labels)}, reverse=True):
        models = learned(states)
        yield attempt("DPO sampling", 1, states, ranking="sample", proposer=models["preferred"])
        for ranking in RANKINGS:
            yield attempt(ranking, usual, states, **models)
    for count in (c for c in arguments.counts if c != usual):
        for ranking in RANKINGS:
            yield attempt(ranking, count, max(labels), **most)
    record.finish()


def opened(task: str, seed: int, arguments: argparse.Namespace) -> tuple[DeformPAM, Run, Lab]:
    """The parts of the experiment for one task and seed, and where they work."""
    register_resolvers()
    overrides = ["experiment=deformpam", f"env={task}", f"seed={seed}", "workers=0", "threads=1"]
    with initialize_config_module("robopref.conf", version_base="1.3"):
        config = compose("run", [*overrides, "wandb.mode=disabled", *arguments.overrides])
    parts = build.deformpam(config)
    folder = arguments.out / task / f"seed{seed}"
    record = Run(
        folder,
        name=f"deformpam/{task}/seed{seed}",
        method="deformpam",
        task=parts.target.task,
        seed=seed,
        config=OmegaConf.to_yaml(config, resolve=False),
        say=print,
    )
    return parts, record, Lab(record, parts.hardware, seed)


def measure(arguments: argparse.Namespace) -> None:
    """Go through all cells until the time is over; each is a line of cells.jsonl, once."""
    until = time.monotonic() + 60 * arguments.minutes
    path = arguments.out / "cells.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {tuple(line[k] for k in KEYS) for line in lines(path)}
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for what, count, states, where in cells(task, seed, arguments):
                key = (task, seed, what, count, states)
                if key not in known:
                    found = Evaluation.load(where)
                    line: dict[str, Any] = dict(zip(KEYS, key, strict=True))
                    line |= {"overrides": arguments.overrides, "returns": found.returns.tolist()}
                    line |= {"seeds": found.seeds.tolist(), "successes": int(found.successes.sum())}
                    with path.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                if time.monotonic() > until:
                    return


def lines(path: Path) -> list[dict[str, Any]]:
    """All cells so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


Found = dict[tuple[str, int, int], dict[int, dict[str, Any]]]  # (what, K, labelled states) -> seed -> cell


def by_task(arguments: argparse.Namespace) -> dict[str, Found]:
    """The cells so far, in the order in which they were measured."""
    tasks: dict[str, Found] = {task: {} for task in arguments.tasks}
    for line in lines(arguments.out / "cells.jsonl"):
        key = (line["what"], line["count"], line["states"])
        tasks.setdefault(line["task"], {}).setdefault(key, {})[line["seed"]] = line
    return {task: found for task, found in tasks.items() if found}


def gains(found: Found, key: tuple[str, int, int], base: tuple[str, int, int]) -> dict[int, np.ndarray]:
    """By seed, how much more each initial state earned than under ``base``."""
    mine, other = found.get(key, {}), found.get(base, {})
    return {s: np.subtract(mine[s]["returns"], other[s]["returns"]) for s in sorted(mine) if s in other}


def page(arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    text = []
    for task, found in by_task(arguments).items():
        text += [f"### {task}", ""]
        text += ["| what | K | ranked states | return | success | gain over supervised | by seed |"]
        text += ["|---|--:|--:|--:|--:|---|---|"]
        for (what, count, states), cells_of in found.items():
            differences = gains(found, (what, count, states), ("supervised", 1, 0))
            cell = [cells_of[seed] for seed in sorted(cells_of)]
            rate = sum(x["successes"] for x in cell) / sum(len(x["returns"]) for x in cell)
            text.append(
                f"| {what} | {count} | {states} | {np.mean([x['returns'] for x in cell]):.2f} | {rate:.0%} | "
                f"{interval(differences)} | {', '.join(f'{d.mean():.2f}' for d in differences.values())} |"
            )
        text += ["", *duels(found, arguments), "", *gates(task, arguments), ""]
    return "\n".join(text)


def duels(found: Found, arguments: argparse.Namespace) -> list[str]:
    """Each ranking with the usual K and all labels against a random choice and all that sample once."""
    others = [key for key in found if key[1] == 1 and key[2] in (0, max(arguments.labels))]
    others += [key for key in found if key[0] == "random"]
    text = ["| gain of | " + " | ".join(f"over {what}" for what, _, _ in others) + " |"]
    text += ["|---|" + "---|" * len(others)]
    for ranking in RANKINGS:
        key = (ranking, arguments.usual, max(arguments.labels))
        text.append(f"| {ranking} | " + " | ".join(interval(gains(found, key, o)) for o in others) + " |")
    return text


def gates(task: str, arguments: argparse.Namespace) -> list[str]:
    """Of the policies from preferences: pairs ordered right, samples' error in the reference's, collapses."""
    text = [
        "| policy of | pairs ordered right | error of samples / reference's | collapsed |",
        "|---|---|---|--:|",
    ]
    for states in sorted(arguments.labels):
        files = sorted((arguments.out / task).glob(f"seed*/policy-N{states}/metrics.json"))
        if not files:
            continue
        found = [json.loads(file.read_text()) for file in files]
        right = ", ".join(f"{one['accuracy']:.0%}" for one in found)
        verdicts = [one["gate"] for one in found]
        ratios = [one["sampled_error"] / one["reference_sampled_error"] for one in verdicts]
        collapsed = sum(one["collapsed"] for one in verdicts)
        text.append(
            f"| {states} ranked states | {right} | {', '.join(f'{x:.2g}' for x in ratios)} | "
            f"{collapsed} of {len(found)} |"
        )
    return text


def interval(differences: dict[int, np.ndarray]) -> str:
    """Mean with the half-width of the t interval over all pairs of episodes; empty where there are none."""
    if not differences:
        return ""
    values = np.concatenate(list(differences.values()))
    return f"{values.mean():+.2f} ± {half_width(values):.2f}"


def picture(arguments: argparse.Namespace, path: Path) -> None:
    """Draw gains against K and against the labels, and what two policies make of the same initial states."""
    from matplotlib.figure import Figure

    tasks = by_task(arguments)
    figure = Figure(figsize=(11, 3.2 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), 3, width_ratios=(2, 2, 3), squeeze=False)
    for (task, found), (against_k, against_n, films) in zip(tasks.items(), grid, strict=True):
        most, usual = max(arguments.labels), arguments.usual
        for ranking in RANKINGS:
            _curve(against_k, found, [(ranking, k, most) for k in arguments.counts], 1, ranking)
            _curve(against_n, found, [(ranking, usual, n) for n in arguments.labels], 2, ranking)
        single = [("DPO sampling", 1, n) for n in arguments.labels]
        _curve(against_n, found, single, 2, "DPO sampling")
        for axes, label in ((against_k, "candidates K"), (against_n, "ranked states")):
            axes.set_xscale("log", base=2)
            axes.set_xlabel(label)
            axes.axhline(0, color="0.6", linewidth=0.8)
        for times, what in MORE.items():
            more = gains(found, (what, 1, 0), ("supervised", 1, 0))
            if more:
                level = float(np.concatenate(list(more.values())).mean())
                against_k.axhline(level, color="0.6", linestyle=":")
                against_k.text(arguments.counts[0], level, f" data x {times}", fontsize=7, va="bottom")
        against_k.set_ylabel(f"{task}: gain over supervised")
        against_k.legend(fontsize=7)
        against_n.legend(fontsize=7)
        films.imshow(_films(task, arguments))
        films.set_title("from above: start, end of supervised, end of implicit ranking", fontsize=8)
        films.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _curve(axes: Any, found: Found, keys: list[tuple[str, int, int]], place: int, label: str) -> None:
    """Mean gains with their intervals along one entry of the keys."""
    values = {k[place]: gains(found, k, ("supervised", 1, 0)) for k in keys}
    pooled = {x: np.concatenate(list(v.values())) for x, v in values.items() if v}
    means, halves = [v.mean() for v in pooled.values()], [half_width(v) for v in pooled.values()]
    axes.errorbar(list(pooled), means, halves, marker="o", markersize=3, capsize=2, label=label)


def play(env: Any, policy: Any, observation: np.ndarray, seed: int) -> list[float]:
    """What each primitive of an episode earns; draws what an evaluation from this seed draws."""
    generator, over, rewards = torch.Generator().manual_seed(seed), False, []
    while not over:
        seen = torch.as_tensor(observation, dtype=torch.float32)[None]
        action = policy.act(seen, generator=generator)[0, 0].numpy()
        observation, reward, _, over, _ = env.step(action)
        rewards.append(float(reward))
    return rewards


class Oracle:
    """Tries every proposal out and takes the one that earns most now: what a faultless ranking could do."""

    def __init__(self, policy: Any, env: Any, count: int) -> None:
        self._policy, self._simulator, self._count = policy, env.unwrapped, count

    def act(self, observations: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """The best proposal, (1, 1, A)."""
        chunks = self._policy.sample(observations, self._count, generator=generator)[0]
        before, rewards = self._simulator.snapshot(), []
        for chunk in chunks:
            rewards.append(self._simulator.step(chunk[0].numpy())[1])
            self._simulator.restore(before)
        return chunks[None, int(np.argmax(rewards))]


def by_primitive(task: str, arguments: argparse.Namespace) -> str:
    """Return of the supervised policy after each primitive, and gains over it, as Markdown."""
    earned: dict[str, list[np.ndarray]] = {}
    for seed in arguments.seeds:
        parts, record, lab = opened(task, seed, arguments)
        _ = lab.fabric  # Triton before Mesa
        folder, most = record.directory, max(arguments.labels)
        chosen, supervised = parts.selection, load_policy(folder / "reference")
        implicit = ImplicitReward(cast(Any, load_policy(folder / f"policy-N{most}")), draws=chosen.draws)
        explicit = ExplicitReward(cast(Any, load_reward(folder / f"reward-N{most}")))
        scorers = {
            "random": None,
            "implicit": implicit,
            "explicit": explicit,
            "product": ProductReward(implicit, explicit),
        }
        policies: dict[str, Any] = {"supervised": supervised} | {
            MORE[n]: load_policy(folder / f"reference-times-{n}") for n in MORE
        }
        how = {"count": arguments.usual, "caution": chosen.caution}
        policies |= {n: RankedPolicy(supervised, scorer, **how) for n, scorer in scorers.items()}
        env = make_environment(parts.target.id, parts.target.options)
        policies["oracle"] = Oracle(supervised, env, arguments.usual)
        seeds = evaluation_seeds(parts.evaluation.episodes, seed * parts.evaluation.episodes)
        for name, policy in policies.items():
            rewards = [play(env, policy, env.reset(seed=s)[0], s) for s in seeds]
            earned.setdefault(name, []).append(np.cumsum(rewards, 1))
        env.close()
        record.finish()
    after = {name: np.concatenate(values) for name, values in earned.items()}
    count = after["supervised"].shape[1]
    text = [f"### {task}", "", "| after primitive | " + " | ".join(map(str, range(1, count + 1))) + " |"]
    text += ["|---|" + "--:|" * count]
    text += [f"| supervised, return | {' | '.join(f'{x:.2f}' for x in after['supervised'].mean(0))} |"]
    for name, values in after.items():
        if name != "supervised":
            gain = [interval({0: column}) for column in (values - after["supervised"]).T]
            text.append(f"| {name} | {' | '.join(gain)} |")
    return "\n".join(text) + "\n"


def _films(task: str, arguments: argparse.Namespace, states: int = 4) -> np.ndarray:
    """Start, and end under the supervised policy and under implicit ranking, of some initial states."""
    parts, record, lab = opened(task, arguments.seeds[0], arguments)
    _ = lab.fabric  # Triton before Mesa
    supervised = load_policy(record.directory / "reference")
    preferred: Any = load_policy(record.directory / f"policy-N{max(arguments.labels)}")
    ranked = RankedPolicy(supervised, ImplicitReward(preferred), count=arguments.usual)
    view = {"camera": "top", "width": 120, "height": 120}
    env = make_environment(parts.target.id, {**parts.target.options, **view}, render_mode="rgb_array")
    rows = []
    for seed in evaluation_seeds(states, lab.seed * parts.evaluation.episodes):
        row = []
        for policy in (supervised, ranked):
            observation, _ = env.reset(seed=seed)
            row = row or [env.render()]
            play(env, policy, observation, seed)
            row.append(env.render())
        rows.append(np.concatenate(row, 0))
    env.close()
    return np.concatenate(rows, 1)


def latency(repeats: int = 200) -> str:
    """Wall and process milliseconds of a decision, torch eager on one thread."""
    torch.set_num_threads(1)
    backbone = {"kind": "mlp", "hidden": [256, 256, 256]}
    policy = DiffusionPolicy(39, 4, horizon=8, backbone=backbone)
    preferred = PreferencePolicy(39, 4, actor={"kind": "diffusion", "horizon": 8, "backbone": backbone})
    reward = CandidateReward(39, 4, horizon=8, members=3)
    generator, seen = torch.Generator().manual_seed(0), torch.zeros(1, 39)
    candidates = policy.sample(seen, 64, generator=generator)
    ranked = RankedPolicy(policy, ImplicitReward(preferred, draws=16), count=16)
    explicit = RankedPolicy(policy, ExplicitReward(reward), count=16)
    works = {
        "64 candidates through the ensemble of 3": lambda: reward.doubt(seen, candidates),
        "DDIM-10 of 16, explicit ranking": lambda: explicit.act(seen, generator=generator),
        "DDIM-10 of 16, implicit ranking (16 draws)": lambda: ranked.act(seen, generator=generator),
    }
    text = ["| decision | wall ms, p50 / p99 | process ms, p50 / p99 |", "|---|--:|--:|"]
    for name, work in works.items():
        walls, cpus = [], []
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            walls.append(1e3 * (time.perf_counter() - wall))
            cpus.append(1e3 * (time.process_time() - cpu))
        wall, cpu = (np.percentile(values[repeats // 10 :], [50, 99]) for values in (walls, cpus))
        text.append(f"| {name} | {wall[0]:.1f} / {wall[1]:.1f} | {cpu[0]:.1f} / {cpu[1]:.1f} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="*", default=["rope", "pile"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--counts", nargs="*", type=int, default=list(COUNTS))
    parser.add_argument("--labels", nargs="*", type=int, default=[20, 40, 80])
    parser.add_argument("--usual", type=int, default=8, help="K of the experiment, selection.count")
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/deformpam"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--primitives", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("overrides", nargs="*", help="of the experiment, after --")
    arguments = parser.parse_args()
    if arguments.latency:
        print(f"{processor()}, torch {torch.__version__}\n\n{latency()}")
    elif arguments.primitives:
        for task in arguments.tasks:
            print(by_primitive(task, arguments))
    elif arguments.picture:
        picture(arguments, arguments.picture)
    elif arguments.page:
        write_text(arguments.page, page(arguments))
    else:
        measure(arguments)
        print(page(arguments))


if __name__ == "__main__":
    main()
