"""The gate, and whole trainings of a tiny policy that one loss destroys and another does not."""

import re
from importlib import resources

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from robopref.data.frames import FrameCache
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.policies.vla.advantage import ClippedAdvantage, CreditedDecisions
from robopref.policies.vla.data import Decisions, FilmedEpisodes, TrajectoryGroups, part_numbers
from robopref.policies.vla.health import Condition, Trials, condition, kept_round, verdict
from robopref.policies.vla.preference import TrajectoryPreference
from robopref.policies.vla.saved import load_vla, save_vla
from tests.policies.vla.conftest import tiny

WHERE = np.repeat(np.arange(8), 3)  # eight trajectories of three decisions


def measured(error=0.1, score=-3.0, entropy=2.0, saturation=0.1, spread=0.0):
    wave = spread * np.cos(np.arange(24) * np.pi)
    one = np.ones(24)
    return Condition(error * one + wave, score * one + wave, entropy * one, saturation * one)


def test_a_policy_that_stayed_is_sound():
    found = verdict(measured(), measured(), WHERE, divergence=0.0, exact=True)
    assert not found["collapsed"]
    assert found["reason"] == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"error": 0.13}, r"moved away from the preferred ones \(squared error 0.1 before, 0.13 now\)"),
        ({"score": -3.1}, "preferred actions lost 0.1 nats of likelihood per token"),
        ({"entropy": 0.3}, "the entropy of its tokens fell from 2 to 0.3 nats"),
        ({"saturation": 0.9}, "90% of its actions"),
        ({"error": float("nan")}, "moved away"),
    ],
)
def test_every_sign_of_a_collapse_is_named(change, said):
    found = verdict(measured(), measured(**change), WHERE, divergence=0.0, exact=True)
    assert found["collapsed"]
    assert re.search(said, found["reason"])


def test_a_divergence_from_the_start_is_named():
    found = verdict(measured(), measured(), WHERE, divergence=3.0, exact=True)
    assert "the divergence from its start is 3 nats per token" in found["reason"]


def test_drift_from_the_supervised_policy_adds_up_over_rounds():
    found = verdict(measured(), measured(), WHERE, divergence=0.3, exact=True, from_first=0.9)
    assert found["collapsed"]
    assert found["reason"] == "the divergence from the supervised policy is 0.9 nats per token"


def test_what_chance_explains_is_no_collapse():
    """A mean change of 0.02 among trajectories that change by 0.2 up and down."""
    start, now = measured(), measured(error=0.12, score=-3.06)
    signs = np.repeat([1, -1, 1, -1, 1, -1, 1, -1], 3)
    scattered = Condition(now.error + 0.2 * signs, now.score + 0.3 * signs, now.entropy, now.saturation)
    assert not verdict(start, scattered, WHERE, divergence=0.0, exact=True)["collapsed"]
    assert verdict(start, now, WHERE, divergence=0.0, exact=True)["collapsed"]


def test_lost_validation_states_are_weighed_against_won_ones():
    def tried(lost, won):
        start = np.array([True] * lost + [False] * won + [True] * 5)
        now = np.array([False] * lost + [True] * won + [True] * 5)
        return verdict(measured(), measured(), WHERE, divergence=0.0, exact=True, trials=Trials(start, now))

    assert tried(9, 0)["collapsed"]
    assert "fails in 9 validation states" in tried(9, 0)["reason"]
    assert not tried(3, 1)["collapsed"]  # 2 net losses of 4 changes: chance
    assert not tried(0, 9)["collapsed"]


def test_the_best_on_validation_is_kept_and_the_start_among_them():
    names = ["supervised", "round1", "round2"]
    assert kept_round(names, [0.5, 0.4, 0.3], [50.0] * 3) == "supervised"
    assert kept_round(names, [0.5, 0.6, 0.55], [50.0] * 3) == "round1"
    assert kept_round(names, [0.5, 0.5, 0.4], [50.0, 45.0, 40.0]) == "round1"
    assert kept_round(names, [0.5, 0.5, 0.5], [50.0] * 3) == "round2"


def test_an_untrained_policy_has_the_entropy_of_its_bins(tmp_path):
    policy = tiny()
    decisions = Decisions(policy, [two_ways(tmp_path)])
    rows = np.arange(len(decisions))
    found = condition(policy, decisions, rows, rows_at_once=5)
    assert found.entropy == pytest.approx(np.full(len(rows), np.log(256)), abs=0.05)
    batch = decisions.batch(rows)
    taken = policy.decide(batch["frames"], batch["words"])
    expected = (taken - policy.actions(batch["targets"])).square().mean((1, 2))
    assert found.error == pytest.approx(expected.numpy(), abs=1e-6)


def test_actions_are_judged_on_the_scale_of_the_bins(tmp_path):
    """An arm whose largest step is 0.02, and a policy that always takes it."""
    policy = tiny()
    policy.range.set(torch.full((2,), -0.02), torch.full((2,), 0.02))
    decisions = Decisions(policy, [two_ways(tmp_path)])
    policy.decide = lambda *_, **__: torch.full((3, 2, 2), 0.02)
    found = condition(policy, decisions, np.arange(3))
    assert found.saturation.tolist() == [1, 1, 1]
    apart = (0.02 - policy.actions(decisions.targets[:3])) / 0.02
    assert found.error == pytest.approx(apart.square().mean((1, 2)).numpy(), rel=1e-4)


# -- whole trainings ----------------------------------------------------------------------------------------


def two_ways(folder, states=6):
    """Two rollouts of three decisions from each state: the first goes one way, the second another.

    The frame says the state; the better action grows with it, the worse one is its opposite.
    """
    rng = np.random.default_rng(0)
    levels = np.linspace(-0.6, 0.6, states)
    with TrajectoryStore.create(
        folder, observation_size=1, action_size=2, keypoints=(), control_hz=10.0
    ) as store:
        for state, level in enumerate(levels):
            for sign in (1, -1):
                store.append(
                    Trajectory(
                        observations=np.zeros((7, 1)),
                        actions=np.clip(sign * (0.3 + level / 2) + 0.02 * rng.normal(size=(6, 2)), -1, 1),
                        rewards=np.zeros(6),
                        successes=np.arange(6) == (5 if sign > 0 else 9),
                        keypoints={},
                        terminated=False,
                        provenance=Provenance("drawer-open", "toy", state, "any", {}, str(state), {}),
                    )
                )
    store = TrajectoryStore.open(folder)
    with FrameCache.create(
        folder / "film", store, height=16, width=16, every=2, view={}, versions={}
    ) as cache:
        for state in range(states):
            for _ in range(2):
                cache.append(np.full((4, 16, 16, 3), 30 + 200 * state // states, np.uint8), "replay")
    return FilmedEpisodes(store, FrameCache.open(folder / "film", store), ["open the drawer"] * 2 * states)


def steps(learner, sampler, count, batch_size):
    optimiser, logged = torch.optim.Adam(learner.parameter_groups()), {}
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        loss, logged = learner.loss(sampler.sample(batch_size, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return logged


class MostlyBetter:
    """Decisions of which four in five are the better way."""

    def __init__(self, decisions):
        self.decisions = decisions

    def sample(self, batch_size, generator):
        pick = torch.rand(3, batch_size, generator=generator).numpy()
        trajectories = 2 * (pick[0] * 6).astype(int) + (pick[1] > 0.8)
        return self.decisions.batch(3 * trajectories + (pick[2] * 3).astype(int))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A policy that imitated the better way mostly."""
    folder = tmp_path_factory.mktemp("start")
    policy = tiny(learning_rate=1e-2)
    decisions = Decisions(policy, [two_ways(folder / "s")])
    steps(policy, MostlyBetter(decisions), 50, 12)
    save_vla(folder / "policy", policy)
    return folder / "policy", decisions


def aligned(start, count, **options):
    folder, decisions = start
    policy, before = load_vla(folder), load_vla(folder)
    groups = TrajectoryGroups(
        decisions,
        np.arange(12).reshape(6, 2),
        np.array([[1.0, 0.0]] * 6),
        reference=decisions.scores(policy),
        parts=part_numbers(decisions.counts, "trajectory"),
    )
    logged = steps(TrajectoryPreference(policy, window=99, **options), groups, count, 4)
    return logged, judged(before, policy, decisions)


def judged(before, policy, decisions):
    policy.eval()
    better = np.flatnonzero(np.repeat(np.arange(12) % 2 == 0, 3))
    old, new = (condition(one, decisions, better) for one in (before, policy))
    return verdict(old, new, better // 3, divergence=None, exact=True)


STEPS = 3e-2
"""Of Adam, alike for the loss that destroys and the one that does not."""

with (resources.files("robopref.conf") / "experiment" / "grape.yaml").open() as file:
    DEFAULTS = OmegaConf.load(file).grape.alignment


def test_a_policy_that_the_published_loss_destroyed_is_flagged_while_its_accuracy_is_one(start):
    logged, found = aligned(start, 40, objective="dpo", reduce="sum", beta=0.02, learning_rate=STEPS)
    assert float(logged["accuracy"]) == 1
    assert found["error"] > 5 * found["start_error"]
    assert found["collapsed"]
    assert "its actions moved away from the preferred ones" in found["reason"]
    assert "of likelihood per token" in found["reason"]


def test_the_experiments_contrast_of_rollouts_passes_at_the_same_step_size(start):
    own = {name: DEFAULTS[name] for name in ("objective", "reduce", "beta", "imitation_weight")}
    assert DEFAULTS["segment"] == "trajectory"
    logged, found = aligned(start, 40, **own, learning_rate=STEPS)
    assert float(logged["accuracy"]) == 1
    assert found["error"] < 0.9 * found["start_error"]
    assert found["chosen_change"] > 0
    assert not found["collapsed"], found["reason"]


def by_advantages(start, learning_rate):
    folder, decisions = start
    policy, before = load_vla(folder), load_vla(folder)
    signs = np.where(np.repeat(np.arange(12) % 2 == 0, 3), 1.0, -1.0)
    batch = decisions.batch(np.arange(36))
    with torch.no_grad():
        reference = policy.entry_scores(batch["frames"], batch["words"], batch["targets"])
    learner = ClippedAdvantage(policy, clip=DEFAULTS["clip"], learning_rate=learning_rate)
    logged = steps(learner, CreditedDecisions(decisions, np.ones(36), signs, reference), 40, 24)
    return logged, judged(before, policy, decisions)


def test_clipped_advantages_alone_pass_at_ten_times_the_experiments_step_size(start):
    logged, found = by_advantages(start, 10 * DEFAULTS["learning_rate"])
    assert float(logged["good_change"]) > 0 > float(logged["bad_change"])
    assert found["error"] < 0.8 * found["start_error"]
    assert found["chosen_change"] > 0
    assert not found["collapsed"], found["reason"]


def test_clipped_advantages_alone_lose_the_preferred_at_the_step_size_that_destroys(start):
    """A clip holds a token only once it has moved."""
    logged, found = by_advantages(start, STEPS)
    assert float(logged["good_change"]) < 0
    assert found["chosen_change"] < 0


def test_a_proximal_and_supervised_loss_moves_towards_the_preferred(start):
    logged, found = aligned(start, 40, objective="rpro", beta=0.1, learning_rate=3e-3)
    assert float(logged["accuracy"]) == 1
    assert found["error"] < 0.8 * found["start_error"]
    assert found["chosen_change"] > 0
    assert not found["collapsed"], found["reason"]
