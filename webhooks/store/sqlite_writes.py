"""What the one writing connection of a SQLite store does, inside a transaction that others may share.

Statements take many rows at a time: between two of them the thread may have to wait for the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.base import FARTHEST_DUE, NO_SUCH_HANDLER, Acceptance, ClaimedJob, EventState, Job, Outcome, Recorded, Verdict
from webhooks.store.outcomes import agree, conflict_event
from webhooks.store.sqlite_rows import (
    DEAD,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    OUTCOME_COLUMNS,
    READY,
    STATES,
    Arrival,
    Groups,
    PackedOutcome,
    by_scope_and_kind,
    changed_row,
    event_of,
    job_of,
    outcome_from,
    placeholders,
    rows_at_once,
    text,
    values_at_once,
)

if TYPE_CHECKING:
    import sqlite3

_DAY = 86_400

_REFILE = """
UPDATE event SET state = CASE
  WHEN EXISTS (SELECT 1 FROM job WHERE event_id = event.id AND state = 1) THEN 1
  WHEN problem IS NOT NULL OR EXISTS (SELECT 1 FROM job WHERE event_id = event.id) THEN 2
  ELSE 0 END
WHERE id IN """


@define
class News:
    """What subscribers are told once it is durable, or that the file must be opened anew; one of the four."""

    settled: Outcome | None = None
    asked: OperationRef | None = None
    ready: bool = False
    moved: bool = False


class Writer:
    """Change the store through one connection.

    Args:
        connection: The writing connection; whoever calls begins and commits.
        conflict_handlers: Scope to the handlers that get a job on conflicts; may change between calls.
        clock: Unix time in seconds, read once for each transaction.
    """

    def __init__(
        self, connection: sqlite3.Connection, conflict_handlers: Mapping[str, Sequence[str]], clock: Callable[[], float]
    ) -> None:
        self.news: list[News] = []
        self.now = 0.0
        self._db = connection
        self._conflict_handlers = conflict_handlers
        self._clock = clock
        self._next_id: int | None = None

    def begin(self) -> None:
        """Begin a transaction."""
        self.news = []
        self.now = self._clock()
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> list[News]:
        """Make everything since `begin` durable, and return what there is to tell."""
        self._db.execute("COMMIT")
        return self.news

    def rollback(self) -> None:
        """Take back everything since `begin`."""
        self.news = []
        self._next_id = None
        self._db.rollback()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def accept(self, arrivals: Sequence[Arrival]) -> list[Acceptance]:
        """Keep each event unless its identity is known, together with all that follows from it."""
        fresh = self._keep(arrivals)
        self.record([arrival.outcome for arrival in fresh if arrival.outcome is not None])
        self._ask({ref: arrival.at for arrival in fresh for ref in arrival.questions})
        kept = set(map(id, fresh))
        return [Acceptance.NEW if id(arrival) in kept else Acceptance.DUPLICATE for arrival in arrivals]

    def amend(self, event_id: int, arrival: Arrival) -> None:
        """Replace a kept event by what a later reading of its body found."""
        changed = self._db.execute(
            "UPDATE event SET name = ?, kind = ?, uid = ?, occurred_at = ?, correlation_id = ?, attempt = ?, "
            "problem = ?, signature = ?, body = ? WHERE id = ?",
            (*changed_row(arrival.event), event_id),
        )
        if changed.rowcount == 0:
            return
        self._refile([event_id])
        if arrival.outcome is not None:
            self.record([arrival.outcome])
        self._ask(dict.fromkeys(arrival.questions, arrival.at))

    def record(self, outcomes: Sequence[PackedOutcome]) -> list[Recorded]:
        """Record how operations ended; the first outcome of each stands."""
        if not outcomes:
            return []
        groups = by_scope_and_kind(packed.outcome.ref for packed in outcomes)
        standing = {one.ref: one for one in self._outcomes_of(groups)}
        first: list[PackedOutcome] = []
        conflicting: list[PackedOutcome] = []
        keys: list[tuple[str, str, str, str]] = []
        recorded: list[Recorded] = []
        for packed in outcomes:
            outcome = packed.outcome
            stands = standing.setdefault(outcome.ref, outcome)
            verdict = Verdict.FIRST if stands is outcome else Verdict.SAME if agree(stands, outcome) else Verdict.CONFLICT
            if verdict is Verdict.FIRST:
                first.append(packed)
            elif verdict is Verdict.CONFLICT:
                conflicting.append(packed)
            elif stands.key is None and outcome.key is not None:
                stands = standing[outcome.ref] = evolve(stands, key=outcome.key)
                keys.append((text(outcome.key), outcome.ref.scope, outcome.ref.kind, text(outcome.ref.uid)))
            recorded.append(Recorded(verdict=verdict, outcome=stands))
        self._insert("outcome", OUTCOME_COLUMNS, [packed.row for packed in first])
        self._delete_groups("pending", groups)
        self._delete_groups("question", groups)
        self._db.executemany("UPDATE outcome SET key = ? WHERE scope = ? AND kind = ? AND uid = ?", keys)
        self.news += [News(settled=standing[packed.outcome.ref]) for packed in first]
        for packed in conflicting:
            self._keep_conflict(standing[packed.outcome.ref], packed)
        return recorded

    def add_pending(self, refs: Sequence[OperationRef]) -> None:
        """Register operations as unsettled, but those with an outcome."""
        settled = {one.ref for one in self._outcomes(refs)}
        rows = [(ref.scope, ref.kind, text(ref.uid), self.now) for ref in refs if ref not in settled]
        self._insert("pending", "scope, kind, uid, added_at", rows, "INSERT OR IGNORE")

    def remove_pending(self, refs: Iterable[OperationRef]) -> None:
        """Take operations out of the pending ones."""
        self._delete_refs("pending", refs)

    def close_questions(self, refs: Iterable[OperationRef]) -> None:
        """Close questions."""
        self._delete_refs("question", refs)

    def claim_jobs(self, handler: str, limit: int, lease: float) -> list[ClaimedJob]:
        """Lease due jobs of one handler, the longest due first."""
        columns = ", ".join(f"job.{column}" for column in JOB_COLUMNS.split(", "))
        look = (
            f"SELECT {columns}, {', '.join(f'event.{column}' for column in EVENT_COLUMNS.split(', '))} "
            "FROM job JOIN event ON event.id = job.event_id WHERE job.handler = ? AND job.state = 1 AND job.due_at {} ? "
            "ORDER BY job.due_at, job.event_id LIMIT ?"
        )
        rows = self._due(look, (handler,), limit)
        claimed, until = [], self.now + min(lease, FARTHEST_DUE)
        for event_id, name, state, _, attempts, reason, *event in rows:
            job = job_of((event_id, name, state, until, attempts + 1, reason))
            claimed.append(ClaimedJob(job=job, event=event_of(event)))
        for ids in values_at_once([row[0] for row in rows]):
            marks = placeholders(len(ids), 1)
            self._db.execute(
                f"UPDATE job SET due_at = ?, attempts = attempts + 1 WHERE handler = ? AND event_id IN {marks}",
                (until, handler, *ids),
            )
        return claimed

    def finish_jobs(self, jobs: Sequence[Job]) -> list[bool]:
        """Mark claimed jobs as done, where their lease has not passed on."""
        finished = [
            self._db.execute(
                "DELETE FROM job WHERE event_id = ? AND handler = ? AND state = 1 AND due_at = ?",
                (job.event_id, job.handler, job.due_at),
            ).rowcount
            == 1
            for job in jobs
        ]
        self._refile([job.event_id for job, was_leased in zip(jobs, finished, strict=True) if was_leased])
        return finished

    def fail_job(self, job: Job, reason: str, retry_at: float | None) -> bool:
        """Give a claimed job back, where its lease has not passed on."""
        changed = self._db.execute(
            "UPDATE job SET state = ?, due_at = ?, reason = ? WHERE event_id = ? AND handler = ? AND state = 1 AND due_at = ?",
            (
                DEAD if retry_at is None else READY,
                job.due_at if retry_at is None else min(retry_at, self.now + FARTHEST_DUE),
                text(reason),
                job.event_id,
                job.handler,
                job.due_at,
            ),
        )
        if changed.rowcount == 1:
            self._refile([job.event_id])
        return changed.rowcount == 1

    def retire_jobs(self, scopes: Collection[str], keep: Collection[str]) -> int:
        """Make ready jobs of handlers that are no more dead letters."""
        count = 0
        handlers = [row[0] for row in self._db.execute("SELECT DISTINCT handler FROM job WHERE state = 1")]
        for handler in set(handlers) - set(keep):
            for scope in scopes:
                ready = (
                    "SELECT event_id FROM job JOIN event ON event.id = event_id WHERE handler = ? AND job.state = 1 AND scope = ?"
                )
                ids = [row[0] for row in self._db.execute(ready, (handler, scope))]
                self._db.executemany(
                    "UPDATE job SET state = ?, reason = ? WHERE event_id = ? AND handler = ?",
                    [(DEAD, NO_SUCH_HANDLER, event_id, handler) for event_id in ids],
                )
                self._refile(ids)
                count += len(ids)
        return count

    def claim_questions(self, scope: str, limit: int, lease: float) -> list[OperationRef]:
        """Lease open questions, the longest due first."""
        rows = self._due(
            "SELECT kind, uid FROM question WHERE scope = ? AND due_at {} ? ORDER BY due_at LIMIT ?", (scope,), limit
        )
        claimed = [OperationRef(scope, kind, uid) for kind, uid in rows]
        for (_, kind), uids in by_scope_and_kind(claimed).items():
            for part in values_at_once(uids):
                self._db.execute(
                    f"UPDATE question SET due_at = ? WHERE scope = ? AND kind = ? AND uid IN {placeholders(len(part), 1)}",
                    (self.now + min(lease, FARTHEST_DUE), scope, kind, *part),
                )
        return claimed

    def requeue(self, event_ids: Sequence[int], handlers: Sequence[str] | None) -> int:
        """Let handlers run again for kept events."""
        count = 0
        for event_id in event_ids:
            if handlers is None:
                changed = self._db.execute(
                    "UPDATE job SET state = 1, due_at = ?, attempts = 0, reason = NULL WHERE event_id = ? AND state = 2",
                    (self.now, event_id),
                )
                count += changed.rowcount > 0
            elif self._db.execute("SELECT 1 FROM event WHERE id = ?", (event_id,)).fetchone() is not None:
                self._db.execute("DELETE FROM job WHERE event_id = ?", (event_id,))
                self._insert("job", JOB_COLUMNS, [(event_id, handler, READY, self.now, 0, None) for handler in handlers])
                count += bool(handlers)
        self._refile(event_ids)
        if count:
            self.news.append(News(ready=True))
        return count

    def purge_events(self, event_ids: Sequence[int], state: EventState) -> int:
        """Remove those of the events that are in that state."""
        count = 0
        for part in values_at_once(event_ids):
            marks = placeholders(len(part), 1)
            removed = self._db.execute(
                f"DELETE FROM event WHERE id IN {marks} AND state = ?",
                (*part, STATES.index(state)),
            )
            count += removed.rowcount
            if state is EventState.DEAD:
                self._db.execute(
                    f"DELETE FROM job WHERE event_id IN {marks} AND event_id NOT IN (SELECT id FROM event WHERE id IN {marks})",
                    (*part, *part),
                )
        return count

    def purge_identities(self, identities: Sequence[bytes]) -> None:
        """Forget identities that are old enough."""
        for part in values_at_once(identities):
            self._db.execute(f"DELETE FROM identity WHERE identity IN {placeholders(len(part), 1)}", part)

    def purge_outcomes(self, refs: Sequence[OperationRef]) -> None:
        """Remove outcomes with their conflicts."""
        self._delete_refs("outcome", refs)
        self._delete_refs("conflict", refs)

    def purge_pending(self, refs: Sequence[OperationRef], before: float) -> None:
        """Remove those of the operations that are pending since before a moment."""
        self._delete_refs("pending", refs, f"AND added_at < {before!r}")

    def touch(self) -> None:
        """Write something that changes nothing."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute(f"PRAGMA user_version={version}")

    def empty_log(self) -> bool:
        """Move the log into the file, outside of a transaction; return False where somebody reads from it for too long."""
        (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def _keep(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Keep the events whose identities are not known yet, and return them."""
        by_identity: dict[bytes, Arrival] = {}
        for arrival in arrivals:
            by_identity.setdefault(arrival.event.identity, arrival)
        for part in values_at_once(list(by_identity)):
            known = self._db.execute(f"SELECT identity FROM identity WHERE identity IN {placeholders(len(part), 1)}", part)
            for (identity,) in known.fetchall():
                del by_identity[identity]
        fresh = list(by_identity.values())
        if not fresh:
            return fresh
        self._insert("identity", "identity, day", [(arrival.event.identity, int(arrival.at) // _DAY) for arrival in fresh])
        first_id = self._claim_ids(len(fresh))
        self._insert("event", EVENT_COLUMNS, [arrival.row(event_id) for event_id, arrival in enumerate(fresh, first_id)])
        jobs = [
            (event_id, handler, READY, arrival.at, 0, None)
            for event_id, arrival in enumerate(fresh, first_id)
            for handler in arrival.handlers
        ]
        if jobs:
            self._insert("job", JOB_COLUMNS, jobs)
            self.news.append(News(ready=True))
        return fresh

    def _claim_ids(self, count: int) -> int:
        if self._next_id is None:
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
            self._next_id = (row[0] if row else 0) + 1
        first = self._next_id
        self._next_id = first + count
        return first

    def _keep_conflict(self, first: Outcome, packed: PackedOutcome) -> None:
        event: Event = conflict_event(first, packed.outcome)
        arrival = Arrival(event, self._conflict_handlers.get(event.scope, ()), self.now)
        if self._keep([arrival]):
            self._insert("conflict", OUTCOME_COLUMNS, [packed.row])

    def _ask(self, asked: dict[OperationRef, float]) -> None:
        """Open a question for each ref, unless one is open or the operation is known as done."""
        for outcome in self._outcomes(asked):
            if outcome.status is OperationStatus.DONE:
                del asked[outcome.ref]
        for ref, at in asked.items():
            opened = self._db.execute(
                "INSERT OR IGNORE INTO question (scope, kind, uid, due_at) VALUES (?, ?, ?, ?)",
                (ref.scope, ref.kind, text(ref.uid), at),
            )
            if opened.rowcount == 1:
                self.news.append(News(asked=ref))

    def _due(self, look: str, values: tuple[Any, ...], limit: int) -> list[Any]:
        """Return what is due; then what is due so late that only a clock which was wrong can have written it."""
        rows = self._db.execute(look.format("<="), (*values, self.now, limit)).fetchall()
        if len(rows) < limit:
            rows += self._db.execute(look.format(">"), (*values, self.now + FARTHEST_DUE, limit - len(rows))).fetchall()
        return rows

    def _outcomes(self, refs: Iterable[OperationRef]) -> list[Outcome]:
        return self._outcomes_of(by_scope_and_kind(refs))

    def _outcomes_of(self, groups: Groups) -> list[Outcome]:
        found: list[Any] = []
        for (scope, kind), uids in groups.items():
            for part in values_at_once(uids):
                found += self._db.execute(
                    f"SELECT {OUTCOME_COLUMNS} FROM outcome WHERE scope = ? AND kind = ? AND uid IN {placeholders(len(part), 1)}",
                    (scope, kind, *part),
                ).fetchall()
        return [outcome_from(row) for row in found]

    def _refile(self, event_ids: Sequence[int]) -> None:
        for part in values_at_once(event_ids):
            self._db.execute(_REFILE + placeholders(len(part), 1), part)

    def _insert(self, table: str, columns: str, rows: Sequence[tuple[Any, ...]], verb: str = "INSERT") -> None:
        for length, values in rows_at_once(rows):
            marks = placeholders(columns.count(",") + 1, length)
            self._db.execute(f"{verb} INTO {table} ({columns}) VALUES {marks}", values)

    def _delete_refs(self, table: str, refs: Iterable[OperationRef], and_also: str = "") -> None:
        self._delete_groups(table, by_scope_and_kind(refs), and_also)

    def _delete_groups(self, table: str, groups: Groups, and_also: str = "") -> None:
        for (scope, kind), uids in groups.items():
            for part in values_at_once(uids):
                marks = placeholders(len(part), 1)
                self._db.execute(
                    f"DELETE FROM {table} WHERE scope = ? AND kind = ? AND uid IN {marks} {and_also}",
                    (scope, kind, *part),
                )
