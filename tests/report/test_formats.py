"""What the other parts write is what the report reads."""

import numpy as np
import pytest

from robopref.alignment.record import TransferRecord
from robopref.report.gather import read_run
from robopref.training.metrics import RunLog
from robopref.training.results import Evaluation
from robopref.training.run import Run

RETURNS = np.array([1.0, 2.0, 3.0])
LABELS = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 0.0], [1.0, 1.0, 0.5]])  # one pair of three is wrong


def test_a_run_written_by_its_own_classes_is_read_back(tmp_path):
    config = "alignment:\n  sources: [door-close, door-open]\n"
    run = Run(
        tmp_path, name="n", method="pearl", task="drawer-open", seed=3, config=config, say=lambda _: None
    )
    run.phase("align", {}, dict)
    run.finish()
    plans = {
        f"{s}/{f}": np.full((2, 3), 1 / 6) for s in ("door-close", "door-open") for f in ("mean", "frame")
    }
    record = TransferRecord(
        labels=LABELS,
        confidence=np.abs(2 * LABELS - 1),
        couplings=plans,
        costs=dict.fromkeys(plans, 0.0),
        controls={"medoid": LABELS.T},
        settings={
            "sources": {"door-close": 2, "door-open": 2},
            "controls_left_out": {"shuffled": "one source"},
        },
    )
    record.save(tmp_path / "alignment", true_returns=RETURNS)
    evaluation = Evaluation(
        policy="PEARL",
        task="drawer-open",
        env_id="robopref/mw-drawer-open-v0",
        seeds=np.array([7, 8]),
        successes=np.array([True, False]),
        returns=np.array([5.0, 1.0]),
        lengths=np.array([150, 150]),
    )
    evaluation.save(tmp_path / "evaluation" / "PEARL.json")
    with RunLog(tmp_path, wandb_mode="disabled") as log:
        log.log("train-reward", 10, {"loss": 0.5, "held_out/accuracy": 0.75})

    found = read_run(tmp_path)

    assert (found.task, found.method, found.seed, found.status) == ("drawer-open", "pearl", 3, "complete")
    assert [phase.name for phase in found.phases] == ["align"]
    assert found.sources == ("door-close", "door-open")
    assert found.label_accuracy == pytest.approx(2 / 3)
    assert found.alignment is not None
    assert found.alignment.controls == {"medoid": pytest.approx(1 / 3)}
    assert found.alignment.judged_pairs == 3
    assert {source: len(plans) for source, plans in found.alignment.plans.items()} == {
        "door-close": 2,
        "door-open": 2,
    }
    assert any("shuffled" in note and "one source" in note for note in found.notes)
    assert found.main_evaluation is not None
    assert (found.main_evaluation.seeds, found.main_evaluation.successes) == ((7, 8), (True, False))
    assert [(c.metric, c.values.tolist()) for c in found.curves] == [
        ("loss", [0.5]),
        ("held_out/accuracy", [0.75]),
    ]
