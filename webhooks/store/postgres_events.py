"""How a `PostgresStore` keeps and finds events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from rewards_core.clock import DAY
from rewards_core.operations import OperationRef, OperationStatus, subject_of
from rewards_core.postgres.connection import columns_of
from webhooks.store.hints import Notification
from webhooks.store.outcomes import outcome_of
from webhooks.store.postgres_outcomes import outcomes, record
from webhooks.store.postgres_polls import HURRIED, hurry
from webhooks.store.postgres_rows import EVENT_FIELDS, GIVEN_REFS, IS_GIVEN, LOCKED, ONCE, clean_event, packed, refs_of, text
from webhooks.store.postgres_session import ONE_POLLER, ONE_SERVER
from webhooks.store.queries import MAX_DEPENDENTS
from webhooks.store.records import Acceptance, EventState, Priority
from webhooks.store.rows import JOB_COLUMNS, STATES, Arrival, changed_row, job_of, stored_event_of

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from rewards_core.postgres.connection import Connection
    from webhooks.store.postgres_session import Change
    from webhooks.store.queries import EventQuery
    from webhooks.store.records import Job, Recorded, StoredEvent
    from webhooks.store.rows import PackedOutcome

_MENTIONING = "SELECT id FROM event WHERE uid = {0}"
_MENTIONING_ALSO = "SELECT event_id FROM also WHERE uid = {0}"
_DEPENDENTS = (
    "SELECT found.scope, found.kind, found.uid FROM unnest($1::text[], $2::text[]) AS thing (scope, subject), LATERAL ("
    f"SELECT * FROM pending WHERE pending.scope = thing.scope AND about = subject LIMIT {MAX_DEPENDENTS}) AS found"
)
_LOOKED_UP = (
    f"UPDATE pending SET priority = {Priority.LOOKUP.value}, attempt = 0, fence = NULL, "
    f"due_at = CASE WHEN fence IS NULL THEN least(due_at, $4) ELSE $4 END FROM {GIVEN_REFS} WHERE {IS_GIVEN.format('pending')}"
)
_ARRIVALS = (
    "n, identity, scope, name, kind, uid, occurred_at, correlation_id, attempt, problem, signature, body, status, resource, key"
)
_MENTIONS = "n, place, scope, kind, uid, asks"
_KEEP = f"""
WITH clock AS MATERIALIZED (SELECT now_s() AS now),
given AS MATERIALIZED (
  SELECT * FROM unnest($1::int[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::bytea[], $13::text[], $14::bytea[], $15::text[]) AS given ({_ARRIVALS})
),
mention AS MATERIALIZED (
  SELECT * FROM unnest($16::int[], $17::int[], $18::text[], $19::text[], $20::text[], $21::bool[]) AS mention ({_MENTIONS})
),
deferred AS MATERIALIZED (
  SELECT n FROM given JOIN outcome USING (scope, kind, uid)
  WHERE $22 AND given.status IS NOT NULL AND NOT EXISTS (SELECT FROM identity WHERE identity.identity = given.identity)
  UNION SELECT n FROM (SELECT n, scope, kind, uid FROM given UNION ALL SELECT n, scope, kind, uid FROM mention) AS thing
  WHERE $22 AND EXISTS (SELECT FROM pending WHERE pending.scope = thing.scope AND about = thing.kind || '/' || thing.uid OFFSET 0)
),
fresh AS (
  INSERT INTO identity (identity, day) SELECT identity, floor(now / {DAY}) FROM given, clock
  WHERE n NOT IN (SELECT n FROM deferred) ON CONFLICT DO NOTHING RETURNING identity
),
arrived AS MATERIALIZED (
  SELECT given.*, nextval('event_id') AS id, ARRAY(
    SELECT DISTINCT job FROM subscription WHERE problem IS NULL AND subscription.scope = given.scope
    AND patterns && ARRAY[given.name, '*']
  ) AS jobs
  FROM given JOIN fresh USING (identity) ORDER BY n
),
work AS (SELECT DISTINCT scope, unnest(jobs) AS job FROM arrived),
kept AS (
  INSERT INTO event (id, scope, name, identity, kind, uid, state, received_at, occurred_at, correlation_id, attempt, problem,
    signature, body)
  SELECT id, scope, name, identity, kind, uid, CASE WHEN cardinality(jobs) > 0 THEN 1 WHEN problem IS NULL THEN 0 ELSE 2 END, now,
    occurred_at, correlation_id, attempt, problem, signature, body
  FROM arrived, clock
),
kept_also AS (
  INSERT INTO also (event_id, place, kind, uid)
  SELECT id, place, mention.kind, mention.uid FROM mention JOIN arrived USING (n) WHERE place >= 0
),
kept_jobs AS (
  INSERT INTO job (event_id, handler, state, due_at, attempts)
  SELECT id, handler, 1, now, 0 FROM arrived, clock, unnest(jobs) AS handler
),
settled AS MATERIALIZED (SELECT * FROM arrived WHERE $22 AND status IS NOT NULL ORDER BY scope, kind, uid),
asked AS MATERIALIZED (
  SELECT DISTINCT mention.scope, mention.kind, mention.uid FROM mention JOIN arrived USING (n)
  LEFT JOIN outcome ON outcome.scope = mention.scope AND outcome.kind = mention.kind AND outcome.uid = mention.uid
  WHERE $22 AND asks AND outcome.status IS DISTINCT FROM 'done' ORDER BY 1, 2, 3
),
given_refs AS (SELECT scope, kind, uid FROM settled UNION ALL SELECT scope, kind, uid FROM asked),
locked AS MATERIALIZED ({LOCKED.format(given="given_refs AS given")}),
hurried AS (
  INSERT INTO pending (scope, kind, uid, added_at, due_at, polls, priority, attempt, watched)
  SELECT scope, kind, uid, now, now, 0, {Priority.LOOKUP.value}, 0, false FROM asked, clock WHERE {ONCE.format("locked")}
  ON CONFLICT (scope, kind, uid) DO UPDATE SET {HURRIED.format(attempt=0)} RETURNING 1
),
kept_outcomes AS (
  INSERT INTO outcome (scope, kind, uid, status, resource, via, settled_at, key, confirmed, recorded_at)
  SELECT scope, kind, uid, status, resource, 'webhook', now, key, false, now FROM settled, clock WHERE {ONCE.format("hurried")}
  RETURNING 1
),
ended AS (
  DELETE FROM pending USING settled
  WHERE pending.scope = settled.scope AND pending.kind = settled.kind AND pending.uid = settled.uid AND {ONCE.format("locked")}
),
waiting AS (
  DELETE FROM interest USING settled
  WHERE interest.scope = settled.scope AND interest.kind = settled.kind AND interest.uid = settled.uid
  AND {ONCE.format("kept_outcomes")} RETURNING process, interest.scope, interest.kind, interest.uid
)
SELECT now, ARRAY(SELECT n FROM arrived) AS arrived, ARRAY(SELECT n FROM deferred) AS deferred,
  ARRAY(SELECT DISTINCT ARRAY[process, scope, kind, uid] FROM waiting) AS waiting,
  EXISTS (SELECT FROM work) AS has_jobs, EXISTS (SELECT FROM asked) AS has_lookups,
  {ONE_SERVER.format(me="$23")} AS servers,
  {ONE_POLLER.format(scopes="ARRAY(SELECT DISTINCT scope FROM asked)", me="$23", now="now")} AS pollers,
  (SELECT pg_current_xact_id()::text::bigint WHERE EXISTS (SELECT FROM settled)) AS transaction,
  CASE WHEN NOT EXISTS (SELECT FROM fresh) AND (SELECT count(*) FROM deferred) < (SELECT count(*) FROM given)
    THEN pg_logical_emit_message(true, 'rewards', '')::text END
FROM clock
"""
"""Keep the events whose identities are new, with their jobs. With $22 also the outcomes and lookups, but no new event that
settles what has settled before, as Python compares the two, and no event about a thing that a pending operation is about, as the
planner cannot know how few these are. A batch of duplicates writes to the log, so that its acknowledgement too waits for the
standby. Parts that nothing reads run last, in no documented order, so each waits for the one whose locks come before its own."""


@define(eq=False)
class Batch:
    """Arrivals whose identities differ, in the order of these, and the columns of `_KEEP`."""

    arrivals: list[Arrival]
    columns: list[list[Any]] = field(factory=list)

    @classmethod
    def of(cls, arrivals: Iterable[Arrival]) -> Batch:
        """Return each identity's first arrival."""
        first: dict[bytes, Arrival] = {}
        for arrival in arrivals:
            first.setdefault(arrival.event.identity, arrival)
        batch = cls([first[identity] for identity in sorted(first)])
        rows: list[tuple[Any, ...]] = []
        mentions: list[tuple[Any, ...]] = []
        for number, arrival in enumerate(batch.arrivals):
            event, settled = arrival.event, arrival.outcome
            name, kind, uid, *texts = changed_row(event)
            outcome = (None, None, None) if settled is None else (settled.row[3], settled.row[4], settled.row[7])
            rows.append((number, event.identity, event.scope, name, kind, uid, *texts, *outcome))
            asks = event.problem is None
            if event.ref is not None and asks and settled is None:
                mentions.append((number, -1, event.scope, kind, uid, event.ref.about is None))
            for place, ref in enumerate(event.also):
                mentions.append((number, place, ref.scope, ref.kind, text(ref.uid), asks and ref.about is None))
        batch.columns = [*columns_of(rows, 15), *columns_of(mentions, 6)]
        return batch

    @property
    def is_plain(self) -> bool:
        """Whether no operation settles twice, or settles and is asked about, in this batch."""
        settled = [arrival.outcome.outcome.ref for arrival in self.arrivals if arrival.outcome is not None]
        asked = {ref for arrival in self.arrivals for ref in arrival.lookups}
        return len(set(settled)) == len(settled) and asked.isdisjoint(settled)


def arrival_of(event: Event) -> Arrival:
    """Return an event with what follows from it; the store's clock gives its time."""
    event = clean_event(event)
    outcome = None if event.problem is not None else outcome_of(event, 0.0)
    arrival = Arrival.of(event, 0.0, None)
    if outcome is not None:
        arrival.outcome = packed(outcome)
        arrival.lookups = tuple(ref for ref in arrival.lookups if ref != event.ref)
    return arrival


async def accept_plain(change: Change, batch: Batch) -> tuple[list[Arrival], set[bytes]]:
    """Keep new events with all that follows, in one statement, but none that `_KEEP` defers.

    Returns:
        Those that were kept, and the identities of those that are left to `accept_and_compare`.

    Raises:
        asyncpg.UniqueViolationError: another process settled an operation meanwhile; nothing was changed.
    """
    found, fresh = await _keep(change, batch, settle=True)
    settled = [arrival.outcome.outcome for arrival in fresh if arrival.outcome is not None]
    change.notifications += [Notification(settled=evolve(outcome, settled_at=found["now"])) for outcome in settled]
    change.settle([outcome.ref for outcome in settled], found["waiting"])
    change.transaction = found["transaction"]
    if found["has_lookups"]:
        change.add_polls(found["pollers"])
    return fresh, {batch.arrivals[number].event.identity for number in found["deferred"]}


async def accept_and_compare(change: Change, batch: Batch) -> list[Arrival]:
    """Do the same in a transaction where outcomes may have been recorded before."""
    found, fresh = await _keep(change, batch, settle=False)
    await _follow(change, fresh, found["now"])
    return fresh


def verdicts_on(arrivals: Sequence[Arrival], fresh: Iterable[Arrival]) -> list[Acceptance]:
    new = set(map(id, fresh))
    return [Acceptance.NEW if id(arrival) in new else Acceptance.DUPLICATE for arrival in arrivals]


async def keep(change: Change, events: Sequence[Event]) -> bool:
    """Store events and their jobs without settling operations; return whether any was new."""
    _, fresh = await _keep(change, Batch.of(Arrival(clean_event(event), 0.0) for event in events), settle=False)
    return bool(fresh)


async def record_outcomes(change: Change, some: Sequence[PackedOutcome]) -> list[Recorded]:
    return await record(change, some, keep)


async def amend(change: Change, event_id: int, event: Event) -> None:
    arrival = arrival_of(event)
    if not await lock(change.db, [event_id]):
        return
    await change.db.execute(
        "UPDATE event SET name = $2, kind = $3, uid = $4, occurred_at = $5, correlation_id = $6, attempt = $7, problem = $8, "
        "signature = $9, body = $10 WHERE id = $1",
        *(event_id, *changed_row(arrival.event)),
    )
    await change.db.execute("DELETE FROM also WHERE event_id = $1", event_id)
    await change.db.executemany(
        "INSERT INTO also (event_id, place, kind, uid) VALUES ($1, $2, $3, $4)",
        [(event_id, place, ref.kind, text(ref.uid)) for place, ref in enumerate(arrival.event.also)],
    )
    await update_states(change.db, [event_id])
    await _follow(change, [arrival], await change.now())


async def lock(db: Connection, event_ids: Sequence[int]) -> list[int]:
    """Lock events before their jobs change, and return those that exist."""
    rows = await db.fetch("SELECT id FROM event WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE", list(event_ids))
    return [row[0] for row in rows]


async def update_states(db: Connection, event_ids: Sequence[int]) -> None:
    """Update the states of locked events after their jobs have changed."""
    await db.execute(
        "UPDATE event SET state = CASE WHEN EXISTS (SELECT FROM job WHERE event_id = event.id AND state = 1) THEN 1 "
        "WHEN problem IS NOT NULL OR EXISTS (SELECT FROM job WHERE event_id = event.id) THEN 2 ELSE 0 END "
        "WHERE id = ANY($1::bigint[])",
        list(event_ids),
    )


async def events(db: Connection, query: EventQuery) -> list[StoredEvent]:
    """Return the events that match, newest first."""
    where, values = event_conditions(query)
    rows = await db.fetch(
        f"SELECT {EVENT_FIELDS} FROM event WHERE {where} ORDER BY id DESC LIMIT ${len(values) + 1}", *values, query.limit
    )
    jobs: dict[int, list[Job]] = {}
    ids = [row[0] for row in rows]
    found = f"SELECT now_s(), {JOB_COLUMNS} FROM job WHERE event_id = ANY($1::bigint[]) ORDER BY handler"
    for now, *row in await db.fetch(found, ids) if ids else ():
        jobs.setdefault(row[0], []).append(job_of(row, now))
    return [stored_event_of(row, jobs.get(row[0], ())) for row in rows]


def event_conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
    clauses: list[str] = []
    values: list[Any] = []

    def given(clause: str, *some: object) -> None:
        clauses.append(clause.format(*(f"${len(values) + place}" for place in range(1, len(some) + 1))))
        values.extend(some)

    if query.id is not None:
        given("id = {0}", query.id)
    if query.before_id is not None:
        given("id < {0}", query.before_id)
    if query.scope is not None:
        given("scope = {0}", query.scope)
    if query.name is not None:
        given("name = {0}", text(query.name))
    if query.state is EventState.DONE:
        given("state = 0")
    elif query.state is not None:  # `state > 0` tells the planner that the partial index applies
        given("state > 0 AND state = {0}", STATES.index(query.state))
    if query.uid is not None:
        given(f"id IN ({_MENTIONING} UNION ALL {_MENTIONING_ALSO})", text(query.uid))
    if query.ref is not None:
        both = f"{_MENTIONING} AND kind = {{1}} UNION ALL {_MENTIONING_ALSO} AND kind = {{1}}"
        given(f"id IN ({both}) AND scope = {{2}}", text(query.ref.uid), query.ref.kind, query.ref.scope)
    return " AND ".join(clauses) or "true", values


async def _keep(change: Change, batch: Batch, *, settle: bool) -> tuple[Any, list[Arrival]]:
    found = await change.db.fetchrow(_KEEP, *batch.columns, settle, change.member.id)
    if found["has_jobs"]:
        change.add_jobs(found["servers"])
    return found, [batch.arrivals[number] for number in found["arrived"]]


def _at(settled: PackedOutcome, now: float) -> PackedOutcome:
    return packed(evolve(settled.outcome, settled_at=now))


async def _follow(change: Change, arrivals: Sequence[Arrival], now: float) -> None:
    """Record what events settle; request polls of what else they mention, and of what is about anything they mention.

    What is known to be done is not polled.
    """
    settled = [_at(arrival.outcome, now) for arrival in arrivals if arrival.outcome is not None]
    asked = dict.fromkeys(ref for arrival in arrivals for ref in arrival.lookups)
    about = await _dependents(change.db, (ref for arrival in arrivals for ref in arrival.mentioned))
    await change.lock_pending([*(one.outcome.ref for one in settled), *asked, *about])
    await record(change, settled, keep)
    done = {one.ref for one in await outcomes(change.db, [*asked, *about]) if one.status is OperationStatus.DONE}
    await hurry(change, [ref for ref in asked if ref not in done], Priority.LOOKUP)
    await _look_up_pending(change, [ref for ref in about if ref not in done])


async def _dependents(db: Connection, things: Iterable[OperationRef]) -> list[OperationRef]:
    """Return the pending operations that are about some things, `MAX_DEPENDENTS` of each at most."""
    subjects = sorted({(thing.scope, text(subject_of(thing.kind, thing.uid))) for thing in things})
    return [OperationRef(*row) for row in await db.fetch(_DEPENDENTS, *columns_of(subjects, 2))] if subjects else []


async def _look_up_pending(change: Change, refs: Sequence[OperationRef]) -> None:
    """Make those operations due now that are still pending; they were locked before."""
    if refs:
        await change.db.execute(_LOOKED_UP, *refs_of(refs), await change.now())
        await change.hint_polls(ref.scope for ref in refs)
