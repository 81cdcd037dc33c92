"""Candidates are graded by what they lead to from the very same state; selection picks the best of them."""

import hashlib

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from robopref.data.candidates import Candidates
from robopref.data.label_store import LabelStore
from robopref.data.store import TrajectoryStore
from robopref.errors import ConfigError, DataError
from robopref.labeling.candidates import candidate_lists
from robopref.labeling.desk import Desk
from robopref.methods.components import Component, EvaluationPlan, Fit, Hardware, Scene
from robopref.methods.phases.candidates import (
    evaluate_ranked,
    label_candidates,
    prefer,
    train_candidate_reward,
)
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.tryouts import film_candidates, ranked_by_people
from robopref.policies.flow import FlowPolicy
from robopref.policies.preference import PreferencePolicy
from robopref.policies.saved import save_policy
from robopref.rewards.candidates import CandidateReward
from robopref.training.run import Run

BACKBONE = {"kind": "mlp", "hidden": [16], "time_size": 8}


class Walk(gymnasium.Env):
    """A point on a line; a step moves it by the action and is paid by how far right it then is."""

    task, control_hz = "walk", 10.0
    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(-1, 1)), 0
        return self._seen(), {}

    def step(self, action):
        self.place += float(action[0])
        self.steps += 1
        return self._seen(), self.place, False, self.steps >= 6, {"success": self.place > 1}

    def _seen(self):
        return np.array([self.place], np.float32)

    def snapshot(self):
        return self.place, self.steps

    def restore(self, snapshot):
        self.place, self.steps = snapshot

    def keypoints(self):
        return {"hand": np.array([self.place, 0, 0])}

    def state_hash(self):
        return hashlib.sha256(repr(self.snapshot()).encode()).hexdigest()

    def behaviour(self, kind, rng):
        return lambda observation: rng.uniform(-1, 1, 1)


class NoWayBack(Walk):
    """One that cannot be set back."""

    snapshot = property()  # pyright: ignore[reportAssignmentType]  (hasattr is False)


gymnasium.register("candidates/walk-v0", entry_point=Walk)  # pyright: ignore[reportArgumentType]
gymnasium.register("candidates/no-way-back-v0", entry_point=NoWayBack)  # pyright: ignore[reportArgumentType]
SCENE = Scene("walk", "candidates/walk-v0", {})


@pytest.fixture
def lab(tmp_path):
    record = Run(tmp_path, name="t", method="m", task="walk", seed=0, config="", say=lambda text: None)
    return Lab(record, Hardware(device="cpu", workers=0, wandb_mode="disabled"), 0)


@pytest.fixture
def proposer(tmp_path):
    policy = FlowPolicy(1, 1, horizon=2, backbone=BACKBONE, sample_steps=3)
    save_policy(tmp_path / "supervised", policy)
    return tmp_path / "supervised"


def test_a_grade_is_the_reward_that_a_candidate_earns_from_the_state_it_was_proposed_in(lab, proposer):
    found = Candidates.load(label_candidates(lab, SCENE, proposer, states=5, count=4))
    first, second = found.chunks[:, :, 0, 0], found.chunks[:, :, 1, 0]
    assert np.allclose(found.grades, 2 * found.observations + 2 * first + second, atol=1e-5)
    # the episode goes on with its first candidate, until it is over after three chunks
    assert found.steps.tolist() == [0, 2, 4, 0, 2]
    moved = found.observations[0] + found.chunks[0, 0].sum()
    assert np.allclose(found.observations[1], moved, atol=1e-5)
    assert found.about["source"] == "teacher"


def test_rankings_become_a_policy_and_a_reward_whose_choice_earns_more_than_a_random_one(lab, proposer):
    path = label_candidates(lab, SCENE, proposer, states=30, count=4)
    plan = Fit(steps=60, batch_size=32)
    actor = {"kind": "flow", "horizon": 2, "backbone": BACKBONE, "sample_steps": 3}

    def preferring(**sizes):
        return PreferencePolicy(**sizes, actor=actor, objective="rpro", beta=50.0, learning_rate=3e-3)

    def rewarding(**sizes):
        return CandidateReward(**sizes, horizon=2, hidden=(16,), members=2, learning_rate=1e-2)

    preferred = prefer(lab, "policy", Component({}, preferring), path, proposer, plan)
    reward = train_candidate_reward(lab, "reward", Component({}, rewarding), path, plan)
    results = {
        ranking: evaluate_ranked(
            lab,
            ranking,
            SCENE,
            EvaluationPlan(6, record=0),
            proposer=proposer,
            ranking=ranking,
            count=8,
            preferred=preferred,
            reward=reward,
        )["mean_return"]
        for ranking in ("random", "explicit", "implicit", "product")
    }
    assert min(results["explicit"], results["implicit"], results["product"]) > results["random"]


def test_people_rank_films_of_candidates_in_the_browser_and_the_experiment_learns_from_it(lab, proposer):
    with pytest.raises(DataError, match="query=candidates k=4"):
        ranked_by_people(lab, film_candidates(lab, SCENE, proposer, states=5, count=4))
    store = film_candidates(lab, SCENE, proposer, states=5, count=4)  # found again
    assert len(store) == 20
    with LabelStore.beside(store) as labels:
        desk = Desk(candidate_lists(store, items=5, clips=4, shared=1.0), labels, store)
        while (question := desk.question("ann")) is not None:
            shown = [clip.episode for clip in question.sides]
            left = store.returns[shown[0]] > store.returns[shown[1]]
            desk.answer("ann", question.id, "left" if left else "right", response_time_s=9.0)
    found = Candidates.load(ranked_by_people(lab, store))
    taught = Candidates.load(label_candidates_elsewhere(lab, proposer))
    rows = [[tuple(c[0].round(5)) for c in chunks] for chunks in found.chunks]
    for state in range(
        5
    ):  # the same states and candidates, in another order; people see what the teacher sees
        assert np.allclose(found.observations[state], taught.observations[state])
        order = [rows[state].index(tuple(c[0].round(5))) for c in taught.chunks[state]]
        assert (found.grades[state][order].argsort() == taught.grades[state].argsort()).all()


def label_candidates_elsewhere(lab, proposer):
    record = Run(
        lab.run.directory / "other",
        name="t",
        method="m",
        task="walk",
        seed=0,
        config="",
        say=lambda text: None,
    )
    return label_candidates(Lab(record, lab.hardware, 0), SCENE, proposer, states=5, count=4)


def test_lists_of_candidates_are_refused_where_there_are_none(lab, proposer, tmp_path):
    store = film_candidates(lab, SCENE, proposer, states=2, count=3)
    with pytest.raises(ConfigError, match=r"k must lie in 2\.\.3, got k=4"):
        candidate_lists(store, items=1, clips=4)
    other = TrajectoryStore.create(
        tmp_path / "o", observation_size=1, action_size=1, keypoints=(), control_hz=1.0
    )
    with pytest.raises(DataError, match="holds no candidates"):
        candidate_lists(other, items=1, clips=2)


def test_a_simulator_that_cannot_be_set_back_is_refused(lab, proposer):
    scene = Scene("walk", "candidates/no-way-back-v0", {})
    with pytest.raises(ConfigError, match=r"no snapshot\(\) and restore\(\)"):
        label_candidates(lab, scene, proposer, states=2, count=2)
    with pytest.raises(ConfigError, match="2 candidates"):
        label_candidates(lab, SCENE, proposer, states=1, count=1)
