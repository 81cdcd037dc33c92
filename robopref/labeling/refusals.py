"""How a refusal is said: JSON to programs, a page to a person whose browser opens an address."""

import html
import json
from importlib import resources

OPEN_PARTS = frozenset({"/static/style.css", "/static/icon.svg"})  # of the page below, which needs no token

_PAGE = (resources.files("robopref.labeling") / "static" / "refused.html").read_text(encoding="utf-8")

# For those alone who were let in: to others this server shows neither.
_SCRIPT = '\n  <script type="module" src="/static/refused.js"></script>'
_WAY = '\n      <p><a class="minor" href="/">To the labelling page</a></p>'


def wants_page(path: str, accepted: str) -> bool:
    """Return whether a person will read the answer: a browser opened an address, whose ``accept`` says so."""
    return "text/html" in accepted and not path.startswith("/api/")


def said(sentence: str, *, as_page: bool, let_in: bool) -> tuple[str, bytes]:
    """Return the content type and the body that say a sentence; nothing of the request is in them."""
    if as_page:
        page = _PAGE.replace("{script}", _SCRIPT if let_in else "").replace("{way}", _WAY if let_in else "")
        return "text/html; charset=utf-8", page.replace("{sentence}", html.escape(sentence)).encode()
    return "application/json", json.dumps({"error": sentence}).encode()
