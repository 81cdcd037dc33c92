import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from robopref.errors import ConfigError, DataError, DivergedError
from robopref.training.checkpoint import load_checkpoint
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog, read_log
from robopref.training.step import Training
from tests.training.toy_learner import Line, Points


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("cpu")


@pytest.fixture
def train(tmp_path, fabric):
    """Fit a line in ``tmp_path``; keyword arguments replace the usual ones."""

    def run(learner, sampler=None, folder="run", **changes):
        options = {
            "steps": 40,
            "batch_size": 8,
            "seed": 0,
            "fabric": fabric,
            "phase": "fit",
            "directory": tmp_path / folder,
            "checkpoint_every": 20,
            "log_every": 10,
        } | changes
        with RunLog(tmp_path / folder, wandb_mode="disabled") as log:
            return fit(learner, Points() if sampler is None else sampler, log=log, **options)

    return run


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def lines(path, *names):
    return [tuple(line[name] for name in names) for line in read_log(path)]


def test_a_line_through_points_is_found(train):
    learner = Line(learning_rate=0.1)
    metrics = train(learner, steps=600)
    assert weights(learner).tolist() == pytest.approx([3, 1], abs=1e-2)
    assert metrics["loss"] < 1e-3
    assert not learner.training


def test_the_log_holds_means_over_the_steps_between_its_lines(train, tmp_path):
    learner = Line()
    train(learner, steps=25)
    logged = lines(tmp_path / "run" / "log.jsonl", "phase", "step", "loss")
    means = [np.mean(learner.losses[a:b]) for a, b in ((0, 10), (10, 20), (20, 25))]
    assert [line[:2] for line in logged] == [("fit", 10), ("fit", 20), ("fit", 25)]
    assert [line[2] for line in logged] == pytest.approx(means)


@pytest.mark.parametrize("options", [{}, {"noise": 0.5}, {"dropout": 0.3}])
def test_a_training_in_two_pieces_gives_the_bits_of_one_in_one_piece(train, tmp_path, options):
    whole, first, second = Line(**options), Line(**options), Line(**options)
    train(whole, folder="whole")
    train(first, folder="pieces", steps=17)
    torch.randn(7)  # whatever happened to the global generator in between
    train(second, folder="pieces")
    assert torch.equal(weights(whole), weights(second))
    assert second.steps == 23


def test_the_seed_decides_batches_and_noise(train):
    results = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        learner = Line(noise=0.5, dropout=0.3)
        train(learner, folder=folder, seed=seed)
        results.append(weights(learner))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_global_generator_is_left_as_it_was(train):
    learner = Line(dropout=0.5)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    train(learner)
    assert torch.equal(torch.randn(3), expected)


def test_a_finished_training_is_read_and_not_repeated(train):
    first, second = Line(), Line()
    metrics = train(first)
    assert train(second) == metrics
    assert second.losses == []
    assert torch.equal(weights(first), weights(second))
    assert not second.training


def test_a_checkpoint_of_other_settings_is_refused_by_name(train):
    train(Line(), settings={"reward": "a"})
    for changes, name in (
        ({"batch_size": 4}, "batch_size: 8, now 4"),
        ({"seed": 3}, "seed: 0, now 3"),
        ({"settings": {"reward": "b"}}, "given.reward: a, now b"),
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"sampler": Points(slope=2.0)}, "data.content"),
        ({"sampler": Points(count=65)}, "data.items: 64, now 65"),
    ):
        with pytest.raises(ConfigError, match=name):
            train(Line(), **({"settings": {"reward": "a"}} | changes))
    with pytest.raises(ConfigError, match=r"learner.config.noise: 0.0, now 0.1"):
        train(Line(noise=0.1), settings={"reward": "a"})
    with pytest.raises(ConfigError, match=r"learning_rates: \[0.05\], now \[0.1\]"):
        train(Line(learning_rate=0.1), settings={"reward": "a"})


def test_fewer_steps_than_were_done_are_refused(train):
    train(Line())
    with pytest.raises(ConfigError, match="has done 40 steps, more than steps=30"):
        train(Line(), steps=30)


def test_a_batch_with_nan_stops_the_training_and_is_saved(train, tmp_path):
    learner = Line()
    with pytest.raises(DivergedError, match="The batch itself holds NaN or infinity in x"):
        train(learner, Points(fault=40), steps=1000)
    batch = load_file(tmp_path / "run" / "diverged.safetensors")
    assert torch.isnan(batch["x"]).any()
    assert torch.isfinite(weights(learner)).all()
    _, record = load_checkpoint(tmp_path / "run" / "diverged.safetensors")
    assert record["step"] == learner.steps == len(learner.losses) - 1


def test_a_loss_that_overflows_is_told_from_bad_data(train):
    with pytest.raises(DivergedError, match="The batch is finite: a smaller learning rate"):
        train(Line(), Points(fault=40, value=1e38), steps=1000)


def test_a_gradient_that_is_not_finite_stops_the_training_though_the_loss_is(train):
    class Root(Line):
        def loss(self, batch, generator=None):
            loss, metrics = super().loss(batch, generator)
            return loss + self.linear.bias.abs().sqrt().sum(), metrics  # slope infinity at 0

    learner = Root()
    with pytest.raises(DivergedError, match="in step 1"):
        train(learner)
    assert math.isfinite(learner.losses[0])


def test_where_checks_are_put_off_the_batch_that_did_it_is_drawn_again(tmp_path, fabric):
    put_off = Training(Line(), Points(fault=40), fabric, 8, 0, None, tmp_path / "off", "fit")
    at_once = Training(Line(), Points(fault=40), fabric, 8, 0, None, tmp_path / "on", "fit")
    put_off.checks_each_step = False
    for _ in range(100):
        put_off.advance()
    with pytest.raises(DivergedError):
        put_off.check_health()
    with pytest.raises(DivergedError):
        any(at_once.advance() for _ in range(100))
    a, b = (load_checkpoint(tmp_path / name / "diverged.safetensors") for name in ("off", "on"))
    assert a[1]["step"] == b[1]["step"]
    assert all(torch.equal(a[0][k].nan_to_num(9), b[0][k].nan_to_num(9)) for k in ("x", "y"))


def test_the_gradient_is_clipped_to_its_norm_and_logged_before(train):
    free, clipped = Line(), Line()
    metrics = train(free, folder="free", steps=1, log_every=1)
    train(clipped, folder="clipped", steps=1, log_every=1, gradient_clip=0.5)
    assert metrics["gradient_norm"] == pytest.approx(free.gradient_norms[0])
    assert free.gradient_norms[0] > 1
    assert clipped.gradient_norms[0] == pytest.approx(0.5, rel=1e-4)


def test_held_out_is_measured_in_evaluation_mode_and_does_not_change_the_training(train, tmp_path):
    plain, measured = Line(dropout=0.5), Line(dropout=0.5)
    modes = []

    def held_out():
        modes.append((measured.training, torch.is_grad_enabled()))
        torch.randn(3)
        return {"accuracy": len(modes)}

    train(plain, folder="plain")
    metrics = train(measured, folder="measured", held_out=held_out, held_out_every=15)
    assert modes == [(False, False)] * 3  # steps 15, 30 and 40
    assert metrics["held_out/accuracy"] == 3
    assert torch.equal(weights(plain), weights(measured))
    logged = read_log(tmp_path / "measured" / "log.jsonl")
    assert [line["step"] for line in logged if "held_out/accuracy" in line] == [15, 30, 40]
    assert [line["step"] for line in logged if "loss" in line] == [10, 20, 30, 40]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("64-true", torch.float64)])
def test_the_loss_runs_in_the_precision_that_was_asked_for(train, precision, dtype):
    seen = set()

    class Watched(Line):
        def loss(self, batch, generator=None):
            seen.add(self.linear(batch["x"][:, None]).dtype)
            return super().loss(batch, generator)

    train(Watched(), fabric=make_fabric("cpu", precision), steps=3)
    assert seen == {dtype}


@pytest.mark.parametrize("name", ["steps", "batch_size", "checkpoint_every", "log_every", "held_out_every"])
def test_counts_below_one_are_refused(train, name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        train(Line(), **{name: 0})


def test_other_senseless_arguments_are_refused(train):
    with pytest.raises(ConfigError, match="gradient_clip must be positive"):
        train(Line(), gradient_clip=0.0)
    with pytest.raises(ConfigError, match="seed must not be negative"):
        train(Line(), seed=-1)
    with pytest.raises(ConfigError, match="Linear cannot be trained: it lacks loss"):
        train(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="must hold JSON values"):
        train(Line(), settings={"reward": torch.zeros(1)})
    with pytest.raises(DataError, match="nothing to train on"):
        train(Line(), Points(count=0))


def test_a_damaged_checkpoint_is_not_taken_for_none(train, tmp_path):
    train(Line())
    path = tmp_path / "run" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="Delete it to train from the start"):
        train(Line())
