"""What the ledger records of an audit: its progress, what differs, and the rows that it corrected."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from payouts.audit.absence import record_absent
from payouts.audit.comparison import ComparisonResult, Finding, KnownRow
from payouts.keys import later_keys
from payouts.ledger import decisions, steps
from payouts.ledger.entries import COLUMNS, entry_of, marks
from payouts.ledger.fingerprints import recipient_bounds
from payouts.ledger.stretches import whole_ledger
from payouts.states import PROVEN, InvalidTransition, State

if TYPE_CHECKING:
    from payouts.ledger.base import Database

ROWS_AT_ONCE = 500
_NAME = "(SELECT name FROM campaigns WHERE number = campaign)"
_UNFINISHED = (
    "SELECT number, begun_at, after, rows FROM audits WHERE vendor = ? AND target = ? AND campaign IS NOT DISTINCT FROM ? "
    "AND ended_at IS NULL"
)


@frozen(kw_only=True)
class Scope:
    """Which rows an audit checks, and what it does with its findings.

    Attributes:
        vendor: The vendor's name.
        target: The base URL of the vendor.
        campaigns: The numbers of the campaigns that are checked.
        only: The number of the campaign if only one is audited; None for the whole ledger.
        apply: Whether rows are changed to the state that the vendor proves.
        allow_unknown: Whether the vendor may hold payments that the ledger does not know.
    """

    vendor: str
    target: str
    campaigns: frozenset[int]
    only: int | None = None
    apply: bool = False
    allow_unknown: bool = False


@frozen(kw_only=True)
class Begun:
    """An audit in progress.

    Attributes:
        number: The ledger's own number of it.
        begun_at: When it began, in seconds since the epoch.
        after: The fingerprint below which all rows are finished.
        done: How many rows are finished.
        rows: How many rows there are.
    """

    number: int
    begun_at: float
    after: str = ""
    done: int = 0
    rows: int = 0


def begin(scope: Scope, at: float, not_before: float, database: Database) -> Begun:
    """Continue the last audit of the same rows if it is unfinished, otherwise begin one."""
    rows = _count(scope, database)
    aim = (scope.vendor, scope.target, scope.only)  # an audit of one campaign is not continued as one of all
    found = database.execute(f"{_UNFINISHED} ORDER BY number DESC LIMIT 1", aim).get
    if found is not None and found[1] >= not_before and _can_continue(scope, found[0], database):
        return Begun(number=found[0], begun_at=found[1], after=found[2], done=found[3], rows=rows)
    number = database.execute(
        "INSERT INTO audits (vendor, target, campaign, begun_at) VALUES (?, ?, ?, ?) RETURNING number", (*aim, at)
    ).get
    return Begun(number=number, begun_at=at, rows=rows)


def _count(scope: Scope, database: Database) -> int:
    rows = 0
    for begin, end in whole_ledger(database):
        found: list[Any] = database.execute(
            "SELECT campaign, count(*) FROM rows WHERE number > ? AND number <= ? GROUP BY campaign", (begin, end)
        ).fetchall()
        rows += sum(count for campaign, count in found if campaign in scope.campaigns)
    return rows


def _can_continue(scope: Scope, number: int, database: Database) -> bool:
    """Return whether an earlier run left nothing that must be asked again: to apply it, or to list it one by one."""
    left = [*(["held", "behind"] if scope.apply else []), *([] if scope.allow_unknown else ["unknown_allowed"])]
    return not database.execute(
        f"SELECT 1 FROM differences WHERE audit = ? AND applied = 0 AND kind IN ({marks(left)}) LIMIT 1",  # noqa: S608 - question marks
        (number, *left),
    ).get


def page(scope: Scope, after: str, database: Database) -> list[tuple[str, list[KnownRow]]]:
    """Return the next rows, grouped by recipient; with each group the fingerprint below which all rows are then finished."""
    last = database.execute(
        "SELECT recipient FROM rows WHERE vendor = ? AND likeness >= ? ORDER BY likeness LIMIT 1 OFFSET ?",
        (scope.vendor, after, ROWS_AT_ONCE),
    ).get
    until, bound = ("", ()) if last is None else (" AND likeness < ?", (recipient_bounds(last)[1],))
    groups: dict[str, list[KnownRow]] = {}
    rows: list[Any] = database.execute(
        f"SELECT {COLUMNS}, campaign, {_NAME} FROM rows WHERE vendor = ? AND likeness >= ?{until} ORDER BY likeness, number",  # noqa: S608
        (scope.vendor, after, *bound),
    ).fetchall()
    for found in rows:
        row = _known(found, scope, database)
        groups.setdefault(recipient_bounds(row.entry.recipient)[1], []).append(row)
    return list(groups.items())


def _known(found: Sequence[Any], scope: Scope, database: Database) -> KnownRow:
    *columns, campaign, name = found
    entry = entry_of(columns)
    old: Sequence[Any] = ()
    later = later_keys(scope.vendor, name, entry.id, entry.retries)
    if entry.retries:
        old = database.execute("SELECT key, uid FROM retired_keys WHERE row = ?", (entry.number,)).fetchall()
    return KnownRow(
        entry=entry,
        campaign=campaign,
        in_scope=campaign in scope.campaigns,
        old_keys=frozenset(key for key, _ in old) | later,  # a newer copy of the ledger may have retried it
        old_uids=frozenset(uid for _, uid in old if uid),
    )


def owners(scope: Scope, keys: Collection[str], database: Database) -> Mapping[str, KnownRow]:
    """Return the rows that have keys or had them before a retry, by key."""
    found: dict[str, KnownRow] = {}
    for key in keys:
        row = database.execute(
            f"SELECT {COLUMNS}, campaign, {_NAME} FROM rows WHERE vendor = ?1 AND number IN (SELECT number FROM rows "  # noqa: S608
            "WHERE vendor = ?1 AND key = ?2 UNION ALL SELECT row FROM retired_keys WHERE vendor = ?1 AND key = ?2) LIMIT 1",
            (scope.vendor, key),
        ).get
        if row is not None:
            found[key] = _known(row, scope, database)
    return found


def record(
    scope: Scope,
    number: int,
    results: Sequence[ComparisonResult],
    requests: int,
    at: float,
    after: str | None,
    database: Database,
) -> None:
    """Record the results of some recipients, and move their rows if the scope says so; all of it, or nothing."""
    for checked in results:
        record_absent(database, checked.absent, checked.asked_at)
        unknown = [each for each in checked.findings if each.kind == "unknown_to_ledger"]
        for finding in checked.findings:
            if not (scope.allow_unknown and finding.kind == "unknown_to_ledger"):
                applied = scope.apply and finding.to is not None
                if applied:
                    _apply(finding, at, database)
                _insert(number, finding, database, applied=applied)
        if scope.allow_unknown and unknown:  # one line per recipient: other programs may have granted any number
            first = unknown[0]
            allowed = Finding(kind="unknown_allowed", recipient=first.recipient, ledger="", vendor=str(len(unknown)))
            _insert(number, allowed, database)
    database.execute(
        "UPDATE audits SET rows = rows + ?, unchecked = unchecked + ?, requests = requests + ?, after = coalesce(?, after) "
        "WHERE number = ?",
        (sum(each.rows for each in results), sum(each.unchecked.total() for each in results), requests, after, number),
    )


def _insert(number: int, finding: Finding, database: Database, *, applied: bool = False) -> None:
    row = None if finding.row is None else finding.row.entry.number
    database.execute(
        "INSERT INTO differences (audit, number, kind, row, recipient, uid, ledger, vendor, applied) SELECT ?1, "
        "coalesce((SELECT max(number) FROM differences WHERE audit = ?1), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8",
        (number, finding.kind, row, finding.recipient, finding.uid, finding.ledger, finding.vendor, applied),
    )


def _apply(finding: Finding, at: float, database: Database) -> None:
    """Change a row to the state that the vendor proves, and record the decision."""
    row, to = finding.row, finding.to
    if row is None or to is None:
        return
    was = row.entry
    if to not in PROVEN.get(was.state, ()):
        raise InvalidTransition(was.id, was.state, to)
    day = datetime.fromtimestamp(at, UTC)
    note = f"audit of {day.day} {day:%B %Y}: the vendor holds {finding.uid} as {finding.vendor}"
    now = evolve(
        was,
        state=to,
        uid=finding.uid or was.uid,
        settled_by="audit",
        note=note,
        sent_at=was.sent_at or at,
        accepted_at=at if to is State.ACCEPTED else was.accepted_at,
        settled_at=None if to is State.ACCEPTED else at,
    )
    decisions.record(database, kind="audit", at=at, campaign=row.campaign, entry=was, became=to, note=note)
    steps.write([(was, now)], database)


def end(number: int, at: float, database: Database) -> None:
    """Record that an audit is complete."""
    database.execute("UPDATE audits SET ended_at = ? WHERE number = ?", (at, number))


def is_conclusive(number: int, database: Database) -> bool:
    """Return whether an audit could check every row and left no row unmoved that the vendor holds."""
    return not database.execute(
        "SELECT 1 FROM audits WHERE number = ?1 AND unchecked > 0 "
        "UNION ALL SELECT 1 FROM differences WHERE audit = ?1 AND kind = 'held' AND applied = 0 LIMIT 1",
        (number,),
    ).get


def audited_targets(vendor: str, since: float, database: Database) -> set[str]:
    """Return a vendor's base URLs whose campaigns were all audited, conclusively, by audits that began at a time or later."""
    found: list[Any] = database.execute(
        "SELECT number, target FROM audits WHERE vendor = ? AND campaign IS NULL AND ended_at IS NOT NULL AND begun_at >= ?",
        (vendor, since),
    ).fetchall()
    return {target for number, target in found if is_conclusive(number, database)}
