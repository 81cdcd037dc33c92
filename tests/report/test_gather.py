import json
import shutil

import numpy as np
import pytest
import yaml

from robopref.errors import DataError
from robopref.files import write_json
from robopref.report.gather import find_runs, read_log, read_run


@pytest.fixture
def run(make_run, tmp_path):
    return make_run(tmp_path / "run")


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_whole_run_has_nothing_missing_but_its_films(run):
    found = read_run(run)
    assert [n for n in found.notes if "has no film" not in n] == []
    assert len(found.notes) == 2


def test_what_the_files_say_is_what_is_read(run):
    found = read_run(run)
    assert (found.task, found.method, found.seed) == ("drawer-open", "PEARL", 0)
    assert found.sources == ("button-press", "window-open", "faucet-close")
    assert (found.reward_kind, found.policy_kind) == ("gaussian", "iql")
    assert found.seconds == pytest.approx(212.4 + 3.2 + 1.9 + 48.6 + 121.7 + 61.3)
    assert found.label_accuracy == 0.761
    assert found.reward is not None
    assert found.reward.pair_accuracy == 0.806
    assert {e.policy: e.wins for e in found.evaluations} == {
        "PEARL": 42,
        "behaviour-cloning": 11,
        "collected data": 19,
    }


def test_what_is_not_usual_in_a_part_stands_in_its_name(run):
    config = (run / "config.yaml").read_text()
    parts = yaml.safe_load(config)
    parts["reward"]["objective"] = {"name": "ipo", "tau": 0.1}
    parts["policy"]["top_fraction"] = 0.25
    (run / "config.yaml").write_text(yaml.safe_dump(parts))
    found = read_run(run)
    assert (found.reward_kind, found.policy_kind) == ("gaussian (ipo)", "iql of the best 25%")


@pytest.mark.parametrize(
    "file",
    [
        "run.json",
        "alignment/record.json",
        "alignment/arrays.npz",
        "reward/metrics.json",
        "reward/config.json",
        "evaluation/PEARL.json",
        "evaluation/rollout-0.npz",
        "evaluation/rollout-0.json",
    ],
)
@pytest.mark.parametrize("kept", [0.0, 0.6])
def test_a_truncated_file_is_named(run, file, kept):
    path = run / file
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=path.name):
        read_run(run)


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("config.yaml", "config.yaml"),
        ("log.jsonl", "log.jsonl"),
        ("alignment", "alignment/record.json"),
        ("reward", "reward/metrics.json"),
        ("evaluation", "evaluation/<policy>.json"),
    ],
)
def test_a_missing_phase_becomes_a_sentence(run, missing, word):
    path = run / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert any(word in note for note in read_run(run).notes)


def test_an_unfinished_run_says_so(run):
    edit_json(run / "run.json", lambda c: c.update(status="failed in train-policy", phases=[]))
    notes = read_run(run).notes
    assert any("failed in train-policy" in note for note in notes)
    assert any("no finished phase" in note for note in notes)


def test_a_policy_that_collapsed_is_named_with_the_reason(run):
    gate = {"collapsed": True, "reason": "samples miss preferred actions by 0.4"}
    write_json(run / "policy" / "metrics.json", {"accuracy": 0.87, "gate": gate})
    (sentence,) = [note for note in read_run(run).notes if "COLLAPSED" in note]
    assert "the policy in policy/ must not act by itself" in sentence
    assert sentence.endswith("samples miss preferred actions by 0.4.")
    edit_json(run / "policy" / "metrics.json", lambda content: content["gate"].update(collapsed=False))
    assert not [note for note in read_run(run).notes if "COLLAPSED" in note]


def test_a_folder_without_run_json_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"holds no run\.json"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="No run was found"):
        find_runs([tmp_path])
    with pytest.raises(DataError, match="There is no"):
        find_runs([tmp_path / "misspelt"])


def test_runs_are_found_below_a_folder_and_strangers_are_named(make_run, tmp_path):
    make_run(tmp_path / "sweep" / "0")
    make_run(tmp_path / "sweep" / "1", seed=1)
    (tmp_path / "notes").mkdir()
    found, skipped = find_runs([tmp_path / "sweep", tmp_path / "notes", tmp_path / "sweep" / "1"])
    assert found == [tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"]
    assert len(skipped) == 1
    assert "notes" in skipped[0]


def test_of_a_step_logged_twice_the_later_value_counts(tmp_path):
    path = tmp_path / "log.jsonl"
    entries = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 2.5), (3, 2.0)]
    path.write_text("".join(json.dumps({"phase": "p", "step": s, "loss": v}) + "\n" for s, v in entries))
    notes = []
    (curve,) = read_log(path, notes)
    assert curve.steps.tolist() == [1, 2, 3]
    assert curve.values.tolist() == [5.0, 2.5, 2.0]
    assert notes == []


def test_a_line_cut_by_a_kill_is_left_out_and_mentioned(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"phase": "p", "step": 1, "loss": 5}\n{"phase": "p", "st')
    notes = []
    (curve,) = read_log(path, notes)
    assert curve.values.tolist() == [5.0]
    assert "1 of 2 lines" in notes[0]
    assert "line 2" in notes[0]


def test_a_foreign_log_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("hello\nworld\n")
    with pytest.raises(DataError, match=r"log\.jsonl"):
        read_log(path, [])


def test_an_evaluation_that_contradicts_itself_is_refused(run):
    edit_json(run / "evaluation/PEARL.json", lambda c: c["summary"].update(successes=41))
    with pytest.raises(DataError, match="41 successes, the episodes 42"):
        read_run(run)


def test_an_evaluation_with_columns_of_unlike_length_is_refused(run):
    edit_json(run / "evaluation/PEARL.json", lambda c: c["returns"].pop())
    with pytest.raises(DataError, match="one entry per episode"):
        read_run(run)


def test_an_evaluation_without_episodes_is_refused(run):
    edit_json(run / "evaluation/PEARL.json", lambda c: c.update(seeds=[], successes=[], returns=[]))
    with pytest.raises(DataError, match="one entry per episode"):
        read_run(run)


def test_pickled_arrays_are_refused(run):
    np.savez(run / "alignment/arrays.npz", labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"arrays\.npz"):
        read_run(run)


def test_matrices_of_unlike_shape_are_refused(run):
    np.savez(run / "alignment/arrays.npz", labels=np.full((3, 3), 0.5), confidence=np.ones((2, 2)))
    with pytest.raises(DataError, match=r"confidence has shape \(2, 2\)"):
        read_run(run)


def test_reliability_lists_of_unlike_length_are_refused(run):
    edit_json(run / "reward/metrics.json", lambda c: c["reliability"]["count"].pop())
    with pytest.raises(DataError, match="differ in length"):
        read_run(run)


@pytest.mark.parametrize(("column", "entry"), [("returns", float("nan")), ("returns", "x"), ("seeds", None)])
def test_an_evaluation_with_an_entry_that_is_no_number_is_refused(run, column, entry):
    edit_json(run / "evaluation/PEARL.json", lambda c: c[column].__setitem__(3, entry))
    with pytest.raises(DataError, match=r"PEARL\.json holds"):
        read_run(run)


def test_a_rollout_with_nan_or_unlike_columns_is_refused(run):
    path = run / "evaluation/rollout-0.npz"
    np.savez(path, rewards=np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="rewards holds NaN"):
        read_run(run)
    np.savez(path, rewards=np.ones(3), predicted_rewards=np.ones(2))
    with pytest.raises(DataError, match=r"predicted_rewards has shape \(2,\)"):
        read_run(run)


def test_a_number_that_is_nan_counts_as_unknown(run):
    edit_json(run / "reward/metrics.json", lambda c: c.update(pair_accuracy=float("nan")))
    reward = read_run(run).reward
    assert reward is not None
    assert reward.pair_accuracy is None


def test_a_control_that_was_left_out_is_mentioned_with_its_reason(run):
    def leave_out(record):
        record["settings"]["controls_left_out"] = {"hand_object": "there is no object"}

    edit_json(run / "alignment/record.json", leave_out)
    assert any("hand_object" in n and "there is no object" in n for n in read_run(run).notes)


def test_what_was_found_of_an_inversion_is_said_and_a_risk_of_one_is_a_note(run):
    found = {"chance_inverted": 0.9, "anchors": 1, "agreement": {"between sources": 0.6}}
    for at_risk, words in ((True, "is at risk"), (False, "is not at risk")):
        edit_json(run / "alignment/record.json", lambda c, r=at_risk: c["settings"].update(found, at_risk=r))
        read = read_run(run)
        assert read.alignment is not None
        sentence = read.alignment.inversion
        assert sentence is not None
        for part in (words, "between sources +0.60", "with 1 label of", "90%, so its mirror image was taken"):
            assert part in sentence
        assert (sentence in read.notes) == at_risk
    edit_json(run / "alignment/record.json", lambda c: c["settings"].pop("agreement"))
    with pytest.raises(DataError, match="what was found of an inversion"):
        read_run(run)


def test_plans_of_one_source_are_kept_together(run):
    plan = np.eye(2) / 2
    np.savez(
        run / "alignment/arrays.npz",
        allow_pickle=False,
        labels=np.full((2, 2), 0.5),
        **{"coupling/button-press/mean": plan, "coupling/button-press/frame": plan, "coupling/other": plan},
    )
    alignment = read_run(run).alignment
    assert alignment is not None
    assert {name: len(plans) for name, plans in alignment.plans.items()} == {"button-press": 2, "other": 1}


@pytest.mark.parametrize(
    ("method", "policies", "expected"),
    [
        ("PEARL", ["behaviour-cloning", "PEARL"], "PEARL"),
        ("pearl", ["iql", "collected data"], "iql"),
        ("bc", ["bc", "iql"], "bc"),
        ("other", ["collected data"], "collected data"),
        ("grape", ["bc-on-all", "grape-round2", "grape-round10", "safety-round11"], "grape-round10"),
    ],
)
def test_the_policy_that_a_run_is_about_is_found(make_run, tmp_path, method, policies, expected):
    run = read_run(make_run(tmp_path / "r", method=method, successes=dict.fromkeys(policies, 5)))
    assert run.main_evaluation is not None
    assert run.main_evaluation.policy == expected


def test_of_policies_that_are_no_baselines_the_run_is_about_the_one_that_was_tried_first(make_run, tmp_path):
    def main():
        found = read_run(folder).main_evaluation
        return found and found.policy

    folder = make_run(tmp_path / "r", method="deformpam", successes={"a": 1, "b": 2})
    assert main() == "a"
    phases = [{"name": f"evaluate/{name}", "seconds": 1.0} for name in "ba"]
    edit_json(folder / "run.json", lambda content: content.update(phases=phases))
    assert main() == "b"


def test_matches_of_frames_that_lack_an_array_or_do_not_fit_are_refused(run):
    np.savez(run / "reward/matches.npz", episodes=np.array([1, 2]))
    with pytest.raises(DataError, match="what alignment did to a pair"):
        read_run(run)
    sides = [f"{side}/{stage}" for side in ("preferred", "disliked") for stage in ("before", "after")]
    arrays = {f"plan/{name}": np.ones((2, 3)) for name in sides}
    arrays |= {f"distance/{name}": np.array(0.1) for name in sides}
    arrays |= {f"space/{stage}": np.ones((5, 2)) for stage in ("before", "after")}
    arrays |= {"episodes": np.array([1, 2]), "won": np.ones(4)}
    np.savez(run / "reward/matches.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=r"spaces \(n, 2\), got"):
        read_run(run)
