"""Who has which item of a study before them, in the label store: so that no two people get one by accident.

Servers that share a label store see each other's leases. A lease is worth nothing once it has run out, so it
is not flushed to the disk.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from robopref.data.label_store import LabelStore
from robopref.data.label_tables import leases

LEASE_S = 900.0  # so long an item is kept for the person who sees it


@dataclass(frozen=True)
class Lease:
    """An item that is kept for somebody, for so many seconds from now."""

    item: int
    left_s: float


class Leases:
    """The leases of one study: one for each person.

    Args:
        labels: The label store.
        plan: Name of the study.
    """

    def __init__(self, labels: LabelStore, plan: str):
        self._labels = labels
        self._plan = leases.c.plan == plan
        self._name = plan

    def held(self) -> dict[str, Lease]:
        """Return what is kept for whom."""
        with self._labels.reading() as connection:
            return self._read(connection)

    def take(
        self, annotator: str, choose: Callable[[Mapping[str, Lease], sa.Connection], int | None]
    ) -> None:
        """Lease to a person what ``choose`` returns, given everybody's leases, in place of what they had.

        Nobody else leases or answers anything from the moment that ``choose`` is called until this returns.

        Args:
            annotator: The person.
            choose: Returns an item, or None for nothing; is also given the connection, to read by.

        Raises:
            DataError: The database cannot be written.
        """
        with self._labels.writing(durable=False) as connection:
            held = self._read(connection)
            item = choose(held, connection)
            theirs = self._plan & (leases.c.annotator == annotator)
            if item is None:
                connection.execute(sa.delete(leases).where(theirs))
                return
            row = {"item": item, "until": time.time() + LEASE_S}
            if not connection.execute(sa.update(leases).where(theirs).values(row)).rowcount:
                connection.execute(sa.insert(leases), row | {"plan": self._name, "annotator": annotator})

    def _read(self, connection: sa.Connection) -> dict[str, Lease]:
        now = time.time()
        query = sa.select(leases.c.annotator, leases.c.item, leases.c.until)
        rows = connection.execute(query.where(self._plan, leases.c.until > now)).all()
        held = {row.annotator: Lease(row.item, row.until - now) for row in rows}
        # One that runs longer than a new one was made by a clock that was wrong.
        return {name: lease for name, lease in held.items() if lease.left_s <= LEASE_S + 60}
