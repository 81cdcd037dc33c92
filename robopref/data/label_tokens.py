"""Tokens of annotators: each lets one person label, under one name, on a server of a team.

A token is long and random, so a plain SHA-256 of it is kept: whoever reads the database cannot log in.
"""

import hashlib
import secrets
import time
from datetime import UTC, datetime

import sqlalchemy as sa

from robopref.data.label_tables import explained, open_engine, tokens, writing
from robopref.errors import hide_passwords

REMEMBERED_S = 2.0  # so soon a server notices tokens that were issued or revoked beside it


class AnnotatorTokens:
    """The tokens in a label store.

    Args:
        url: The label store, any SQLAlchemy URL.

    Raises:
        ConfigError: The URL cannot be read, or its driver is not installed.
        DataError: The database cannot be reached, is damaged, foreign, or of another schema version.
    """

    def __init__(self, url: str):
        self._engine = open_engine(url)
        self._name = hide_passwords(url)
        self._known: dict[str, str] = {}
        self._read_at = float("-inf")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def issue(self, annotator: str) -> str:
        """Make a token for a person and return it; it cannot be shown again."""
        token = secrets.token_urlsafe(24)
        row = {"annotator": annotator, "digest": _digest(token), "created_at": datetime.now(UTC)}
        with writing(self._engine, self._name) as connection:
            connection.execute(sa.insert(tokens), row)
        return token

    def revoke(self, annotator: str) -> int:
        """Take all tokens of a person back; return how many there were."""
        theirs = (tokens.c.annotator == annotator) & tokens.c.revoked_at.is_(None)
        with writing(self._engine, self._name) as connection:
            found = connection.execute(sa.update(tokens).where(theirs).values(revoked_at=datetime.now(UTC)))
            return found.rowcount

    def holders(self) -> list[str]:
        """Return the names of those who have a token."""
        return sorted(set(self._digests().values()))

    def who(self, token: str) -> str | None:
        """Return whose token this is, or None; it takes as long whichever it is."""
        if time.monotonic() - self._read_at > REMEMBERED_S:
            self._known, self._read_at = self._digests(), time.monotonic()
        got, holder = _digest(token), None
        for digest, annotator in self._known.items():
            if secrets.compare_digest(digest, got):
                holder = annotator
        return holder

    def _digests(self) -> dict[str, str]:
        valid = sa.select(tokens.c.digest, tokens.c.annotator).where(tokens.c.revoked_at.is_(None))
        with explained(self._name), self._engine.connect() as connection:
            return {row.digest: row.annotator for row in connection.execute(valid)}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
