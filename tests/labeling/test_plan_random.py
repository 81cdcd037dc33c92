"""Plans of random pairs: each once, with checks first, and what makes none."""

import pytest

from robopref.errors import ConfigError, DataError
from robopref.labeling.plan import make_plan
from tests.labeling.made import made_store


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
        ({"query": "randon"}, "Did you mean 'random'?"),
        ({"pairs": 0}, "pairs must be 1 or more"),
        ({"shared": 1.5}, "shared must lie in"),
        ({"gold": 5}, "more than the 4 clear pairs"),
    ],
)
def test_a_plan_refuses_what_makes_no_sense(store, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_plan(store, **{"pairs": 10, **options})


def test_a_plan_of_one_whole_episode_is_refused(tmp_path):
    with pytest.raises(DataError, match="needs two different"):
        make_plan(made_store(tmp_path / "one", 1), pairs=3)
