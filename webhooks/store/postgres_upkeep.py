"""How a `PostgresStore` checks itself, counts what it holds, and removes what is old."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, HOUR, UNKNOWN_BOOT, TrustedTime, boot_id, uptime
from rewards_core.errors import StoreError
from webhooks.store.outcomes import mentions, pack
from webhooks.store.postgres_events import lock, update_states
from webhooks.store.postgres_jobs import count_unserved
from webhooks.store.postgres_session import SCOPES
from webhooks.store.readings import StoreStatistics
from webhooks.store.records import FORGOTTEN, IDENTITY_DAYS, EventState, Priority
from webhooks.store.rows import STATES

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from webhooks.store.postgres_session import Change


_STORE_AND_UNDO = """
SAVEPOINT probe;
INSERT INTO identity (identity, day) VALUES ('', 0);
INSERT INTO event (id, scope, name, identity, state, received_at, body) VALUES (0, '', '', '', 0, 0, '');
ROLLBACK TO probe
"""
COUNT_UP_TO = 100_000
"""Rows that are counted one by one."""
_LOOKUPS = f"""
scopes, LATERAL (SELECT FROM pending WHERE pending.scope = scopes.scope AND priority = {Priority.LOOKUP.value} OFFSET 0) AS lookup
"""
"""The lookups, found scope by scope in an index; `OFFSET 0` keeps the planner from a join that walks through all of it."""
_CALENDARS = (
    "INSERT INTO meta (name, value) VALUES ('calendars', '') ON CONFLICT (name) DO UPDATE SET value = meta.value RETURNING value"
)
_NEWEST = "SELECT greatest((SELECT max(received_at) FROM event), (SELECT max(recorded_at) FROM outcome))"
_MAX_HOSTS = 100
_UNNOTED = 2 * HOUR
"""Seconds within which some host notes the time while any of them uses the store."""


def _counted(table: str) -> str:
    """Count a table; a large one as the server's own upkeep last counted it."""
    return (
        f"(SELECT CASE WHEN n > {COUNT_UP_TO} THEN greatest(n, reltuples::bigint) ELSE n END FROM pg_class, "
        f"(SELECT {_counted_rows(table, COUNT_UP_TO + 1)} AS n) AS counted WHERE oid = '{table}'::regclass)"
    )


def _counted_rows(rows: str, up_to: int) -> str:
    return f"(SELECT count(*) FROM (SELECT FROM {rows} LIMIT {up_to}) AS found)"


async def probe(db: Connection) -> None:
    """Prove that an event can be stored, without a row that other processes wait for."""
    await db.execute(_STORE_AND_UNDO)
    if not await db.fetchval("SELECT has_sequence_privilege('event_id', 'USAGE')"):  # using it would leave gaps between ids
        raise StoreError("This user may not use the sequence event_id, so no event can be stored. Grant it the rights.")
    await db.fetchval("SELECT count(*) FROM (SELECT FROM event ORDER BY id DESC LIMIT 10) AS newest")


async def every_hour(change: Change) -> None:
    if await change.claim_moment("hour"):
        await count_unserved(change)
        await today(change)


async def today(change: Change) -> float:
    """Return the Unix time that decides what is old. Setting the database's clock forward does not make records older.

    A database has no uptime, so each host judges by its own; a new host begins with the time that the others trust.
    """
    now, member = await change.now(), change.member
    member.boot = member.boot or await asyncio.to_thread(boot_id)
    boot = member.id if member.boot == UNKNOWN_BOOT else member.boot
    kept = await change.db.fetchval(_CALENDARS)
    hosts = {one.boot: one for one in map(TrustedTime.load, kept.encode().splitlines())}
    mine = hosts.pop(boot, None)
    if mine is None:
        trusted = max((one.wall for one in hosts.values()), default=None) or await change.db.fetchval(_NEWEST)
        is_near = trusted is None or now - trusted <= _UNNOTED
        mine = TrustedTime(wall=now if is_near else trusted, uptime=uptime(), boot=boot)
    mine = mine.update(now, uptime(), boot)
    noted = [one.dump().decode() for one in (*hosts.values(), mine)]
    await change.db.execute("UPDATE meta SET value = $1 WHERE name = 'calendars'", "\n".join(noted[-_MAX_HOSTS:]))
    return min(now, mine.wall)


async def count_identities(db: Connection) -> int:
    """Return about how many identities there are, as last counted by the server's own upkeep."""
    counted = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'identity'::regclass"
    return int(await db.fetchval(counted))


async def statistics(db: Connection) -> StoreStatistics:
    """Count what is kept, in a time that does not grow with it."""
    ready, dead, lookups = (
        _counted_rows(rows, COUNT_UP_TO)
        for rows in ("event WHERE state > 0 AND state = 1", "event WHERE state > 0 AND state = 2", _LOOKUPS)
    )
    row = await db.fetchrow(
        f"WITH RECURSIVE {SCOPES} SELECT {_counted('event')} AS events, {ready} AS ready, {dead} AS dead, {lookups} AS lookups, "
        f"{_counted('pending')} AS pending, {_counted('outcome')} AS outcomes, {_counted('conflict')} AS conflicts, "
        "(SELECT received_at FROM event WHERE state > 0 AND state = 1 ORDER BY id LIMIT 1) AS oldest_ready_at"
    )
    return StoreStatistics(**dict(row))


# removing, a slice in each call; what another transaction has locked waits for the next call


async def purge(change: Change, state: EventState, before: float, limit: int) -> int:
    partial = "" if state is EventState.DONE else "state > 0 AND "
    found = await change.db.fetch(
        f"SELECT id FROM event WHERE {partial}state = $1 AND received_at < $2 ORDER BY received_at, id LIMIT $3 "
        "FOR UPDATE SKIP LOCKED",
        *(STATES.index(state), before, limit),
    )
    ids = [row[0] for row in found]
    for table in ("job", "also"):
        await change.db.execute(f"DELETE FROM {table} WHERE event_id = ANY($1::bigint[])", ids)
    await change.db.execute("DELETE FROM event WHERE id = ANY($1::bigint[])", ids)
    return len(ids)


async def purge_identities(change: Change, now: float, limit: int) -> int:
    rows = await change.db.fetch(
        "DELETE FROM identity WHERE identity IN (SELECT identity FROM identity WHERE day < $1 LIMIT $2 FOR UPDATE SKIP LOCKED) "
        "RETURNING 1",
        *(int(now) // DAY - IDENTITY_DAYS, limit),
    )
    return len(rows)


async def purge_outcomes(change: Change, before: float, limit: int) -> int:
    rows = await change.db.fetch(
        "WITH old AS (SELECT scope, kind, uid FROM outcome WHERE recorded_at < $1 ORDER BY recorded_at LIMIT $2 "
        "FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM conflict USING old WHERE conflict.scope = old.scope "
        "AND conflict.kind = old.kind AND conflict.uid = old.uid) "
        "DELETE FROM outcome USING old WHERE outcome.scope = old.scope AND outcome.kind = old.kind AND outcome.uid = old.uid "
        "RETURNING 1",
        *(before, limit),
    )
    return len(rows)


async def erase_bodies(change: Change, before: float, limit: int, after: tuple[float, int]) -> tuple[int, tuple[float, int]]:
    """Erase bodies of done events after a place in the order of their arrival; return how many, and the place."""
    rows = await change.db.fetch(
        "SELECT received_at, id FROM event WHERE received_at < $1 AND (received_at, id) > ($3, $4) AND state = 0 "
        "AND length(body) > 0 ORDER BY received_at, id LIMIT $2 FOR UPDATE SKIP LOCKED",
        *(before, limit, *after),
    )
    await _erase(change, [row[1] for row in rows])
    return len(rows), (rows[-1][0], rows[-1][1]) if rows else after


async def events_about(db: Connection, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    """Return, of the next events, those whose bodies mention a user, and the last id that was checked."""
    look = "SELECT id, body FROM event WHERE id > $1 AND length(body) > 0 ORDER BY id LIMIT $2"
    return await _about(db, look, uid, after, limit)


async def resources_about(db: Connection, uid: str, after: int, limit: int, *, table: str) -> tuple[list[int], int | None]:
    """Do the same for the resources of outcomes or conflicts."""
    return await _about(db, f"SELECT seq, resource FROM {table} WHERE seq > $1 ORDER BY seq LIMIT $2", uid, after, limit)


async def forget_events(change: Change, event_ids: Sequence[int]) -> int:
    """Erase events and the reasons of their jobs, which become dead letters."""
    ids = await lock(change.db, event_ids)
    await _erase(change, ids)
    await change.db.execute(
        "UPDATE job SET state = 2, reason = $2, held = false WHERE event_id = ANY($1::bigint[])", ids, FORGOTTEN
    )
    await update_states(change.db, ids)
    return len(ids)


async def forget_resources(change: Change, seqs: Sequence[int], *, table: str) -> int:
    """Erase the resources and keys of outcomes or conflicts; their statuses stay."""
    await change.db.execute(f"UPDATE {table} SET resource = $2, key = NULL WHERE seq = ANY($1::bigint[])", list(seqs), pack({}))
    return len(seqs)


async def _erase(change: Change, event_ids: Sequence[int]) -> None:
    await change.db.execute("UPDATE event SET body = '', signature = NULL WHERE id = ANY($1::bigint[])", list(event_ids))


async def _about(db: Connection, look: str, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    rows = await db.fetch(look, after, limit)
    return [row[0] for row in rows if mentions(row[1], uid)], rows[-1][0] if rows else None
