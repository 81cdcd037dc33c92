"""The whole of GRAPE on one task, small enough for a minute: hence slow."""

import json

import pytest

from robopref.cli import main
from robopref.errors import ConfigError
from robopref.methods.components import Sampling
from robopref.methods.phases.vla import Alignment

SMALL = [
    "experiment=grape",
    "seed=0",
    "grape.tasks=[drawer-close]",
    "grape.demonstrations.episodes=3",
    "grape.rollouts={starts: 2, repeats: 2, at_once: 4}",
    "grape.rounds=2",
    "~grape.variants.tpo",
    "~grape.variants.bc-on-all",
    "~grape.variants.stepwise-dpo",
    "~grape.variants.random-pairs",
    "~grape.axes.visual",
    "~grape.axes.camera",
    "~grape.axes.training-starts",
    "training.clone={steps: 3, batch_size: 4}",
    "training.policy={steps: 2, batch_size: 1}",
    "training.evaluation.episodes=2",
    "policy.width=32",
    "policy.layers=1",
    "env.options.horizon=30",
    "wandb.mode=disabled",
    "workers=0",
    "device=cpu",
]


@pytest.mark.slow
def test_the_experiment_runs_and_the_same_command_only_reads(tmp_path, capsys):
    where = [f"out={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}"]
    assert main(["run", *SMALL, *where]) == 0
    results = json.loads((tmp_path / "run" / "grape.json").read_text())
    assert set(results) == {"supervised", "filtered-bc", "grape-round1", "grape-round2"}
    assert set(results["grape-round1"]) == {"in-domain", "wording"}
    scores = json.loads((tmp_path / "run" / "scores" / "round1" / "scores-drawer-close.json").read_text())
    assert len(scores["score"]) == 4
    gate = json.loads((tmp_path / "run" / "grape-round1" / "metrics.json").read_text())["gate"]
    assert {"collapsed", "reason", "entropy", "error", "saturation"} <= set(gate)
    capsys.readouterr()
    assert main(["run", *SMALL, *where]) == 0
    assert "finished before" in capsys.readouterr().out


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="two rollouts or more"):
        Sampling(repeats=1)
    with pytest.raises(ConfigError, match="kind must be one of"):
        Alignment(kind="dpo")
    with pytest.raises(ConfigError, match="demonstrations must lie"):
        Alignment(demonstrations=1.0)
