import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError, RoboprefError
from robopref.training.collect import collect, episode_seeds, interleave
from tests.training.toy_env import TOY

ROOT = Path(__file__).resolve().parents[2]
DRAWER = "robopref.envs:robopref/mw-drawer-open-v0"
MIXED = [
    {"kind": "expert", "share": 0.5, "noise": 0.3},
    {"kind": "random", "share": 0.25},
    {"kind": "lazy", "share": 0.25},
]


def toy(path, episodes=12, **changes):
    settings = {"env_id": TOY, "behaviours": MIXED, "seed": 3, "workers": 0, "progress": False, **changes}
    return collect(path, episodes=episodes, **settings)


def origins(store):
    return [store.provenance(i).to_json() for i in range(len(store))]


def test_shares_are_interleaved_as_worked_by_hand():
    assert interleave([0.5, 0.25, 0.25], 8) == [0, 1, 2, 0, 0, 1, 2, 0]
    assert interleave([1.0], 3) == [0, 0, 0]


@pytest.mark.parametrize("shares", [[1.0, 1.0], [0.7, 0.2, 0.1], [5.0, 3.0, 1.0, 1.0], [0.9, 0.05, 0.05]])
def test_every_prefix_holds_each_share_to_within_an_episode(shares):
    chosen = np.array(interleave(shares, 200))
    portions = np.array(shares) / np.sum(shares)
    for count in range(1, 201):
        held = np.bincount(chosen[:count], minlength=len(shares))
        assert np.abs(held - portions * count).max() <= 1
    assert interleave(shares, 50) == chosen[:50].tolist()


def test_an_episode_is_a_function_of_seed_and_number_alone(tmp_path):
    long = toy(tmp_path / "long", 12)
    short = toy(tmp_path / "short", 5)
    assert short.fingerprint() == long.fingerprint(5)
    assert origins(short) == origins(long)[:5]


def test_another_seed_gives_other_episodes(tmp_path):
    assert toy(tmp_path / "a", 3).fingerprint() != toy(tmp_path / "b", 3, seed=4).fingerprint()


def test_seeds_lie_below_those_of_evaluations_and_differ():
    seeds = [episode_seeds(seed, episode)[0] for seed, episode in itertools.product(range(5), range(200))]
    assert len(set(seeds)) == len(seeds)
    assert 0 <= min(seeds) <= max(seeds) < 2**30


def test_workers_change_nothing(tmp_path):
    here, there = toy(tmp_path / "here"), toy(tmp_path / "there", workers=2)
    assert here.fingerprint() == there.fingerprint()
    assert origins(here) == origins(there)


def test_more_episodes_are_appended_to_a_store_that_is_there(tmp_path):
    whole = toy(tmp_path / "whole", 12)
    toy(tmp_path / "parts", 4)
    assert toy(tmp_path / "parts", 12).fingerprint() == whole.fingerprint()


def test_a_finished_collection_is_opened_without_a_simulator(tmp_path, monkeypatch):
    toy(tmp_path / "store", 3)
    monkeypatch.setattr("robopref.training.rollout.gymnasium.make", None)
    assert len(toy(tmp_path / "store", 3)) == 3


def test_provenance_tells_behaviour_options_and_environment(tmp_path):
    store = toy(tmp_path / "store", 3, env_options={"horizon": 4})
    assert [store.provenance(i).behaviour for i in range(3)] == ["expert", "random", "lazy"]
    assert store.provenance(0).options == {"noise": 0.3, "env.horizon": 4}
    assert store.provenance(0).seed == episode_seeds(3, 0)[0]
    assert store.control_hz == 20
    assert store.metadata["collection"]["seed"] == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 4}, "seed: 3, now 4"),
        ({"env_options": {"horizon": 4}}, "env_options.horizon: None, now 4"),
        ({"behaviours": [{**MIXED[0], "noise": 0.4}, *MIXED[1:]]}, "behaviours.0.noise: 0.3, now 0.4"),
        ({"env_id": TOY + "x"}, "env_id"),
    ],
)
def test_a_store_of_other_settings_is_refused_with_the_setting_that_differs(tmp_path, changes, sentence):
    toy(tmp_path / "store", 3)
    with pytest.raises(ConfigError, match=sentence):
        toy(tmp_path / "store", 5, **changes)
    assert len(TrajectoryStore.open(tmp_path / "store")) == 3


def test_a_store_with_more_episodes_than_asked_for_is_refused(tmp_path):
    toy(tmp_path / "store", 3)
    with pytest.raises(ConfigError, match="holds 3 episodes, more than the 2 asked for"):
        toy(tmp_path / "store", 2)


def test_a_store_from_elsewhere_is_refused(tmp_path):
    TrajectoryStore.create(tmp_path / "store", observation_size=4, action_size=2, control_hz=20.0).close()
    with pytest.raises(DataError, match="not one that was collected"):
        toy(tmp_path / "store", 3)


def test_a_folder_of_other_things_is_not_written_into(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError):
        toy(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"episodes": 0}, "episodes must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"workers": -1}, "workers must be 0"),
        ({"behaviours": []}, "behaviours is empty"),
        ({"behaviours": [{"share": 1}]}, "needs a kind"),
        (
            {"behaviours": [{"kind": "expert", "share": 0}]},
            "share of behaviour 'expert' must be a positive number",
        ),
        ({"behaviours": [{"kind": "expert", "share": float("nan")}]}, "positive number, got nan"),
        ({"behaviours": [{"kind": "exprt"}]}, "There are: expert, random, lazy"),
        ({"behaviours": [{"kind": "expert", "nois": 1}]}, "nois"),
        ({"behaviours": [{"kind": "expert", "noise": [1]}]}, "must be a number or a string"),
        ({"env_id": "robopref.envs:robopref/mw-drawer-opn-v0"}, "Did you mean .*mw-drawer-open-v0"),
        ({"env_options": {"horizn": 4}}, "horizn"),
    ],
)
def test_bad_settings_are_a_sentence_and_leave_nothing_behind(tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        toy(tmp_path / "store", **changes)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("fault", "sentence", "workers"),
    [
        ("raise", "the arm is stuck", 0),
        ("raise", "the arm is stuck", 2),
        ("nan", "NaN", 0),
        ("nan", "NaN", 2),
        ("kill", "SIGKILL", 2),
    ],
)
def test_a_failing_episode_is_named_and_earlier_ones_are_kept(tmp_path, fault, sentence, workers):
    seeds = [episode_seeds(3, i)[0] for i in range(12)]
    first = 0 if fault == "nan" else next(i for i, seed in enumerate(seeds) if seed % 4 == 0)
    options = {"fault": fault, "fault_every": 4}
    with pytest.raises(
        RoboprefError, match=rf"In episode {first} \(environment seed {seeds[first]}\): .*{sentence}"
    ):
        toy(tmp_path / "store", workers=workers, env_options=options)
    kept = len(TrajectoryStore.open(tmp_path / "store"))
    assert kept == first


def start(path, workers, pause_s, episodes=40):
    """Collect in a process of its own."""
    script = path.parent / "collect_it.py"
    script.write_text(
        textwrap.dedent(f"""
        from tests.training.test_collect import toy
        if __name__ == "__main__":
            toy({str(path)!r}, {episodes}, workers={workers}, env_options={{"pause_s": {pause_s}}})
        """)
    )
    return subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_episodes(path, count):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        log = path / "episodes.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never held {count} episodes")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_collection_killed_with_minus_nine_ends_with_the_content_of_an_uninterrupted_one(tmp_path, workers):
    options = {"pause_s": 0.005}
    whole = toy(tmp_path / "whole", 40, env_options=options)
    child = start(tmp_path / "killed", workers, 0.005)
    wait_for_episodes(tmp_path / "killed", 5)
    child.kill()
    child.communicate()
    with TrajectoryStore.open(tmp_path / "killed") as store:
        assert 5 <= len(store) < 40
    finished = toy(tmp_path / "killed", 40, env_options=options)
    assert finished.fingerprint() == whole.fingerprint()
    assert origins(finished) == origins(whole)
    assert finished.verify() == 40


def test_ctrl_c_keeps_what_was_collected_and_the_same_call_goes_on(tmp_path):
    child = start(tmp_path / "store", 2, 0.02)
    wait_for_episodes(tmp_path / "store", 3)
    os.killpg(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1
    assert 2 <= len(TrajectoryStore.open(tmp_path / "store")) < 40  # at most the one in hand is lost
    assert len(toy(tmp_path / "store", 40, env_options={"pause_s": 0.02}, workers=2)) == 40


def test_progress_is_told_on_standard_error(tmp_path, capsys):
    toy(tmp_path / "store", 3, progress=True)
    assert "collect store: 3/3 episodes (100 %)" in capsys.readouterr().err


def test_metaworld_is_collected_alike_by_one_process_and_by_two(tmp_path):
    settings = {
        "env_id": DRAWER,
        "env_options": {"horizon": 30},
        "behaviours": [
            {"kind": "expert", "noise": 0.2},
            {"kind": "switch", "before_step": 20},
            {"kind": "random"},
        ],
        "episodes": 6,
        "seed": 0,
        "progress": False,
    }
    here = collect(tmp_path / "here", workers=0, **settings)
    there = collect(tmp_path / "there", workers=2, **settings)
    assert here.fingerprint() == there.fingerprint()
    assert origins(here) == origins(there)
    assert len({here.provenance(i).initial_state_hash for i in range(6)}) == 6
    assert here.provenance(1).options["step"] in range(20)  # drawn by the behaviour, and told
    assert json.dumps(here.metadata["collection"]["env_id"]) == f'"{DRAWER}"'
