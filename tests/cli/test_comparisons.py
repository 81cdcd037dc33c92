"""What is made of labels, from the command line to a trained model: lists, twins, stages, demonstrations."""

import json

import numpy as np
import pytest
import torch

from robopref.cli import main
from robopref.data.judgement import Judgement
from robopref.data.label_store import LabelStore
from robopref.data.preferences import Preferences, all_episode_pairs
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.methods.phases.label import store_labels
from robopref.policies.saved import load_policy

QUIET = ("wandb.mode=disabled", "threads=1", "device=cpu", "training.log_every=10", "training.held_out=0.2")
REWARD = ("train-reward", "data=store", "training.reward.steps=60", "reward=bradley_terry", *QUIET)
POLICY = (
    "train-policy",
    "policy=preference",
    "data=store",
    "labels=sqlite:///store/labels.sqlite",
    "policy.hidden=[16]",
    "training.clone.steps=30",
    "training.policy.steps=40",
    "training.policy.batch_size=8",
    *QUIET,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Twenty episodes that drive right, more or less; the farther the better."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with TrajectoryStore.create("store", observation_size=2, action_size=1, control_hz=10.0) as writing:
        for seed, speed in enumerate(np.linspace(-0.8, 0.8, 20)):
            actions = np.clip(speed + 0.1 * rng.normal(size=(8, 1)), -1, 1).astype(np.float32)
            observations = rng.normal(size=(9, 2)).astype(np.float32)
            provenance = Provenance("drive", "e", seed, "b", {}, "00", {})
            writing.append(
                Trajectory(
                    observations, actions, actions[:, 0], np.zeros(8, bool), {}, False, provenance, None
                )
            )
    store = TrajectoryStore.open("store")
    a, b = all_episode_pairs(store)
    label = (store.returns[a.episode] > store.returns[b.episode]).astype(np.float32)
    store_labels(
        "sqlite:///store/labels.sqlite", Preferences(a, b, label, np.ones_like(label)), store, "teacher", "t"
    )
    return tmp_path


def command(*arguments):
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


def measured(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        ("objective=listnet", "training.labels.list_size=5"),
        ("objective=aot_unpaired",),
        ("training.labels.stages=3", "training.labels.twins=4", "training.labels.spoil=redraw"),
        ("training.labels.keep=8", "training.labels.similarity=0.999"),
    ],
    ids=lambda options: options[0],
)
def test_a_reward_learns_from_what_is_made_of_labels(here, options):
    assert command(*REWARD, "reward.learning_rate=0.01", *options, "out=out") == 0
    found = measured(here / "out" / "reward")
    assert found["pair_accuracy"] > 0.8
    if "training.labels.keep=8" in options:
        assert found["pairs"] <= 8 * 7 / 2
    if "training.labels.stages=3" in options:
        log = [json.loads(line) for line in (here / "out" / "log.jsonl").read_text().splitlines()]
        assert {"train-reward/stage1", "train-reward/stage2", "train-reward"} <= {row["phase"] for row in log}
        assert len(TrajectoryStore.open(here / "out" / "twins")) == 8


@pytest.mark.parametrize(
    "options",
    [("objective=triple",), ("objective=aot", "training.labels.stages=2"), ("objective=lipo_lambda",)],
    ids=str,
)
def test_a_policy_learns_from_what_is_made_of_labels(here, options):
    assert command(*POLICY, "policy.learning_rate=0.01", *options, "out=out") == 0
    found = measured(here / "out" / "policy")
    assert found["accuracy"] > 0.8
    assert found["held_out/accuracy"] > 0.5


@pytest.fixture
def thumbs(here):
    """Thumbs up for the faster half of the episodes, down for the others, and nothing else."""
    store = TrajectoryStore.open("store")
    with LabelStore("sqlite:///thumbs.sqlite") as labels:
        labels.add(
            [
                Judgement(e, 0, 8, None, None, None, "up" if store.returns[e] > 0 else "down", "human", "me")
                for e in range(20)
            ],
            data_fingerprint=store.fingerprint(),
            episodes=20,
        )
    return here


BY_THUMBS = ("labels=sqlite:///thumbs.sqlite", "out=out")


@pytest.mark.parametrize(
    "options",
    [
        ("objective=kto",),
        ("objective=bco",),
        ("objective=rwr", "objective.temperature=0.1"),
        ("objective=conditional_bc", "policy.goal=true"),
        ("objective=dpo", "training.labels.thumbs=true"),
    ],
    ids=lambda options: options[0],
)
def test_a_policy_learns_from_thumbs(thumbs, options):
    assert command(*POLICY, "policy.learning_rate=0.01", *options, *BY_THUMBS) == 0
    found = measured(thumbs / "out" / "policy")
    assert found["ratings"] == 16
    assert found["pairs"] == 0
    assert found["accuracy"] > 0.9
    folder = thumbs / "out"
    states = torch.randn(30, 2)
    policy, reference = (load_policy(folder / x).act(states).mean() for x in ("policy", "reference"))
    assert policy > reference + 0.1


@pytest.mark.parametrize("option", ["objective=kto", "objective=nft", "training.labels.thumbs=true"])
def test_a_reward_learns_from_thumbs(thumbs, option):
    assert command(*REWARD, "reward.learning_rate=0.01", option, *BY_THUMBS) == 0
    assert measured(thumbs / "out" / "reward")["pair_accuracy"] > 0.8


def test_thumbs_count_beside_pairs_where_they_are_asked_for(thumbs):
    with (
        LabelStore("sqlite:///store/labels.sqlite") as pairs,
        LabelStore("sqlite:///thumbs.sqlite") as single,
    ):
        store = TrajectoryStore.open("store")
        given = list(pairs.judgements().values())
        single.add(given, data_fingerprint=store.fingerprint(), episodes=20)
    assert command(*REWARD, "reward.learning_rate=0.01", *BY_THUMBS, "training.labels.thumbs=true") == 0
    found = measured(thumbs / "out" / "reward")
    assert (found["ratings"], found["pairs"]) == (16, 120)
    assert command(*REWARD, "labels=sqlite:///thumbs.sqlite", "out=without") == 0
    assert "ratings" not in measured(thumbs / "without" / "reward")


def test_thumbs_alone_are_refused_by_what_learns_from_comparisons(thumbs, capfd):
    assert command(*REWARD, *BY_THUMBS) == 1
    assert "20 judgements of single segments and no comparison" in "".join(capfd.readouterr())
    assert command(*POLICY, "objective=cpl", "training.labels.thumbs=true", *BY_THUMBS) == 1
    assert "no use for judgements of single behaviours" in "".join(capfd.readouterr())
    assert command(*POLICY, "objective=kto", "training.labels.stages=2", *BY_THUMBS[:1], "out=other") == 1
    assert "these are single segments" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "option",
    ["training.labels.goals=scores", "training.labels.goals=hindsight", "objective=conditional_bc"],
)
def test_a_policy_that_is_told_how_good_its_actions_shall_be_does_as_told(here, option):
    more = ("policy.goal=true", "policy.learning_rate=0.02", "training.policy.steps=150", "out=out")
    assert command(*POLICY, option, *more) == 0
    actor = load_policy(here / "out" / "policy").actor
    states = torch.randn(30, 2)
    best, worst = (
        actor.mean_of(actor.states(torch.cat([states, torch.full((30, 1), g)], 1))).mean()
        for g in (1.0, -1.0)
    )
    assert best > worst + 0.1
    torch.testing.assert_close(actor.act(states).mean(), best)


def test_goals_are_refused_where_nobody_listens(here, capfd):
    assert command(*POLICY, "training.labels.goals=scores", "out=out") == 1
    assert "policy.goal=true" in "".join(capfd.readouterr())
    assert command(*REWARD, "training.labels.goals=hindsight", "out=out") == 1
    assert "a policy that takes goals" in "".join(capfd.readouterr())
    assert command(*POLICY, "policy.goal=true", "training.labels.goals=score", "out=other") == 1
    assert "Did you mean 'scores'" in "".join(capfd.readouterr())


def test_what_was_done_unseeing_is_a_worse_twin(here):
    assert command(*REWARD, "training.labels.twins=4", "training.labels.spoil=hide", "out=out") == 0
    twins = TrajectoryStore.open(here / "out" / "twins")
    changed = (twins.episode(0).observations != twins.episode(1).observations).any(0)
    assert changed.sum() == 1  # half of two entries
    assert (twins.episode(0).actions == twins.episode(1).actions).all()


def test_a_policy_learns_from_cautious_rewards(here, capfd):
    assert command(*REWARD, "training.reward.steps=20", "out=out") == 0
    small = ("policy.hidden=[8]", "training.policy.steps=10", *QUIET)
    learn = ("train-policy", "data=store", "policy=bc_top", *small)
    careful = ("relabel.caution=1.0", "relabel.step_cost=0.1")
    assert command(*learn, "rewards=out/reward", *careful, "out=out") == 0
    recorded = json.loads((here / "out" / "phases" / "train-policy.json").read_text())
    assert recorded["settings"]["blend"]["caution"] == 1
    assert command(*learn, "relabel.caution=1.0", "out=other") == 1
    assert "is for the rewards of a model" in "".join(capfd.readouterr())


def test_labels_that_an_objective_cannot_take_are_refused(here, capfd):
    with LabelStore("sqlite:///soft.sqlite") as labels:
        store = TrajectoryStore.open("store")
        a, b = all_episode_pairs(store)
        tied = Preferences(a, b, np.full(len(a), 0.5), np.ones(len(a)))
        labels.add_preferences(
            Preferences.concatenate([tied]),
            source="human",
            annotator="me",
            data_fingerprint=store.fingerprint(),
            episodes=20,
        )
    assert command(*REWARD, "objective=aot_unpaired", "labels=sqlite:///soft.sqlite", "out=out") == 1
    assert "labels are soft or ties" in "".join(capfd.readouterr())
    assert command(*REWARD, "objective=listnet", "training.labels.stages=2", "out=other") == 1
    assert "are for pairs" in "".join(capfd.readouterr())
    assert command(*REWARD, "training.labels.spoil=shufle", "out=third") == 1
    assert "Did you mean 'shuffle'" in "".join(capfd.readouterr())
