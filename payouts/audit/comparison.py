"""What differs between rows of the ledger and what Original holds, recipient by recipient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define, frozen

from payouts import money
from payouts.states import Entry, State
from rewards_core.errors import NotFound, VendorError
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from original_async import Allocation, OriginalClient
    from payouts.request_budget import Asking

NOTHING = "nothing"
"""What is said of a vendor, or a ledger, that does not know of a payment."""
DIFFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "held": "The vendor holds these rows, and the ledger says otherwise. "
        "`payouts audit --apply` moves them to what the vendor says.",
        "not_held": "The ledger says paid or accepted, and the vendor holds nothing or says failed. "
        "They may not have been paid: ask the vendor, with the key.",
        "not_done": "The ledger says paid, and the vendor has not finished them. Audit again later.",
        "other_user": "The vendor paid somebody else under the row's key or uid. Ask the vendor before you pay the row again.",
        "other_reward": "The vendor paid another reward under the row's key or uid. Ask the vendor before you pay the row again.",
        "other_amount": "The vendor paid another amount under the row's key or uid. "
        "Pay what is missing as a new row, or ask the vendor to take back what is too much.",
        "other_key": "The vendor holds the row's uid under another key, so that the row may not have been paid. Ask the vendor.",
        "as_asked": "The ledger says mismatch, and the vendor holds exactly what the row asks for: it was paid as it should be.",
        "held_twice": "The vendor holds two payments for one row. Ask the vendor to take one back.",
        "unknown_to_ledger": "The vendor granted these, and no row of this ledger owns them. "
        "If other programs grant to these users too, use --allow-unknown.",
        "balance_lower": "The balance rose by less than was paid: the user spent coins, or rows called done were not paid.",
        "balance_higher": "The balance rose by more than was paid: rows that are unknown or rejected may have been paid, "
        "or the user got coins from elsewhere.",
    }
)
"""Every kind of difference, in the order in which they are told, with what it means and what to do."""
NOT_DIFFERENT = frozenset({"behind", "change", "unknown_allowed"})
"""Kinds of findings that are counted and are no differences."""


@frozen(kw_only=True)
class KnownRow:
    """A row of the ledger and all it was ever sent under.

    Attributes:
        entry: The row.
        campaign: The ledger's number of its campaign.
        judged: Whether this audit is to judge it; a row that it is not may own an allocation all the same.
        old_keys: The keys that a retry replaced.
        old_uids: What the vendor named under those.
    """

    entry: Entry
    campaign: int
    judged: bool = True
    old_keys: frozenset[str] = frozenset()
    old_uids: frozenset[str] = frozenset()

    def is_now(self, allocation: Allocation) -> bool:
        """Return whether an allocation bears the key or the uid that the row has now."""
        return allocation.nonce == self.entry.key or allocation.uid == self.entry.uid


@frozen(kw_only=True)
class Finding:
    """Something on which the ledger and the vendor disagree.

    Attributes:
        kind: A word for programs, such as `"held"`.
        recipient: Who got it, or should have.
        ledger: What the ledger says of it.
        vendor: What the vendor says of it.
        row: The row; None if it concerns none.
        uid: The vendor's name of the operation.
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
class Checked:
    """What came of the rows of one recipient.

    Attributes:
        rows: How many were judged.
        unchecked: Why some of them could not be checked, and how many each.
        findings: What differs.
        absent: The numbers of rows without a uid that a complete list does not show.
        asked_at: When the vendor was asked, in seconds since the epoch.
    """

    rows: int
    unchecked: Counter[str] = Factory(Counter)
    findings: list[Finding] = Factory(list)
    absent: list[int] = Factory(list)
    asked_at: float = 0.0


Owners: TypeAlias = "Callable[[Collection[str]], Awaitable[Mapping[str, KnownRow]]]"
"""Finds the rows of any recipient that have keys, or had them before a retry."""


class OriginalBooks:
    """Compare rows with what Original holds; safe for many recipients at once.

    Args:
        client: Asks Original.
        asking: Counts and paces the requests.
        owners: Finds the rows to which keys belong.
        clock: Seconds since the epoch.
    """

    def __init__(self, client: OriginalClient, asking: Asking, owners: Owners, clock: Callable[[], float]) -> None:
        self._client = client
        self._asking = asking
        self._owners = owners
        self._clock = clock

    async def check(self, rows: Sequence[KnownRow]) -> Checked:
        """Compare all rows of one recipient, whose id may be spelled in several ways.

        Raises:
            AskedEnough: no further request may be made; nothing is known of these rows.
            VendorError: the vendor refuses the credentials or cannot be reached, as with any other recipient.
        """
        checked = Checked(rows=sum(row.judged for row in rows), asked_at=self._clock())
        held: dict[str, Allocation] = {}
        try:
            for recipient in dict.fromkeys(row.entry.recipient for row in rows):
                for allocation in await self._list(recipient):
                    held[allocation.uid] = allocation
        except VendorError as problem:
            self._asking.raise_if_hopeless(problem)
            checked.unchecked[str(problem)] += checked.rows
            return checked
        owned = _by_owner(rows, held.values())
        own = {each.uid for allocations in owned.values() for each in allocations}
        others = [each for each in held.values() if each.uid not in own and each.status is not OperationStatus.FAILED]
        await self._look_at_others(others, checked)
        for row in rows:
            if row.judged:
                await self._check_row(row, owned[row.entry.number], held, checked)
        return checked

    async def _check_row(self, row: KnownRow, owned: list[Allocation], held: Mapping[str, Allocation], checked: Checked) -> None:
        uid = row.entry.uid
        if uid is not None and uid not in held:
            try:
                owned.append(await self._asking.ask(lambda: self._client.get_allocation(uid)))
            except NotFound:
                pass
            except VendorError as problem:
                self._asking.raise_if_hopeless(problem)
                checked.unchecked[str(problem)] += 1
                return
        if not owned and uid is None:
            checked.absent.append(row.entry.number)
        checked.findings.extend(judge(row, owned))

    async def _look_at_others(self, others: Sequence[Allocation], checked: Checked) -> None:
        """Report allocations that none of the recipient's rows owns: they belong to another recipient's row, or to none."""
        owners = await self._owners({each.nonce for each in others}) if others else {}
        for each in others:
            owner = owners.get(each.nonce)
            if owner is None:
                what = f"{_what(each)}, {each.status}"
                checked.findings.append(
                    Finding(kind="unknown_to_ledger", recipient=each.to_user_uid, ledger=NOTHING, vendor=what, uid=each.uid)
                )
            elif owner.judged and owner.entry.uid != each.uid:  # else it is found when that row is judged
                checked.findings.append(_found(owner, each, "other_user", owner.entry.recipient, each.to_user_uid))

    async def _list(self, recipient: str) -> Sequence[Allocation]:
        return await self._asking.ask(lambda: self._client.get_allocations_by_user_uid(recipient, before_page=self._asking.turn))


def judge(row: KnownRow, owned: Sequence[Allocation]) -> Iterator[Finding]:
    """Yield how a row differs from the allocations that were made for it.

    Args:
        row: The row.
        owned: Every allocation that bears its key, its uid, or one of those that a retry replaced.
    """
    entry = row.entry
    alive = [each for each in owned if each.status is not OperationStatus.FAILED]
    if len(alive) > 1:
        what = " and ".join(f"{each.uid} {each.status}" for each in alive)
        yield Finding(kind="held_twice", recipient=entry.recipient, ledger=entry.state, vendor=what, row=row, uid=alive[0].uid)
    proof = [each for each in owned if row.is_now(each)] or alive  # that an earlier key failed is why there is a later one
    if not proof:
        if entry.state in {State.DONE, State.ACCEPTED, State.MISMATCH}:
            yield Finding(kind="not_held", recipient=entry.recipient, ledger=entry.state, vendor=NOTHING, row=row, uid=entry.uid)
        return
    best = max([*proof, *alive], key=lambda each: (_other(row, each) is None, _RANK.get(each.status, 1), row.is_now(each)))
    other = _other(row, best)
    if other is not None:
        if entry.state is not State.MISMATCH:
            yield _found(row, best, *other)
        return
    to = _PROVES.get(best.status, State.ACCEPTED)
    kind = _KINDS.get((entry.state, to), "held" if to is not State.FAILED else "behind")
    if kind:
        yield _found(row, best, kind, entry.state, best.status, to if kind in {"held", "behind"} else None)


def shown(kind: str, said: str) -> str:
    """Return for people what a finding says of the ledger or the vendor: an amount that it begins with has separators."""
    amount, space, of = said.partition(" ")
    if kind not in _WITH_AMOUNTS or said == NOTHING:
        return said
    return f"{'+' if amount.startswith('+') else ''}{money.shown(amount)}{space}{of}"


_WITH_AMOUNTS = frozenset({"other_amount", "unknown_to_ledger", "balance_lower", "balance_higher"})
_RANK = {OperationStatus.DONE: 2, OperationStatus.FAILED: 0}
_PROVES = {OperationStatus.DONE: State.DONE, OperationStatus.FAILED: State.FAILED}
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
"""The kind of a finding by what the ledger says and what the vendor proves; empty if they agree; else it is held or behind."""


def _by_owner(rows: Sequence[KnownRow], held: Collection[Allocation]) -> dict[int, list[Allocation]]:
    """Return the allocations of each row, by its number."""
    owned: dict[int, list[Allocation]] = {}
    by_name: dict[str, list[Allocation]] = {}
    for each in held:
        for name in {f"key {each.nonce}", f"uid {each.uid}"}:
            by_name.setdefault(name, []).append(each)
    for row in rows:
        names = [
            *(f"key {key}" for key in {row.entry.key, *row.old_keys}),
            *(f"uid {uid}" for uid in {row.entry.uid, *row.old_uids}),
        ]
        found = {each.uid: each for name in names for each in by_name.get(name, ())}
        owned[row.entry.number] = list(found.values())
    return owned


def _other(row: KnownRow, held: Allocation) -> tuple[str, str, str] | None:
    """Return in what an allocation is not what the row asks for: the kind, the ledger's word and the vendor's."""
    entry = row.entry
    if held.to_user_uid != entry.recipient:
        return "other_user", entry.recipient, held.to_user_uid
    if held.reward_uid != entry.item:
        return "other_reward", entry.item, held.reward_uid
    if held.amount != Decimal(entry.amount or 0):
        return "other_amount", entry.amount or "", money.text(held.amount)
    if held.nonce != entry.key and held.nonce not in row.old_keys:
        return "other_key", entry.key, held.nonce
    return None


def _found(row: KnownRow, held: Allocation, kind: str, ledger: str, vendor: str, to: State | None = None) -> Finding:
    recipient = row.entry.recipient
    return Finding(kind=kind, recipient=recipient, ledger=ledger, vendor=str(vendor), row=row, uid=held.uid, to=to)


def _what(held: Allocation) -> str:
    return f"{money.text(held.amount)} of {held.reward_uid}"
