"""A queue in memory that behaves as Amazon SQS does, with scripted faults, and an ingress that reads it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from attrs import define, field

from rewards_core.errors import StoreError
from rewards_core.operations import Event
from tests.virtual_time import wall
from tests.webhooks.fakes import FakeSource, body_of
from tests.webhooks.world import now
from webhooks.errors import QueueError
from webhooks.ingress.messages import BatchFailure, QueuedMessage
from webhooks.ingress.queue import QueueIngress
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore
from webhooks.store.records import Acceptance
from webhooks.supervise import wait_at_most

SOURCE = FakeSource()
GONE = "ReceiptHandleIsInvalid"
BUSY = "InternalError"


@define
class Held:
    """What the queue knows of a message."""

    id: str
    body: str
    attributes: Mapping[str, str]
    sent_at: float
    visible_at: float = 0.0
    receives: int = 0
    handle: str = ""


@define
class FakeQueue:
    """See the module.

    Attributes:
        max_receives: Receipts before the redrive policy moves a message away; None without a policy.
        messages: What it holds.
        dead: What the redrive policy moved away.
        calls: Every call, by its name: when, which messages, and for `visibility` how long.
        faults: What the next calls of a name meet: an error, or a code for each message that fails.
        before_delete: Awaited before messages are deleted.
        receiving: Calls to `receive` that wait now.
        most_held: The most messages that were invisible at a time.
    """

    max_receives: int | None = None
    name: str = "rewards"
    messages: dict[str, Held] = field(factory=dict)
    dead: list[Held] = field(factory=list)
    calls: dict[str, list[tuple[float, tuple[str, ...], int]]] = field(factory=lambda: defaultdict(list))
    faults: dict[str, list[Exception | dict[str, str]]] = field(factory=lambda: defaultdict(list))
    before_delete: Callable[[], Awaitable[object]] | None = None
    receiving: int = 0
    most_held: int = 0
    _handles: count[int] = field(factory=lambda: count(1))
    _changed: asyncio.Event = field(factory=asyncio.Event)

    def send(self, body: bytes | str, attributes: Mapping[str, str] | None = None) -> str:
        """Send a message, signed unless attributes are given, and return its id."""
        raw = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
        words = body.decode() if isinstance(body, bytes) else body
        number = f"m{len(self.messages) + len(self.dead) + 1}-{next(self._handles)}"
        self.messages[number] = Held(number, words, SOURCE.sign(raw) if attributes is None else attributes, wall())
        self._changed.set()
        return number

    async def receive(self, *, wait: int, visibility: int) -> Sequence[QueuedMessage]:
        self._note("receive", (), visibility)
        self.receiving += 1
        try:
            end = now() + wait
            while not (found := self._visible()) and now() < end:
                self._changed.clear()
                nearest = min([end, *(each.visible_at for each in self.messages.values())])
                await wait_at_most(self._changed, nearest - now())
        finally:
            self.receiving -= 1
        for each in found:
            each.handle, each.visible_at, each.receives = f"h{next(self._handles)}", now() + visibility, each.receives + 1
        self.most_held = max(self.most_held, sum(each.visible_at > now() for each in self.messages.values()))
        return [
            QueuedMessage(
                id=each.id,
                body=each.body,
                attributes=each.attributes,
                handle=each.handle,
                receives=each.receives,
                sent_at=each.sent_at,
            )
            for each in found
        ]

    async def delete(self, messages: Sequence[QueuedMessage]) -> Sequence[BatchFailure]:
        if self.before_delete is not None:
            await self.before_delete()
        failures = self._failing("delete", messages)
        for message in messages:
            if message.handle not in {each.message.handle for each in failures}:
                del self.messages[message.id]
        return failures

    async def change_visibility(self, messages: Sequence[QueuedMessage], seconds: int) -> Sequence[BatchFailure]:
        failures = self._failing("visibility", messages, seconds)
        for message in messages:
            if message.handle not in {each.message.handle for each in failures}:
                self.messages[message.id].visible_at = now() + seconds
        self._changed.set()
        return failures

    def _visible(self) -> list[Held]:
        found = [each for each in self.messages.values() if each.visible_at <= now()]
        for each in found:
            if self.max_receives is not None and each.receives >= self.max_receives:
                self.dead.append(self.messages.pop(each.id))
        return [each for each in found if each.id in self.messages][:10]

    def _failing(self, about: str, messages: Sequence[QueuedMessage], seconds: int = 0) -> list[BatchFailure]:
        scripted = self._note(about, tuple(each.id for each in messages), seconds)
        failures = []
        for message in messages:
            held = self.messages.get(message.id)
            code = GONE if held is None or held.handle != message.handle else scripted.get(message.id)
            if code is not None:
                failures.append(BatchFailure(message=message, code=code, retryable=code != GONE))
        return failures

    def _note(self, about: str, ids: tuple[str, ...], seconds: int) -> dict[str, str]:
        self.calls[about].append((now(), ids, seconds))
        fault = self.faults[about].pop(0) if self.faults[about] else {}
        if isinstance(fault, Exception):
            raise fault
        return fault


class ScriptedStore(MemoryStore):
    """A store that fails or hangs while it is told to.

    Attributes:
        down: Whether every acceptance fails.
        poison: Names of events whose acceptance fails.
        hangs: Acceptances wait while this is clear.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.poison: set[str] = set()
        self.hangs = asyncio.Event()
        self.hangs.set()

    async def accept(self, event: Event) -> Acceptance:
        await self.hangs.wait()
        if self.down or event.name in self.poison:
            raise StoreError("The disk is gone.")
        return await super().accept(event)


def body(uid: str, name: str = "thing.done") -> bytes:
    return body_of(name, uid=uid)


def no_answer() -> QueueError:
    return QueueError("The queue does not answer.")


class Scene:
    """A queue, a store, and the ingress between them."""

    def __init__(self, max_receives: int | None = None, max_body: int = 262_144, **options: Any) -> None:
        self.queue = FakeQueue(max_receives=max_receives)
        self.store = ScriptedStore()
        self.receiver = Receiver(SOURCE, self.store, clock=wall, max_body=max_body)
        self.ingress = QueueIngress(self.queue, self.receiver, clock=wall, random=lambda: 0.0, **options)

    @property
    def counted(self) -> Any:
        return self.ingress.statistics

    async def stored(self) -> list[str]:
        return sorted(each.event.ref.uid for each in await self.store.list_events(limit=1000) if each.event.ref is not None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until something is so."""
        for _ in range(100_000):
            if condition():
                return
            await asyncio.sleep(0.25)
        raise AssertionError("it was never so")

    async def pass_by(self, seconds: float) -> None:
        end = now() + seconds
        await self.until(lambda: now() >= end)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Scene]:
    scene = Scene(**options)
    async with scene.ingress:
        yield scene
