"""What the command line says to input that it cannot use: a sentence, a code, and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robopref.cli import main, verbs
from robopref.errors import WaitingError


def answer(arguments, capfd):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capfd.readouterr()
    return code, out + err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rnu"], "Did you mean 'run'?"),
        (["run", "env.task=drawer_open"], "Did you mean"),
        (["run", "alignment.sources=[widow-open]"], "Did you mean"),
        (["run", "rewrd=gaussian"], "Did you mean 'reward'?"),
        (["run", "reward=gausian"], "Did you mean 'gaussian'?"),
        (["run", "reward.membrs=3"], "Did you mean 'reward.members'?"),
        (["run", "reward.members=0"], "at least one member"),
        (["run", "policy=iql", "policy.discount=2"], "discount"),
        (["run", "experiment=perl"], "Did you mean 'pearl'?"),
        (["run", "alignment=cpa", "alignment.features=[man]"], "Did you mean 'mean'?"),
        (
            ["run", "alignment=cpa", "alignment.couplings.max_episodes=5"],
            "'alignment.couplings.max_episodes' here. alignment.couplings belongs to alignment=auto.",
        ),
        (
            ["align", "alignment=auto", "alignment.couplings.max_episodes=5"],
            "alignment.couplings.semi_relaxed. To add one that is not listed, write + before it.",
        ),
        (["run", "alignment=cpa", "alignment.restart=5"], "Did you mean 'alignment.restarts'?"),
        (["align", "alignment=auto", "alignment.anchors_precision=5"], "'alignment.anchor_precision'?"),
        (["run", "alignment=cpa", "anchor_pairs=5"], "Only alignment=auto reads labels of the target"),
        (["run", "anchor_pairs=5", "anchor_query=informaton_gain"], "Did you mean 'information_gain'"),
        (["run", "anchor_pairs=5", "anchors_from=robots"], "anchors_from must be teacher or human"),
        (["run", "anchors_from=human"], "anchor_pairs=<how many>"),
        (["run", "alignment=auto", "alignment.on_risk=refuze"], "Did you mean 'refuse'?"),
        (["run", "alignment.sources=[]"], "alignment.sources must be"),
        (["run", "alignment.sources=[drawer-open]"], "alignment.sources must be"),
        (["run", "teacher.mistake=2"], "mistake"),
        (["run", "episodes=1"], "episodes must be at least 2"),
        (["run", "training.policy.steps=0"], "steps must be at least 1"),
        (["run", "training.held_out=1.5"], "held_out"),
        (
            ["run", "experiment=grape", "grape.supervised=no"],
            "grape.supervised must be true or false, got 'no'",
        ),
        (["run", "device=cuda:99"], "CUDA"),
        (["run", "device=tpu"], "No device is called 'tpu'"),
        (["run", "precision=8"], "precision"),
        (["run", "objective=ippo"], "Did you mean 'ipo'?"),
        (["run", "objective=ipo", "objective.tua=1"], "No option is called 'objective.tua'"),
        (["run", "objective=null"], "must be a string or a list"),
        (["run", "objective=ipo", "objective.tau=-1"], "tau must be"),
        (["run", "objective=tdpo2"], "tdpo2 does not train a reward model: it learns from per-token"),
        (["run", "experiment=dpo", "policy=iql"], "policy=preference does that"),
        (["run", "experiment=dpo", "objective.beta=1"], "beta"),
        (["run", "experiment=dpo", "labels_from=wish"], "labels_from must be teacher or transfer"),
        (["run", "experiment=dpo", "labels_from=transfer"], "alignment.sources must be"),
        (["run", "experiment=dpo", "questions.segment_length=25"], "questions.segment_length needs"),
        (["run", "wandb.mode=onlin"], "Did you mean 'online'?"),
        (["run", "seed=abc"], "seed must be a whole number, got 'abc'"),
        (["run", "seed=-1"], "seed must be 0 or more"),
        (["run", "seed=null"], "seed must be a whole number"),
        (["run", "episodes=2.5"], "episodes must be a whole number, got 2.5"),
        (["run", "training.policy.steps=1.5"], "steps must be a whole number"),
        (["run", "training.held_out=abc"], "held_out must be a number"),
        (["run", "training.max_pairs=0"], "max_pairs must be 1 or more"),
        (["run", "threads=abc"], "threads must be a whole number or null"),
        (["run", "workers=-1"], "workers must be 0 or more"),
        (["run", "behaviours=[]"], "behaviours is empty"),
        (["run", "behaviours=[expert]"], "A behaviour is written as"),
        (["run", "behaviours=[{kind: exprt}]"], "Did you mean 'expert'?"),
        (["run", "reward.learning_rate=abc"], "GaussianReward: learning_rate must be a number, got 'abc'"),
        (["run", "policy=iql", "policy.discount=.nan"], "discount must be a number"),
        (["run", "reward.flip_prob=0.1"], "write +reward.flip_prob="),
        (["run", "out=/proc/x"], "Cannot write /proc/x"),
        (["run", "-m", "rewrd=gaussian"], "Did you mean 'reward'?"),
        (["run", "-m", "seed=0,1", "reward=gausian"], "Did you mean 'gaussian'?"),
        (["train-reward"], "data=<...> is missing"),
        (["train-policy", "data=nowhere"], "nowhere"),
        (["evaluate", "policy_dir=nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["report", "x", "colour=red"], "report knows no option colour"),
    ],
)
def test_bad_input_gets_a_sentence_and_no_traceback(tmp_path, monkeypatch, capfd, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    code, said = answer(arguments, capfd)
    assert code in (1, 2), said
    assert sentence in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.bin")), "something was computed before the refusal"


def test_a_run_that_waits_for_people_is_not_called_failed(tmp_path, monkeypatch, capfd):
    def wait(*_):
        raise WaitingError("Do it with robopref label")

    monkeypatch.setitem(verbs.METHODS, "pearl", lambda config: None)
    monkeypatch.setattr("robopref.methods.pearl.run", wait)
    code, said = answer(["run", f"out={tmp_path}"], capfd)
    assert (code, said) == (1, "\nrobopref run: Do it with robopref label\n")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "waiting for people"


@pytest.mark.parametrize("value", ["foo", "osmesa"])
def test_a_back_end_that_mujoco_cannot_use_is_named(tmp_path, value):
    environment = {**os.environ, "MUJOCO_GL": value, "COLUMNS": "200"}
    command = [Path(sys.executable).with_name("robopref"), "run"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    if value == "osmesa" and done.returncode == 0:
        pytest.skip("OSMesa is installed here")
    assert done.returncode == 1
    assert f"MUJOCO_GL={value}" in done.stderr
    assert "Traceback" not in done.stderr
