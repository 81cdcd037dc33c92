"""Plans of random pairs: each once, with checks first, and what makes none."""

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_module

from robopref.data import TrajectoryStore
from robopref.data.interchange.carried import unknown_origin
from robopref.errors import ConfigError, DataError
from robopref.labeling.plan import make_plan
from robopref.methods.phases.vla_scores import labelling_command
from tests.labeling.made import made_store, made_trajectory
from tests.training.test_rollouts import collected


@pytest.fixture
def store(tmp_path):
    return made_store(tmp_path / "store")


def test_a_plan_holds_each_pair_once_and_no_more_than_there_are(store):
    plan = make_plan(store, pairs=1000)
    assert len({frozenset(pair) for pair in plan.items}) == len(plan.items) == 8 * 7 // 2


def test_a_longer_plan_begins_like_a_shorter_one(store):
    short, long = make_plan(store, pairs=5, segment_length=4), make_plan(store, pairs=50, segment_length=4)
    assert long.items[:5] == short.items
    assert long.name == short.name
    assert short.shared == {i for i in long.shared if i < 5}
    assert make_plan(store, pairs=5, segment_length=4, seed=1).items != short.items


def test_checks_come_first_with_the_better_episode_as_a(store):
    plan = make_plan(store, pairs=5, gold=3)
    assert plan.golden == 3
    for good, bad in plan.items[:3]:
        assert (good.episode in (6, 7), bad.episode in (0, 1)) == (True, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"query": "randon"}, r"Did you mean 'random'\?"),
        ({"query": "same_strat"}, r"Did you mean 'same_start'\?"),
        ({"pairs": 0}, "pairs must be 1 or more"),
        ({"shared": 1.5}, "shared must lie in"),
        ({"gold": 5}, "more than the 4 clear pairs"),
    ],
)
def test_a_plan_refuses_what_makes_no_sense(store, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_plan(store, **{"pairs": 10, **options})


def test_a_study_of_same_starts_asks_of_each_pair_of_one_state_once_and_of_whole_episodes(tmp_path):
    store = collected(tmp_path, seeds=(3, 5, 8), repeats=3)
    starts = [store.provenance(episode).seed for episode in range(len(store))]
    plan = make_plan(store, pairs=200, query="same_start")
    assert len({frozenset(pair) for pair in plan.items}) == len(plan.items) == 3 * 3
    for a, b in plan.items:
        assert starts[a.episode] == starts[b.episode]
        assert (a.start, a.length, b.length) == (0, *store.lengths[[a.episode, b.episode]])
    assert make_plan(store, pairs=4, query="same_start").items == plan.items[:4]
    with pytest.raises(ConfigError, match="leave out segment_length, gold and online"):
        make_plan(store, pairs=4, query="same_start", segment_length=5)
    with pytest.raises(DataError, match="no two episodes that began in the same state"):
        make_plan(collected(tmp_path / "single", repeats=1), pairs=4, query="same_start")


def test_imported_episodes_of_unknown_origin_are_not_taken_to_begin_in_the_same_state(tmp_path):
    with TrajectoryStore.create(
        tmp_path / "theirs", observation_size=2, action_size=2, keypoints=["hand", "object"], control_hz=20.0
    ) as store:
        for episode in range(3):
            store.append(replace(made_trajectory(episode), provenance=unknown_origin("toy", "unknown")))
        with pytest.raises(DataError, match="no two episodes that began in the same state"):
            make_plan(store, pairs=4, query="same_start")


def test_what_people_are_told_to_run_asks_of_rollouts_that_can_be_compared(tmp_path):
    words = labelling_command(tmp_path / "store", "sqlite:///labels.sqlite").split()
    assert words[:2] == ["robopref", "label"]
    with initialize_config_module("robopref.conf", version_base="1.3"):
        config = compose("label", words[2:])
    assert (config.query, config.feedback, config.segment_length, config.gold) == (
        "same_start",
        "pair",
        None,
        0,
    )
