import json

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from robopref.alignment.record import TransferRecord, pair_accuracy
from robopref.alignment.transfer import confidence, labels_from_scores
from robopref.errors import DataError

# With the shape checks on, they refuse a wrong shape before the function's own sentence does.
REFUSALS = (DataError, TypeCheckError)

RETURNS = np.array([3.0, 1.0, 2.0, 2.0])


def build(**changes) -> TransferRecord:
    labels = labels_from_scores(np.array([3.0, 1.0, 2.0, 0.0]))
    fields = {
        "labels": labels,
        "confidence": confidence(labels),
        "couplings": {"press": np.full((3, 4), 1 / 12), "open/mean/start-1": np.full((2, 4), 1 / 8)},
        "costs": {"press": 0.25, "open/mean/start-1": 0.5},
        "controls": {"medoid": 1 - labels},
        "source_labels": {"press": labels_from_scores(np.arange(3.0))},
        "settings": {"alpha": 1.0, "features": ["mean"], "controls_left_out": {"hand_object": "no hand"}},
    }
    return TransferRecord(**(fields | changes))


def test_accuracy_leaves_true_ties_out_and_is_that_worked_by_hand():
    # Five of six pairs have a true order (2 and 3 tie); only 1 against 3 is labelled wrong.
    assert build().accuracy(RETURNS) == {"transfer": pytest.approx(0.8), "medoid": pytest.approx(0.2)}


def test_an_undecided_label_is_half_right_and_an_unknown_one_is_left_out():
    labels = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, np.nan], [0.0, np.nan, 0.5]])
    assert pair_accuracy(labels, labels_from_scores(np.array([3.0, 2.0, 1.0]))) == 0.75


def test_accuracy_of_a_matrix_that_knows_nothing_is_nan():
    unknown = np.where(np.eye(3) == 1, 0.5, np.nan)
    assert np.isnan(pair_accuracy(unknown, labels_from_scores(np.arange(3.0))))


def test_equal_returns_are_refused():
    with pytest.raises(DataError, match="All 4 true returns are 7"):
        build().accuracy(np.full(4, 7.0))


@pytest.mark.parametrize("returns", [np.arange(3.0), np.array([1.0, np.nan, 2.0, 3.0])])
def test_returns_that_do_not_fit_are_refused(returns):
    with pytest.raises(DataError):
        build().accuracy(returns)


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    record = build()
    record.save(tmp_path / "alignment", true_returns=RETURNS)
    loaded = TransferRecord.load(tmp_path / "alignment")
    np.testing.assert_array_equal(loaded.labels, record.labels)
    np.testing.assert_array_equal(loaded.confidence, record.confidence)
    np.testing.assert_array_equal(loaded.controls["medoid"], record.controls["medoid"])
    assert list(loaded.couplings) == list(record.couplings)
    for name, plan in record.couplings.items():
        np.testing.assert_array_equal(loaded.couplings[name], plan)
    assert loaded.costs == record.costs
    np.testing.assert_array_equal(loaded.source_labels["press"], record.source_labels["press"])
    assert loaded.settings == record.settings
    assert loaded.true_labels is not None
    np.testing.assert_array_equal(loaded.true_labels, labels_from_scores(RETURNS))


def test_the_summary_holds_the_accuracy_and_the_arrays_need_no_pickle(tmp_path):
    build().save(tmp_path, true_returns=RETURNS)
    summary = json.loads((tmp_path / "record.json").read_text())
    assert summary["accuracy"]["transfer"] == pytest.approx(0.8)
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as arrays:
        names = {"labels", "confidence", "true_labels", "coupling/press", "coupling/open/mean/start-1"}
        assert names | {"control/medoid", "source_labels/press"} == set(arrays.files)
    assert not list(tmp_path.glob("*.part"))


def test_without_true_returns_there_is_no_accuracy(tmp_path):
    build().save(tmp_path)
    assert "accuracy" not in json.loads((tmp_path / "record.json").read_text())
    assert TransferRecord.load(tmp_path).true_labels is None


def test_an_accuracy_that_does_not_exist_is_null_in_the_summary(tmp_path):
    unknown = np.where(np.eye(4) == 1, 0.5, np.nan)
    build(controls={"nothing": unknown}).save(tmp_path, true_returns=RETURNS)
    summary = json.loads((tmp_path / "record.json").read_text())
    assert summary["accuracy"]["nothing"] is None


@pytest.mark.parametrize("name", ["record.json", "arrays.npz"])
@pytest.mark.parametrize("kept", [0, 1, 10, 200, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path, name, kept):
    build().save(tmp_path, true_returns=RETURNS)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(DataError, match=name):
        TransferRecord.load(tmp_path)


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(DataError, match="no transfer record"):
        TransferRecord.load(tmp_path)
    build().save(tmp_path)
    (tmp_path / "arrays.npz").unlink()
    with pytest.raises(DataError, match=r"arrays\.npz"):
        TransferRecord.load(tmp_path)


@pytest.mark.parametrize(
    "text", ["[]", '{"format": "something else"}', '{"format": "robopref transfer record 1"}']
)
def test_a_foreign_summary_is_refused(tmp_path, text):
    build().save(tmp_path)
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DataError, match=r"record\.json"):
        TransferRecord.load(tmp_path)


def test_a_pickled_array_is_refused_and_not_run(tmp_path):
    build().save(tmp_path)
    np.savez(tmp_path / "arrays.npz", labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"arrays\.npz"):
        TransferRecord.load(tmp_path)


def test_arrays_of_another_record_are_refused(tmp_path):
    build().save(tmp_path)
    np.savez(tmp_path / "arrays.npz", labels=np.eye(2))
    with pytest.raises(DataError, match="lacks"):
        TransferRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"labels": np.ones((4, 4))}, "turned round"),
        ({"confidence": np.zeros((3, 3))}, "Confidence"),
        ({"confidence": np.full((4, 4), np.nan)}, "Confidence"),
        ({"controls": {"medoid": np.full((3, 3), 0.5)}}, "'medoid' must have shape"),
        ({"controls": {"transfer": np.full((4, 4), 0.5)}}, "that is the transfer itself"),
        ({"couplings": {"press": np.ones((3, 5))}}, "must have 4 columns"),
        ({"costs": {}}, "one name each"),
        ({"true_labels": np.full((2, 2), 0.5)}, "'true labels' must have shape"),
    ],
)
def test_a_record_in_a_wrong_state_cannot_exist(changes, sentence):
    with pytest.raises(REFUSALS, match=f"{sentence}|Type-check"):
        build(**changes)
