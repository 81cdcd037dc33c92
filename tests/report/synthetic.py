"""Make-believe run directories in the format of real ones. No number here was measured.

Run it to look at the page: ``python tests/report/synthetic.py <folder>``.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

RELIABILITY = {
    "confidence": [0.552, 0.651, 0.749, 0.853, 0.962],
    "accuracy": [0.547, 0.612, 0.704, 0.815, 0.934],
    "count": [95, 103, 98, 119, 241],
}


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def make_run(
    directory: Path,
    *,
    seed: int = 0,
    task: str = "drawer-open",
    sources: Sequence[str] = ("button-press", "window-open", "faucet-close"),
    method: str = "PEARL",
    successes: dict[str, int] | None = None,
    episodes: int = 50,
    n: int = 104,
    options: dict | None = None,
    film: bool = True,
    accuracy: dict[str, float] | None = None,
) -> Path:
    """Write one run; ``successes`` sets the number of successful episodes of each policy by hand."""
    rng = np.random.default_rng(seed)
    successes = successes or {"PEARL": 42, "behaviour-cloning": 11, "collected data": 19}
    phases = [("collect", 212.4, 611.0), ("label", 3.2, 640.5), ("align", 1.9, 702.25)]
    phases += [("train-reward", 48.6, 811.0), ("train-policy", 121.7, 902.0), ("evaluate", 61.3, 955.5)]
    write_json(
        directory / "run.json",
        {
            "name": f"{method.lower()}-{task}-{seed}",
            "method": method,
            "task": task,
            "seed": seed,
            "command": f"robopref run env.task={task} seed={seed}",
            "status": "complete",
            "started": f"2026-11-2{seed % 10}T08:00:00Z",
            "machine": {"system": "Linux x86_64", "processor": "Make-believe 9000", "cores": 2, "gpu": None},
            "versions": {"robopref": "0.1.0", "python": "3.11.9", "torch": "2.15.0", "numpy": "2.4.1"},
            "phases": [
                {"name": name, "seconds": s, "peak_memory_mib": m, "skipped": name == "collect" and seed == 0}
                for name, s, m in phases
            ],
        },
    )
    settings = "".join(f"{key}: {value}\n" for key, value in (options or {}).items())
    (directory / "config.yaml").write_text(
        f"seed: {seed}\nout: {directory}\nmethod: {method}\n{settings}env:\n  task: {task}\n"
        f"alignment:\n  sources: [{', '.join(sources)}]\n"
        "reward:\n  _target_: robopref.rewards.GaussianReward\n  members: 3\n"
        "policy:\n  _target_: robopref.policies.ImplicitQLearning\n  discount: 0.97\n"
        "labels: postgresql://user:hunter2@example/labels\n"
    )
    _write_log(directory / "log.jsonl", rng)
    _write_alignment(directory / "alignment", rng, n=n, sources=sources, accuracy=accuracy)
    write_json(directory / "reward" / "config.json", {"kind": "gaussian", "config": {}})
    write_json(directory / "policy" / "config.json", {"kind": "iql", "config": {}})
    write_json(
        directory / "reward" / "metrics.json",
        {
            "pair_accuracy": 0.806 + 0.01 * seed,
            "label_accuracy": 0.761,
            "ece": 0.032,
            "reliability": RELIABILITY,
            "held_out_pairs": 656,
        },
    )
    for policy, wins in successes.items():
        _write_evaluation(directory / "evaluation", rng, policy, wins, episodes, task)
    for k in range(2):
        _write_rollout(directory / "evaluation", rng, k, success=k == 0, film=film)
    return directory


def _write_log(path: Path, rng: np.random.Generator) -> None:
    lines, now = [], 1.79e9
    for step in range(50, 1001, 50):
        loss = 0.69 * np.exp(-step / 400) + 0.31 + rng.normal(0, 0.02)
        entry = {"time": now + step, "phase": "train-reward", "step": step, "loss": loss}
        entry["accuracy"] = 0.86 - 0.36 * np.exp(-step / 260) + rng.normal(0, 0.015)
        if step % 100 == 0:
            entry["held_out/accuracy"] = 0.81 - 0.3 * np.exp(-step / 230) + rng.normal(0, 0.008)
            entry["held_out/loss"] = 0.5 * np.exp(-step / 350) + 0.42 + rng.normal(0, 0.01)
        lines.append(entry)
    for step in range(50, 6001, 50):
        value = 2.2 * np.exp(-step / 1500) + 0.4 + rng.normal(0, 0.08)
        policy = 1.4 - 1.1 * (1 - np.exp(-step / 2500)) + rng.normal(0, 0.05)
        entry = {"time": now + step, "phase": "train-policy", "step": step, "value_loss": value}
        lines.append({**entry, "policy_loss": policy, "learning_rate": 1e-3})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_alignment(folder, rng, *, n, sources, accuracy) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    quality = rng.permutation(
        np.concatenate([rng.normal(0.2, 0.15, n // 2), rng.normal(0.9, 0.2, n - n // 2)])
    )
    truth = (quality[:, None] > quality[None, :]) + 0.5 * (quality[:, None] == quality[None, :])
    arrays, votes = {"true_labels": truth.astype(np.float32)}, []
    for source in sources:
        m = n - 8
        source_quality = rng.normal(size=m)
        source_labels = (source_quality[:, None] > source_quality) + 0.5 * np.eye(m)
        rank = np.argsort(np.argsort(quality + rng.normal(0, 0.35, n)))
        plan = np.zeros((m, n))
        plan[np.argsort(source_quality)[rank * m // n], np.arange(n)] = 1 / n
        share = plan / plan.sum(0)
        votes.append(share.T @ source_labels @ share)
        arrays[f"coupling/{source}"] = plan
        arrays[f"source_labels/{source}"] = source_labels.astype(np.float32)
    labels = np.mean(votes, axis=0)
    np.fill_diagonal(labels, 0.5)
    arrays |= {"labels": labels.astype(np.float32), "confidence": np.abs(2 * labels - 1).astype(np.float32)}
    np.savez_compressed(folder / "arrays.npz", **arrays)
    accuracy = accuracy or {
        "transfer": 0.761,
        "shuffled": 0.496,
        "wasserstein": 0.748,
        "medoid": 0.701,
        "hand_object": 0.732,
    }
    write_json(
        folder / "record.json", {"accuracy": accuracy, "settings": {"sources": dict.fromkeys(sources, n - 8)}}
    )


def _write_evaluation(folder, rng, policy, wins, episodes, task) -> None:
    succeeded = np.zeros(episodes, dtype=bool)
    succeeded[rng.permutation(episodes)[:wins]] = True
    returns = np.where(succeeded, 900, 240) + rng.normal(0, 40, episodes).round(1)
    write_json(
        folder / f"{policy}.json",
        {
            "policy": policy,
            "task": task,
            "env_id": f"robopref/mw-{task}-v0",
            "seeds": list(range(1000, 1000 + episodes)),
            "successes": succeeded.tolist(),
            "returns": returns.tolist(),
            "summary": {"n": episodes, "successes": wins, "rate": wins / episodes},
        },
    )


def _write_rollout(folder, rng, k, *, success, film) -> None:
    steps = 150
    t = np.arange(steps)
    true = 10 / (1 + np.exp(-(t - 80) / 12)) if success else 2.5 + 1.5 * np.sin(t / 30)
    predicted = 0.12 * true - 0.4 + rng.normal(0, 0.03, steps).cumsum() * 0.15
    np.savez(
        folder / f"rollout-{k}.npz",
        rewards=true + rng.normal(0, 0.1, steps),
        predicted_rewards=predicted,
        predicted_deviation=0.08 + 0.05 * np.abs(np.sin(t / 25)),
        successes=(t >= 104) & success,
    )
    about = {"seed": 1000 + k, "policy": "PEARL", "success": success, "drawn_by": "renderer", "reason": None}
    write_json(folder / f"rollout-{k}.json", about)
    if film:
        write_film(folder / f"rollout-{k}.mp4", steps)


def write_film(path: Path, steps: int) -> None:
    """A disc that crosses a table: enough to see whether film and cursor agree."""
    import imageio.v3 as iio

    y, x = np.mgrid[:160, :160]
    frames = []
    for t in range(0, steps, 3):
        frame = np.full((160, 160, 3), (178, 190, 200), dtype=np.uint8)
        frame[110:] = (140, 120, 100)
        frame[(x - 15 - 130 * t / steps) ** 2 + (y - 100) ** 2 < 150] = (200, 60, 40)
        frames.append(frame)
    iio.imwrite(path, np.array(frames), plugin="FFMPEG", fps=10, macro_block_size=1)


def main(folder: Path) -> None:
    from robopref.report.groups import gather
    from robopref.report.page import write_report

    make_run(folder / "one")
    print(write_report(gather([folder / "one"]), folder / "one.html"))
    for seed in range(3):
        make_run(folder / "many" / f"a{seed}", seed=seed, successes={"PEARL": 42 - 6 * seed, "bc": 11})
        make_run(
            folder / "many" / f"b{seed}",
            seed=seed,
            task="door-close",
            options={"held_out": 0.2},
            successes={"PEARL": 30 + seed, "behaviour-cloning": 25},
            accuracy={"transfer": 0.404, "shuffled": 0.51, "wasserstein": 0.778 + seed / 100},
        )
    print(write_report(gather([folder / "many"]), folder / "many.html"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
