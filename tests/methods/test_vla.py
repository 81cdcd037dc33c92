"""Supervised learning of a policy that sees: how it ends."""

from types import SimpleNamespace

import pytest
import torch

from robopref.methods.components import Fit, Hardware
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.vla import train_supervised
from robopref.policies.vla.saved import load_vla
from robopref.training.run import Run
from tests.policies.vla.conftest import tiny
from tests.policies.vla.test_data import filmed


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (40, [("train-supervised", 30, 1e-3), ("settle-supervised", 10, 1e-4)]),
        (3, [("train-supervised", 3, 1e-3)]),
    ],
)
def test_the_last_quarter_of_supervised_learning_goes_at_a_tenth_of_the_step_size(
    tmp_path, monkeypatch, steps, expected
):
    made = Run(tmp_path / "run", name="x", method="grape", task="x", seed=0, config="")
    lab = Lab(made, Hardware(device="cpu"), 0)
    lab.__dict__["fabric"] = SimpleNamespace(device=torch.device("cpu"))  # Fabric itself takes seconds
    done, folders = [], set()

    def fit(lab, policy, decisions, plan, *, phase, folder, settings):
        done.append((phase, plan.steps, pytest.approx(policy.parameter_groups()[0]["lr"])))
        folders.add(folder)  # each keeps its own checkpoint
        return {"loss": 1.0}

    monkeypatch.setattr(Lab, "fit", fit)
    shown = filmed(tmp_path / "s", [6, 6], [None, None])
    where = train_supervised(lab, tiny(), [shown], Fit(steps, 4))
    assert done == expected
    assert len(folders) == len(expected)
    assert load_vla(where).learning_rate == 1e-3
