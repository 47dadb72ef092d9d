"""What a `PostgresStore` gives to and takes from its statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from rewards_core.operations import Event, OperationRef
from rewards_core.postgres.connection import columns_of
from webhooks.store import rows
from webhooks.store.outcomes import pack
from webhooks.store.records import Outcome, Subscription
from webhooks.store.rows import EVENT_COLUMNS, PackedOutcome

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection

GIVEN_REFS = "unnest($1::text[], $2::text[], $3::text[]) AS given (scope, kind, uid)"
"""The operations of `refs_of` as a table."""
IS_GIVEN = "{0}.scope = given.scope AND {0}.kind = given.kind AND {0}.uid = given.uid"
LOCKED = (
    f"SELECT FROM {{given}} JOIN pending ON {IS_GIVEN.format('pending')} "
    "ORDER BY given.scope, given.kind, given.uid FOR UPDATE OF pending"
)
"""Locks operations. Every transaction locks first those that are pending, then those that it adds, then outcomes and last the
interest in operations, each in the order of scope, kind and uid, so that no two transactions wait for each other."""
ONCE = "(SELECT count(*) FROM {0}) >= 0"
"""Lets a part of a statement begin when another part has ended."""
EVENT_FIELDS = (
    ", ".join(f"event.{column}" for column in EVENT_COLUMNS.split(", "))
    + ", (SELECT json_agg(json_build_array(also.kind, also.uid) ORDER BY place)::text FROM also WHERE event_id = event.id)"
)
"""The columns of an event, and the further operations it mentions as JSON, NULL if there are none."""


def text(value: str) -> str:
    """Return a text that PostgreSQL can hold: NUL and lone surrogates are escaped."""
    return rows.text(value).replace("\0", "\\x00")


def text_or_none(value: str | None) -> str | None:
    return None if value is None else text(value)


def clean_ref(ref: OperationRef) -> OperationRef:
    if ref.about is None and "\0" not in ref.uid and ref.uid.isascii():
        return ref
    return OperationRef(ref.scope, ref.kind, text(ref.uid), text_or_none(ref.about))


def clean_event(event: Event) -> Event:
    """Return an event without NUL in its texts; its body stays as it is."""
    ref = None if event.ref is None else event.ref.uid
    texts = (event.name, ref, event.key, event.occurred_at, event.correlation_id, event.attempt, event.problem, event.signature)
    if "\0" not in "".join(filter(None, texts)) and not any("\0" in one.uid for one in event.also):
        return event
    fields = ("key", "occurred_at", "correlation_id", "attempt", "problem", "signature")
    changed: dict[str, Any] = {name: None if (value := getattr(event, name)) is None else text(value) for name in fields}
    return evolve(
        event,
        name=text(event.name),
        ref=None if event.ref is None else clean_ref(event.ref),
        also=tuple(map(clean_ref, event.also)),
        **changed,
    )


def packed(outcome: Outcome) -> PackedOutcome:
    """Return an outcome with its packed resource; what is not JSON raises `TypeError`."""
    if "\0" in outcome.ref.uid + (outcome.key or ""):
        key = None if outcome.key is None else text(outcome.key)
        outcome = evolve(outcome, ref=clean_ref(outcome.ref), key=key)
    return PackedOutcome.of(outcome, pack(outcome.resource))


def refs_of(refs: Iterable[OperationRef]) -> list[list[str]]:
    """Return operations as three arrays, each once and in the order in which every transaction locks them."""
    return columns_of(sorted({(ref.scope, ref.kind, text(ref.uid)) for ref in refs}), 3)


async def for_refs(db: Connection, statement: str, table: str, refs: Iterable[OperationRef], then: str = "") -> Sequence[Any]:
    """Run `statement FROM the operations JOIN table then`; return all rows."""
    given = refs_of(refs)
    if not given[0]:
        return ()
    found: Sequence[Any] = await db.fetch(
        f"{statement} FROM {GIVEN_REFS} JOIN {table} ON {IS_GIVEN.format(table)} {then}", *given
    )
    return found


async def delete_refs(db: Connection, table: str, refs: Iterable[OperationRef], returning: str = "1") -> list[Any]:
    """Delete the rows of operations, in their order, and return a column of each."""
    given = refs_of(refs)
    if not given[0]:
        return []
    rows = await db.fetch(
        f"WITH found AS MATERIALIZED (SELECT {table}.ctid AS place FROM {GIVEN_REFS} JOIN {table} ON {IS_GIVEN.format(table)} "
        f"ORDER BY given.scope, given.kind, given.uid FOR UPDATE OF {table}) "
        f"DELETE FROM {table} USING found WHERE {table}.ctid = found.place RETURNING {returning}",
        *given,
    )
    return [row[0] for row in rows]


def row_of_subscription(one: Subscription) -> tuple[str, str, str, str, list[str]]:
    return one.service, text(one.handler), one.scope, text(one.job_name), sorted(map(text, one.patterns))


def subscription_of(row: Sequence[Any]) -> Subscription:
    service, handler, scope, patterns = row
    return Subscription(service=service, handler=handler, scope=scope, patterns=frozenset(patterns))
