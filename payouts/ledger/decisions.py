"""Decisions of people and audits about rows: who, when, why, and the row before it, so that it can be undone."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import fields, frozen

from payouts.ledger.entries import COLUMNS, entry_of
from payouts.ledger.steps import contents_of, states_of
from payouts.states import Entry, InvalidTransition, LedgerError, State

if TYPE_CHECKING:
    from payouts.ledger.base import Database

Kind = Literal["resolve", "undo", "retry", "repeats", "audit", "newest", "pause", "resume", "stop"]
_KEY = ("key", "retries", "planned_at")
_STATE = (
    *("state", "uid", "settled_by", "answer", "absent_since", "absent_at", "problem_kind", "problem", "note"),
    *("sent_at", "accepted_at", "settled_at"),
)
_KEPT = (*_KEY, *_STATE)
"""The columns of a row that a decision may change."""


@frozen(kw_only=True)
class Decision:
    """One decision.

    Attributes:
        number: The ledger's number of it, in ascending order.
        at: When, in seconds since the epoch.
        by: The operating system's user name.
        kind: `"resolve"`, `"undo"`, `"retry"`, `"repeats"`, `"audit"`, `"newest"`, `"pause"`, `"resume"` or `"stop"`.
        campaign: The campaign's name; None if it concerns the whole ledger.
        vendor: The campaign's vendor.
        row: The row's id; None if it concerns no single row.
        recipient: The recipient.
        item: The reward contract or the event.
        amount: The amount as exact text; None if the event sets it.
        key: The row's key at that time.
        was: The row's state before.
        became: The row's state after.
        note: The person's note.
        evidence: The evidence for it.
        undone_by: The number of the decision that undid it; None if it stands.
    """

    number: int
    at: float
    by: str
    kind: str
    campaign: str | None
    vendor: str | None
    row: str | None
    recipient: str | None
    item: str | None
    amount: str | None
    key: str | None
    was: str | None
    became: str | None
    note: str | None
    evidence: str | None
    undone_by: int | None


_COLUMNS = tuple(field.name for field in fields(Decision))


class NotUndone(LedgerError):
    """A decision cannot be undone; nothing was changed.

    Attributes:
        row_id: The row.
        why: The reason.
    """

    def __init__(self, row_id: str, why: str) -> None:
        super().__init__(f"Row {row_id}: {why}. Nothing was changed.")
        self.row_id = row_id
        self.why = why

    def __reduce__(self) -> tuple[type[NotUndone], tuple[str, str]]:
        return type(self), (self.row_id, self.why)


def record(
    database: Database,
    *,
    kind: Kind,
    at: float,
    campaign: int | None,
    entry: Entry | None = None,
    became: str | None = None,
    note: str | None = None,
    evidence: str | None = None,
) -> int:
    """Record a decision and return its number; call it inside `Ledger.transact`, in the same commit as its effect.

    Args:
        database: The ledger's connection.
        kind: The kind of decision.
        at: Seconds since the epoch.
        campaign: The ledger's number of the campaign; None if it concerns the whole ledger.
        entry: The row before the decision.
        became: The row's state after the decision.
        note: The person's note.
        evidence: The evidence for it.
    """
    was = [None] * 3 if entry is None else [entry.number, entry.key, entry.state.value]
    before = None if entry is None else _before(database, entry)
    return int(
        database.execute(
            "INSERT INTO decisions (at, by, kind, campaign, row, key, was, became, note, evidence, before) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
            (at, _user(), kind, campaign, *was, became, note, evidence, before),
        ).get
    )


def renew(database: Database, entry: Entry, key: str, *, at: float) -> Entry:
    """Plan a row again under a new key, keep the old key, and record the decision; return the row.

    Raises:
        InvalidTransition: the row has moved since it was read.
    """
    campaign = database.execute(
        "INSERT INTO retired_keys "
        "SELECT vendor, key, number, retries, ?, state, uid, problem_kind, problem, sent_at, settled_at, ?, note FROM rows "
        "WHERE number = ? AND state = ? AND key = ? RETURNING (SELECT campaign FROM rows WHERE number = row)",
        (key, at, entry.number, entry.state, entry.key),
    ).get
    if campaign is None:
        raise InvalidTransition(entry.id, entry.state, State.PLANNED)
    record(database, kind="retry", at=at, campaign=campaign, entry=entry, became=State.PLANNED)
    planned = {"key": key, "retries": entry.retries + 1, "planned_at": at, "state": State.PLANNED.value}
    _set(database, entry.number, planned)
    return _row(database, entry.number)


def undo(database: Database, rows: Sequence[Entry], *, note: str, at: float) -> list[Entry]:
    """Undo the last decision by hand on each row and return the rows as they were before it.

    Raises:
        NotUndone: a row has no such decision, or has moved since.
    """
    return [_undone(database, row, note, at) for row in rows]


def decisions(database: Database, campaign: int | None = None) -> Iterator[Decision]:
    """Yield every decision, oldest first."""
    for found in database.execute(
        "SELECT decisions.number, at, by, kind, name, campaigns.vendor, rows.id, recipient, item, amount, decisions.key, was, "
        "became, decisions.note, evidence, undone_by FROM decisions LEFT JOIN campaigns ON campaigns.number = decisions.campaign "
        "LEFT JOIN rows ON rows.number = row WHERE CAST(?1 AS bigint) IS NULL OR decisions.campaign = ?1 "
        "ORDER BY decisions.number",
        (campaign,),
    ):
        yield Decision(**dict(zip(_COLUMNS, found, strict=True)))


def _undone(database: Database, row: Entry, note: str, at: float) -> Entry:
    last = database.execute(
        "SELECT decisions.number, kind, decisions.campaign, decisions.key, replaced_by, became, at, before FROM decisions "
        "LEFT JOIN retired_keys ON retired_keys.row = decisions.row AND retired_keys.key = decisions.key "
        "WHERE decisions.row = ? AND kind IN ('resolve', 'retry') AND undone_by IS NULL ORDER BY decisions.number DESC LIMIT 1",
        (row.number,),
    ).get
    if last is None:
        raise NotUndone(row.id, "it has no decision by hand to undo")
    number, kind, campaign, key, renewed, became, decided_at, text = last
    before = json.loads(text)
    now = _row(database, row.number)
    run_at = before.pop("run_at")
    moved = now.planned_at if kind == "retry" else now.settled_at
    if (now.key, now.state, moved) != (renewed if kind == "retry" else key, became, decided_at):
        raise NotUndone(row.id, f"it has moved since the decision and is {now.state} now")
    if now.state is State.UNKNOWN and run_at != _run_at(database, row.number):  # a run may send it again without changing it
        raise NotUndone(row.id, "the campaign has run since the decision and may have sent the row again")
    if kind == "retry":
        database.execute("DELETE FROM retired_keys WHERE row = ? AND key = ?", (row.number, key))
    _set(database, row.number, before)
    undoing = record(database, kind="undo", at=at, campaign=campaign, entry=now, became=before["state"], note=note)
    database.execute("UPDATE decisions SET undone_by = ? WHERE number = ?", (undoing, number))
    return _row(database, row.number)


def _set(database: Database, number: int, values: Mapping[str, Any]) -> None:
    """Set all columns of a row that a decision may change, those that are not named to NULL."""
    for table, names in ((contents_of(database), _KEY), (states_of(database), _STATE)):
        assignments = ", ".join(f"{name} = ?" for name in names)
        database.execute(f"UPDATE {table} SET {assignments} WHERE number = ?", (*map(values.get, names), number))


def _row(database: Database, number: int) -> Entry:
    return entry_of(database.execute(f"SELECT {COLUMNS} FROM rows WHERE number = ?", (number,)).get)


def _run_at(database: Database, row: int) -> float | None:
    found: float | None = database.execute(
        "SELECT run_at FROM campaigns JOIN rows ON campaign = campaigns.number WHERE rows.number = ?", (row,)
    ).get
    return found


def _before(database: Database, entry: Entry) -> str:
    kept = {name: getattr(entry, name) for name in _KEPT}
    return json.dumps({**kept, "run_at": _run_at(database, entry.number)})


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # users in containers often have no name
        return str(os.getuid())
