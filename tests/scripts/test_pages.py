"""Places of a page that are written anew, and nothing else moves."""

import pytest

from robopref.errors import DataError
from scripts.bench.pages import put_between, put_section


def test_tables_stand_between_their_markers_and_nothing_else_moves(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin runs -->\nold\n<!-- end runs -->\nafter\n")
    put_between(page, "runs", "new")
    put_between(page, "runs", "newer")
    assert page.read_text() == "before\n<!-- begin runs -->\n\nnewer\n\n<!-- end runs -->\nafter\n"
    with pytest.raises(DataError, match="no place for speed"):
        put_between(page, "speed", "x")


def test_a_marker_may_say_how_its_table_is_made_and_must_stand_once(tmp_path):
    page = tmp_path / "page.md"
    aims, cells = ("<!-- {}: python bench.py -->\n\n{}\n\n<!-- end -->\n".format(*x) for x in ("a1", "b2"))
    page.write_text(aims + "between\n" + cells)
    put_between(page, "b", "\n\\1\n")
    assert page.read_text() == aims + "between\n" + cells.replace("2", "\\1")
    page.write_text(aims + aims)
    with pytest.raises(DataError, match="or several"):
        put_between(page, "a", "x")


def test_a_section_takes_the_place_of_its_predecessor_or_the_end():
    page = "# Title\n\n## One\n\n1\n\n## One more\n\n2\n"
    assert put_section(page, "One", "## One\n\n3") == "# Title\n\n## One\n\n3\n\n## One more\n\n2\n"
    assert put_section(page, "Two", "## Two\n\n4") == page + "\n## Two\n\n4\n"
