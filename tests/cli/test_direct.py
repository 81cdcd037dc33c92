"""Direct preference optimisation from the command line."""

import json

import pytest

from robopref.cli import main

SMALL = (
    "training.clone.steps=20",
    "training.policy.steps=20",
    "training.policy.batch_size=8",
    "training.checkpoint_every=10",
    "training.log_every=10",
    "wandb.mode=disabled",
    "threads=1",
    "device=cpu",
)
RUN = (
    "run",
    "experiment=dpo",
    "env.task=door-close",
    "env.options.horizon=40",
    "episodes=8",
    "workers=0",
    "questions.pairs=60",
    "questions.segment_length=10",
    "training.evaluation.episodes=2",
    "training.evaluation.record=0",
    *SMALL,
)


def command(*arguments):
    """The exit code, whether Hydra returns or leaves."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


def phases(folder):
    return {p["name"]: p["skipped"] for p in json.loads((folder / "run.json").read_text())["phases"]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_labels_become_a_policy_beside_its_reference_and_nothing_is_repeated(here, capfd):
    assert command(*RUN, "objective=ipo", "objective.tau=0.5", "out=first") == 0
    first = here / "first"
    metrics = json.loads((first / "policy" / "metrics.json").read_text())
    assert {"accuracy", "chosen_change", "kl", "held_out/accuracy"} <= metrics.keys()
    assert metrics["gate"]["collapsed"] is False
    saved = json.loads((first / "policy" / "config.json").read_text())["config"]["objective"]
    assert (saved["name"], saved["tau"]) == ("ipo", 0.5)
    assert {p.stem for p in (first / "evaluation").glob("*.json")} == {
        "direct",
        "reference",
        "collected-data",
    }
    assert (first / "report.html").exists()
    assert command(*RUN, "objective=ipo", "objective.tau=0.5", "out=first") == 0
    assert all(phases(first).values())
    # another objective clones nothing anew in another folder, and is refused in this one
    assert command(*RUN, "objective=kto", "out=first") == 1
    assert "made with other settings" in "".join(capfd.readouterr())


def test_the_verbs_do_the_same_from_files(here):
    made = ("episodes=8", "env.options.horizon=40", "workers=0", "wandb.mode=disabled", "device=cpu")
    assert command("collect", *made, "env.task=door-close", "data=store") == 0
    assert command("label-scripted", "wandb.mode=disabled", "data=store", "out=hand") == 0
    learn = (
        "train-policy",
        "policy=preference",
        "data=store",
        "labels=sqlite:///store/labels.sqlite",
        *SMALL,
    )
    assert command(*learn, "objective=cpl", "policy.discount=0.9", "out=hand") == 0
    assert (here / "hand" / "policy" / "model.safetensors").exists()
    # a second objective starts from the same reference
    assert command(*learn, "objective=kto", "reference=hand/reference", "out=other") == 0
    assert not (here / "other" / "reference").exists()


def test_a_policy_that_learns_from_rewards_is_refused_labels(here, capfd):
    made = ("episodes=8", "env.options.horizon=40", "workers=0", "wandb.mode=disabled", "device=cpu")
    assert command("collect", *made, "env.task=door-close", "data=store") == 0
    assert command("label-scripted", "wandb.mode=disabled", "data=store", "out=hand") == 0
    labels = "labels=sqlite:///store/labels.sqlite"
    assert command("train-policy", "policy=iql", "data=store", labels, *SMALL, "out=hand") == 1
    assert "policy=preference does" in "".join(capfd.readouterr())
    assert command("train-policy", "policy=preference", "data=store", *SMALL, "out=hand") == 1
    assert "give it labels" in "".join(capfd.readouterr())
