"""How rows of the ledger differ from what the vendor holds, recipient by recipient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define, frozen

from payouts import money
from payouts.payer import NOT_PAID
from payouts.request_budget import raise_if_fatal
from payouts.states import Entry, State
from rewards_core.errors import NotFound, VendorError
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from payouts.payer import Held, Lookups
    from payouts.request_budget import RequestBudget

NOTHING = "nothing"
"""What a finding says of a vendor or ledger that does not know a payment."""
DIFFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "held": "The vendor holds these rows; the ledger says otherwise. "
        "`payouts audit --apply` moves them to what the vendor says.",
        "not_held": "The ledger says paid or accepted; the vendor holds nothing or says failed. "
        "They may not have been paid: ask the vendor about the key.",
        "not_done": "The ledger says paid; the vendor has not finished them. Audit again later.",
        "other_user": "The vendor paid another user under the row's key or uid. Ask the vendor before you pay the row again.",
        "other_reward": "The vendor paid another reward under the row's key or uid. Ask the vendor before you pay the row again.",
        "other_amount": "The vendor paid another amount under the row's key or uid. "
        "Pay the rest as a new row, or ask the vendor to take the surplus back.",
        "other_key": "The vendor holds the row's uid under another key. The row may not have been paid: ask the vendor.",
        "as_asked": "The ledger says mismatch; the vendor holds exactly what the row asks for. It was paid correctly.",
        "held_twice": "The vendor holds two payments for one row. Ask the vendor to take one back.",
        "unknown_to_ledger": "The vendor granted these; no row of this ledger owns them. "
        "If other programs grant to these users too, use --allow-unknown.",
        "balance_lower": "The balance rose by less than was paid: the user spent coins, or rows marked done were not paid.",
        "balance_higher": "The balance rose by more than was paid: unknown or rejected rows may have been paid, "
        "or the user got coins from elsewhere.",
    }
)
"""Every kind of difference, in display order, with its meaning and what to do."""
NOT_DIFFERENT = frozenset({"behind", "change", "unknown_allowed"})
"""Kinds of findings that are counted but are no differences."""


@frozen(kw_only=True)
class KnownRow:
    """A row of the ledger with every key and uid it ever had.

    Attributes:
        entry: The row.
        campaign: The ledger's number of its campaign.
        in_scope: Whether this audit checks it; a row out of scope still owns its payments.
        old_keys: The keys that retries replaced.
        old_uids: The uids that the vendor gave under those keys.
    """

    entry: Entry
    campaign: int
    in_scope: bool = True
    old_keys: frozenset[str] = frozenset()
    old_uids: frozenset[str] = frozenset()

    def is_current(self, held: Held) -> bool:
        """Return whether a payment carries the row's current key or uid."""
        return held.key == self.entry.key or held.uid == self.entry.uid


@frozen(kw_only=True)
class Finding:
    """Something on which the ledger and the vendor disagree.

    Attributes:
        kind: A word for programs, such as `"held"`.
        recipient: The recipient of the row or payment.
        ledger: What the ledger says.
        vendor: What the vendor says.
        row: The row; None if no row is concerned.
        uid: The vendor's uid of the operation.
        to: The state that the vendor proves for the row; None if it proves none.
    """

    kind: str
    recipient: str
    ledger: str
    vendor: str
    row: KnownRow | None = None
    uid: str | None = None
    to: State | None = None


@define(kw_only=True)
class ComparisonResult:
    """The result for one recipient.

    Attributes:
        rows: How many rows are in scope.
        unchecked: Why some of them could not be checked, with the number of rows for each reason.
        findings: What differs.
        absent: Ledger numbers of rows that have no uid and are missing from a complete list.
        asked_at: When the vendor was asked, in seconds since the epoch.
    """

    rows: int
    unchecked: Counter[str] = Factory(Counter)
    findings: list[Finding] = Factory(list)
    absent: list[int] = Factory(list)
    asked_at: float = 0.0


Owners: TypeAlias = "Callable[[Collection[str]], Awaitable[Mapping[str, KnownRow]]]"
"""Finds the rows of any recipient that have keys or had them before a retry."""


class Books:
    """Compare rows with the vendor's list of payments; safe for many recipients at once."""

    def __init__(self, lookups: Lookups, budget: RequestBudget, owners: Owners, clock: Callable[[], float]) -> None:
        self._lookups = lookups
        self._budget = budget
        self._owners = owners
        self._clock = clock

    async def check(self, rows: Sequence[KnownRow]) -> ComparisonResult:
        """Compare all rows of one recipient, whose id may have several spellings.

        Raises:
            BudgetSpent: no further request may be made; nothing is known of these rows.
            VendorError: the vendor refused the credentials or cannot be reached.
        """
        checked = ComparisonResult(rows=sum(row.in_scope for row in rows), asked_at=self._clock())
        held: dict[str, Held] = {}
        try:
            for recipient in dict.fromkeys(row.entry.recipient for row in rows):
                list_held = partial(self._lookups.list_held, recipient, before_page=self._budget.take)
                held |= {each.uid: each for each in await self._budget.call(list_held)}
        except VendorError as problem:
            raise_if_fatal(problem)
            checked.unchecked[str(problem)] += checked.rows
            return checked
        owned = _by_owner(rows, held.values())
        own = {each.uid for payments in owned.values() for each in payments}
        others = [each for each in held.values() if each.uid not in own and each.status not in NOT_PAID]
        await self._check_others(others, checked)
        for row in rows:
            if row.in_scope:
                await self._check_row(row, owned[row.entry.number], held, checked)
        return checked

    async def _check_row(self, row: KnownRow, owned: list[Held], held: Mapping[str, Held], checked: ComparisonResult) -> None:
        uid = row.entry.uid
        if uid is not None and uid not in held:
            try:
                owned.append(await self._budget.call(partial(self._lookups.read_held, uid)))
            except NotFound:
                pass
            except VendorError as problem:
                raise_if_fatal(problem)
                checked.unchecked[str(problem)] += 1
                return
        if not owned and uid is None:
            checked.absent.append(row.entry.number)
        checked.findings.extend(_compare(row, owned))

    async def _check_others(self, others: Sequence[Held], checked: ComparisonResult) -> None:
        """Report payments that none of the recipient's rows owns: another recipient's row does, or no row."""
        owners = await self._owners({each.key for each in others}) if others else {}
        for each in others:
            owner = owners.get(each.key)
            if owner is None:
                amount = "1" if each.amount is None else money.text(each.amount)
                what = f"{amount} of {each.item}, {each.status}"
                checked.findings.append(
                    Finding(kind="unknown_to_ledger", recipient=each.recipient, ledger=NOTHING, vendor=what, uid=each.uid)
                )
            elif owner.in_scope and owner.entry.uid != each.uid:  # otherwise the check of that row finds it
                checked.findings.append(_found(owner, each, "other_user", owner.entry.recipient, each.recipient))


def shown(kind: str, text: str) -> str:
    """Return for people what a finding says of the ledger or the vendor, with separators in a leading amount."""
    amount, space, rest = text.partition(" ")
    if kind not in _WITH_AMOUNTS or text == NOTHING:
        return text
    return f"{'+' if amount.startswith('+') else ''}{money.shown(amount)}{space}{rest}"


_WITH_AMOUNTS = frozenset({"other_amount", "unknown_to_ledger", "balance_lower", "balance_higher"})
_RANK = {OperationStatus.DONE: 2, **dict.fromkeys(NOT_PAID, 0)}
_PROVES = {OperationStatus.DONE: State.DONE, **dict.fromkeys(NOT_PAID, State.FAILED)}
_KINDS: Mapping[tuple[State, State], str] = {
    (State.DONE, State.DONE): "",
    (State.DONE, State.ACCEPTED): "not_done",
    (State.DONE, State.FAILED): "not_held",
    (State.ACCEPTED, State.DONE): "behind",
    (State.ACCEPTED, State.ACCEPTED): "",
    (State.FAILED, State.FAILED): "",
    (State.MISMATCH, State.DONE): "as_asked",
    (State.MISMATCH, State.ACCEPTED): "as_asked",
    (State.MISMATCH, State.FAILED): "not_held",
}
"""The kind of a finding by the ledger's state and the one the vendor proves; empty if they agree; otherwise held or behind."""


def _compare(row: KnownRow, owned: Sequence[Held]) -> Iterator[Finding]:
    """Yield how a row differs from the payments that bear one of its keys or uids, those before a retry included."""
    entry = row.entry
    alive = [each for each in owned if each.status not in NOT_PAID]
    if len(alive) > 1:
        what = " and ".join(f"{each.uid} {each.status}" for each in alive)
        yield Finding(kind="held_twice", recipient=entry.recipient, ledger=entry.state, vendor=what, row=row, uid=alive[0].uid)
    proof = [each for each in owned if row.is_current(each)] or alive  # a failed earlier key is the reason for the later one
    if not proof:
        if entry.state in {State.DONE, State.ACCEPTED, State.MISMATCH}:
            yield Finding(kind="not_held", recipient=entry.recipient, ledger=entry.state, vendor=NOTHING, row=row, uid=entry.uid)
        return
    best = max([*proof, *alive], key=lambda each: (_other(row, each) is None, _RANK.get(each.status, 1), row.is_current(each)))
    other = _other(row, best)
    if other is not None:
        if entry.state is not State.MISMATCH:
            yield _found(row, best, *other)
        return
    to = _PROVES.get(best.status, State.ACCEPTED)
    kind = _KINDS.get((entry.state, to), "held" if to is not State.FAILED else "behind")
    if kind:
        yield _found(row, best, kind, entry.state, best.status, to if kind in {"held", "behind"} else None)


def _by_owner(rows: Sequence[KnownRow], held: Collection[Held]) -> dict[int, list[Held]]:
    """Return the payments of each row, by its number."""
    by_name: dict[tuple[str, str | None], list[Held]] = {}
    for each in held:
        by_name.setdefault(("key", each.key), []).append(each)
        by_name.setdefault(("uid", each.uid), []).append(each)
    owned: dict[int, list[Held]] = {}
    for row in rows:
        names: list[tuple[str, str | None]] = [("key", key) for key in (row.entry.key, *row.old_keys)]
        names += [("uid", uid) for uid in (row.entry.uid, *row.old_uids)]
        owned[row.entry.number] = list({each.uid: each for name in names for each in by_name.get(name, ())}.values())
    return owned


def _other(row: KnownRow, held: Held) -> tuple[str, str, str] | None:
    """Return how a payment differs from what the row asks for: the kind, the ledger's value and the vendor's."""
    entry = row.entry
    if held.recipient != entry.recipient:
        return "other_user", entry.recipient, held.recipient
    if held.item != entry.item:
        return "other_reward", entry.item, held.item
    if held.amount is not None and held.amount != Decimal(entry.amount or 0):
        return "other_amount", entry.amount or "", money.text(held.amount)
    if held.key != entry.key and held.key not in row.old_keys:
        return "other_key", entry.key, held.key
    return None


def _found(row: KnownRow, held: Held, kind: str, ledger: str, vendor: str, to: State | None = None) -> Finding:
    recipient = row.entry.recipient
    return Finding(kind=kind, recipient=recipient, ledger=ledger, vendor=str(vendor), row=row, uid=held.uid, to=to)
