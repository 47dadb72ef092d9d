"""What a reading connection of a SQLite store looks up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.operations import OperationRef
from webhooks.store.base import IDENTITY_DAYS, EventState, Job, Outcome, StoredEvent, StoreStatistics
from webhooks.store.sqlite_rows import (
    DEAD,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    OUTCOME_COLUMNS,
    READY,
    STATES,
    by_scope_and_kind,
    job_of,
    outcome_from,
    placeholders,
    stored_event_of,
    text,
    values_at_once,
)

if TYPE_CHECKING:
    import sqlite3

    from webhooks.store.listing import EventQuery

_DAY = 86_400


class Reader:
    """Look things up through one connection.

    Args:
        connection: A connection that sees what is committed.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def outcomes(self, refs: Sequence[OperationRef]) -> list[Outcome]:
        """Return the outcomes that stand."""
        found: list[Any] = []
        for (scope, kind), uids in by_scope_and_kind(refs).items():
            for part in values_at_once(uids):
                found += self._db.execute(
                    f"SELECT {OUTCOME_COLUMNS} FROM outcome WHERE scope = ? AND kind = ? AND uid IN {placeholders(len(part), 1)}",
                    (scope, kind, *part),
                ).fetchall()
        return [outcome_from(row) for row in found]

    def outcomes_by_key(self, scope: str, kind: str, key: str) -> list[Outcome]:
        """Return the outcomes that stand of the operations made with an idempotency key."""
        rows = self._db.execute(
            f"SELECT {OUTCOME_COLUMNS} FROM outcome WHERE scope = ? AND kind = ? AND key = ?", (scope, kind, text(key))
        )
        return [outcome_from(row) for row in rows.fetchall()]

    def conflicts(self, ref: OperationRef) -> list[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        rows = self._db.execute(
            f"SELECT {OUTCOME_COLUMNS} FROM conflict WHERE scope = ? AND kind = ? AND uid = ? ORDER BY seq",
            (ref.scope, ref.kind, text(ref.uid)),
        )
        return [outcome_from(row) for row in rows.fetchall()]

    def pending(self, scope: str, after: tuple[str, str], limit: int) -> list[OperationRef]:
        """Return the next pending operations after a kind and uid."""
        rows = self._db.execute(
            "SELECT kind, uid FROM pending WHERE scope = ? AND (kind, uid) > (?, ?) ORDER BY kind, uid LIMIT ?",
            (scope, *after, limit),
        )
        return [OperationRef(scope, kind, uid) for kind, uid in rows.fetchall()]

    def events(self, query: EventQuery) -> list[StoredEvent]:
        """Return events that fit, newest first."""
        where, values = _conditions(query)
        rows = self._db.execute(
            f"SELECT {EVENT_COLUMNS} FROM event WHERE {where} ORDER BY id DESC LIMIT ?",
            (*values, query.limit),
        ).fetchall()
        jobs: dict[int, list[Job]] = {}
        for part in values_at_once([row[0] for row in rows]):
            found = self._db.execute(
                f"SELECT {JOB_COLUMNS} FROM job WHERE event_id IN {placeholders(len(part), 1)} ORDER BY handler",
                part,
            )
            for row in found.fetchall():
                jobs.setdefault(row[0], []).append(job_of(row))
        return [stored_event_of(row, jobs.get(row[0], ())) for row in rows]

    def purgeable(self, state: EventState, before: float, limit: int) -> list[int]:
        """Return some events in a state received before a moment."""
        if state is EventState.DONE:
            found = "SELECT id FROM event INDEXED BY event_received WHERE received_at < ? AND state = 0 LIMIT ?"
            return [row[0] for row in self._db.execute(found, (before, limit)).fetchall()]
        found = "SELECT id FROM event WHERE state > 0 AND state = ? AND received_at < ? LIMIT ?"
        return [row[0] for row in self._db.execute(found, (STATES.index(state), before, limit)).fetchall()]

    def old_identities(self, now: float, limit: int) -> list[bytes]:
        """Return some identities that need not be known any longer."""
        oldest = int(now) // _DAY - IDENTITY_DAYS
        return [
            row[0] for row in self._db.execute("SELECT identity FROM identity WHERE day < ? LIMIT ?", (oldest, limit)).fetchall()
        ]

    def old_outcomes(self, before: float, limit: int) -> list[OperationRef]:
        """Return some operations that settled before a moment."""
        rows = self._db.execute("SELECT scope, kind, uid FROM outcome WHERE settled_at < ? LIMIT ?", (before, limit))
        return [OperationRef(*row) for row in rows.fetchall()]

    def old_pending(self, before: float, limit: int) -> list[OperationRef]:
        """Return some operations that are pending since before a moment."""
        rows = self._db.execute("SELECT scope, kind, uid FROM pending WHERE added_at < ? LIMIT ?", (before, limit))
        return [OperationRef(*row) for row in rows.fetchall()]

    def statistics(self) -> StoreStatistics:
        """Count what is held."""
        oldest = self._db.execute(
            "SELECT received_at FROM event WHERE state > 0 AND state = ? ORDER BY id LIMIT 1", (READY,)
        ).fetchone()
        return StoreStatistics(
            events=self._count("event"),
            ready=self._count("event WHERE state > 0 AND state = ?", READY),
            dead=self._count("event WHERE state > 0 AND state = ?", DEAD),
            questions=self._count("question"),
            pending=self._count("pending"),
            outcomes=self._count("outcome"),
            conflicts=self._count("conflict"),
            oldest_ready_at=oldest[0] if oldest else None,
        )

    def changed(self) -> int:
        """Return a number that is another one after any other connection has committed."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    def newest_outcome(self) -> int:
        """Return the number of the newest outcome, 0 if there is none."""
        (seq,) = self._db.execute("SELECT max(seq) FROM outcome").fetchone()
        return int(seq or 0)

    def outcomes_after(self, seq: int, limit: int) -> list[tuple[int, Outcome]]:
        """Return the next outcomes after a number, with theirs."""
        rows = self._db.execute(f"SELECT seq, {OUTCOME_COLUMNS} FROM outcome WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [(row[0], outcome_from(row[1:])) for row in rows.fetchall()]

    def _count(self, what: str, *values: int) -> int:
        (count,) = self._db.execute(f"SELECT count(*) FROM {what}", values).fetchone()
        return int(count)


def _conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
    given: list[tuple[str, Any]] = [
        ("id = ?", query.id),
        ("id < ?", query.before_id),
        ("scope = ?", query.scope),
        ("name = ?", None if query.name is None else text(query.name)),
    ]
    if query.state is EventState.DONE:
        given.append(("state = ?", STATES.index(query.state)))
    elif query.state is not None:  # `state > 0` tells SQLite that the index of open events holds them all
        given.append(("state > 0 AND state = ?", STATES.index(query.state)))
    if query.ref is not None:
        given += [("scope = ?", query.ref.scope), ("kind = ?", query.ref.kind), ("uid = ?", text(query.ref.uid))]
    used = [(words, value) for words, value in given if value is not None]
    return (" AND ".join(words for words, _ in used) or "1"), [value for _, value in used]
