"""What an alignment compares: who is drawn how often, who is imitated, and which labels are refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences, Segments
from robopref.errors import ConfigError, DataError
from robopref.files import read_json
from robopref.methods.components import Hardware
from robopref.methods.phases import vla_compared, vla_gate, vla_kept
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.label import content, read_labels
from robopref.methods.phases.vla_compared import Comparison, NothingToLearnError, _stages, labels_of
from robopref.methods.phases.vla_gate import _better, gate
from robopref.methods.phases.vla_how import Alignment
from robopref.methods.phases.vla_scores import Judge, Judged
from robopref.policies.vla import data
from robopref.policies.vla.data import Decisions
from robopref.policies.vla.saved import load_vla, save_vla
from robopref.rewards.staged.pairs import Pairing, ranked_pairs, whole_episode_preferences
from robopref.training.run import Run
from tests.policies.vla.conftest import tiny
from tests.policies.vla.test_data import filmed
from tests.policies.vla.test_health import two_ways

BETTER = np.arange(0, 12, 2)  # two_ways: the first of each two rollouts is the better
SCORES = np.tile([1.0, 0.0], 6)


def lab_in(folder):
    record = Run(folder, name="x", method="grape", task="x", seed=0, config="")
    made = Lab(record, Hardware(device="cpu"), 0)
    made.__dict__["fabric"] = SimpleNamespace(device=torch.device("cpu"))  # Fabric itself takes seconds
    return made


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return lab_in(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory):
    return two_ways(tmp_path_factory.mktemp("rollouts") / "s")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    return filmed(tmp_path_factory.mktemp("demonstrations") / "s", [6, 6], [None, None])


@pytest.fixture(scope="module")
def judged(rollouts, tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('labels') / 'drawer-open.sqlite'}"
    found = ranked_pairs(rollouts.store, SCORES, Pairing())
    with LabelStore(url) as labels:
        add(labels, rollouts.store, found)
    return Judged([rollouts], {"drawer-open": url}, {"drawer-open": SCORES}, Judge(), Path("now"))


def add(labels, store, preferences):
    labels.add_preferences(
        preferences,
        source="cost",
        annotator="costs",
        data_fingerprint=store.fingerprint(),
        episodes=len(store),
    )


def before(judged):
    """As if an earlier policy had done the same."""
    return replace(judged, policy=Path("before"))


def compared(lab, rounds, shown, **how):
    alignment = Alignment(**how)
    labels = [labels_of(lab, judged, alignment) for judged in rounds]
    save_vla(start := lab.run.directory / "start", tiny())
    return Comparison(start, tiny(), rounds, labels, [shown], alignment, lab)


@pytest.mark.parametrize("objective", ["rpro", "plackett_luce", "kto"])
def test_present_earlier_and_demonstrated_groups_are_drawn_in_their_shares(
    lab, judged, demonstrations, objective
):
    comparison = compared(lab, [before(judged), judged], demonstrations, objective=objective, replay=0.25)
    groups = comparison.groups()
    assert groups.chances is not None
    chances, imitated = groups.chances.numpy(), groups.imitated
    earlier = (groups.groups[:, 0] < 12) & ~imitated
    assert chances[imitated].sum() == pytest.approx(0.15)
    assert chances[earlier].sum() == pytest.approx(0.25)
    assert chances[~earlier & ~imitated].sum() == pytest.approx(0.6)
    assert groups.groups[imitated, 0].tolist() == [24, 25]  # after two rounds of twelve
    assert (groups.groups[imitated, 1:] == -1).all()
    singles = objective == "kto"
    assert len(groups) == (26 if singles else 14)


def test_the_better_rollout_has_the_higher_grade(lab, judged, demonstrations):
    groups = compared(lab, [judged], demonstrations, demonstrations=0.0).groups()
    first_wins = groups.grades[:6, 0] > groups.grades[:6, 1]
    winners = np.where(first_wins, groups.groups[:6, 0], groups.groups[:6, 1])
    assert sorted(winners) == BETTER.tolist()


def test_imitation_takes_whom_it_is_told_and_demonstrations_beside_them(lab, judged, demonstrations):
    def rows(kind, **shares):
        found = compared(lab, [judged], demonstrations, kind=kind, **shares).imitated()
        return [part // 3 for part in found.parts], found._bounds  # three decisions in each trajectory

    quarter = {"replay": 0.0, "demonstrations": 0.25}
    (chosen, shown), bounds = rows("chosen", **quarter)
    assert sorted(set(chosen.tolist())) == BETTER.tolist()
    assert sorted(set(shown.tolist())) == [12, 13]
    assert bounds.tolist() == pytest.approx([0.75, 1.0])
    (everyone, _), _ = rows("all", **quarter)
    assert sorted(set(everyone.tolist())) == list(range(12))
    (good, _), _ = rows("successes", **quarter)
    assert sorted(set(good.tolist())) == np.flatnonzero(judged.rollouts[0].store.successes).tolist()
    (alone,), bounds = rows("demonstrations")
    assert sorted(set(alone.tolist())) == [12, 13]
    assert bounds.tolist() == [1.0]


@pytest.mark.parametrize(
    ("count", "bounds"), [(1, [0.75, 1.0]), (2, [0.6, 0.75, 1.0])], ids=["one round", "two rounds"]
)
def test_what_there_is_nothing_of_leaves_its_share_of_imitation_to_the_present_round(
    lab, judged, demonstrations, count, bounds
):
    """By default 0.15 of a batch are of earlier rounds."""
    rounds = [before(judged), judged][-count:]
    found = compared(lab, rounds, demonstrations, kind="chosen", demonstrations=0.25).imitated()
    assert found._bounds.tolist() == pytest.approx(bounds)


def test_decisions_have_the_sign_of_what_their_rollout_was_worth(lab, judged, demonstrations):
    """Its observations say nothing to the critic here, so that all decisions of a rollout share its fate."""
    comparison = compared(lab, [before(judged), judged], demonstrations, kind="advantage", replay=0.25)
    found = comparison.credited()
    signs = found.signs.numpy().reshape(26, 3)  # two rounds of twelve, two demonstrations
    assert (signs[:24:2] == 1).all()
    assert (signs[1:24:2] == -1).all()
    assert not signs[24:].any()
    drawn = found.sample(4000, torch.Generator().manual_seed(0))
    assert float((drawn["sign"] == 0).float().mean()) == pytest.approx(0.15, abs=0.02)
    assert float((drawn["sign"] > 0).float().mean()) == pytest.approx(0.425, abs=0.1)
    chances = np.diff(found._up_to.numpy(), prepend=0).reshape(26, 3)
    assert chances[:12].sum() == pytest.approx(0.25)  # the earlier round
    assert chances[12:24].sum() == pytest.approx(0.6)
    start = comparison.decisions.scores(tiny())
    assert torch.allclose(found.reference.sum(1)[:72], start[:72], atol=1e-5)


def test_random_advantages_are_blind_to_who_is_better(lab, judged, demonstrations):
    found = compared(lab, [judged], demonstrations, kind="advantage", pairs="random").credited()
    signs = found.signs.numpy()[:36].reshape(6, 2, 3)
    assert (signs[:, 0] == -signs[:, 1]).all()  # each state still has one of either score
    assert 0 < (signs[:, 0, 0] > 0).sum() < 6


def test_a_rollout_is_worth_the_share_of_comparisons_that_it_won(
    lab, judged, rollouts, demonstrations, tmp_path
):
    """Where people judged: 0 beats 1, once is said otherwise, and 4 beats 5; nobody compared the others."""
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    first, second = np.array([0, 0, 1, 4]), np.array([1, 1, 0, 5])
    with LabelStore(url) as labels:
        add(labels, rollouts.store, whole_episode_preferences(rollouts.store, first, second))
    people = replace(judged, urls={"drawer-open": url}, scores={})
    comparison = compared(lab, [people], demonstrations, kind="advantage")
    members, scores, starts = comparison._scored(0, rollouts)
    assert members.tolist() == [0, 1, 4, 5]
    assert scores.tolist() == pytest.approx([2 / 3, 1 / 3, 1, 0])
    assert starts.tolist() == ["0", "0", "2", "2"]
    signs = comparison.credited().signs.numpy()[:36].reshape(12, 3)
    assert (signs[[4]] == 1).all()
    assert (signs[[5]] == -1).all()
    assert not signs[[2, 3, 6, 7, 8, 9, 10, 11]].any()


def test_a_critic_learns_from_earlier_rounds_too(lab, judged, rollouts, demonstrations, tmp_path):
    """By itself the last round, two rollouts of one state, has none to value them by."""
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    with LabelStore(url) as labels:
        add(labels, rollouts.store, whole_episode_preferences(rollouts.store, np.array([0]), np.array([1])))
    last = replace(judged, urls={"drawer-open": url}, scores={})
    found = compared(lab, [before(judged), last], demonstrations, kind="advantage").credited()
    signs = found.signs.numpy()[36:72].reshape(12, 3)
    assert signs[0].any()
    assert signs[1].any()
    assert not signs[2:].any()


@pytest.mark.parametrize("kind", ["advantage", "preference", "chosen"])
def test_all_rounds_of_the_present_policy_are_present(lab, judged, demonstrations, kind):
    """A round that was taken back leaves its rollouts to the next."""
    rounds = [before(judged), judged, judged]
    comparison = compared(lab, rounds, demonstrations, kind=kind, replay=0.25)
    if kind == "chosen":
        found = comparison.imitated()
        assert np.diff(found._bounds).tolist() == pytest.approx([0.25, 0.15])
        assert sorted(set((found.parts[0] // 3).tolist())) == [*(BETTER + 12), *(BETTER + 24)]
    elif kind == "preference":
        groups = comparison.groups()
        assert groups.chances is not None
        first, chances = groups.groups[:, 0], groups.chances.numpy()
        assert chances[first < 12].sum() == pytest.approx(0.25)
        assert chances[(first >= 12) & (first < 36)].sum() == pytest.approx(0.6)
        assert comparison.size == 12
    else:
        chances = np.diff(comparison.credited()._up_to.numpy(), prepend=0)
        assert chances[:36].sum() == pytest.approx(0.25)
        assert min(chances[36:72].sum(), chances[72:108].sum()) > 0.2
        assert chances[36:108].sum() == pytest.approx(0.6)


def test_of_several_earlier_rounds_a_part_is_replayed(lab, judged, demonstrations):
    """Of three rounds of 36 decisions, in batches of 64, the first batch is."""
    earlier = [before(judged)] * 3
    comparison = compared(lab, [*earlier, judged], demonstrations, kind="advantage", replay=0.25)
    found = comparison.credited()
    chances = np.diff(found._up_to.numpy(), prepend=0)
    assert (chances[:64] > 0).any()
    assert chances[:64].sum() == pytest.approx(0.25)
    assert not chances[64:108].any()
    assert chances[108:144].sum() == pytest.approx(0.6)


@pytest.mark.parametrize("states", [0, 1])
def test_without_comparisons_from_two_states_no_critic_learns(
    lab, judged, rollouts, demonstrations, tmp_path, states
):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    with LabelStore(url) as labels:
        if states:
            add(
                labels,
                rollouts.store,
                whole_episode_preferences(rollouts.store, np.array([0]), np.array([1])),
            )
    few = replace(judged, urls={"drawer-open": url} if states else {}, scores={})
    with pytest.raises(NothingToLearnError, match="or began in one state, so there is nothing to learn"):
        compared(lab, [few], demonstrations, kind="advantage").credited()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "No two rollouts of one state differ by 1.5 in their scores, so there is nothing to learn"),
        ({"kind": "chosen"}, "differ by 1.5 in their scores, so there is nothing to imitate"),
        ({"objective": "plackett_luce"}, "All rollouts of each state have the same score"),
        ({"kind": "advantage"}, "have the same score, or began in one state"),
    ],
)
def test_rollouts_that_are_all_alike_have_nothing_to_teach(lab, judged, demonstrations, how, said):
    alike = replace(judged, urls={}, scores={"drawer-open": np.zeros(12)})
    comparison = compared(lab, [alike], demonstrations, **how)
    with pytest.raises(NothingToLearnError, match=said):
        {"chosen": comparison.imitated, "advantage": comparison.credited}.get(
            comparison.how.kind, comparison.groups
        )()


def test_random_pairs_are_of_one_state_as_many_and_blind_to_who_is_better(lab, judged):
    found = labels_of(lab, judged, Alignment(pairs="random"))["drawer-open"]
    assert len(found) == 6
    assert (found.a.episode // 2 == found.b.episode // 2).all()
    preferred = np.where(found.label > 0.5, found.a.episode, found.b.episode)
    assert 0 < np.isin(preferred, BETTER).sum() < 6


def test_a_tie_is_no_pair_and_nobody_wins_it(lab, rollouts, demonstrations, tmp_path):
    """Two people's answers: rollout 0 beats 1, and 2 is as good as 3."""
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    found = whole_episode_preferences(rollouts.store, np.array([0, 2]), np.array([1, 3]))
    with LabelStore(url) as labels:
        add(labels, rollouts.store, replace(found, label=np.array([1.0, 0.5], np.float32)))
    judged = Judged([rollouts], {"drawer-open": url}, {}, Judge(), Path("now"))
    (kept,) = labels_of(lab, judged, Alignment()).values()
    assert content(kept) == content(found.select(np.array([0])))
    assert len(labels_of(lab, judged, Alignment(pairs="random"))["drawer-open"]) == 1
    comparison = compared(lab, [judged], demonstrations, kind="chosen", demonstrations=0.0)
    assert set(comparison.imitated().parts[0] // 3) == {0}  # three decisions in each trajectory
    assert _better(comparison.decisions, judged, {"drawer-open": kept}).tolist() == [0]


def test_labels_without_ties_are_those_of_the_store(lab, judged, rollouts):
    found = labels_of(lab, judged, Alignment())["drawer-open"]
    assert content(found) == content(read_labels(rollouts.store, judged.urls["drawer-open"]))


def test_a_label_across_states_is_refused_with_its_file_and_number(lab, rollouts, tmp_path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    good = whole_episode_preferences(rollouts.store, np.array([0]), np.array([1]))
    first, second = (
        Segments(np.array([e]), np.array([0]), rollouts.store.lengths[[e]]) for e in (0, 3)
    )  # of different states
    one = np.ones(1, np.float32)
    with LabelStore(url) as labels:
        add(labels, rollouts.store, good)
        add(labels, rollouts.store, Preferences(first, second, one, one))
    with pytest.raises(DataError, match=r"labels\.sqlite, label 2: Episodes 0 and 3 of .* different states"):
        labels_of(lab, Judged([rollouts], {"drawer-open": url}, {}, Judge(), Path("now")), Alignment())


def test_a_stage_is_that_of_the_state_of_each_decision_and_demonstrations_have_none(
    rollouts, demonstrations, monkeypatch
):
    """States 0, 2 and 4 begin decisions; who has completed both stages stays in the last."""
    stages = np.array([0, 0, 1, 1, 2, 2, 2])
    costs = SimpleNamespace(stages=[1, 2])
    monkeypatch.setattr(Judge, "costs_of", lambda judge, task: costs)
    monkeypatch.setattr(
        vla_compared, "costs_in", lambda costs, store: [SimpleNamespace(stages=stages)] * len(store)
    )
    judged = Judged([rollouts], {}, {}, Judge(), Path("now"))
    found = _stages(Decisions(tiny(), [rollouts, demonstrations]), [judged])
    assert found.tolist() == [0, 1, 1] * 12 + [0] * 6


def test_reference_scores_are_those_of_all_decisions_and_none_is_computed_twice(
    judged, demonstrations, tmp_path, monkeypatch
):
    """In batches of four: rollouts two and three have decisions 6 to 11, three and four 9 to 14."""
    lab = lab_in(tmp_path)
    for module in (data, vla_kept):
        monkeypatch.setattr(module, "BATCH", 4)
    asked, score = [], Decisions.batch_scores
    monkeypatch.setattr(
        Decisions,
        "batch_scores",
        lambda decisions, policy, numbers=None: asked.append(numbers) or score(decisions, policy, numbers),
    )
    comparison = compared(lab, [before(judged), judged], demonstrations)
    everywhere = comparison.decisions.scores(tiny())
    found = comparison._reference([3, 2])
    assert torch.equal(found[4:12], everywhere[4:12])
    assert not found[:4].any()
    assert not found[12:].any()
    again = compared(lab, [before(judged), judged], demonstrations, reduce="sum")._reference([3, 4])
    assert torch.equal(again[4:16], everywhere[4:16])
    assert asked == [None, {1, 2}, {3}]


def test_no_reference_is_scored_where_a_loss_draws_anew(lab, judged, demonstrations, monkeypatch):
    monkeypatch.setattr(Decisions, "batch_scores", None)
    comparison = compared(lab, [judged], demonstrations)
    comparison._policy.exact = False
    assert not comparison.groups().reference.any()


def test_a_start_is_measured_once_whoever_is_compared_with_it(lab, judged, tmp_path, monkeypatch):
    """The first gate asks about the better rollouts, a second about them again, a third about some others."""
    asked, policies = [], {}
    measure = vla_gate.condition
    monkeypatch.setattr(
        vla_gate,
        "condition",
        lambda policy, decisions, rows: asked.append(rows.tolist()) or measure(policy, decisions, rows),
    )
    for seed, name in enumerate(("start", "one", "other", "third")):
        policies[name] = tmp_path / name
        save_vla(policies[name], tiny(seed=seed))

    def passed(name, **how):
        return gate(lab, name, policies["start"], policies[name], judged, Alignment(**how), None)

    winners = [3 * e + i for e in BETTER for i in range(3)]  # three decisions in each trajectory
    found = passed("one")
    assert asked == [winners, winners]
    passed("other")
    assert asked[2:] == [winners]
    passed("third", pairs="random")
    missing, whole = asked[3:]
    assert 0 < len(missing) < len(whole)
    assert not set(missing) & set(winners)
    decisions = Decisions(tiny(), judged.rollouts)
    fresh = measure(load_vla(policies["start"]), decisions, np.array(winners))
    assert found["start_error"] == fresh.error.mean()
    assert found["start_score"] == fresh.score.mean()


def test_a_destroyed_policy_and_a_single_preferred_rollout_are_judged_and_written(lab, rollouts, tmp_path):
    """Neither NaN nor the infinite standard error of one rollout is a number of JSON."""
    url = f"sqlite:///{tmp_path / 'one.sqlite'}"
    with LabelStore(url) as labels:
        add(labels, rollouts.store, whole_episode_preferences(rollouts.store, np.array([0]), np.array([1])))
    one = Judged([rollouts], {"drawer-open": url}, {}, Judge(), Path("now"))
    start, destroyed = tiny(seed=5), tiny(seed=6)
    with torch.no_grad():
        next(destroyed.model.language_model.parameters()).fill_(torch.nan)
    for name, policy in (("start", start), ("destroyed", destroyed)):
        save_vla(tmp_path / name, policy)
    found = gate(lab, "destroyed", tmp_path / "start", tmp_path / "destroyed", one, Alignment(), None)
    assert found["collapsed"]
    assert "preferred actions lost nan nats" in found["reason"]
    assert (found["chosen_change_deviation"], found["score"], found["kl"]) == (None, None, None)
    assert read_json(tmp_path / "destroyed" / vla_gate.GATE) == found
    again = gate(lab, "again", tmp_path / "destroyed", tmp_path / "start", one, Alignment(), None)
    assert again["start_score"] is None  # and what was measured of that start was kept, too


def test_alignments_that_cannot_work_are_refused_before_anything_is_done():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"segment": "bogus"}, "No segment is called 'bogus'"),
        ({"reduce": "bogus"}, "No reduction is called 'bogus'"),
        ({"beta": -1.0}, "beta must be positive, got -1"),
        ({"window": 0}, "window must be positive, got 0"),
        ({"adapter": {"rnk": 3}}, "No option of an adapter is called 'rnk'"),
        ({"objective": "ipo", "reduce": "sum"}, "reduce=sum does not fit it"),
        ({"kind": "chosen", "objective": "dpo", "beta": 0.5}, "objective, beta would change nothing"),
        ({"kind": "advantage", "segment": "stage"}, "segment would change nothing under kind=advantage"),
        ({"objective": "dpo", "clip": 0.1}, "clip would change nothing under kind=preference"),
        ({"kind": "advantage", "clip": 1.0}, "clip must lie between 0 and 1, and trace from 0 to 1, got 1.0"),
        ({"kind": "advantage", "trace": 1.5}, "got 0.2 and 1.5"),
    ]
    for wrong, said in cases:
        with pytest.raises(ConfigError, match=said):
            Alignment(**wrong)
