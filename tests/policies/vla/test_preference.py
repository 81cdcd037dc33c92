import math

import numpy as np
import pytest
import torch

from robopref.errors import ConfigError
from robopref.policies.vla.preference import TrajectoryPreference, holding, segment_scores
from tests.policies.vla.conftest import continuous, tiny

PER_GROUP = ("grades", "imitated", "weights")


def batch_of(policy, lengths, grades, parts=None, seed=0):
    """Trajectories of so many decisions, groups of as many as a row of grades has, reference = the policy."""
    rng = np.random.default_rng(seed)
    members, longest, size = len(lengths), max(lengths), policy.image_size
    frames = torch.from_numpy(rng.integers(0, 256, (members, longest, size, size, 3), np.uint8))
    words = torch.from_numpy(np.stack([policy.tokenizer.encode("open the door")] * members))
    targets = policy.targets(
        torch.from_numpy(rng.uniform(-1, 1, (members, longest, policy.horizon, 2)).astype(np.float32))
    )
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        rows = frames.flatten(0, 1), words.repeat_interleave(longest, 0), targets.flatten(0, 1)
        flat = policy.decision_scores(*rows) if policy.exact else torch.zeros(len(rows[0]))
    return {
        "frames": frames,
        "words": words,
        "targets": targets,
        "mask": mask,
        "taken": mask[..., None].expand(-1, -1, policy.horizon),
        "reference": flat.reshape(members, longest),
        "parts": torch.zeros_like(mask, dtype=torch.long) if parts is None else torch.tensor(parts),
        "grades": torch.tensor(grades),
        "imitated": torch.zeros(len(grades), dtype=torch.bool),
        "weights": torch.ones(len(grades)),
    }


def gradient(learner, batch):
    learner.zero_grad()
    loss, _ = learner.loss(batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


@pytest.mark.parametrize("objective", ["dpo", "rpro", "kto"])
def test_windows_of_two_decisions_have_the_gradient_of_all_at_once(policy, objective):
    batch = batch_of(policy, [3, 5], [[1.0, 0.0]])
    whole = gradient(TrajectoryPreference(policy, objective=objective, reduce="sum", window=99), batch)
    parts = gradient(TrajectoryPreference(policy, objective=objective, reduce="sum", window=2), batch)
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert float((parts[1] - whole[1]).abs().max()) < 1e-5 * float(whole[1].abs().max())


def test_accumulating_pair_by_pair_is_the_large_batch(policy):
    """The mean of the gradients of single pairs is the gradient of the batch of both."""
    both = batch_of(policy, [3, 2, 2, 3], [[1.0, 0.0], [0.0, 1.0]])
    learner = TrajectoryPreference(policy, objective="rpro", reduce="mean", window=3)
    _, large = gradient(learner, both)
    small = []
    for pair in range(2):
        members = slice(2 * pair, 2 * pair + 2)
        one = {name: value[members] for name, value in both.items() if name not in PER_GROUP}
        small.append(gradient(learner, one | {name: both[name][[pair]] for name in PER_GROUP})[1])
    assert float((sum(small) / 2 - large).abs().max()) < 1e-5 * float(large.abs().max())


def test_the_margin_at_the_start_is_zero_and_the_loss_log_two(policy):
    batch = batch_of(policy, [3, 5], [[1.0, 0.0]])
    loss, logged = TrajectoryPreference(policy, objective="dpo", reduce="sum", window=99).loss(batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert float(logged["margin"]) == pytest.approx(0.0, abs=1e-5)
    assert float(logged["chosen_change"]) == pytest.approx(0.0, abs=1e-5)


def test_tpo_is_equation_five_of_grape(policy):
    """L = -log sigma(beta [sum_t log pi/pi_ref of the winner - the same of the loser]), by hand."""
    batch = batch_of(policy, [2, 3], [[0.0, 1.0]])
    batch["reference"] = batch["reference"] - torch.tensor([[0.3, 0.2, 9.0], [0.5, 0.1, 0.4]])
    margin = 0.5 * ((0.5 + 0.1 + 0.4) - (0.3 + 0.2))  # 9.0 is padding
    learner = TrajectoryPreference(policy, objective="dpo", reduce="sum", beta=0.5, window=99)
    loss, logged = learner.loss(batch)
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-margin))), abs=1e-5)
    assert float(logged["margin"]) == pytest.approx(margin, abs=1e-4)


def test_segments_are_averaged_apart_and_a_missing_one_counts_as_the_reference(policy):
    """Winner: stages 0, 0, 1; loser: stage 0 alone. Stage 1 compares the winner with zero."""
    batch = batch_of(policy, [3, 3], [[1.0, 0.0]], parts=[[0, 0, 1], [0, 0, 0]])
    batch["reference"] = batch["reference"] - torch.tensor([[0.4, 0.2, 0.6], [0.1, 0.2, 0.3]])
    learner = TrajectoryPreference(policy, objective="dpo", reduce="mean", beta=2.0, window=99)
    loss, _ = learner.loss(batch)
    margins = [2.0 * (0.3 - 0.2), 2.0 * 0.6]
    expected = sum(math.log(1 + math.exp(-m)) for m in margins) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_objectives_without_a_reference_take_log_likelihoods(policy):
    batch = batch_of(policy, [2, 3], [[1.0, 0.0]])
    log_prob, mask = batch["reference"], batch["mask"]  # of the policy itself
    total = torch.where(mask, log_prob, 0.0).sum(1)
    mean = (total / mask.sum(1) / policy.entries).tolist()
    batch["reference"] = log_prob - 7.0  # counts nothing

    def loss(objective, **options):
        return TrajectoryPreference(policy, objective=objective, **options).loss(batch)[0].item()

    lead = float(total[0] - total[1])
    assert loss({"name": "cpl", "bias": 1.0}, reduce="sum", beta=0.1) == pytest.approx(
        math.log1p(math.exp(-0.1 * lead)), rel=1e-4
    )
    contrast = math.log1p(math.exp(-0.1 * lead))
    assert loss("cpo", reduce="sum") == pytest.approx(contrast - float(total[0]), rel=1e-4)
    assert loss("simpo") == pytest.approx(math.log1p(math.exp(0.5 - 2.0 * (mean[0] - mean[1]))), rel=1e-4)
    odds = [m - math.log1p(-math.exp(m)) for m in mean]
    expected = -mean[0] + 0.1 * math.log1p(math.exp(odds[1] - odds[0]))
    assert loss("orpo") == pytest.approx(expected, rel=1e-4)


def test_without_a_reference_a_stage_that_one_never_reached_is_left_out(policy):
    batch = batch_of(policy, [3, 3], [[1.0, 0.0]], parts=[[0, 0, 1], [0, 0, 0]])
    lead = float(batch["reference"][0, :2].sum() - batch["reference"][1].sum())
    learner = TrajectoryPreference(policy, objective={"name": "cpl", "bias": 1.0}, reduce="sum", beta=0.5)
    assert learner.loss(batch)[0].item() == pytest.approx(math.log1p(math.exp(-0.5 * lead)), rel=1e-4)


def test_reducing_a_segment_by_hand():
    values = torch.tensor([[1.0, 2.0, 4.0, 99.0]])
    parts, mask = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[True, True, True, False]])
    mean, present = segment_scores(values, parts, mask, 3, "mean")
    assert mean.tolist() == [[1.0, 3.0, 0.0]]
    assert present.tolist() == [[True, True, False]]
    assert segment_scores(values, parts, mask, 3, "sum")[0].tolist() == [[1.0, 6.0, 0.0]]


EVERY_KIND = ["dpo", "ipo", "hinge", "simpo", "orpo", "tdpo2", "rpro", "plackett_luce", "kto", "bco"]


@pytest.mark.parametrize("objective", EVERY_KIND)
def test_a_demonstration_is_imitated_whatever_the_objective(policy, objective):
    batch = batch_of(policy, [3, 2], [[1.0, -1.0]])
    batch["mask"][1], batch["imitated"] = False, torch.tensor([True])
    loss, logged = TrajectoryPreference(policy, objective=objective, window=2).loss(batch)
    rows = batch["frames"][0], batch["words"][:1].expand(3, -1), batch["targets"][0]
    assert loss.item() == pytest.approx(-policy.token_log_probs(*rows).mean().item(), rel=1e-5)
    assert float(logged["margin"]) == 0


@pytest.mark.parametrize("objective", ["dpo", "plackett_luce"])
def test_a_batch_holds_comparisons_and_demonstrations_side_by_side(policy, objective):
    """At the start a comparison costs log 2, a demonstration its negative log-likelihood."""
    batch = batch_of(policy, [2, 3, 2, 2], [[1.0, 0.0], [1.0, 0.0]])
    batch["mask"][3], batch["imitated"] = False, torch.tensor([False, True])
    loss, _ = TrajectoryPreference(policy, objective=objective, reduce="sum", window=99).loss(batch)
    rows = batch["frames"][2, :2], batch["words"][:1].expand(2, -1), batch["targets"][2, :2]
    imitation = -policy.token_log_probs(*rows).mean().item()
    assert loss.item() == pytest.approx((math.log(2) + imitation) / 2, rel=1e-5)


def test_only_what_succeeded_is_imitated_beside_judgements_of_single_rollouts(policy):
    def imitated(grade):
        batch = batch_of(policy, [2], [[grade]])
        losses = [
            TrajectoryPreference(policy, objective="kto", imitation_weight=weight).loss(batch)[0].item()
            for weight in (0.0, 1.0)
        ]
        return losses[1] - losses[0], -float(batch["reference"].sum()) / (2 * policy.entries)

    good, likelihood = imitated(1.0)
    assert good == pytest.approx(likelihood, rel=1e-5)
    assert imitated(0.0)[0] == 0


def test_what_a_rollout_never_did_counts_in_no_loss(policy):
    """The winner's second chunk was cut off after its first action."""
    batch = batch_of(policy, [2, 2], [[1.0, 0.0]])
    batch["taken"] = batch["taken"].clone()
    batch["taken"][0, 1, 1] = False
    rows = (
        batch["frames"].flatten(0, 1),
        batch["words"].repeat_interleave(2, 0),
        batch["targets"].flatten(0, 1),
    )
    each = policy.token_log_probs(*rows).detach().unflatten(0, (2, 2))
    done = torch.cat([each[0, 0], each[0, 1, : policy.entries // 2]])
    batch["reference"][0, 1] = each[0, 1, : policy.entries // 2].sum()
    batch["reference"] = batch["reference"] - torch.tensor([[0.3, 0.2], [0.1, 0.0]])
    loss, _ = TrajectoryPreference(policy, objective="dpo", reduce="sum", beta=1.0).loss(batch)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-(0.5 - 0.1))), abs=1e-5)
    loss, _ = TrajectoryPreference(policy, objective="simpo").loss(batch)
    lead = float(done.mean() - each[1].mean())
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.5 - 2.0 * lead)), rel=1e-4)
    batch["targets"][0, 1, -1] = (batch["targets"][0, 1, -1] + 99) % 256
    again, _ = TrajectoryPreference(policy, objective="simpo").loss(batch)
    assert again.item() == loss.item()


def test_a_tie_of_a_rollout_with_itself_is_supervised_learning_that_is_held_back(policy):
    """FlowPRO's remark: at the start only the winner's likelihood is left of the gradient."""
    batch = batch_of(policy, [2, 2], [[1.0, 1.0]])
    for name in ("frames", "targets", "reference"):
        batch[name][1] = batch[name][0]
    learner = TrajectoryPreference(policy, objective="rpro", window=99)
    _, got = gradient(learner, batch)
    chosen = batch["frames"][0], batch["words"][:1].expand(2, -1), batch["targets"][0]
    policy.zero_grad()
    (-policy.token_log_probs(*chosen).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
    assert float((got - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_a_list_of_two_is_a_pair(policy):
    pair = batch_of(policy, [2, 3], [[1.0, 0.0]])
    pair["reference"] = pair["reference"] - 0.1
    losses = [
        TrajectoryPreference(policy, objective=name, reduce="sum", window=99).loss(pair)[0].item()
        for name in ("dpo", "plackett_luce")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_lists_of_more_than_two_use_every_rollout(policy):
    batch = batch_of(policy, [2, 2, 2], [[3.0, 1.0, 2.0]])
    loss, _ = TrajectoryPreference(policy, objective="plackett_luce", reduce="sum", window=2).loss(batch)
    assert loss.item() == pytest.approx(math.log(3) + math.log(2), abs=1e-4)


def test_what_does_not_fit_is_refused(policy):
    with pytest.raises(ConfigError, match="No objective is called 'tpo'"):
        TrajectoryPreference(policy, objective="tpo")
    with pytest.raises(ConfigError, match="a third behaviour, the demonstration"):
        TrajectoryPreference(policy, objective="triple")
    with pytest.raises(ConfigError, match="errors of velocity or noise"):
        TrajectoryPreference(policy, objective="nft_flow")
    with pytest.raises(ConfigError, match="needs the probabilities of tokens"):
        TrajectoryPreference(continuous("flow"), objective="orpo")
    with pytest.raises(ConfigError, match="weakens the reference"):
        TrajectoryPreference(policy, objective="dpo_gamma")
    for means in ("ln_dpo", "ipo", "simpo"):
        with pytest.raises(ConfigError, match="reduce=sum does not fit it"):
            TrajectoryPreference(policy, objective=means, reduce="sum")
    with pytest.raises(ConfigError, match="No reduction is called 'max'"):
        TrajectoryPreference(policy, reduce="max")
    with pytest.raises(ConfigError, match="option of dpo"):
        TrajectoryPreference(policy, objective={"name": "dpo", "margn": 1.0})
    with pytest.raises(ConfigError, match="needs the probabilities of tokens"):
        TrajectoryPreference(continuous("flow"), objective="tdpo2")


def test_token_level_dpo_starts_at_log_two_and_its_reference_stays_without_any_adapter():
    policy = tiny()
    batch = batch_of(policy, [2, 3], [[1.0, 0.0]])
    learner = TrajectoryPreference(policy, objective="tdpo2", reduce="sum", window=2, learning_rate=1e-2)
    loss, _ = learner.loss(batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    rows = batch["frames"][0], batch["words"][:1].expand(3, -1), batch["targets"][0]
    before = policy.decision_scores(*rows).detach()
    optimiser = torch.optim.Adam(learner.parameter_groups())
    loss.backward()
    optimiser.step()
    moved = policy.decision_scores(*rows).detach()
    assert not torch.equal(moved, before)
    with holding(learner.policy, learner._before):
        assert torch.equal(policy.decision_scores(*rows), before)
    assert torch.equal(policy.decision_scores(*rows), moved)


@pytest.mark.parametrize("head", ["gaussian", "flow"])
def test_numbers_are_compared_as_tokens_are(head):
    """The margin starts at 0 exactly: policy, reference and both rollouts share their draws."""
    policy = continuous(head)
    batch = batch_of(policy, [3, 2], [[1.0, 0.0]])
    learner = TrajectoryPreference(policy, objective="dpo", window=2, learning_rate=1e-3)
    generator = torch.Generator()
    loss, logged = learner.loss(batch, generator.manual_seed(0))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
    assert float(logged["margin"]) == pytest.approx(0, abs=1e-4)
    optimiser = torch.optim.Adam(learner.parameter_groups())
    for _ in range(12):
        loss, logged = learner.loss(batch, generator.manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(logged["margin"]) > 0


def test_windows_of_a_flow_policy_have_the_gradient_of_all_at_once():
    policy = continuous("flow")
    batch = batch_of(policy, [3, 4], [[1.0, 0.0]])
    whole = gradient(TrajectoryPreference(policy, objective="rpro", window=99), batch)
    parts = gradient(TrajectoryPreference(policy, objective="rpro", window=2), batch)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    assert float((parts[1] - whole[1]).abs().max()) < 1e-5 * float(whole[1].abs().max())


def test_both_rollouts_of_a_pair_share_their_draws_place_by_place():
    policy = continuous("flow")
    batch = batch_of(policy, [3, 2], [[1.0, 0.0]])
    learner = TrajectoryPreference(policy, objective="dpo")
    chosen = batch["mask"].nonzero(as_tuple=True)
    draw = learner._shared_draw(batch, chosen, torch.Generator().manual_seed(3))
    assert draw is not None
    first, second = draw.noise[:, :3], draw.noise[:, 3:]
    assert torch.equal(first[:, :2], second)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_kto_remembers_its_baseline_and_takes_single_rollouts(policy):
    batch = batch_of(policy, [2, 3], [[1.0], [0.0]])
    batch["reference"] = batch["reference"] - torch.tensor([[1.0], [0.5]])
    learner = TrajectoryPreference(policy, objective="kto", reduce="mean", window=99)
    learner.loss(batch)
    assert float(learner.baseline) == pytest.approx(0.1 * (1.0 + 0.5) / 2, abs=1e-5)
    assert float(learner.baseline_batches) == 1


def test_bco_over_trajectories_is_a_classifier_around_the_mean_score_so_far(policy):
    batch = batch_of(policy, [2, 3], [[1.0], [0.0]])
    batch["reference"] = batch["reference"] - torch.tensor([[1.0], [0.5]])
    learner = TrajectoryPreference(policy, objective="bco", reduce="mean", beta=2.0, window=99)
    loss, _ = learner.loss(batch)
    up, down, shift = 2.0, 1.0, 1.5  # beta times the mean log-ratios, and their mean
    expected = (math.log1p(math.exp(-(up - shift))) + math.log1p(math.exp(down - shift))) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_a_shorter_list_leaves_out_whom_it_has_not(policy):
    batch = batch_of(policy, [2, 2, 2], [[2.0, 1.0, 0.0]])
    batch["mask"][2] = False
    loss, _ = TrajectoryPreference(policy, objective="plackett_luce", reduce="sum").loss(batch)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)


def test_a_step_makes_the_better_likelier_than_the_worse():
    policy = tiny()
    batch = batch_of(policy, [3, 4], [[1.0, 0.0]])
    learner = TrajectoryPreference(policy, objective="rpro", beta=1.0, window=4, learning_rate=1e-2)
    optimiser = torch.optim.Adam(learner.parameter_groups())
    for _ in range(5):
        loss, _ = learner.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    logged = learner.loss(batch)[1]
    assert float(logged["accuracy"]) == 1
    assert float(logged["chosen_change"]) > float(logged["rejected_change"])
