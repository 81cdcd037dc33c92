from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robopref.data.interchange.carried import unknown_origin
from robopref.data.preferences import Preferences, Segments
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError
from robopref.rewards.staged.costs import EpisodeCosts, episode_costs, store_costs
from robopref.rewards.staged.expressions import NUMBER, TRUTH, Recorded, parse
from robopref.rewards.staged.language import KINDS, load_costs, parse_costs
from robopref.rewards.staged.pairs import (
    Pairing,
    check_rollout_pairs,
    check_same_start,
    random_pairs_of_states,
    ranked_lists,
    ranked_pairs,
)
from robopref.rewards.staged.scores import ScoreWeights, emphasised, score_columns, standardised

REACH_AND_PUSH = """\
task: push
points: [hand, object, goal]
signals: [force]
stages:
  - name: reach
    until: distance(hand, object) < 0.5
    costs:
      - {kind: path, value: "distance(hand, object)", reduce: mean, weight: 2.0}
      - {kind: time, reduce: integral}
  - name: push
    until: distance(object, goal) < 0.5
    missed: 3.0
    costs:
      - {kind: force, value: force, reduce: max, weight: 0.1}
"""


def line(*xs):
    return np.array([[x, 0.0, 0.0] for x in xs])


def recorded(hand=(0, 1, 2, 3), thing=(2, 2, 2, 3), force=(0, 0, 5, 7)):
    points = {"hand": line(*hand), "object": line(*thing), "goal": line(*[3] * len(hand))}
    return Recorded(points, {"force": np.array(force, float)}, control_hz=2.0)


def test_costs_worked_by_hand():
    """The hand is 2, 1, 0 from the object in three states (mean 1, times 2), two intervals of half a second;
    then the object arrives, and the largest force from state 2 on is 7, times 0.1."""
    found = episode_costs(parse_costs(REACH_AND_PUSH, name="x"), recorded())
    assert found.kinds["path"] == pytest.approx(2.0)
    assert found.kinds["time"] == pytest.approx(1.0)
    assert found.kinds["force"] == pytest.approx(0.7)
    assert found.total == pytest.approx(3.7)
    assert found.reached == {"reach": 2, "push": 3}
    assert found.stages.tolist() == [0, 0, 1, 2]


def test_a_stage_that_is_never_reached_is_reported_and_costs_what_was_missed():
    found = episode_costs(parse_costs(REACH_AND_PUSH, name="x"), recorded(thing=(2, 2, 2, 2)))
    assert found.missed == ["push"]
    assert found.kinds["missed"] == 3.0
    never = episode_costs(parse_costs(REACH_AND_PUSH, name="x"), recorded(hand=(0, 0, 0, 0)))
    assert never.missed == ["reach", "push"]
    assert never.kinds["missed"] == 4.0
    assert never.kinds["force"] == 0.0  # the second stage never began
    assert never.stages.tolist() == [0, 0, 0, 0]


def test_speed_and_jerk_of_a_uniformly_accelerated_point():
    hz = 10.0
    t = np.arange(8) / hz
    moving = Recorded({"hand": np.stack([3 * t**3, 0 * t, 0 * t], 1)}, {}, hz)
    jerk = parse("jerk(hand)", points={"hand"}, signals=set(), wanted=NUMBER).compute(moving)
    assert jerk[:3].tolist() == [0, 0, 0]
    assert jerk[3:] == pytest.approx(18.0)  # third derivative of 3 t^3
    speed = parse("speed(hand)", points={"hand"}, signals=set(), wanted=NUMBER).compute(moving)
    assert speed[1] == pytest.approx(3 * t[1] ** 3 * hz)


def test_a_pose_is_tilted_and_turned_by_the_angle_that_it_was_rotated_by():
    """Rotations about x by an angle tip the third axis by it; about z they only turn it."""
    angles = np.array([0.0, 0.3, 1.2])
    sin, cos, nil, one = np.sin(angles), np.cos(angles), np.zeros(3), np.ones(3)
    place = [nil, nil, angles]  # it also rises
    about_x = np.stack([one, nil, nil, place[0], nil, cos, -sin, place[1], nil, sin, cos, place[2]], 1)
    about_z = np.stack([cos, -sin, nil, place[0], sin, cos, nil, place[1], nil, nil, one, place[2]], 1)
    poses = {"tipped": about_x.reshape(3, 3, 4), "spun": about_z.reshape(3, 3, 4)}
    state = Recorded({}, {}, 1.0, poses)

    def value(text):
        return parse(text, points=set(), signals=set(), poses=poses.keys(), wanted=NUMBER).compute(state)

    assert value("tilt(tipped)") == pytest.approx(angles)
    assert value("tilt(spun)") == pytest.approx(0.0)
    for name in poses:
        assert value(f"turned({name})") == pytest.approx(angles)
        assert value(f"height({name}) + moved({name})") == pytest.approx(2 * angles)
    assert value("distance(tipped, spun)").tolist() == [0, 0, 0]


PICK_UP = """\
task: pick
points: [hand, cube]
signals: [gripper, touch]
bodies: {cup: cup_link}
stages:
  - name: close
    until: gripper < 0.4 and touch > 1
    costs:
      - {kind: grasp, value: gripper, reduce: last}
  - name: carry
    until: height(cup) > 0.2 and not tilt(cup) > 0.3
    costs:
      - {kind: grasp, value: held(gripper > 0.6), reduce: mean, weight: 4.0}
"""


def test_a_grasp_is_judged_by_gripper_contacts_and_the_pose_of_what_is_held():
    """Closed from state 1 on; the cup is up in state 2, tipped by 0.5, and upright in state 3."""
    tips = np.array([0.0, 0.0, 0.5, 0.1])
    poses = np.tile(np.eye(3, 4), (4, 1, 1))
    poses[:, 1:, 1:3] = np.moveaxis(
        np.array([[np.cos(tips), -np.sin(tips)], [np.sin(tips), np.cos(tips)]]), 2, 0
    )
    poses[:, 2, 3] = [0.0, 0.1, 0.3, 0.3]
    signals = {"gripper": np.array([1.0, 0.3, 0.7, 0.3]), "touch": np.array([0.0, 2.0, 2.0, 2.0])}
    points = {"hand": line(0, 0, 0, 0), "cube": line(0, 0, 0, 0)}
    found = episode_costs(parse_costs(PICK_UP, name="x"), Recorded(points, signals, 2.0, {"cup": poses}))
    assert found.reached == {"close": 1, "carry": 3}
    assert found.kinds["grasp"] == pytest.approx(0.3 + 4.0 * 1 / 3)  # open in one of the states 1, 2, 3
    with pytest.raises(
        ConfigError, match=r"^x, line 4: No recorded pose is called 'cup'\. There are: none\."
    ):
        episode_costs(parse_costs(PICK_UP, name="x"), Recorded(points, signals, 2.0))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("tilt(cup)", "tilt(hand)", "line 11: 'hand' is a point where a pose is needed"),
        ("tilt(cup)", "cup", "line 11: 'cup' is a pose where a number is needed"),
        ("tilt(cup)", "tip(cup)", "line 11: No predicate or function is called 'tip'"),
        ("gripper < 0.4", "griper < 0.4", "line 7: No point or signal is called 'griper'"),
        ("{cup: cup_link}", "{hand: cup_link}", "line 4: 'hand' is a point, signal or pose already"),
        ("{cup: cup_link}", "{a b: cup_link}", "line 4: 'a b' cannot be a name"),
        ("{cup: cup_link}", "[cup]", "line 4: here stands a table: a name of one's own"),
    ],
)
def test_a_refusal_of_poses_and_grippers_names_file_and_line(old, new, said):
    with pytest.raises(ConfigError) as refusal:
        parse_costs(PICK_UP.replace(old, new), name="pick.yaml")
    assert str(refusal.value).startswith(f"pick.yaml, {said}")


def test_logic_and_arithmetic_are_those_of_python():
    state = Recorded({}, {"a": np.array([1.0, 2.0, 3.0])}, 1.0)
    for text in ("not a > 2 and a >= 1", "a < 1.5 or a > 2.5", "-(a - 2) * 2 / 4 + 1 <= 1"):
        got = parse(text, points=set(), signals={"a"}, wanted=TRUTH).compute(state)
        assert got.tolist() == [eval(text, {}, {"a": a}) for a in (1.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "hand.shape",
        "hand[0]",
        "[a for a in hand]",
        "(lambda: 1)()",
        "a ** 99999",
        "a if a > 0 else a",
        "f'{a}'",
        "distance(hand, object, hand)",
        "distance(hand, b=object)",
        "distance(hand, a)",
        "hand + hand",
        "near(hand, object)",
        "a < 1 < 2",
        "'a'",
        "True",
        "a <",
    ],
)
def test_what_is_not_in_the_language_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text, points={"hand", "object"}, signals={"a"}, wanted=TRUTH)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "distance(hand, object) <",
            "near(hand, object) <",
            "line 6: No predicate or function is called 'near'",
        ),
        ("kind: path", "kind: pathos", "line 8: No kind of cost is called 'pathos'"),
        ("reduce: max", "reduce: most", "line 14: No reduction is called 'most'"),
        ("missed: 3.0", "missed: -1", "line 12: the number must be finite and not negative"),
        ("name: push", "nome: push", "line 10: No entry is called 'nome'"),
        ("value: force", "value: farce", "line 14: No point or signal is called 'farce'"),
        (
            "{kind: time, reduce: integral}",
            "{kind: time, reduce: mean}",
            "line 9: time is counted in seconds",
        ),
        ("task: push", "task: !!python/object:os.system push", "no anchors, aliases or tags"),
        ("stages:", "stages: [", "not YAML"),
        ("name: push", "name: reach", "line 10: a stage is called reach already, in line 5"),
        (
            "until: distance(object, goal) < 0.5",
            "until: 1 > 2",
            "line 11: '1 > 2' depends on no point or signal",
        ),
        ("points: [hand, object, goal]", "points: [hand, hand]", "line 2: a name is given twice"),
    ],
)
def test_a_refusal_names_file_and_line(old, new, said):
    assert old in REACH_AND_PUSH
    with pytest.raises(ConfigError) as refusal:
        parse_costs(REACH_AND_PUSH.replace(old, new), name="proposal.yaml")
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("proposal.yaml")


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "1e400"])
def test_a_number_that_no_float_holds_is_refused_when_the_file_is_read(number):
    with pytest.raises(ConfigError, match=r"^own\.yaml, line 14: a number is at most 1\.8e\+308"):
        parse_costs(REACH_AND_PUSH.replace("value: force", f'value: "force + {number}"'), name="own.yaml")


@pytest.mark.parametrize("value", ["-" * 490 + "force", f"f(b={'-' * 450}force)", " + ".join("7" * 51)])
def test_expressions_of_more_than_fifty_levels_are_refused_by_file_and_line(value):
    with pytest.raises(ConfigError, match=r"^own\.yaml, line 14: an expression has at most 50 levels"):
        parse_costs(REACH_AND_PUSH.replace("value: force", f'value: "{value}"'), name="own.yaml")


def test_an_expression_of_fifty_levels_is_computed():
    deepest = "-" * 49 + "force"
    text = REACH_AND_PUSH.replace("value: force", f'value: "{deepest}"')
    assert episode_costs(parse_costs(text, name="x"), recorded()).kinds["force"] == pytest.approx(-0.5)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_file_of_nothing_but_nesting_is_refused_without_being_read_to_its_end(opening, monkeypatch):
    monkeypatch.setattr("yaml.compose", lambda *given, **options: pytest.fail("it was parsed"))
    with pytest.raises(ConfigError, match=r"^own\.yaml, line 1: lists and tables are nested 16 deep at most"):
        parse_costs(opening * (65_000 // len(opening)), name="own.yaml")


# In the form in which a model answers, written for this test.
PROPOSED = """\
task: stack
points: [hand, cube, target]
signals: []
stages:
  - name: grasp
    until: distance(hand, cube) < 0.02 and height(cube) > 0.01
    costs:
      - {kind: path, value: "distance(hand, cube)", reduce: min}
  - name: place
    until: distance(cube, target) < 0.03
    costs:
      - {kind: collision, value: "positive(0.1 - distance(hand, target))", reduce: max}
"""


def test_what_a_model_proposes_goes_through_the_same_parser():
    assert [stage.name for stage in parse_costs(PROPOSED, name="proposal").stages] == ["grasp", "place"]
    with pytest.raises(ConfigError, match=r"proposal, line 6.*not part of the language"):
        parse_costs(PROPOSED.replace("height(cube) > 0.01", "open('/etc/passwd')[0] > 0"), name="proposal")


def test_an_answer_may_have_words_around_its_block_and_lines_are_those_of_the_answer():
    answer = f"The cube must be grasped first.\n\n```yaml\n{PROPOSED}```\nIt ends at the target."
    assert [stage.line for stage in parse_costs(answer, name="answer").stages] == [8, 12]
    with pytest.raises(ConfigError, match=r"^answer, line 9: No predicate or function is called 'near'"):
        parse_costs(answer.replace("until: distance(hand", "until: near(hand"), name="answer")
    with pytest.raises(ConfigError, match="one block between two ``` fences, got 4 fences"):
        parse_costs(answer + answer, name="answer")


def test_an_answer_on_disk_is_read_and_a_bad_predicate_in_it_refused_by_file_and_line(tmp_path):
    answer = Path(__file__).parent / "answers" / "drawer-open.md"
    costs = load_costs(answer, task="drawer-open")
    assert [(stage.name, stage.line, stage.missed) for stage in costs.stages] == [
        ("reach", 11, 1.0),
        ("pull", 16, 3.0),
    ]
    assert (costs.poses["drawer"].kind, costs.poses["drawer"].name) == ("body", "drawer_link")
    bad = tmp_path / "answer.md"
    for written, said in (
        ("is_open(drawer)", "No predicate or function is called 'is_open'"),
        ("__import__('os').system('x') > 0", "not part of the language"),
    ):
        bad.write_text(answer.read_text().replace("moved(drawer) > 0.15", written))
        with pytest.raises(ConfigError) as refusal:
            load_costs(bad)
        assert str(refusal.value).startswith(f"{bad}, line 17: ")
        assert said in str(refusal.value)


def test_a_file_of_another_task_is_refused_by_line():
    assert parse_costs(REACH_AND_PUSH, name="x", task="push").task == "push"
    with pytest.raises(
        ConfigError, match=r"^x, line 1: the costs are of the task push, and pull needs its own"
    ):
        parse_costs(REACH_AND_PUSH, name="x", task="pull")


def test_every_cost_file_that_is_shipped_can_be_read():
    from importlib import resources

    folder = resources.files("robopref.rewards.staged") / "tasks"
    files = sorted(str(f) for f in folder.iterdir() if f.name.endswith(".yaml"))
    assert len(files) == 10
    for file in files:
        assert len(load_costs(file).stages) == 2


def rollouts(path, seeds, hands):
    """Episodes of one step each; the initial state is that of the seed."""
    with TrajectoryStore.create(
        path, observation_size=1, action_size=1, keypoints=["goal", "hand", "object"], control_hz=2.0
    ) as store:
        for seed, hand in zip(seeds, hands, strict=True):
            store.append(
                Trajectory(
                    observations=np.zeros((4, 1)),
                    actions=np.zeros((3, 1)),
                    rewards=np.zeros(3),
                    successes=np.zeros(3),
                    keypoints={"hand": line(*hand), "object": line(2, 2, 2, 3), "goal": line(3, 3, 3, 3)},
                    terminated=False,
                    provenance=Provenance("push", "toy", seed, "policy", {}, f"state {seed}", {}),
                )
            )
    return TrajectoryStore.open(path)


def test_costs_of_a_store_need_its_signals(tmp_path):
    store = rollouts(tmp_path / "s", [1, 1], [(0, 1, 2, 3), (0, 0, 0, 0)])
    costs = parse_costs(REACH_AND_PUSH, name="x")
    force = np.array([0, 0, 5, 7, 0, 0, 0, 0], float)
    assert store_costs(costs, store, {"force": force})[0].total == pytest.approx(3.7)
    with pytest.raises(ConfigError, match=r"^x, line 3: No recorded signal is called 'force'"):
        store_costs(costs, store)


def test_a_point_that_was_not_recorded_is_refused_beside_all_that_were(tmp_path):
    store = rollouts(tmp_path / "s", [1], [(0, 1, 2, 3)])
    costs = parse_costs(REACH_AND_PUSH.replace("object", "objct"), name="own.yaml")
    with pytest.raises(ConfigError) as refusal:
        store_costs(costs, store)
    assert str(refusal.value) == (
        "own.yaml, line 2: No recorded point is called 'objct'. Did you mean 'object'? "
        "There are: goal, hand, object."
    )


def test_a_cost_that_is_not_finite_is_refused_by_file_and_line(tmp_path):
    store = rollouts(tmp_path / "s", [1], [(0, 1, 2, 3)])
    with pytest.raises(DataError, match=r"^Episode 0 of .*: own\.yaml, line 14: .* stage push is not finite"):
        store_costs(parse_costs(REACH_AND_PUSH, name="own.yaml"), store, {"force": np.full(4, np.inf)})


def test_standardising_forgets_scale_and_level():
    values = np.array([3.0, 5.0, 10.0])
    assert standardised(values) == pytest.approx(standardised(7 * values - 100))
    assert standardised(np.full(3, 0.1)).tolist() == [0, 0, 0]


def test_safety_ranks_the_careful_rollout_first_and_efficiency_the_quick_one():
    costs = parse_costs(REACH_AND_PUSH, name="x")
    quick = episode_costs(costs, recorded(hand=(0, 2, 3, 3), force=(0, 9, 9, 9)))
    careful = episode_costs(costs, recorded(hand=(0, 0, 2, 3), force=(0, 0, 0, 0)))
    successes, weights = np.array([True, True]), ScoreWeights(likelihood=0.0)
    safe = score_columns([quick, careful], successes, None, emphasis="safety", weights=weights)["score"]
    fast = score_columns([quick, careful], successes, None, emphasis="efficiency", weights=weights)["score"]
    assert safe[1] > safe[0]
    assert fast[0] > fast[1]


def test_an_emphasis_counts_its_own_kinds_of_cost_alone():
    found = {"path": 1.0, "collision": 2.0, "time": 4.0, "force": 8.0, "missed": 16.0}
    kinds = dict.fromkeys((*KINDS, "missed"), 0.0) | found
    costs = EpisodeCosts(np.zeros(1, np.int64), 31.0, kinds, {})
    assert [emphasised(costs, name) for name in ("completion", "safety", "efficiency")] == [31, 10, 4]


def test_top_m_against_bottom_m_within_each_initial_state(tmp_path):
    store = rollouts(tmp_path / "s", [1, 2, 1, 2, 1, 1], [(0, 1, 2, 3)] * 6)
    scores = np.array([1.0, 9.0, 4.0, 9.0, 3.0, 2.0])
    pairs = ranked_pairs(store, scores, Pairing(top=2))
    got = set(zip(pairs.a.episode.tolist(), pairs.b.episode.tolist(), strict=True))
    assert got == {(2, 0), (2, 5), (4, 0), (4, 5)}  # of state 1; those of state 2 are tied
    wide = ranked_pairs(store, scores, Pairing(top=2, gap=2.0))
    assert set(zip(wide.a.episode.tolist(), wide.b.episode.tolist(), strict=True)) == {(2, 0), (2, 5), (4, 0)}
    assert [order.tolist() for order, _ in ranked_lists(store, scores)] == [[2, 4, 5, 0], [1, 3]]
    drawn = random_pairs_of_states(store, 20, np.random.default_rng(0))
    check_same_start(store, drawn.a.episode, drawn.b.episode)


def test_pairs_from_different_initial_states_are_refused(tmp_path):
    store = rollouts(tmp_path / "s", [1, 2], [(0, 1, 2, 3)] * 2)
    with pytest.raises(DataError, match=r"Episodes 0 and 1 .* began in different states"):
        check_same_start(store, np.array([0]), np.array([1]))
    with pytest.raises(DataError, match=r"^sqlite:///anna, label 1: Episodes 0 and 1 of "):
        check_same_start(store, np.array([0]), np.array([1]), where="sqlite:///anna")


def test_starts_that_nobody_knows_are_not_the_same(tmp_path):
    known = rollouts(tmp_path / "known", [1, 1], [(0, 1, 2, 3)] * 2)
    with TrajectoryStore.create_with(tmp_path / "unknown", known.layout) as store:
        for index in range(2):
            store.append(replace(known.episode(index), provenance=unknown_origin("push", "unknown")))
        with pytest.raises(DataError, match=r"does not say in which states episodes 0 and 1 began"):
            check_same_start(store, np.array([0]), np.array([1]))


def test_a_judgement_of_a_part_of_a_rollout_is_refused_by_file_and_label(tmp_path):
    store = rollouts(tmp_path / "s", [1, 1, 1], [(0, 1, 2, 3)] * 3)  # of three actions each
    whole = Segments(np.array([0, 1]), np.array([0, 0]), np.array([3, 3]))
    ones = np.ones(2, np.float32)
    other = Segments(np.array([1, 2]), whole.start, whole.length)
    check_rollout_pairs(store, Preferences(whole, other, ones, ones))
    for start, length in ((0, 2), (1, 2)):
        clip = Segments(np.array([1, 2]), np.array([0, start]), np.array([3, length]))
        with pytest.raises(
            DataError, match=rf"^anna, label 2: it judges 2 actions from action {start} on of episode 2"
        ):
            check_rollout_pairs(store, Preferences(whole, clip, ones, ones), where="anna")
