"""The page of environments: made as it stands, complete, and nothing on it is dropped without a word."""

import pytest

from scripts.bench.environments import CONVENTIONS, DOCS, TITLES, ids, kept, main, page_of


@pytest.fixture(scope="module")
def page():
    return page_of([kept(title) for title in TITLES.values()], 10, 64)


def test_the_page_is_what_the_script_makes(page):
    assert page == (DOCS / "envs.md").read_text()


def test_the_page_says_which_environments_it_shows_and_where_the_others_are(page):
    rows = [line for line in page.splitlines() if line.startswith("| `robopref/")]
    assert f"show {len(rows)} of {len(ids())} ids" in page
    assert "robopref/playback-v0" in page


@pytest.mark.parametrize("module", CONVENTIONS.values())
def test_each_module_that_the_page_links_to_describes_numbers(module):
    text = (DOCS / f"../envs/{module}.py").read_text().partition('\n"""\n')[0]
    assert any(word in text for word in ("Action, (", "Observation, (", "Point clouds"))


def test_a_page_without_the_steps_of_robosuite_is_refused_before_anything_is_measured(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--only", "robosuite", "--page", "--steps", str(tmp_path / "none.json")])
    assert "scripts/bench/robosuite_step.py --episodes 64 makes it" in capsys.readouterr().err
