"""Trials of policies that see are told apart by what they really began with."""

import numpy as np

from robopref.methods.components import Hardware, Sampling
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla_trials import Axis, _summary, trial_seeds
from robopref.training.results import EVALUATION_SEEDS
from robopref.training.run import Run
from robopref.training.signals import keep_signals
from tests.training.test_rollouts import collected


def seeds_of(tmp_path, seed):
    record = Run(tmp_path / f"{seed}", name="x", method="grape", task="x", seed=seed, config="")
    return trial_seeds(Lab(record, Hardware(), seed), ["drawer-open", "door-close"], Axis(), 3, Sampling())


def test_no_two_tasks_or_runs_are_tried_from_the_same_states(tmp_path):
    found = [s for seed in (0, 1, 7) for seeds in seeds_of(tmp_path, seed).values() for s in seeds]
    assert len(set(found)) == len(found) == 3 * 2 * 3
    assert min(found) == EVALUATION_SEEDS


def test_an_evaluation_holds_the_seeds_that_its_episodes_began_with(tmp_path):
    stores = {
        "here": collected(tmp_path / "a", repeats=1, seeds=(11, 4), deterministic=True),
        "there": collected(tmp_path / "b", repeats=1, seeds=(9, 2, 5), deterministic=True),
    }
    for store in stores.values():
        states = int(store.lengths[0]) + 1
        touched = [np.full(states, float(episode == 1)) for episode in range(len(store))]
        keep_signals(store, [{"collision": column} for column in touched])
    evaluation, summary = _summary("policy", stores)
    assert evaluation.seeds.tolist() == [11, 4, 9, 2, 5]
    assert summary["episodes"]["task"] == ["here", "here", "there", "there", "there"]
    assert summary["episodes"]["collision"] == [False, True, False, True, False]
    assert summary["collision"] == 2 / 5
