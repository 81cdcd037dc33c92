"""What is timed as a step of alignment is the experiment's own."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from robopref.methods.phases.vla_how import Alignment
from scripts.bench import grape_speed
from scripts.bench.grape_runs import composed
from tests.policies.vla.conftest import tiny

SMALL = [
    "experiment=grape",
    *("policy.image_size=16", "policy.width=16", "policy.layers=1", "policy.heads=2"),
    *("+policy.patch=4", "+policy.channels=[4,8]", "+policy.vision_width=8"),
    *("env.options.horizon=20", "training.policy.batch_size=2"),  # 2 pairs of 4 decisions
]


def test_every_timed_step_has_all_options_of_the_experiments_alignment(monkeypatch):
    learners, real = [], grape_speed.preferring

    def kept(policy, how):
        learners.append(real(policy, how))
        return learners[-1]

    monkeypatch.setattr(grape_speed, "preferring", kept)
    options = [f"grape.alignment.{one}" for one in ("imitation_weight=0.25", "reduce=sum", "window=3")]
    table = grape_speed.speed(composed([*SMALL, *options]), 1)
    assert {(one.imitation_weight, one.reduce) for one in learners} == {(0.25, "sum")}
    assert [one.window for one in learners] == [16, 3, 1]
    assert "| in windows of 3 (default) |" in table


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        (Alignment(segment="trajectory"), [0, 0, 0, 0]),
        (Alignment(segment="window", windows=2), [0, 0, 1, 1]),
        (Alignment(segment="step"), [0, 1, 2, 3]),
    ],
)
def test_the_parts_of_a_batch_are_the_segments_of_its_alignment(how, parts):
    assert grape_speed.batch_of(tiny(), how, 1, 4)["parts"].tolist() == [parts, parts]


@pytest.mark.parametrize("policy", ["vla", "vla_gaussian"])
def test_the_usual_steps_do_at_most_1_3_times_the_arithmetic_of_a_plain_pass(policy):
    """Counted, not timed; with W windows it is 1 + (W - 1) / (3 W), and 4 windows make 1.25."""
    options = ["env.options.horizon=80", "grape.alignment.window=16"]
    _, count, kinds = grape_speed.steps(composed([*SMALL, *options, f"policy={policy}"]), "cpu")
    assert count == 64
    plain, *others = (operations(work) for work in kinds.values())
    found = dict(zip(list(kinds)[1:], (one / plain for one in others), strict=True))
    assert found["a step over 2 pairs, all at once"] == pytest.approx(1, abs=0.001)
    assert found["in windows of 16 (default)"] == pytest.approx(1.25, abs=0.02)
    assert found["a step over advantages, in windows of 16"] == pytest.approx(1.25, abs=0.02)


def operations(work) -> int:
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()
