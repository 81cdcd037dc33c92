import time

from robopref.cli import main
from robopref.objectives.registry import REGISTRY


def test_the_table_names_every_objective(capsys):
    assert main(["objectives"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in REGISTRY)
    assert f"{len(REGISTRY)} of {len(REGISTRY)} objectives" in said


def test_words_choose_lines_that_hold_them_all(capsys):
    assert main(["objectives", "azar", "pairs"]) == 0
    said = capsys.readouterr().out
    assert "ipo" in said
    assert "1 of " in said


def test_equations_keep_their_brackets(capsys):
    main(["objectives", "exo"])
    assert "KL([s(h), s(-h)] || [1-e, e])" in capsys.readouterr().out


def test_words_that_no_line_holds_are_refused(capsys):
    assert main(["objectives", "xyzzy"]) == 1
    assert "'xyzzy'" in capsys.readouterr().err


def test_the_table_is_there_in_a_second():
    start = time.perf_counter()
    main(["objectives", "dpo"])
    assert time.perf_counter() - start < 1.0
