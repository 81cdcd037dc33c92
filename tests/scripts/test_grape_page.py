"""Tables of GRAPE's results: numbers by hand, pairs that belong together, and no stale or foreign run."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from robopref.errors import ConfigError, DataError

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(BENCH))  # the benchmarks import each other by their bare names
    grape_page, grape_runs = (importlib.import_module(name) for name in ("grape_page", "grape_runs"))
AXES = ("in-domain", "object", "camera", "training-starts")


def episodes(successes, *, steps=10, first=0):
    count = len(successes)
    columns = {
        "task": ["a"] * (count // 2) + ["b"] * (count - count // 2),
        "seed": list(range(first, first + count)),
        "success": [bool(s) for s in successes],
        "collision": [False] * count,
        "steps": [steps] * count,
    }
    return {"rate": float(np.mean(successes)), "episodes": columns}


def finished(seed, policies, **changes):
    results = {name: {axis: episodes(s, first=4 * seed) for axis in AXES} for name, s in policies.items()}
    gate = {"start_error": 0.2, "error": 0.1, "chosen_change": 0.3, "collapsed": False, "reason": ""}
    gate |= {"kl": 0.123, "kl_from_first": None}
    given = {
        "results": {**results, "grape": results["supervised"]},
        "gates": dict.fromkeys([name for name in policies if name != "supervised"], gate),
        "kept": "supervised",
        "phases": {"collect/a": 60.0, "trials/grape/camera": 120.0},
        "machine": {"processor": "a clock", "cores": 1, "gpu": None},
        "started": "2026-11-21T00:00:00Z",
        "command": f"robopref run experiment=grape seed={seed} out=there data_dir=here",
        "config": {"seed": seed, "out": f"there/{seed}", "grape": {"rounds": 1}},
    }
    return grape_runs.Finished(seed, **{**given, **changes})


def test_every_policy_of_any_run_has_its_lines_and_says_of_how_many_runs():
    runs = [
        finished(0, {"supervised": [1, 0, 0, 0]}),
        finished(1, {"supervised": [1, 1, 0, 0], "safety": [1, 1, 1, 0]}),
    ]
    lines = {tuple(line.split(" | ")[:2]): line for line in grape_page.levels(runs).splitlines()}
    assert "| 2 | 8 | 37.5% |" in lines["| supervised", "in-domain"]
    late = lines["| safety", "camera"]
    assert "| 1 | 4 | 75.0% |" in late
    assert late.endswith("| -, 75% |")


def test_a_policy_that_was_tried_along_more_axes_in_one_run_has_their_lines():
    """As ``<variant>-kept``: the variant, which may be tried along few, or the start, along all."""
    few, all_axes = (finished(seed, {"supervised": [1, 0], "filtered-bc-kept": [1, 0]}) for seed in range(2))
    kept = {"in-domain": few.results["filtered-bc-kept"]["in-domain"]}
    few = dataclasses.replace(few, results={**few.results, "filtered-bc-kept": kept})
    lines = {tuple(line.split(" | ")[:2]): line for line in grape_page.levels([few, all_axes]).splitlines()}
    assert "| 2 | 4 | 50.0% |" in lines["| filtered-bc-kept", "in-domain"]
    assert "| 1 | 2 | 50.0% |" in lines["| filtered-bc-kept", "camera"]


def test_policies_are_compared_in_the_same_states_whatever_the_order_of_their_episodes():
    run = finished(0, {"supervised": [1, 0, 0, 1], "filtered-bc": [0, 0, 1, 1]})
    turned = run.results["filtered-bc"]["in-domain"]["episodes"]
    for column in turned.values():
        column.reverse()
    (both,) = grape_runs.pairs([run], "filtered-bc", "supervised", ["in-domain"], "success")
    assert both.tolist() == [[0, 0, 1, 1], [1, 0, 0, 1]]
    turned["seed"][0] = 99
    with pytest.raises(DataError, match="Run 0 tried filtered-bc and supervised from different states"):
        grape_runs.pairs([run], "filtered-bc", "supervised", ["in-domain"], "success")


def test_axes_that_share_their_states_count_as_one_trial_of_each():
    run = finished(0, {"supervised": [1, 0, 0, 1]})
    run.results["supervised"]["camera"]["episodes"]["success"] = [False] * 4
    assert run.column("supervised", ["object", "camera"], "success").tolist() == [0.5, 0, 0, 0.5]


def test_an_interval_over_states_alone_is_that_of_the_binomial():
    rng = np.random.default_rng(1)
    a = (rng.random(400) < 0.5).astype(float)
    found = grape_page.difference([np.stack([a, np.zeros(400)])])
    spread = 1.96 * np.sqrt(a.mean() * (1 - a.mean()) / 400)
    assert found.value == a.mean()
    assert found.high - found.value == pytest.approx(spread, rel=0.06)
    assert found.value - found.low == pytest.approx(spread, rel=0.06)


def test_runs_that_differ_widen_the_interval_though_no_state_does():
    runs = [np.stack([np.full(50, level), np.zeros(50)]) for level in (0.0, 0.5, 1.0)]
    found = grape_page.difference(runs)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)  # each end: one run three times, 1 in 27


def test_a_relative_gain_is_that_of_the_means_and_infinite_over_nothing():
    half, all_of_them, none = np.tile([0.0, 1.0], 50), np.ones(100), np.zeros(100)
    gain = grape_page.relative([np.stack([all_of_them, half])])
    assert gain.value == 1.0
    assert gain.low < 1.0 < gain.high
    assert grape_page.relative([np.stack([half, none])]).value == np.inf
    same = grape_page.relative([np.stack([none, none])])
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


def test_the_page_compares_objectives_with_the_start_and_itself_with_the_controls():
    policies = {
        "supervised": [1, 0, 0, 0],
        "filtered-bc": [1, 1, 0, 0],
        "safety": [1, 0, 0, 0],
        "grape-round1": [1, 1, 0, 0],
        "grape-round2": [1, 1, 1, 0],
        "grape-last": [1, 1, 1, 0],
    }
    text = grape_page.tables([finished(0, policies), finished(1, policies)])
    assert "| seen | task completion | 75.0% | +200% [" in text
    assert "| seen | safety | 25.0% | +0% [" in text
    assert "| grape-last | filtered-bc | unseen | 2 | +25.0 [" in text
    assert "| grape-round1 | 2 | 50.0% | +25.0 [" in text
    assert text.count("| grape-round2 |") == 2  # among the rounds, and what the gate said
    assert "*unseen* pools object, camera." in text
    assert "`robopref run experiment=grape`" in text


def test_success_is_told_task_by_task():
    policies = {"supervised": [1, 0, 0, 0], "filtered-bc": [1, 0, 1, 0], "grape-last": [0, 0, 1, 1]}
    lines = grape_page.by_task([finished(0, policies), finished(1, policies)]).splitlines()
    assert (
        lines[0]
        == "| task | supervised | filtered-bc | grape-last | grape-last over the start | seed by seed |"
    )
    assert lines[2].startswith("| a | 50% | 50% | 0% | -50.0 [")
    assert lines[3] == "| b | 0% | 50% | 100% | +100.0 [+100.0, +100.0] points | +100.0, +100.0 |"


def test_steps_are_told_also_where_a_policy_and_the_start_both_succeed():
    """Of four states both solve one, in 10 steps before and 8 after; a failure has all 12."""
    run = finished(0, {"supervised": [1, 0, 0, 1], "grape-last": [1, 1, 1, 0]})
    for name, steps in (("supervised", [10, 12, 12, 5]), ("grape-last", [8, 2, 2, 12])):
        run.results[name]["in-domain"]["episodes"]["steps"] = steps
    before, after = grape_page.objectives([run]).splitlines()[2:4]
    assert before.endswith("| 9.8 |  |  |")
    assert after.endswith("| -20% [-20%, -20%] |")
    never = finished(0, {"supervised": [1, 0, 0, 0], "grape-last": [0, 1, 1, 0]})
    assert grape_page.objectives([never]).splitlines()[3].endswith("|  |")


def test_policies_of_one_round_are_held_against_the_first_of_grape():
    policies = {"supervised": [1, 0], "grape-round1": [1, 1], "grape-last": [1, 1], "tpo": [0, 0]}
    text = grape_page.tables([finished(0, {**policies, "safety": [1, 1], "safety-round1": [0, 0]})])
    first = text.partition("Difference of its first round")[2].partition("###")[0]
    assert "| grape-round1 | tpo | seen | 1 | +100.0 [" in first
    assert "| grape-round1 | supervised | seen | 1 | +50.0 [" in first
    assert "safety" not in first
    assert "| tpo | 1 | 0 | 0.200, 0.100 | +0.300 | 0.12 |  |" in text


def test_success_is_told_axis_by_axis_and_without_the_one_that_is_like_those_seen():
    policies = {"supervised": [1, 0, 0, 0], "filtered-bc": [1, 1, 0, 0], "grape-last": [1, 1, 1, 1]}
    run = finished(0, policies)
    blue = {**run.results["grape-last"], "object": episodes([1, 0, 0, 0])}
    lines = grape_page.by_axis(
        [dataclasses.replace(run, results={**run.results, "grape-last": blue})]
    ).splitlines()
    assert lines[0] == "| axis | start | grape-last | over `supervised` | over `filtered-bc` |"
    assert lines[2].startswith("| in-domain | 25.0% | 100.0% | +75.0 [")
    assert lines[3].startswith("| object | 25.0% | 25.0% | +0.0 [+0.0, +0.0] points | -25.0 [")
    assert lines[5].startswith("| unseen without object | 25.0% | 100.0% | +75.0 [")


def test_a_comparison_ends_with_the_difference_in_every_run():
    runs = [
        finished(0, {"supervised": [1, 0, 0, 0], "grape-last": [1, 1, 0, 0]}),
        finished(1, {"supervised": [1, 0, 0, 0], "grape-last": [0, 0, 0, 0]}),
    ]
    line = grape_page.compared(runs, [("grape-last", "supervised")], grape_page.gap).splitlines()[2]
    assert line.endswith("| +25.0, -25.0 |")


def test_a_variant_that_was_tried_along_fewer_axes_is_compared_along_those_alone():
    run = finished(0, {"supervised": [1, 0, 0, 0], "filtered-bc": [1, 1, 0, 0], "tpo": [1, 1, 1, 0]})
    tried = {"filtered-bc": ("in-domain", "object"), "tpo": ("in-domain",)}
    fewer = {name: {axis: run.results[name][axis] for axis in axes} for name, axes in tried.items()}
    text = grape_page.tables([dataclasses.replace(run, results={**run.results, **fewer})])
    assert "| filtered-bc | supervised | unseen: object | 1 | +100% [" in text
    assert "| tpo | supervised | seen | 1 | +200% [" in text
    assert "| tpo | supervised | unseen" not in text


def test_runs_of_different_settings_are_not_pooled():
    other = finished(1, {"supervised": [1, 0]}, config={"seed": 1, "grape": {"rounds": 2}})
    with pytest.raises(DataError, match=r"grape\.rounds: 1, now 2"):
        grape_page.tables([finished(0, {"supervised": [1, 0]}), other])


def test_runs_may_have_variants_of_their_own_and_none_of_one_name_that_differ():
    def run(seed, **variants):
        settings = {"seed": seed, "grape": {"rounds": 1, "variants": variants}}
        return finished(seed, {"supervised": [1, 0], **{name: [1, 1] for name in variants}}, config=settings)

    both = {"tpo": {"reduce": "sum"}, "stepwise-dpo": {"segment": "step"}}
    text = grape_page.tables([run(0, **both), run(1, tpo={"reduce": "sum"})])
    assert "| tpo | supervised | seen | 2 |" in text
    assert "| stepwise-dpo | supervised | seen | 1 |" in text
    with pytest.raises(DataError, match=r"grape\.variants\.tpo\.reduce: sum, now mean"):
        grape_page.tables([run(0, **both), run(1, tpo={"reduce": "mean"})])


def test_a_finished_folder_is_read_for_the_same_settings_and_refused_for_others(tmp_path):
    given = ["experiment=grape", "seed=3", f"out={tmp_path}"]
    config = grape_runs.composed(given)
    assert not grape_runs.is_finished(tmp_path, config)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (tmp_path / "run.json").write_text(json.dumps({"status": "interrupted in align/tpo"}))
    assert not grape_runs.is_finished(tmp_path, config)
    (tmp_path / "run.json").write_text(json.dumps({"status": "complete"}))
    assert grape_runs.is_finished(tmp_path, grape_runs.composed([*given, "device=cpu"]))
    with pytest.raises(ConfigError, match=r"other settings \(grape\.rounds: 2, now 3"):
        grape_runs.is_finished(tmp_path, grape_runs.composed([*given, "grape.rounds=3"]))
