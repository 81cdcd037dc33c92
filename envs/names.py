"""The sentence for a misspelt name."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, got: object, known: Iterable[str]) -> str:
    """Return a sentence that says which name does not exist, and the nearest one that does.

    >>> unknown_name("camera", "corner5", ["corner2", "topview"])
    "No camera is called 'corner5'. Did you mean 'corner2'? There are: corner2, topview."
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(got), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"No {kind} is called '{got}'.{hint} There are: {', '.join(names) or 'none'}."
