"""Preferences on diffusion and flow policies: scores, refusals, the collapse that a falling loss hides."""

import math

import pytest
import torch

from robopref.errors import ConfigError
from robopref.objectives.description import SURROGATE
from robopref.objectives.registry import REGISTRY
from robopref.policies.chunks import Draw, Referenced
from robopref.policies.preference import PreferencePolicy, chunks_of
from robopref.policies.saved import load_policy, save_policy

TINY = {"kind": "mlp", "hidden": [32], "time_size": 16}
FAMILIES = ["diffusion", "flow"]
FITTING = [
    name
    for name, o in REGISTRY.items()
    if not o.refusal(SURROGATE)
    and name != "trpa"  # has an option without default
    and o.extra != "demonstration"
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def policy_of(kind="diffusion", objective="dpo", **options):
    actor = {"kind": kind, "horizon": 2, "backbone": TINY, "sample_steps": 5, "draws": 4}
    return PreferencePolicy(3, 2, objective=objective, actor=actor, **options)


def pairs(count=4, length=4, seed=0):
    generator = seeded(seed)
    batch = {"labels": torch.ones(count), "weights": torch.ones(count)}
    for side in "ab":
        batch[f"observations_{side}"] = torch.randn(count, length, 3, generator=generator)
        batch[f"actions_{side}"] = 2 * torch.rand(count, length, 2, generator=generator) - 1
        batch[f"mask_{side}"] = torch.ones(count, length, dtype=torch.bool)
    return batch


def lists(count=3, items=4, seed=0):
    generator = seeded(seed)
    return {
        "observations": torch.randn(count, 1, 3, generator=generator)
        .repeat_interleave(items, 0)
        .expand(-1, 2, -1),
        "actions": 2 * torch.rand(count * items, 2, 2, generator=generator) - 1,
        "mask": torch.ones(count * items, 2, dtype=torch.bool),
        "labels": torch.arange(items).float().expand(count, items),
        "items": torch.ones(count, items, dtype=torch.bool),
        "weights": torch.ones(count),
    }


@pytest.mark.parametrize("kind", FAMILIES)
def test_before_any_step_every_margin_is_exactly_zero_and_the_loss_is_log_two(kind):
    policy = policy_of(kind)
    assert isinstance(policy, Referenced)
    loss, logged = policy.loss(pairs(), seeded())
    assert logged["margin"].item() == 0
    assert loss.item() == pytest.approx(math.log(2))
    with policy.frozen() as frozen:
        draw = policy.draw(2, generator=seeded())
        observations, actions = torch.zeros(2, 3), torch.zeros(2, 2, 2)
        assert torch.equal(
            frozen.score(observations, actions, draw), policy.score(observations, actions, draw)
        )


def test_the_published_plain_sigmoid_is_an_objective_by_name():
    loss, _ = policy_of(objective="sigmoid_link").loss(pairs(), seeded())
    assert loss.item() == pytest.approx(-0.5)


def test_the_loss_is_that_of_errors_taken_one_by_one_under_the_same_draw():
    policy, batch = policy_of(beta=3.0), pairs(count=1, length=2)
    with torch.no_grad():
        policy.actor.network.layers[-1].bias += 0.1
    draw = policy.draw(1, generator=seeded(7))

    def error(model, side):
        return model.errors(batch[f"observations_{side}"][:, 0], batch[f"actions_{side}"], draw).mean()

    with torch.no_grad():
        lead = [error(policy.reference, s) - error(policy.actor, s) for s in "ab"]
    margin = 3.0 * 0.5 * float(lead[0] - lead[1])
    loss, logged = policy.loss(batch, seeded(7))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-6)
    assert logged["margin"].item() == pytest.approx(margin, abs=1e-6)


def nudged(objective, kind="flow", **options):
    """A policy whose predictions differ from its reference's by 0.1 everywhere."""
    policy = policy_of(kind, objective=objective, **options)
    with torch.no_grad():
        policy.actor.network.layers[-1].bias += 0.1
    return policy


def predictions(policy, batch, draw):
    """Of policy and reference, and what they should be, for first and second members under one draw."""
    both = [torch.cat([batch[f"{name}_{s}"] for s in "ab"]) for name in ("observations", "actions")]
    seen, actions = both[0][:, 0], both[1]
    same = type(draw)(*(torch.cat([x, x], 1) for x in (draw.times, draw.noise)))
    points, times, wanted = policy.actor.path(actions.expand_as(same.noise), same)
    found = []
    for model in (policy.actor, policy.reference):
        each = [model.network(x, t, model.encoder(seen)) for x, t in zip(points, times, strict=True)]
        found.append(torch.stack(each).detach())
    return *found, wanted


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_step_of_negative_aware_flow_draws_to_the_good_and_away_from_the_bad_prediction(kind):
    policy, batch = nudged("nft_flow", kind, beta=0.7), pairs(count=3, length=2)
    now, old, wanted = predictions(policy, batch, policy.draw(3, generator=seeded(7)))
    up, down = (old + s * 0.7 * (now - old) - wanted for s in (1, -1))
    squares = torch.cat([up[:, :3], down[:, 3:]], 1).square().mean()
    assert policy.loss(batch, seeded(7))[0].item() == pytest.approx(squares.item(), rel=1e-4)


def test_a_step_of_ac_flow_weighs_errors_by_advantages_and_anchors_at_the_reference():
    policy, batch = nudged("ac_flow"), pairs(count=3, length=2)
    now, old, wanted = predictions(policy, batch, policy.draw(3, generator=seeded(7)))
    errors = (now - wanted).square().mean((0, 2, 3))
    weights = torch.tensor([math.exp(0.5)] * 3 + [math.exp(-0.5)] * 3)  # rewards 1 and 0, their mean 1/2
    expected = (weights * errors).mean() + 0.1 * (now - old).square().mean()
    assert policy.loss(batch, seeded(7))[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_diffusion_dpo_of_errors_is_dpo_of_scores():
    first, second = (nudged(name).loss(pairs(), seeded(7))[0].item() for name in ("diffusion_dpo", "dpo"))
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_inverted_noise_is_that_of_a_field_which_does_not_change(kind):
    # A network that always predicts 0.3: DDIM's noise is 0.3 itself, and the flow's is the action less 0.3.
    policy, batch = policy_of(kind, objective="inpo"), pairs(length=2)
    with torch.no_grad():
        last = policy.actor.network.layers[-1]
        last.weight.zero_()
        last.bias.fill_(0.3)
    actions = batch["actions_a"]
    draw = policy.draw(4, generator=seeded())
    assert draw is not None
    noise = policy.actor.invert(batch["observations_a"][:, 0], actions, draw.times)
    expected = torch.full_like(noise, 0.3) if kind == "diffusion" else (actions - 0.3).expand_as(noise)
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=1e-3)
    # there the policy errs nowhere, so that all is lost against any other reference
    with torch.no_grad():
        policy.reference.load_state_dict(policy.actor.state_dict())
        policy.reference.network.layers[-1].bias.fill_(0.5)
    draw = Draw(draw.times, noise)
    errors, before, _ = policy.actor.against(policy.reference, batch["observations_a"][:, 0], actions, draw)
    assert errors.max() < 1e-4
    torch.testing.assert_close(before, torch.full_like(before, 0.04), rtol=1e-2, atol=1e-3)
    assert policy.loss(batch, seeded())[0].item() == pytest.approx(math.log(2), abs=0.02)


def test_seppo_sets_what_was_preferred_against_samples_of_the_reference():
    policy, batch = nudged("seppo", beta=3.0), pairs(count=3, length=2)
    seen = torch.cat([batch[f"observations_{s}"] for s in "ab"])[:, 0]
    generator = seeded(7)
    sampled = policy.reference.sample(seen, 1, generator=generator)[:, 0]
    draw = policy.draw(3, generator=generator)

    def scores(actions):
        return 3 * (
            policy.actor.score(seen[:3], actions, draw) - policy.reference.score(seen[:3], actions, draw)
        )

    with torch.no_grad():
        demonstration, sample = scores(batch["actions_a"]), scores(sampled[:3])
    sign = torch.where(sample < demonstration, 1, -1)
    expected = torch.log1p((sign * sample - demonstration).exp()).mean() / 2  # the others weigh nothing
    assert policy.loss(batch, seeded(7))[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_segment_is_cut_into_chunks_each_with_what_was_seen_before_it():
    observations = torch.arange(5.0)[None, :, None]
    actions = 10 * observations
    mask = torch.tensor([[True, True, True, True, False]])
    seen, chunks, counted = chunks_of(observations, actions, mask, 2)
    assert seen[0, :, 0].tolist() == [0, 2, 4]
    assert chunks[0, :, :, 0].tolist() == [[0, 10], [20, 30], [40, 40]]
    assert counted[0].tolist() == [[True, True], [True, True], [False, False]]


@pytest.mark.parametrize("name", FITTING)
def test_every_objective_that_fits_moves_the_policy_and_never_its_reference(name):
    policy = policy_of(objective=name)
    batch = lists() if REGISTRY[name].labels == "lists" else pairs()
    loss, logged = policy.loss(batch, seeded())
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(not value.requires_grad for value in logged.values())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.actor.parameters())
    assert all(p.grad is None for p in policy.reference.parameters())


def test_a_list_of_two_has_the_loss_of_its_pair():
    policy = policy_of(objective="ranknet")
    paired = policy_of(objective="dpo")
    for one in (policy, paired):
        with torch.no_grad():
            one.actor.network.layers[-1].bias += 0.1
    listed = lists(items=2)
    batch = {"labels": torch.zeros(3), "weights": torch.ones(3)}
    for k, side in enumerate("ab"):
        for name in ("observations", "actions", "mask"):
            batch[f"{name}_{side}"] = listed[name][k::2]
    assert policy.loss(listed, seeded())[0].item() == pytest.approx(paired.loss(batch, seeded())[0].item())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tdpo1", "each token"),
        ("conditional_bc", "how good the behaviour was"),
        ("orpo", "probabilities of tokens"),
    ],
)
def test_what_needs_tokens_or_goals_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=reason):
        policy_of(objective=name)


def test_an_actor_that_does_not_exist_or_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'diffusion'"):
        PreferencePolicy(3, 2, actor={"kind": "difusion"})
    with pytest.raises(ConfigError, match="cannot be built"):
        PreferencePolicy(3, 2, actor={"kind": "flow", "eta": 1.0})
    with pytest.raises(ConfigError, match="must have this policy's family"):
        policy_of("flow").start_from(PreferencePolicy(3, 2))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_preference_policy_scores_as_before(kind, tmp_path):
    policy = policy_of(kind, objective="rpro")
    policy.start_from(policy.cloner())
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    assert loaded.loss(pairs(), seeded())[0].item() == policy.loss(pairs(), seeded())[0].item()
    assert torch.equal(loaded.act(torch.zeros(1, 3)), policy.act(torch.zeros(1, 3)))


def learned_by(objective, reference, batch, steps=60):
    """A flow policy after so many steps, and what was measured on its own pairs."""
    policy = PreferencePolicy(
        1,
        2,
        objective=objective,
        beta=20.0,
        learning_rate=2e-3,
        actor={"kind": "flow", "horizon": 1, "backbone": TINY, "average": 0.0, "draws": 1},
    )
    policy.start_from(reference)
    optimiser = torch.optim.Adam(policy.parameter_groups())
    generator, loss = seeded(1), torch.zeros(())
    for _ in range(steps):
        loss, _ = policy.loss(batch, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    measured = policy.diagnose([batch])
    return loss.item(), measured, policy.verdict(measured)


def test_the_plain_loss_destroys_a_flow_policy_while_it_falls_and_the_anchored_one_does_not():
    # Pairs that differ little (0.2 apart), as two samples of one policy do; the reference cloned both.
    generator = seeded()
    observations = torch.randn(64, 1, 1, generator=generator)
    better = 0.3 + 0.05 * torch.randn(64, 1, 2, generator=generator)
    batch = {"labels": torch.ones(64), "weights": torch.ones(64)}
    for side, actions in (("a", better), ("b", better - 0.2)):
        batch |= {f"observations_{side}": observations, f"actions_{side}": actions}
        batch[f"mask_{side}"] = torch.ones(64, 1, dtype=torch.bool)
    reference = PreferencePolicy(
        1, 2, actor={"kind": "flow", "horizon": 1, "backbone": TINY, "average": 0.0}, clone_learning_rate=5e-3
    ).cloner()
    optimiser = torch.optim.Adam(reference.parameter_groups())
    both = {
        "observations": torch.cat([observations[:, 0]] * 2),
        "actions": torch.cat([batch["actions_a"], batch["actions_b"]]),
        "mask": torch.ones(128, 1, dtype=torch.bool),
    }
    for _ in range(150):
        loss, _ = reference.loss(both, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    plain_loss, plain, plain_verdict = learned_by("dpo", reference, batch)
    _, held, held_verdict = learned_by({"name": "rpro", "imitation_weight": 1.0}, reference, batch)
    assert plain_loss < 0.3
    assert plain["accuracy"] > 0.95
    assert plain_verdict["collapsed"]
    assert plain["sampled_error"] > 3 * plain["reference_sampled_error"]
    assert not held_verdict["collapsed"]
    assert held["accuracy"] > 0.9
