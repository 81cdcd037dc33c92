import inspect
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from robopref.errors import ConfigError, DataError
from robopref.objectives import pairs, registry
from robopref.objectives.bradley_terry import preference_logits, preference_loss
from robopref.objectives.catalogue import ENTRIES
from robopref.objectives.description import LEARNERS, POLICY, REWARD, SURROGATE, TOKENS
from robopref.objectives.reduction import reduce_losses


def test_every_objective_is_described_and_documented():
    assert len(registry.REGISTRY) >= 48
    for name, entry in registry.REGISTRY.items():
        assert entry.name == name
        assert entry.equation
        assert entry.source
        assert (inspect.getdoc(entry.loss) or "").strip()


def test_every_soft_pair_objective_of_plain_scores_runs_by_name():
    a, b, y = torch.rand(3, 5, dtype=torch.float64)
    for entry in registry.REGISTRY.values():
        positional = [
            p for p in inspect.signature(entry.loss).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        if entry.labels == "soft pairs" and len(positional) == 3:
            losses = entry(-a, -b, y, reduction="none")
            assert losses.shape == (5,)
            assert losses.isfinite().all()
            torch.testing.assert_close(entry(-a, -b, y), losses.mean())


def test_no_two_objectives_share_a_name():
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names)) == len(registry.REGISTRY)


def test_the_registry_is_read_without_importing_torch():
    code = "import sys, robopref.objectives.registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    ("learner", "name", "reason"),
    [
        (REWARD, "orpo", "probabilities of tokens"),
        (REWARD, "simpo", "log-likelihoods of a policy"),
        (REWARD, "dpo_gamma", "weighs a reference"),
        (REWARD, "ln_dpo", "aggregate=mean"),
        (REWARD, "conditional_bc", "log-likelihoods of a policy"),
        (REWARD, "seppo", "samples of the reference"),
        (POLICY, "seppo", "samples of the reference"),
        (REWARD, "aot", "log-likelihoods of a policy"),
        (REWARD, "rpro", "also takes the imitation loss"),
        (POLICY, "orpo", "probabilities of tokens"),
        (POLICY, "diffusion_dpo", "only diffusion and flow policies have"),
        (POLICY, "nft_flow", "only diffusion and flow policies have"),
        (REWARD, "ac_flow", "only diffusion and flow policies have"),
        (REWARD, "awr", "log-likelihoods of a policy"),
        (POLICY, "sami", "learns from none"),
        (SURROGATE, "sparse_po", "a number for each token"),
        (SURROGATE, "conditional_bc", "how good the behaviour was"),
        (SURROGATE, "orpo", "probabilities of tokens"),
        (SURROGATE, "unlikelihood", "probabilities of tokens"),
        (TOKENS, "inpo", "only diffusion and flow policies have"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused_with_the_reason(learner, name, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        registry.choose(name, learner)
    assert "These do: " in str(refused.value)
    assert "dpo" in str(refused.value)


def test_a_token_policy_takes_what_every_policy_takes_and_what_needs_probabilities():
    fitting = {
        learner: {o.name for o in registry.REGISTRY.values() if not o.refusal(learner)}
        for learner in LEARNERS
    }
    assert fitting[TOKENS] - fitting[POLICY] == {"orpo", "unlikelihood"}
    assert fitting[POLICY] - fitting[TOKENS] == {"conditional_bc"}
    assert fitting[POLICY] - fitting[SURROGATE] == {"conditional_bc", "tdpo1", "tdpo2", "sparse_po", "rrpo"}
    assert fitting[SURROGATE] - fitting[POLICY] == {
        *("diffusion_dpo", "inpo", "ac_flow", "nft_flow", "seppo")
    }
    assert {"kto", "bco", "nft", "apo_zero_unpaired"} <= fitting[REWARD]
    assert fitting[REWARD] - fitting[POLICY] == set()


def test_options_are_checked_when_an_objective_is_chosen():
    assert registry.choose({"name": "ipo", "tau": 0.5}, REWARD).settings == {"tau": 0.5}
    with pytest.raises(ConfigError, match="Did you mean 'tau'"):
        registry.choose({"name": "ipo", "tua": 0.5}, REWARD)
    with pytest.raises(ConfigError, match="tau must be"):
        registry.choose({"name": "ipo", "tau": -1}, REWARD)
    with pytest.raises(ConfigError, match="wrong type"):
        registry.choose({"name": "ipo", "tau": "small"}, REWARD)
    with pytest.raises(ConfigError, match="is a name, or a mapping"):
        registry.choose({"tau": 0.1}, REWARD)


@pytest.mark.parametrize("nothing", [None, ["dpo"], 3, {"name": None}])
def test_what_names_no_objective_is_refused_with_a_sentence(nothing: Any):
    with pytest.raises((ConfigError, TypeCheckError)):  # "is a name, or a mapping"; the hook speaks first
        registry.choose(nothing, REWARD)


def test_every_option_refuses_another_type_and_what_is_not_finite():
    for name, entry in registry.REGISTRY.items():
        fitting = next((learner for learner in LEARNERS if not entry.refusal(learner)), None)
        if fitting is None:
            continue
        for option, default in entry.options().items():
            wrong = [None, [1.0], "x" if not isinstance(default, str) else 1.0]
            wrong += [math.nan, math.inf, -math.inf, True] if isinstance(default, float) else []
            for value in wrong:
                with pytest.raises(ConfigError, match=rf"{option} of {name} (has the wrong type|must be)"):
                    registry.choose({"name": name, option: value}, fitting)


def test_a_chosen_objective_keeps_its_options():
    a, b, y = torch.rand(3, 4)
    chosen = registry.choose({"name": "hinge", "margin": 3.0}, REWARD)
    torch.testing.assert_close(chosen(a, b, y), pairs.hinge(a, b, y, margin=3.0))


def test_an_unknown_objective_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'lipo_lambda'"):
        registry.find("lipo_lamda")


def test_a_taken_name_and_an_unknown_kind_are_refused():
    with pytest.raises(ConfigError, match="exists already"):
        registry.register(registry.find("dpo"))
    with pytest.raises(ConfigError, match="Did you mean 'soft pairs'"):
        registry.Objective("new", pairs.hinge, "soft pair", True, "sum", "-", "-")


def test_weights_scale_each_pair_and_their_mean_ignores_their_level():
    losses, weights = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0])
    assert reduce_losses(losses, weights).item() == pytest.approx(2.5)
    assert reduce_losses(losses, 10 * weights).item() == pytest.approx(2.5)
    assert reduce_losses(losses, weights, "sum").item() == pytest.approx(10)
    assert reduce_losses(losses, weights, "none").tolist() == [1.0, 9.0]
    assert reduce_losses(losses, torch.zeros(2)).item() == 0
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="weights must lie in"):
            reduce_losses(losses, torch.tensor([1.0, bad]))
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        reduce_losses(losses, reduction="meen")


def test_sorted_objectives_refuse_weights():
    zero = torch.zeros(2)
    with pytest.raises(ConfigError, match="sorted"):
        registry.find("aot_unpaired")(zero, zero, None, weights=torch.ones(2))


def test_dpo_by_name_is_the_preference_loss_of_reward_models():
    a, b, y, weights = torch.rand(4, 6)
    got = registry.find("dpo")(a, b, y, weights=weights)
    torch.testing.assert_close(got, preference_loss(preference_logits(a, b), y, weights=weights))
    flipped = registry.find("cdpo")(a, b, y, flip_prob=0.2)
    torch.testing.assert_close(flipped, preference_loss(preference_logits(a, b), y, flip_prob=0.2))
