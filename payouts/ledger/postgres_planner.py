"""Add rows to a ledger in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from payouts.ledger.entries import COLUMNS, entry_of
from payouts.ledger.planner import INSERTED, RETIRED_BY, Planner
from payouts.ledger.stretches import record_stretches
from rewards_core.postgres.connection import UniqueViolation

if TYPE_CHECKING:
    from payouts.ledger.base import Database
    from payouts.rows import Row
    from payouts.states import Entry
    from rewards_core.postgres.statements import Statements

_LOCK = 0x7061796F
"""Key of the advisory lock under which rows are numbered, held until the commit."""
_COLUMNS = INSERTED.split(", ")
_BOTH = frozenset({"number", "campaign"})
_CONTENTS = frozenset(
    ("vendor", "id", "line", "recipient", "item", "amount", "key", "retries", "planned_at", "likeness", "folded_id", "details")
)


class PostgresPlanner(Planner):
    """Plan the rows of one campaign, each group in a few statements; of several processes one at a time."""

    def _known(self, rows: Sequence[Row], database: Database) -> dict[str, Entry]:
        database.execute(f"SELECT pg_advisory_xact_lock({_LOCK}, (SELECT 'rows'::regclass::oid::integer))")
        found = database.execute(  # one by one in an index: the plans for `id = ANY(…)` and a join read the whole campaign
            f"SELECT known.* FROM unnest(?::text[]) AS given (given_id) CROSS JOIN LATERAL "
            f"(SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = given_id LIMIT 1) AS known",
            ([row.id for row in rows], self._number),
        )
        return {entry.id: entry for entry in map(entry_of, found)}

    def _retired(self, keys: Sequence[str], database: Database) -> dict[str, tuple[str, str]]:
        if not keys:
            return {}
        found = database.execute(
            f"SELECT given, owner.* FROM unnest(?2::text[]) AS given CROSS JOIN LATERAL ({RETIRED_BY.format('given')} OFFSET 0) "
            "AS owner",
            (self._vendor, keys),
        )
        return {key: (row_id, campaign) for key, row_id, campaign in found}

    def _insert(self, fresh: Sequence[Entry], database: Statements) -> None:  # type: ignore[override]  # of PostgreSQL
        if not fresh:
            return
        database.execute("SAVEPOINT copied")
        try:
            copy_rows(database, _COLUMNS, list(map(self._values, fresh)))
        except UniqueViolation:  # a key is taken: the ids were looked for before
            database.execute("ROLLBACK TO copied")
            problem = self._takers(fresh, database)[0]
        else:
            return
        raise problem


def copy_rows(database: Statements, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Add rows to both of their tables, and the stretches that they are in; number and campaign come first."""
    contents = [name for name in columns if name in _BOTH | _CONTENTS]
    states = [name for name in columns if name not in _CONTENTS]
    for table, names in (("row_contents", contents), ("row_states", states)):
        database.copy(table, names, map(itemgetter(*map(columns.index, names)), rows))
    record_stretches(database, ((row[0], row[1]) for row in rows))
