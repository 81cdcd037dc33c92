"""Places in a page of results that a command writes anew, while the rest of the page stays."""

import re
from pathlib import Path

from robopref.errors import DataError
from robopref.files import write_text


def put_between(path: Path, name: str, text: str) -> None:
    """Write text between two comments of a page.

    The first is ``<!-- begin NAME -->`` or ``<!-- NAME: how it is made -->``, the second, below it,
    ``<!-- end NAME -->`` or ``<!-- end -->``.

    Raises:
        DataError: The page has not exactly one such place.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = rf"<!-- (?:begin {name}|{name}: [^\n]*?) -->\n", rf"<!-- end(?: {name})? -->"
    found = re.search(rf"({begin}).*?({end})", page, re.DOTALL)
    if found is None or len(re.findall(begin, page)) != 1:
        raise DataError(
            f"{path} has no place for {name}, or several: it needs <!-- begin {name} --> and, below, "
            f"<!-- end {name} -->, once each."
        )
    write_text(path, f"{page[: found.end(1)]}\n{text.strip()}\n\n{page[found.start(2) :]}")


def put_section(page: str, heading: str, section: str) -> str:
    """Return a page with a section, begun by ``## HEADING``, in the place of the old one or at the end."""
    parts = [part.rstrip() for part in re.split(r"(?m)^(?=## )", page)]
    places = [i for i, part in enumerate(parts) if part.partition("\n")[0] == f"## {heading}"]
    place = places[0] if places else len(parts)
    return "\n\n".join([*parts[:place], section, *parts[place + 1 :]]) + "\n"
