import io

import pytest
from rich.console import Console

from robopref.report.groups import gather
from robopref.report.table import controls_verdict, duration, headline, results_table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.23, "4.2 s"), (59.99, "1 min 00 s"), (492.0, "8 min 12 s"), (7500.0, "2 h 05 min")],
)
def test_durations_are_written_for_people(seconds, text):
    assert duration(seconds) == text


def test_rows_hold_the_numbers_of_the_files(make_run, tmp_path):
    main, other, data = headline(gather([make_run(tmp_path / "r")]))
    assert (main.task, main.sources) == ("drawer-open", "button-press, window-open, faucet-close")
    assert (main.method, main.reward, main.policy, main.seeds) == ("PEARL", "gaussian", "iql", "0")
    assert (main.label_accuracy, main.reward_accuracy) == ("0.761", "0.806")
    # Wilson: (0.84 + 1.92073/50 -+ 1.95996 sqrt(0.84 * 0.16/50 + 3.84146/10000)) / (1 + 3.84146/50)
    assert (main.success, main.interval, main.episodes) == ("84.0%", "[71.5%, 91.7%]", "42/50")
    assert main.time == "7 min 29 s"
    assert (other.method, other.success, other.episodes) == ("behaviour-cloning", "22.0%", "11/50")
    assert (data.method, data.success, data.episodes) == ("collected data", "38.0%", "19/50")
    assert other.task == other.label_accuracy == other.time == ""


def test_the_terminal_table_fits_eighty_columns_and_holds_every_number(make_run, tmp_path):
    for seed in range(2):
        make_run(tmp_path / str(seed), seed=seed)
    out = io.StringIO()
    Console(file=out, width=80).print(results_table(gather([tmp_path])))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "< faucet-close" in text
    assert "behaviour-cloning" in text
    for number in ("0.761", "0.811", "[75.6, 89.9]", "84.0%", "84/100", "22/100", "38/100"):
        assert number in text, number


def test_a_run_that_evaluated_nothing_still_has_a_row(make_run, tmp_path):
    run = make_run(tmp_path / "r")
    for path in (run / "evaluation").iterdir():
        path.unlink()
    (row,) = headline(gather([run]))
    assert (row.task, row.success) == ("drawer-open", "n/a")


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        ({"transfer": 0.80, "medoid": 0.70, "shuffled": 0.5}, ["beat all 2 controls", "0.800", "+0.100"]),
        ({"transfer": 0.71, "medoid": 0.70}, ["beat all 1 controls", "may be chance"]),
        ({"transfer": 0.70, "hand_object": 0.83, "medoid": 0.6}, ["do not beat", "hand-object", "-0.130"]),
        ({"transfer": 0.40, "shuffled": 0.5}, ["do not beat", "worse than a coin", "none of them"]),
    ],
)
def test_the_verdict_says_whether_the_transfer_beats_its_controls(make_run, tmp_path, accuracy, words):
    (group,) = gather([make_run(tmp_path / "r", accuracy=accuracy)]).groups
    verdict = controls_verdict(group)
    assert verdict is not None
    for word in words:
        assert word in verdict


def test_without_controls_there_is_no_verdict(make_run, tmp_path):
    (group,) = gather([make_run(tmp_path / "r", accuracy={"transfer": 0.8})]).groups
    assert controls_verdict(group) is None


def test_square_brackets_in_names_are_no_markup(make_run, tmp_path):
    out = io.StringIO()
    run = make_run(tmp_path / "r", task="door[red]")
    Console(file=out, width=100).print(results_table(gather([run])))
    assert "door[red]" in out.getvalue()
