"""Vendors that answer as they are told, and time that passes when somebody sleeps."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import Factory, define, evolve

from original_async import Allocation
from original_async.settlement import conclude
from payouts.ledger.generation import Standing
from payouts.ledger.place import place_of
from payouts.ledger.schema import LEDGER
from payouts.ledger.sqlite import Ledger
from payouts.vendors import EnkashRow, OriginalRow
from rewards_core.errors import NotFound
from rewards_core.operations import DEFAULT_SCOPE, KeyedRequest, Operation, OperationRef, OperationStatus
from webhooks import Completions, MemoryStore, PollPolicy

REWARD = "764893807463"
LAYOUT_2 = evolve(LEDGER, migrations=LEDGER.migrations[:2])


def token_row(row_id: str, **changed: Any) -> OriginalRow:
    values: dict[str, Any] = {"id": row_id, "reward_uid": REWARD, "to_user_uid": f"user-{row_id}", "amount": "1.50"}
    return OriginalRow(**values | changed)


def coin_row(row_id: str, **changed: Any) -> EnkashRow:
    values: dict[str, Any] = {"id": row_id, "user_id": "EKQZVMQK", "event": "REFERRAL_EVENT"}
    return EnkashRow(**values | changed)


@define
class Time:
    """Time that passes when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@define
class StubOriginal:
    """Answers as Original's client does, with the chain in the test's hands.

    Attributes:
        answers: User to what calls of `create_allocation` meet one after the other, before they go well.
        look_ups: User to what calls of `find_allocation` meet one after the other, before they go well.
        final: The status in which operations are read.
        before: Awaited before each answer.
        replay: If given, every creation is answered with the uid of this one.
        held: What the vendor holds, by uid.
        created: The nonces of all calls of `create_allocation`.
        repeated: Those of them whose caller said that they may have been sent before.
        searched: The nonces of each call of `find_operations`.
        looked_up: The nonces of all calls of `find_allocation`.
        asked_at: When each of these calls and of `create_allocation` came, in the running loop's time.
    """

    answers: dict[str, deque[Exception]] = Factory(lambda: defaultdict(deque))
    look_ups: dict[str, deque[Exception]] = Factory(lambda: defaultdict(deque))
    final: OperationStatus = OperationStatus.DONE
    before: Callable[[str], Awaitable[object]] | None = None
    held: dict[str, Allocation] = Factory(dict)
    created: list[str] = Factory(list)
    repeated: list[str] = Factory(list)
    searched: list[list[str]] = Factory(list)
    looked_up: list[str] = Factory(list)
    asked_at: list[float] = Factory(list)
    recovered: bool = False
    scope: str = DEFAULT_SCOPE
    next_uid: Callable[[], str] | None = None
    replay: Allocation | None = None

    async def create_allocation(
        self, *, reward_uid: str, to_user_uid: str, amount: str, nonce: str, repeated: bool = False
    ) -> Allocation:
        self.created.append(nonce)
        self.asked_at.append(asyncio.get_running_loop().time())
        if repeated:
            self.repeated.append(nonce)
        if self.before is not None:
            await self.before(nonce)
        if self.answers[to_user_uid]:
            raise self.answers[to_user_uid].popleft()
        allocation = self.replay or self.hold(to_user_uid, amount, nonce, reward_uid)
        return evolve(allocation, status=self.final, recovered=True) if self.recovered else allocation

    def hold(self, user: str, amount: str, nonce: str, reward: str = REWARD) -> Allocation:
        """Keep an allocation as if it had been created."""
        uid = self.next_uid() if self.next_uid else f"uid-{len(self.held) + 1}"
        allocation = Allocation(
            uid=uid,
            status=OperationStatus.PENDING,
            reward_uid=reward,
            to_user_uid=user,
            amount=Decimal(amount),
            nonce=nonce,
        )
        self.held[uid] = allocation
        return allocation

    async def find_allocation(self, to_user_uid: str, *, nonce: str, reward_uid: str | None = None) -> Allocation | None:
        self.looked_up.append(nonce)
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.look_ups[to_user_uid]:
            raise self.look_ups[to_user_uid].popleft()
        for allocation in self.held.values():
            same = (allocation.to_user_uid, allocation.nonce) == (to_user_uid, nonce)
            if same and reward_uid in {None, allocation.reward_uid}:
                return evolve(allocation, status=self.final)
        return None

    async def get_allocations_by_user_uid(
        self, user_uid: str, *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> list[Allocation]:
        if self.look_ups[user_uid]:
            raise self.look_ups[user_uid].popleft()
        return [evolve(each, status=self.final) for each in self.held.values() if each.to_user_uid == user_uid]

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: Callable[[], Awaitable[bool]] | None = None,
    ) -> list[Allocation]:
        self.searched.append([request.key for request in requests])
        found = [await self.find_allocation(request.owner, nonce=request.key) for request in requests]
        return [evolve(each, recovered=True) for each in found if each is not None]

    async def get_allocation(self, uid: str) -> Allocation:
        return await self.read_operation(OperationRef(self.scope, "allocation", uid))

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        if isinstance(operation, str):
            return OperationRef(self.scope, "allocation", operation)
        return operation if isinstance(operation, OperationRef) else operation.ref

    async def read_operation(self, ref: OperationRef, *, may_send: Callable[[], Awaitable[bool]] | None = None) -> Allocation:
        if ref.uid not in self.held:
            raise NotFound("expected an allocation, there is none")
        held = self.held[ref.uid]
        return evolve(held, status=self.final, raw={"uid": held.uid})

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Allocation:
        return evolve(self.held[ref.uid], status=self.final)

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        return conclude(asked, final)


@define
class StubEnkash:
    """Answers as EnKash's client does: at once, and never about what was."""

    answers: dict[str, deque[Exception]] = Factory(lambda: defaultdict(deque))
    given: list[str] = Factory(list)
    before: Callable[[str], Awaitable[object]] | None = None
    repeat_allocations: Any = False

    async def get_balance(self, user_id: str) -> int:
        raise NotFound("this vendor tells no balances")

    async def allocate_coins(self, *, event: str, user_id: str, request_id: str) -> None:
        self.given.append(request_id)
        if self.before is not None:
            await self.before(request_id)
        if self.answers[user_id]:
            raise self.answers[user_id].popleft()


@asynccontextmanager
async def waiting(client: Any) -> AsyncIterator[Completions]:
    """Make completions that poll soon and often."""
    store = MemoryStore()
    policy = PollPolicy(first_after=0.02, growth=1.0, max_interval=0.05, max_per_second=5000)
    async with Completions(client, store, polling=policy) as completions:
        yield completions
    await store.aclose()


def ledger_at(path: Path, vendor: str = "original", **options: Any) -> Ledger:
    return Ledger(path, vendor=vendor, campaign="diwali-2026", **options)


def standing_of(ledger: Path, state: Path) -> Standing:
    """Return what the notes in a folder say of a ledger."""
    return place_of(ledger).standing(state)[0]
