"""``robopref run experiment=deformpam``: from demonstrations to ranked actions, by a teacher or people."""

import json

import pytest

from robopref.cli import main
from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.labeling.candidates import candidate_lists
from robopref.labeling.desk import Desk

TINY = (
    "run",
    "experiment=deformpam",
    "env.options.points=8",
    "env.options.horizon=2",
    "episodes=4",
    "selection.states=4",
    "selection.labelled=4",
    "selection.count=3",
    "selection.draws=2",
    "policy.actor.backbone.hidden=[16]",
    "reward.hidden=[16]",
    "training.clone.steps=20",
    "training.policy.steps=4",
    "training.reward.steps=4",
    "training.evaluation.episodes=2",
    "training.checkpoint_every=20",
    "training.log_every=20",
    "wandb.mode=disabled",
    "workers=0",
    "threads=1",
    "device=cpu",
)
ARMS = {
    "implicit-ranking",
    "explicit-ranking",
    "product-ranking",
    "random-of-K",
    "supervised",
    "supervised-twice",
    "DPO-sampling",
    "collected-data",
}


def command(*arguments):
    """The exit code, whether Hydra returns or leaves."""
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(folder):
    return {path.stem for path in (folder / "evaluation").glob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("env", ["rope", "pile"])
def test_every_arm_is_evaluated_from_the_same_initial_states_and_reported(here, env):
    asked = (*TINY, f"env={env}", "training.clone.steps=100", "out=r")  # so that proposals differ in worth
    assert command(*asked) == 0
    assert evaluated(here / "r") == ARMS
    tried = ARMS - {"collected-data"}
    seeds = {tuple(json.loads((here / f"r/evaluation/{arm}.json").read_text())["seeds"]) for arm in tried}
    assert len(seeds) == 1
    assert (here / "r/report.html").is_file()
    assert command(*asked) == 0  # finished before


@pytest.mark.slow
def test_with_people_it_stops_until_they_have_ranked_and_learns_from_a_gathered_file_too(here, capfd):
    asked = (*TINY, "selection.labels_from=human", "out=r")
    assert command(*asked) == 1
    assert "robopref label data=" in capfd.readouterr().err
    with TrajectoryStore.open(here / "r/candidates") as store, LabelStore.beside(store) as labels:
        desk = Desk(candidate_lists(store, items=4, clips=4, shared=1.0), labels, store)
        while (question := desk.question("ann")) is not None:
            first, second = (store.returns[clip.episode] for clip in question.sides)
            desk.answer("ann", question.id, "left" if first > second else "right", response_time_s=9.0)
    assert command(*asked) == 0
    assert evaluated(here / "r") == ARMS
    assert command("data", "candidates", "from=r/candidates", "to=people.parquet") == 0
    assert "4 ranked states" in capfd.readouterr().out
    assert command(*TINY, "selection.labels_from=people.parquet", "out=f") == 0
    for name in ("policy", "reward"):  # the same rankings, the same models
        files = [(here / run / name / "model.safetensors").read_bytes() for run in "rf"]
        assert files[0] == files[1]


def test_who_else_ranks_is_refused(here, capfd):
    assert command(*TINY, "selection.labels_from=robots", "out=r") != 0
    assert "teacher, human, or a .parquet file" in capfd.readouterr().err
