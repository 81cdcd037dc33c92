"""All environments: how often the expert succeeds, and how fast they are; with --page, docs/ too.

    python scripts/bench/environments.py [--only scenes|robosuite|metaworld] [--episodes 10] [--page]

Speeds are control steps with random actions: of one environment per CPU second, which a busy machine changes
less than it does wall time; of a vector on two cores per second of wall time, which wants an idle machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as imageio
import numpy as np
from scipy.stats import binomtest

from robopref.data.language import INSTRUCTIONS
from robopref.envs import SCENES
from robopref.envs.bounds import LARGEST
from robopref.envs.metaworld.tasks import environment_id as metaworld_id
from robopref.envs.robosuite.tasks import TASKS as ROBOSUITE
from robopref.envs.robosuite.tasks import environment_id as robosuite_id
from robopref.training.run import processor

DOCS = Path(__file__).parents[2] / "docs"
FIRST_SEED, CORES = 1000, 2
FRESH_SEED, FRESH_EPISODES = 100, 20
FAMILIES = {
    "scenes": list(SCENES),
    "robosuite": [robosuite_id(task) for task in ROBOSUITE],
    "metaworld": [metaworld_id(task) for task in INSTRUCTIONS],
}
TITLES = {
    "scenes": "Scenes of our own (`env=planar`, `rope`, `pile`, `table`)",
    "robosuite": "robosuite (`env=robosuite env.task=can`)",
    "metaworld": "Meta-World (`env=metaworld env.task=drawer-open`), ten of its fifty tasks",
}
CONVENTIONS = {
    "rope": "deformable/rope",
    "pile": "deformable/pile",
    "point clouds": "deformable/cloud",
    "planar": "planar/scene",
    "table": "table/scene",
    "table-group": "table/group",
    "table-avoid": "table/avoid",
    "table-handle": "table/handle",
    "robosuite": "robosuite/environment",
    "Meta-World": "metaworld/environment",
}
"""Modules below envs/ that say what the numbers of observations and actions mean."""
HEAD = """
| id | picture | observation, action | horizon | expert succeeds | single | vector |
|---|---|---|---|---|---|---|
"""


def make(env_id: str, **options: Any) -> Any:
    """Make one environment without Gymnasium's wrappers."""
    return gymnasium.make(f"robopref.envs:{env_id}", disable_env_checker=True, **options).unwrapped


def successes(env: Any, episodes: int, *, ever: bool, first_seed: int = FIRST_SEED) -> int:
    """Count the expert's episodes with success at their end, or at any step."""
    count = 0
    for seed in range(first_seed, first_seed + episodes):
        observation, info = env.reset(seed=seed)
        act = env.behaviour("expert", np.random.default_rng(seed))
        done = False
        for _ in range(env.horizon):
            observation, *_, info = env.step(act(observation))
            done = info["success"] or (ever and done)
        count += bool(done)
    return count


def share(count: int, episodes: int) -> str:
    """Return a share with Wilson's interval."""
    interval = binomtest(count, episodes).proportion_ci(method="wilson")
    return f"{count}/{episodes} [{interval.low:.2f}, {interval.high:.2f}]"


def rate(envs: Any, steps: int, clock: Callable[[], float]) -> float:
    """Return steps per second of a clock."""
    envs.reset(seed=0)
    rng, begun = np.random.default_rng(0), clock()
    for _ in range(steps):
        envs.step(rng.uniform(-1, 1, envs.action_space.shape))
    return steps / (clock() - begun)


def vector_rate(env_id: str, episodes: int, steps: int) -> float:
    """Return control steps per second on two cores: many episodes on threads, or two processes with one."""
    if env_id in SCENES:
        how: dict[str, Any] = {"vectorization_mode": "vector_entry_point", "threads": CORES}
    else:
        episodes = CORES
        how = {"vectorization_mode": "async", "vector_kwargs": {"context": "spawn"}, "horizon": 10**6}
    envs = gymnasium.make_vec(f"robopref.envs:{env_id}", num_envs=episodes, **how)
    try:
        return episodes * rate(envs, steps, time.perf_counter)
    finally:
        envs.close()


def row(env_id: str, episodes: int, vector: int, *, page: bool) -> str:
    """Measure one environment; returns its row of the table."""
    env = make(env_id, render_mode="rgb_array" if page else None, width=160, height=160)
    slow = env.control_hz < 5
    count = successes(env, episodes, ever=env_id in FAMILIES["metaworld"])
    name = env_id.removeprefix("robopref/").removesuffix("-v0")
    if page:
        env.reset(seed=0)
        imageio.imwrite(DOCS / "images" / f"env-{name}.png", env.render())
    single = rate(make(env_id, horizon=10**6), 20 if slow else 300, time.process_time)
    many = vector_rate(env_id, vector, 1 if slow else 100)
    env.close()
    sizes = f"{env.observation_space.shape[0]}, {env.action_space.shape[0]}"
    return (
        f"| `{env_id}` | ![{name}](images/env-{name}.png) | {sizes} | {env.horizon} "
        f"| {share(count, episodes)} | {single:.0f} | {many:.0f} |"
    )


def kept(title: str) -> str:
    """Return a section as the page has it."""
    page = (DOCS / "envs.md").read_text()
    text = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return f"\n## {title}\n{text.rstrip()}\n"


def section(family: str, rows: list[str], about: str) -> str:
    """Return what was measured of a family now."""
    packages = ("mujoco", "metaworld", "robosuite", "gymnasium", "numpy")
    pins = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    head = f"Measured on {time.strftime('%Y-%m-%d')}, {CORES} cores of {processor()}; {pins}.\n"
    return f"\n## {TITLES[family]}\n\n{head}{about}" + HEAD + "\n".join(rows) + "\n"


def about_robosuite(steps: Path) -> str:
    """Return how Square's expert does on seeds that it was not tuned on, and what robosuite_step.py found."""
    name = robosuite_id("square")
    count = successes(make(name), FRESH_EPISODES, ever=False, first_seed=FRESH_SEED)
    text = (
        f"\nThe expert of `rs-square` was tuned on the seeds of the table; from seed {FRESH_SEED} on it "
        f"succeeds in {share(count, FRESH_EPISODES)}, not\nquite a fresh sample: failures there showed that "
        "it lifted before the fingers had closed.\n"
    )
    found = json.loads(steps.read_text())
    times = ", ".join(f"{task} {ratio:.2f}" for task, ratio in found["times_as_many"].items())
    return text + (
        f"\nSteps are robosuite's to the last bit, and so many times as many per CPU second: {times}. "
        f"Two\nprocesses collect {found['two_processes']:.2f} times as fast as one "
        f"(`scripts/bench/robosuite_step.py --episodes {found['episodes']}`, {found['date']}).\n"
    )


def page_of(sections: list[str], episodes: int, vector: int) -> str:
    """Return docs/envs.md."""
    text = (
        "# Environments\n\n"
        f"Made by `python scripts/bench/environments.py --episodes {episodes} --page` (`--only` measures "
        f"one part anew):\nexpert from seed {FIRST_SEED} on, success at the end of the episode (Meta-World: "
        "at any step, as its authors\ncount), 95 % Wilson interval; control steps with random actions of one "
        f"environment per CPU second, and of a\nvector per second on {CORES} cores: {vector} of our own "
        "scenes on threads, of others one in each of two processes,\nwhich wait for each other at every step "
        "(collection does not). A step of the rope and of the pile is a whole\nprimitive. Actions lie in "
        "[-1, 1]. Gymnasium's `env_checker` has no complaint about any id, its warnings\nincluded "
        "(`uv run pytest -m slow tests/envs/test_checker.py`). A snapshot restored goes on as the first "
        "time, to the\nlast bit (`uv run pytest tests/envs -k a_restored_episode`).\n\n"
        f"The tables show {sum(map(len, FAMILIES.values()))} of {len(ids())} ids. The others are the further "
        "tasks of Meta-World (`robopref/mw-<task>-v0`: same sizes,\nhorizon, checks and snapshots, but "
        "their experts are not counted here), and `robopref/playback-v0`, which shows recorded\nstates: it "
        "has no task, no expert and no horizon.\n\n"
        "What each number of an observation and an action means, in which unit and frame, the modules say "
        f"at their top:\n{conventions()}.\n\n"
        f"Bounds of observations are not made for normalising: where none is known they are ±{LARGEST:g}, "
        "which says that physics\nwent well and no more, and Gymnasium's `RescaleObservation` would squeeze "
        "such numbers to nothing. Policies and rewards\nhere normalise by what the data hold.\n"
    )
    return text + "".join(sections) + kept("On a GPU")


def ids() -> list[str]:
    """Return every id that is registered."""
    return sorted(name for name in gymnasium.registry if name.startswith("robopref/"))


def conventions() -> str:
    """Return links to where observations and actions are described."""
    return ",\n".join(f"[{name}](../envs/{module}.py)" for name, module in CONVENTIONS.items())


def language_page(rows: list[str]) -> str:
    """Return docs/language.md: what each task is called, and how often its expert does it."""
    text = (
        "# Ten tasks with instructions\n\n"
        "A benchmark for small vision-language-action models: ten Meta-World tasks that can be asked for in "
        "words,\nwith frames and scripted experts. Sentences to train with, and held-out ones that put known "
        "words together\nanew or use words that no training sees, are in `robopref.data.language`; "
        "`policy=vla` learns from them\n([grape.md](grape.md)). Pictures and experts' success as in "
        "[envs.md](envs.md), made by the same command.\n\n"
        "| task | | expert succeeds | to train with | held out |\n|---|---|---|---|---|\n"
    )
    for task, measured in zip(INSTRUCTIONS, rows, strict=True):
        _, _, picture, _, _, share, *_ = (part.strip() for part in measured.split("|"))
        words = INSTRUCTIONS[task]
        text += f"| {task} | {picture} | {share} | {'; '.join(words.seen)} | {'; '.join(words.held_out)} |\n"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write the pages if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--vector", type=int, default=64)
    parser.add_argument("--steps", type=Path, default=Path("outputs/bench/robosuite-step.json"))
    parser.add_argument("--page", action="store_true", help="write docs/envs.md, language.md and pictures")
    options = parser.parse_args(arguments)
    if options.page and options.only in (None, "robosuite") and not options.steps.exists():
        parser.error(
            f"{options.steps} does not exist, and the page says what it holds; python "
            "scripts/bench/robosuite_step.py --episodes 64 makes it"
        )
    sections = []
    for family, ids in FAMILIES.items():
        if options.only not in (None, family):
            sections.append(kept(TITLES[family]))
            continue
        rows = []
        for env_id in ids:
            rows.append(row(env_id, options.episodes, options.vector, page=options.page))
            print(rows[-1], flush=True)
        about = about_robosuite(options.steps) if family == "robosuite" and options.page else ""
        sections.append(section(family, rows, about))
        if options.page and family == "metaworld":
            (DOCS / "language.md").write_text(language_page(rows))
    if options.page:
        (DOCS / "envs.md").write_text(page_of(sections, options.episodes, options.vector))


if __name__ == "__main__":
    main()
