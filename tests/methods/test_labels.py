"""Labels in a store are those that were asked for, or the command is refused."""

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from robopref.alignment.auto import AutoAlignment
from robopref.alignment.record import TransferRecord
from robopref.data.judgement import Answer, Judgement
from robopref.data.label_store import LabelStore
from robopref.data.preferences import all_episode_pairs, preferences_from_matrix
from robopref.data.store import TrajectoryStore
from robopref.data.trajectory import Provenance, Trajectory
from robopref.errors import ConfigError, DataError
from robopref.files import read_json
from robopref.methods.components import Component, Hardware
from robopref.methods.phases.align import align, answered_by_people, overrides, whole_episodes_only
from robopref.methods.phases.lab import Lab
from robopref.methods.phases.label import read_labels, store_labels
from robopref.training.run import Run


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    with TrajectoryStore.create(
        tmp_path / "store", observation_size=2, action_size=1, control_hz=10.0
    ) as writer:
        for seed in range(4):
            writer.append(
                Trajectory(
                    observations=rng.normal(size=(6, 2)).astype(np.float32),
                    actions=np.zeros((5, 1), np.float32),
                    rewards=np.full(5, seed, np.float32),
                    successes=np.zeros(5, bool),
                    keypoints={},
                    terminated=False,
                    provenance=Provenance("t", "e", seed, "b", {}, "00", {}),
                    frames=None,
                )
            )
    return TrajectoryStore.open(tmp_path / "store")


def ordered(store, scores):
    labels = np.sign(np.subtract.outer(scores, scores)) / 2 + 0.5
    return preferences_from_matrix(labels.astype(np.float32), store.lengths)


def test_other_labels_of_the_same_number_are_refused_and_the_old_ones_stay(store, tmp_path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    first, second = ordered(store, [0, 1, 2, 3]), ordered(store, [3, 2, 1, 0])
    store_labels(url, first, store, "transfer", "alignment")
    with pytest.raises(ConfigError, match="made otherwise"):
        store_labels(url, second, store, "transfer", "alignment")
    with LabelStore(url) as labels:
        assert labels.preferences().label.tolist() == first.label.tolist()


def test_the_same_labels_again_are_not_stored_twice(store, tmp_path):
    url = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    for _ in range(2):
        store_labels(url, ordered(store, [0, 1, 2, 3]), store, "transfer", "alignment")
    with LabelStore(url) as labels:
        assert labels.count() == 6


def test_labels_of_parts_of_episodes_are_refused_by_an_alignment(store):
    whole = ordered(store, [0, 1, 2, 3])
    assert whole_episodes_only(whole, store) is whole
    a, b = all_episode_pairs(store)
    parts = type(whole)(
        type(a)(a.episode, a.start, a.length - 2), b, np.ones(6, np.float32), np.ones(6, np.float32)
    )
    with pytest.raises(DataError, match=r"needs labels of whole episodes, but 6 labels"):
        whole_episodes_only(parts, store)


def test_a_password_is_in_no_message(store, tmp_path, monkeypatch):
    beside = f"sqlite:///{tmp_path / 'labels.sqlite'}"
    monkeypatch.setattr("robopref.methods.phases.label.LabelStore", lambda url: LabelStore(beside))
    url = "postgresql://me:hunter2@team.example/db"
    with pytest.raises(DataError, match=r"postgresql://me:\*\*\*@team.example/db holds no labels"):
        read_labels(store, url)


def say(store, *pairs, answer: Answer = "a"):
    """Let a person compare whole episodes, or rate the only one named."""
    given = [
        Judgement(
            a, 0, 5, *((b[0], 0, 5) if b else (None,) * 3), answer=answer, source="human", annotator="anna"
        )
        for a, *b in pairs
    ]
    with LabelStore.beside(store) as labels:
        labels.add(given, data_fingerprint=store.fingerprint(), episodes=len(store))


def lab_in(folder, tell):
    record = Run(folder, name="t", method="m", task="t", seed=3, config="", say=tell)
    return Lab(record, Hardware(device="cpu", wandb_mode="disabled"), 3)


def test_people_are_waited_for_until_they_said_something_of_enough_pairs(store, tmp_path):
    lab, other = (lab_in(tmp_path / name, print) for name in ("r", "other"))

    def answered(pairs=3, lab=lab, **options):
        alignment = Component(options, lambda: AutoAlignment(**options))
        return answered_by_people(lab, alignment, {"other": (store, "")}, store, "t", pairs=pairs)

    most = len(store) * (len(store) - 1) // 2
    with pytest.raises(ConfigError, match=rf"make {most} pairs: anchor_pairs must be {most} or fewer"):
        answered(most + 1)
    say(store, (0,), (1,), (2,), answer="up")  # thumbs compare nothing
    with pytest.raises(DataError, match=r"asked about 0 so far.*\n  robopref label data=.* pairs=3 seed=3 "):
        answered()
    with pytest.raises(DataError, match=r" robopref label data=.*/r/labels\n"):
        answered()  # an alignment as it comes needs no words
    with pytest.raises(DataError, match=r"/other/labels \+\+alignment.anchor_precision=1.5\n"):
        answered(lab=other, anchor_precision=1.5)
    say(store, (0, 1), (1, 0), (0, 2), answer="skip")
    with pytest.raises(DataError, match=r"asked about 2 so far"):
        answered()
    say(store, (1, 2), answer="skip")
    with pytest.raises(DataError, match=r"asked about 3 so far.* not all may be.*\n.* pairs=6 "):
        answered()
    say(store, (3, 2))
    with LabelStore(answered()) as copy:
        assert [(j.a_episode, j.b_episode, j.label) for j in copy.judgements().values()] == [
            (0, 1, None),
            (1, 0, None),
            (0, 2, None),
            (1, 2, None),
            (3, 2, 1.0),
        ]
    say(store, (3, 1))
    with LabelStore(answered()) as copy:  # what they say later does not change what was begun
        assert len(copy.preferences()) == 1
    with pytest.raises(ConfigError, match="made with other settings"):
        answered(pairs=4)
    with pytest.raises(ConfigError, match="made with other settings"):
        answered(anchor_precision=1.5)


def test_words_for_an_alignment_are_read_back_by_hydra():
    grid = {"l2": [0.1, 1], "features": [["mean", "frame"], ["mean"]], "semi_relaxed": [True]}
    made = Component({}, lambda: AutoAlignment({"subsets": 2}, choose=grid))
    read = {
        word.key_or_group: word.value() for word in OverridesParser.create().parse_overrides(overrides(made))
    }
    assert read["alignment.choose"] == grid
    assert read["alignment.couplings.subsets"] == 2


def test_all_that_people_said_of_whole_episodes_counts_and_what_they_said_of_parts_is_left_out(
    store, tmp_path
):
    said = []
    lab = lab_in(tmp_path / "r", said.append)
    say(store, (0, 1), (0, 2), (1, 2))
    with LabelStore.beside(store) as labels:
        parts = [
            Judgement(3, start, length, 0, 0, 4, answer="a", source="human", annotator="anna")
            for start, length in ((0, 5), (1, 4))
        ]
        labels.add(parts, data_fingerprint=store.fingerprint(), episodes=len(store))
    usual = Component({}, AutoAlignment)
    with LabelStore(answered_by_people(lab, usual, {}, store, "t", pairs=1)) as copy:
        known = copy.preferences()
    assert list(zip(known.a.episode, known.b.episode, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert "2 answers about parts of episodes are left out" in "\n".join(said)

    class Told(Exception):
        """What an alignment was told of the target."""

    class Telling(AutoAlignment):
        def transfer(self, *_, anchors, **__):
            raise Told(anchors)

    beside = f"sqlite:///{store.path}/labels.sqlite"
    with pytest.raises(Told) as told:
        align(lab, Component({}, Telling), {}, store, "t", anchors=beside)
    (anchors,) = told.value.args
    assert np.argwhere(anchors == 1).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert np.isnan(anchors[3, :3]).all()
    assert sum("2 answers about parts" in line for line in said) == 2
    with LabelStore.beside(store) as labels:
        for row in list(labels.judgements())[:3]:
            labels.retract(row)
    with pytest.raises(DataError, match="an alignment reads whole episodes"):
        align(lab, usual, {}, store, "t", anchors=beside)


def test_what_an_alignment_says_of_an_inversion_is_said_and_kept(store, tmp_path):
    found = {"at_risk": True, "agreement": {"between sources": 0.25}, "chance_inverted": 0.5}
    labels = np.full((len(store), len(store)), 0.5, np.float32)

    class Doubting:
        def transfer(self, *_, **__):
            return TransferRecord(labels, np.zeros_like(labels), {}, {}, {}, settings=found | {"anchors": 0})

    said: list[str] = []
    align(lab_in(tmp_path / "run", said.append), Component({}, Doubting), {}, store, "t")
    (sentence,) = (line for line in said if "inverted" in line)
    assert "is at risk of being inverted" in sentence
    assert "between sources +0.25" in sentence
    assert "the chance of an inversion is 50%." in sentence
    result = read_json(tmp_path / "run" / "phases" / "align.json")["result"]
    assert {name: result[name] for name in found} == found
