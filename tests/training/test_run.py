import json

import pytest

from robopref.errors import ConfigError, DataError
from robopref.files import write_json
from robopref.training.run import Run, differences, fingerprint


def open_run(directory, said=None):
    return Run(
        directory,
        name="n",
        method="m",
        task="t",
        seed=0,
        config="a: 1\n",
        say=(said if said is not None else []).append,
    )


def test_a_finished_phase_is_not_repeated(tmp_path):
    calls = []
    for _ in range(2):
        result = open_run(tmp_path).phase("p", {"x": 1}, lambda: calls.append(1) or {"answer": 42})
        assert result == {"answer": 42}
    assert calls == [1]


def test_a_repeated_command_says_which_phases_it_found_finished(tmp_path):
    open_run(tmp_path).phase("p", {}, dict)
    again = open_run(tmp_path)
    again.phase("p", {}, dict)
    phases = json.loads((tmp_path / "run.json").read_text())["phases"]
    assert [(p["name"], p["skipped"]) for p in phases] == [("p", True)]


def test_settings_and_results_may_be_infinite(tmp_path):
    for _ in range(2):
        result = open_run(tmp_path).phase("p", {"beta": float("inf")}, lambda: {"a": float("nan"), "b": 1})
        assert result == {"a": None, "b": 1}


def test_an_unfinished_phase_is_done_again(tmp_path):
    with pytest.raises(ZeroDivisionError):
        open_run(tmp_path).phase("p", {}, lambda: {"x": 1 / 0})
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed in p"
    assert open_run(tmp_path).phase("p", {}, lambda: {"done": True}) == {"done": True}


def test_a_phase_with_other_settings_is_refused_and_the_difference_is_named(tmp_path):
    open_run(tmp_path).phase("train", {"reward": {"members": 3}}, dict)
    with pytest.raises(ConfigError, match=r"reward\.members: 3, now 5"):
        open_run(tmp_path).phase("train", {"reward": {"members": 5}}, dict)


@pytest.mark.parametrize("refusal", [ConfigError, DataError])
def test_what_a_refused_phase_advises_may_be_tried_in_the_same_folder(tmp_path, refusal):
    def refuse():
        raise refusal("Choose another annotator.")

    with pytest.raises(refusal, match="Choose another annotator"):
        open_run(tmp_path).phase("align", {"annotator": "anna"}, refuse)
    assert open_run(tmp_path).phase("align", {"annotator": "bert"}, lambda: {"labels": 3}) == {"labels": 3}
    with pytest.raises(ConfigError, match="annotator: bert, now anna"):
        open_run(tmp_path).phase("align", {"annotator": "anna"}, dict)


def test_an_interrupted_phase_is_called_so(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_run(tmp_path).phase("p", {}, interrupt)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted in p"


@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("No such task."), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_that_ended_outside_of_every_phase_is_not_called_running(tmp_path, error, status):
    run = open_run(tmp_path)
    run.fail(error)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == status


def test_a_run_that_failed_keeps_the_name_of_the_phase_in_which_it_did(tmp_path):
    def refuse():
        raise DataError("The store is truncated.")

    run = open_run(tmp_path)
    with pytest.raises(DataError) as raised:
        run.phase("align", {}, refuse)
    run.fail(raised.value)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed in align"


def test_seconds_of_an_interrupted_phase_are_added_to_those_of_its_end(tmp_path):
    write_json(tmp_path / "phases" / "p.json", {"status": "started", "settings": {}, "seconds": 100.0})
    open_run(tmp_path).phase("p", {}, dict)
    assert json.loads((tmp_path / "phases" / "p.json").read_text())["seconds"] == pytest.approx(100, abs=1)


def test_phases_of_earlier_commands_stay_in_the_table(tmp_path):
    open_run(tmp_path).phase("a", {}, dict)
    open_run(tmp_path).phase("b", {}, dict)
    phases = json.loads((tmp_path / "run.json").read_text())["phases"]
    assert [p["name"] for p in phases] == ["a", "b"]


def test_a_truncated_phase_file_is_named(tmp_path):
    open_run(tmp_path).phase("p", {}, dict)
    path = tmp_path / "phases" / "p.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(DataError, match=r"p\.json is truncated"):
        open_run(tmp_path).phase("p", {}, dict)


def test_a_file_where_the_run_directory_should_be_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(DataError, match="Cannot make the run directory"):
        open_run(tmp_path / "run")


def test_equal_values_have_equal_fingerprints_whatever_their_order():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_differences_name_the_leaves():
    old, new = {"a": {"b": 1, "c": 2}, "s": [1, 2]}, {"a": {"b": 1, "c": 3}, "d": 4, "s": [1, 3]}
    assert differences(old, new) == "a.c: 2, now 3; d: None, now 4; s: [1, 2], now [1, 3]"


def test_differences_fit_a_sentence():
    numbers = list(range(1000))
    assert differences({"s": numbers}, {"s": [*numbers[:-1], 0]}) == "s[999]: 999, now 0"
    assert differences(numbers, [number + 1 for number in numbers]).endswith("[4]: 4, now 5; and 995 more")
    assert len(differences("x" * 10_000, [0] * 10_000)) < 500


def test_equal_values_do_not_differ():
    assert differences({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}) == ""


def test_a_run_that_another_process_fills_is_refused(tmp_path):
    first = open_run(tmp_path)
    with pytest.raises(ConfigError, match="Another process is filling"):
        open_run(tmp_path)
    first.finish()
    open_run(tmp_path)
