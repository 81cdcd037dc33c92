"""Policies learned from preferences; most numbers are worked by hand on a policy of one number.

Its mean is MEAN in every state, its reference's is 0, both have deviation 1. A step with action a then has
the log-ratio a MEAN - MEAN^2 / 2 and the divergence MEAN^2 / 2.
"""

import math

import numpy as np
import pytest
import torch

from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.objectives.description import POLICY
from robopref.objectives.registry import REGISTRY
from robopref.policies.bc import BehaviourCloning
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import load_policy, save_policy
from robopref.rewards.dataset import preference_tensors
from robopref.training.devices import make_fabric
from robopref.training.loop import fit
from robopref.training.metrics import RunLog
from tests.policies.store_of import episode, store_of

MEAN = 0.2
FITTING = [name for name, o in REGISTRY.items() if not o.refusal(POLICY) and o.extra != "goal"]


def constant(**options):
    policy = PreferencePolicy(1, 1, hidden=(), deviation=1.0, **options)
    with torch.no_grad():
        for actor, mean in ((policy.actor, MEAN), (policy.reference, 0.0)):
            actor.network.weights[0].zero_()
            actor.network.biases[0].fill_(math.atanh(mean))
    return policy


def pair(actions_a, actions_b, label=1.0, weights=(1.0,), demonstration=None):
    """A batch of one pair; the shorter segment is padded with actions that would change every number."""
    longest = max(len(actions_a), len(actions_b))
    batch = {"labels": torch.tensor([label]), "weights": torch.tensor(weights)}
    sides = {"a": actions_a, "b": actions_b, "demonstration": demonstration}
    for name, actions in sides.items():
        if actions is not None:
            batch |= {f"{key}_{name}": value for key, value in padded([actions], longest).items()}
    return batch


def padded(segments, longest):
    filled = [[*actions, *[9.0] * (longest - len(actions))] for actions in segments]
    return {
        "actions": torch.tensor(filled)[:, :, None],
        "observations": torch.zeros(len(segments), longest, 1),
        "mask": torch.stack([torch.arange(longest) < len(actions) for actions in segments]),
    }


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def likelihood(*actions):
    return sum(-((a - MEAN) ** 2) / 2 - math.log(2 * math.pi) / 2 for a in actions)


def test_the_score_is_beta_times_the_summed_log_ratio_and_padding_counts_nothing():
    policy = constant(beta=0.5)
    batch = pair([0.5, 0.5], [-0.5, 0.5, 0.1])
    steps = policy.steps(
        *(torch.cat([batch[f"{x}_a"], batch[f"{x}_b"]]) for x in ("observations", "actions", "mask"))
    )
    expected = [0.5 * (1.0 * MEAN - 2 * 0.02), 0.5 * (0.1 * MEAN - 3 * 0.02)]
    assert policy.preference.scores(steps).tolist() == pytest.approx(expected, abs=1e-6)
    assert steps.kl is not None
    assert steps.kl[0, 0].item() == pytest.approx(0.02, abs=1e-6)


def test_the_dpo_loss_of_one_pair_is_that_worked_by_hand():
    # ell_a = 0.16, ell_b = -0.04, h = 0.1 * 0.2
    loss, logged = constant().loss(pair([0.5, 0.5], [-0.5, 0.5]))
    assert loss.item() == pytest.approx(-log_sigmoid(0.02), abs=1e-6)
    assert logged["accuracy"].item() == 1
    assert logged["margin"].item() == pytest.approx(0.02, abs=1e-6)
    assert logged["chosen_change"].item() == pytest.approx(0.08, abs=1e-6)
    assert logged["rejected_change"].item() == pytest.approx(-0.02, abs=1e-6)
    assert logged["kl"].item() == pytest.approx(0.02, abs=1e-6)
    assert logged["chosen_log_prob"].item() == pytest.approx(likelihood(0.5), abs=1e-6)


def test_swapping_the_pair_and_its_label_changes_nothing():
    for name in FITTING:
        a, b = (constant(objective=name).eval() for _ in range(2))
        label = 1.0 if REGISTRY[name].labels == "hard pairs" else 0.8
        first = a.loss(pair([0.5, 0.3], [-0.5, 0.5], label, demonstration=[0.2]))
        second = b.loss(pair([-0.5, 0.5], [0.5, 0.3], 1 - label, demonstration=[0.2]))
        assert first[0].item() == pytest.approx(second[0].item(), rel=1e-5), name


def test_ipo_regresses_the_lead_per_step_on_half_of_one_over_tau_whatever_beta():
    # mean log-ratios 0.08 and -0.02 lead by 0.1
    for beta in (0.1, 2.0):
        policy = constant(objective={"name": "ipo", "tau": 0.25}, beta=beta)
        assert policy.loss(pair([0.5, 0.5], [-0.5, 0.5]))[0].item() == pytest.approx((0.1 - 2) ** 2, rel=1e-4)


def test_contrastive_learning_takes_discounted_likelihoods_and_no_reference():
    policy = constant(objective={"name": "cpl", "bias": 0.5}, beta=0.1, discount=0.9)
    good, bad = likelihood(0.5) + 0.9 * likelihood(0.4), likelihood(-0.5) + 0.9 * likelihood(0.1)
    expected = -log_sigmoid(0.1 * (good - 0.5 * bad))
    assert policy.loss(pair([0.5, 0.4], [-0.5, 0.1]))[0].item() == pytest.approx(expected, rel=1e-5)


def test_simpo_scales_mean_likelihoods_by_its_own_beta_and_asks_for_a_margin():
    policy = constant(objective="simpo")
    assert policy.preference.beta == 2.0
    lead = likelihood(0.5, 0.5) / 2 - likelihood(-0.5, 0.5, 0.5) / 3
    expected = -log_sigmoid(2.0 * lead - 0.5)
    assert policy.loss(pair([0.5, 0.5], [-0.5, 0.5, 0.5]))[0].item() == pytest.approx(expected, rel=1e-5)


def test_kto_judges_each_segment_against_the_mean_score_of_the_training_so_far():
    # scores 0.1 * (0.16, -0.04) = 0.016, -0.004; their mean 0.006 is the baseline
    policy = constant(objective="kto")
    loss = policy.loss(pair([0.5, 0.5], [-0.5, 0.5]))[0].item()
    up, down = 1 / (1 + math.exp(0.010)), 1 / (1 + math.exp(0.010))
    assert loss == pytest.approx((up + down) / 2, rel=1e-5)
    assert policy.preference.baseline.item() == pytest.approx(0.006, abs=1e-7)
    policy.loss(pair([0.5, 0.5], [0.5, 0.5]))  # mean 0.016
    assert policy.preference.baseline.item() == pytest.approx((0.006 + 0.016) / 2, abs=1e-7)
    policy.eval()
    policy.loss(pair([0.9], [0.9]))
    assert policy.preference.baseline.item() == pytest.approx((0.006 + 0.016) / 2, abs=1e-7)


def test_rewards_weigh_imitation_of_thumbs_and_of_both_members_of_pairs():
    good, bad = likelihood(0.5, 0.5), likelihood(-0.5, 0.5)
    up, down = math.exp(0.5), math.exp(-0.5)  # rewards 1 and 0, their mean 1/2
    thumbs = padded([[0.5, 0.5], [-0.5, 0.5]], 2) | {
        "labels": torch.tensor([1.0, 0.0]),
        "weights": torch.ones(2),
    }
    for batch in (pair([0.5, 0.5], [-0.5, 0.5]), thumbs):
        loss, _ = constant(objective="awr").loss(batch)
        assert loss.item() == pytest.approx(-(up * good + down * bad) / 2, rel=1e-5)
        loss, _ = constant(objective="rwr").loss(batch)  # the same with weights whose mean is 1
        assert loss.item() == pytest.approx(-(up * good + down * bad) / (up + down), rel=1e-5)


@pytest.mark.parametrize("label", [-3.0, 1.5, math.nan])
@pytest.mark.parametrize("objective", ["dpo", "rwr", "awr", "kto"])
def test_labels_outside_their_range_are_refused(objective, label):
    thumbs = padded([[0.5], [-0.5]], 1) | {"labels": torch.tensor([1.0, label]), "weights": torch.ones(2)}
    for batch in (pair([0.5], [-0.5], label=label), thumbs):
        with pytest.raises(DataError, match="labels must lie in"):
            constant(objective=objective).loss(batch)


def test_token_level_dpo_takes_the_closed_form_divergence():
    # both members have KL 0.02 per step: two steps against three leave 0.02 in the margin
    batch = pair([0.5, 0.5], [0.5, 0.5, 0.5])
    lead = (0.16 - 0.24) - (0.06 - 0.04)
    assert constant(objective="tdpo1").loss(batch)[0].item() == pytest.approx(
        -log_sigmoid(0.1 * lead), rel=1e-5
    )


def test_a_reference_of_lower_power_weighs_less():
    policy = constant(objective="dpo_gamma", reference_power=0.0, beta=0.1)
    expected = -log_sigmoid(0.1 * (likelihood(0.5) - likelihood(-0.5)))
    assert policy.loss(pair([0.5], [-0.5]))[0].item() == pytest.approx(expected, rel=1e-5)


def test_imitation_adds_the_preferred_segments_likelihood_per_step():
    batch = pair([0.5, 0.5], [-0.5, 0.5])
    plain, held = constant(), constant(imitation_weight=2.0)
    assert (held.loss(batch)[0] - plain.loss(batch)[0]).item() == pytest.approx(
        -2 * likelihood(0.5), rel=1e-5
    )


def test_triple_optimisation_imitates_a_third_segment_and_needs_one():
    # the score is 0.01 times the likelihood; the demonstration is imitated per step
    policy = constant(objective="triple")
    lead = 0.01 * (likelihood(0.5, 0.5) - likelihood(-0.5, 0.5))
    loss = policy.loss(pair([0.5, 0.5], [-0.5, 0.5], demonstration=[0.3]))[0].item()
    assert loss == pytest.approx(-log_sigmoid(lead) - likelihood(0.3), rel=1e-5)
    with pytest.raises(DataError, match="needs a demonstration for each pair"):
        policy.loss(pair([0.5], [-0.5]))


def test_sorted_margins_are_compared_with_those_of_the_reference():
    # one pair: nothing to sort, so it is the loss of the log-ratio's margin 0.2, as of dpo
    batch = pair([0.5, 0.5], [-0.5, 0.5])
    expected = constant(objective="dpo").loss(batch)[0].item()
    assert constant(objective="aot").loss(batch)[0].item() == pytest.approx(expected, rel=1e-5)
    two = {name: torch.cat([value, value]) for name, value in batch.items()}
    with pytest.raises(DataError, match="all confidences must be equal"):
        constant(objective="aot").loss({**two, "weights": torch.tensor([1.0, 0.5])})


def test_the_divergence_of_what_is_preferred_is_added_by_rrpo():
    # a lead of 0.02, and two steps of divergence 0.02
    loss = constant(objective={"name": "rrpo", "kl_weight": 0.5}).loss(pair([0.5, 0.5], [-0.5, 0.5]))[0]
    assert loss.item() == pytest.approx(-log_sigmoid(0.02) + 0.5 * 0.04, rel=1e-5)


def test_sparse_gates_count_what_the_reference_did_not_expect():
    # under the reference N(0, 1) actions of +-1 are as likely as each other, so every gate is one: tdpo2
    batch = pair([1.0, 1.0], [-1.0, -1.0])
    expected = constant(objective="tdpo2").loss(batch)[0].item()
    assert constant(objective="sparse_po").loss(batch)[0].item() == pytest.approx(expected, rel=1e-5)
    # actions 2 and 0 lie at +1 and -1 of the standardised surprise: gates 2 and 0
    lead = 0.1 * (2 * (2 * MEAN - 0.02) - 2 * (-2 * MEAN - 0.02))
    found = constant(objective="sparse_po").loss(pair([2.0, 0.0], [-2.0, 0.0]))[0].item()
    assert found == pytest.approx(-log_sigmoid(lead), rel=1e-4)


def one_by_one(*segments, labels):
    """A batch of segments that were judged one by one."""
    longest = max(map(len, segments))
    return {"labels": torch.tensor(labels), "weights": torch.ones(len(labels))} | padded(segments, longest)


def test_segments_judged_one_by_one_are_the_two_halves_of_a_pair():
    batch = one_by_one([0.5, 0.5], [-0.5, 0.5], labels=[1.0, 0.0])
    for name in ("kto", "bco", "nft", "apo_zero_unpaired"):
        expected, logged = constant(objective=name).loss(pair([0.5, 0.5], [-0.5, 0.5]))
        got, also = constant(objective=name).loss(batch)
        assert got.item() == pytest.approx(expected.item(), rel=1e-6), name
        for key in ("accuracy", "margin", "chosen_change", "rejected_change", "kl"):
            assert also[key].item() == pytest.approx(logged[key].item(), rel=1e-5), key


def test_an_objective_of_pairs_takes_the_cross_entropy_of_a_thumb_and_cpl_refuses_it():
    # scores 0.1 * 0.16 and 0.1 * -0.04
    got = constant().loss(one_by_one([0.5, 0.5], [-0.5, 0.5], labels=[1.0, 0.0]))[0].item()
    assert got == pytest.approx(-(log_sigmoid(0.016) + log_sigmoid(0.004)) / 2, rel=1e-5)
    with pytest.raises(DataError, match="no use for judgements of single behaviours"):
        constant(objective="cpl").loss(one_by_one([0.5], labels=[1.0]))


@pytest.mark.parametrize("name", ["kto", "bco"])
def test_a_single_thumb_is_no_batch_since_it_would_be_its_own_baseline(name):
    with pytest.raises(DataError, match=f"{name} compares .* a batch needs at least 2"):
        constant(objective=name).loss(one_by_one([0.5], labels=[1.0]))


@pytest.mark.parametrize("kind", [None, "token", "flow", "diffusion"])
def test_what_padding_holds_reaches_no_gradient_not_even_nan(kind):
    torch.manual_seed(0)
    chunk = {"horizon": 4, "backbone": {"kind": "mlp", "hidden": [8]}, "sample_steps": 2}
    actor = kind and {"kind": kind, **({"hidden": [8], "bins": 4} if kind == "token" else chunk)}
    policy = PreferencePolicy(2, 1, hidden=(8,), actor=actor)
    with torch.no_grad():
        for p in policy.actor.parameters():
            p.add_(0.1 * torch.randn_like(p))
    clean = {"labels": torch.ones(1), "weights": torch.ones(1)}
    for side, length in (("a", 4), ("b", 8)):  # a chunk of four that counts, and one that may not
        mask = torch.arange(8)[None] < length
        clean |= {f"mask_{side}": mask, f"actions_{side}": torch.full((1, 8, 1), 0.3)}
        clean[f"observations_{side}"] = torch.full((1, 8, 2), 0.5)
    spoiled = {k: v.clone() for k, v in clean.items()}
    for name in ("actions_a", "observations_a"):
        spoiled[name][:, 4:] = math.nan
    found = []
    for batch in (clean, spoiled):
        policy.zero_grad()
        loss, _ = policy.loss(batch, torch.Generator().manual_seed(0))
        loss.backward()
        found.append([loss, *(p.grad.clone() for p in policy.actor.parameters() if p.grad is not None)])
    assert len(found[0]) > 2
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(other, mine)


def test_a_segment_of_which_nothing_counts_is_refused():
    batch = pair([0.5], [-0.5])
    with pytest.raises(DataError, match=r"Row \[0\] of the mask keeps fewer than 1 step"):
        constant().loss(batch | {"mask_a": torch.zeros(1, 1, dtype=torch.bool)})


def test_what_a_policy_is_told_reaches_only_one_that_takes_goals():
    policy = PreferencePolicy(1, 1, hidden=(), goal=True, objective="conditional_bc")
    state = torch.zeros(1, 1)
    with torch.no_grad():
        policy.actor.network.weights[0][..., -1] = 0.7
        policy.actor.network.biases[0].zero_()
    assert policy.act(state).item() == pytest.approx(math.tanh(0.7))  # nothing said: the best
    batch = one_by_one([0.0], [0.0], labels=[1.0, 0.0])
    batch["observations"] = torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]]])
    log_prob = policy.steps(*(batch[x] for x in ("observations", "actions", "mask"))).log_prob
    expected = -(math.tanh(0.7) ** 2) / 2 - math.log(2 * math.pi) / 2
    assert log_prob.flatten().tolist() == pytest.approx([expected, expected], rel=1e-5)
    assert policy.loss(batch)[0].item() == pytest.approx(-expected, rel=1e-5)


def test_a_clone_is_deaf_to_goals(preferred_right, tmp_path):
    store, _ = preferred_right
    policy = PreferencePolicy(2, 1, hidden=(8,), goal=True)
    clone = policy.cloner()
    train(clone, clone.prepare_data(store, None), tmp_path / "clone", 20)
    assert (clone.actor.network.weights[0][..., -1] == 0).all()


def test_every_objective_that_fits_has_a_finite_gradient_that_spares_the_reference():
    for name in FITTING:
        policy = constant(objective=name)
        label = 1.0 if REGISTRY[name].labels == "hard pairs" else 0.9
        policy.loss(pair([0.5, 0.4], [-0.5, 0.1], label, demonstration=[0.3, 0.1]))[0].backward()
        gradient = policy.actor.network.biases[0].grad
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name
        assert all(p.grad is None for p in policy.reference.parameters())
        assert policy.actor.log_deviation.grad is None


def test_the_spread_moves_only_where_it_is_told_to():
    still, moving = (PreferencePolicy(1, 1, hidden=(), learn_deviation=flag) for flag in (False, True))
    counts = [len(policy.parameter_groups()[0]["params"]) for policy in (still, moving)]
    assert counts == [2, 3]


@pytest.fixture
def preferred_right(tmp_path):
    """Episodes of which some went right and some left, with labels that prefer right; and their store."""
    rng = np.random.default_rng(0)
    directions = np.where(np.arange(30) % 2, 0.5, -0.5)
    episodes = [
        episode(rng.normal(size=(9, 2)), np.clip(d + 0.2 * rng.normal(size=(8, 1)), -1, 1), np.zeros(8))
        for d in directions
    ]
    a, b = np.nonzero(np.triu(np.ones((30, 30)), 1))
    side_a, side_b = (Segments(x, np.zeros(len(x), np.int64), np.full(len(x), 8)) for x in (a, b))
    label = np.where(directions[a] == directions[b], 0.5, directions[a] > directions[b]).astype(np.float32)
    preferences = Preferences(side_a, side_b, label, np.ones(len(label), np.float32))
    with store_of(tmp_path / "store", episodes) as store:
        yield store, preferences


def train(learner, sampler, folder, steps):
    with RunLog(folder, wandb_mode="disabled") as log:
        return fit(
            learner,
            sampler,
            steps=steps,
            batch_size=32,
            seed=0,
            fabric=make_fabric("cpu"),
            log=log,
            phase="policy",
            directory=folder,
            checkpoint_every=20,
        )


@pytest.mark.parametrize("name", ["dpo", "ipo", "cpl", "kto", "rpro"])
def test_preferences_turn_a_clone_of_left_and_right_to_the_right(tmp_path, preferred_right, name):
    store, preferences = preferred_right
    policy = PreferencePolicy(2, 1, objective=name, hidden=(16,), learning_rate=1e-2)
    clone = policy.cloner()
    train(clone, clone.prepare_data(store, None), tmp_path / "clone", 100)
    policy.start_from(clone)
    states = torch.randn(50, 2)
    torch.testing.assert_close(policy.act(states), clone.act(states))
    pairs = preference_tensors(store, preferences)
    train(policy, pairs, tmp_path / "policy", 60)
    assert policy.act(states).mean() > clone.act(states).mean() + 0.15
    found = policy.diagnose(pairs.batches(64))
    assert found["accuracy"] > 0.95
    assert found["chosen_change"] > found["rejected_change"]


def test_at_the_start_the_loss_is_log_two_and_the_divergence_nothing(preferred_right):
    store, preferences = preferred_right
    policy = PreferencePolicy(2, 1, hidden=(16,))
    clone = BehaviourCloning(2, 1, hidden=(16,), seed=7)
    clone.prepare_data(store, None)
    policy.start_from(clone)
    found = policy.diagnose(preference_tensors(store, preferences).batches(64))
    assert found["dpo"] == pytest.approx(math.log(2), rel=1e-6)
    assert found["kl"] == found["margin"] == found["chosen_change"] == 0


def test_ties_count_neither_for_accuracy_nor_for_the_margin_however_they_are_batched():
    policy = constant()
    right, tie = pair([0.5, 0.5], [-0.5, 0.5]), pair([0.9, 0.5], [-0.9, 0.5], 0.5)
    found = policy.diagnose([tie, right, tie])
    assert found["accuracy"] == 1
    assert found["margin"] == pytest.approx(0.02, abs=1e-6)


def test_a_training_that_is_taken_up_again_ends_with_the_same_numbers(tmp_path, preferred_right):
    store, preferences = preferred_right
    pairs = preference_tensors(store, preferences)
    whole, first, second = (PreferencePolicy(2, 1, objective="bco", hidden=(16,)) for _ in range(3))
    train(whole, pairs, tmp_path / "whole", 40)
    train(first, pairs, tmp_path / "parts", 20)
    train(second, pairs, tmp_path / "parts", 40)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_a_saved_policy_keeps_its_reference_and_objective(tmp_path):
    policy = constant(objective={"name": "hinge", "margin": 2})
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    batch = pair([0.5], [-0.5])
    assert loaded.loss(batch)[0].item() == policy.loss(batch)[0].item()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "orpo"}, "probabilities of tokens"),
        ({"objective": "sparse_po", "reduce": "mean"}, "reduce=mean does not fit"),
        ({"objective": "conditional_bc"}, "policy.goal=true makes it listen"),
        ({"goal": True, "actor": {"kind": "flow"}}, "for the Gaussian policy"),
        ({"objective": {"name": "ipo", "beta": 0.1}}, "policy.beta"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"beta": math.inf}, "beta must be positive and finite"),
        ({"beta": math.nan}, "beta must be positive and finite"),
        ({"reference_power": math.inf}, "reference_power must not be negative or infinite"),
        ({"reduce": "mean_step"}, "No reduction is called"),
        ({"discount": 0.0}, "discount must lie"),
        ({"imitation_weight": -1.0}, "imitation_weight must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_senseless_settings_are_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        PreferencePolicy(2, 1, **options)


def test_a_reference_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match="sizes, hidden layers"):
        PreferencePolicy(2, 1, hidden=(8,)).start_from(BehaviourCloning(2, 1, hidden=(16,)))


def test_rewards_are_no_preferences(preferred_right):
    with pytest.raises(ConfigError, match="learns from preferences"):
        PreferencePolicy(2, 1).prepare_data(preferred_right[0], "true")
