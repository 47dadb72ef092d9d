"""Receivers on a memory store: deliveries sent over HTTP or straight, and handlers on a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import aiohttp

from rewards_core.errors import StoreError
from rewards_core.operations import Event
from tests.virtual_time import EPOCH, wall
from tests.webhooks.fakes import FakeSource, body_of, words_of
from tests.webhooks.world import now
from webhooks import EventState, HandlerPolicy, MemoryStore, Receiver, Reply, serving
from webhooks.store.records import ClaimedJob, HandlerStatus, Job, Subscription

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
REMOTE = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}
DONE = body_of(resource=words_of("1", "done"))


class Failing(MemoryStore):
    """A store that keeps nothing while it fails."""

    failing = True

    async def accept(self, event: Any) -> Any:
        if self.failing:
            raise StoreError("the password is hunter2")
        return await super().accept(event)


def listening(receiver: Receiver) -> AbstractAsyncContextManager[str]:
    """Serve a receiver as the listener does, and lend its address."""
    return serving({"/webhooks/original": receiver}, port=0)


async def send(url: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=headers) as answer:
        return answer.status


async def deliver(receiver: Receiver, body: bytes = DONE) -> int:
    return (await receiver.receive(FakeSource().sign(body), body)).status


class Inbox:
    """A receiver on a memory store, and a signer."""

    def __init__(self, *sources: Any, **options: Any) -> None:
        self.source = sources[0] if sources else FakeSource()
        self.store = options.pop("store", None) or MemoryStore(clock=lambda: EPOCH)
        self.receiver = Receiver(sources or self.source, self.store, clock=lambda: EPOCH, **options)

    async def send(self, body: bytes, *, source: Any = None, **headers: str) -> Reply:
        signed = (source or self.source).sign(body)
        return await self.receiver.receive({**signed, **{f"x-{name}": value for name, value in headers.items()}}, body)

    async def words(self) -> list[Any]:
        return [json.loads(kept.event.body) for kept in reversed(await self.store.list_events())]


class Post:
    """A receiver with handlers, and a sender."""

    def __init__(self, store: Any = None, source: FakeSource | None = None, *, service: str = "default", **policy: Any) -> None:
        self.source = source or FakeSource()
        self.store: Any = store or MemoryStore(clock=wall)
        self.receiver = Receiver(
            self.source, self.store, service=service, handlers=HandlerPolicy(**policy), clock=wall, random=lambda: 0.0
        )

    async def send(self, name: str = "thing.done", **words: Any) -> None:
        body = body_of(name, **words)
        assert (await self.receiver.receive(self.source.sign(body), body)).status == 200

    async def dead(self) -> list[tuple[str, str | None]]:
        return [(job.handler, job.reason) for kept in await self.store.list_events(state=EventState.DEAD) for job in kept.jobs]

    async def states(self) -> list[str]:
        return [str(kept.state) for kept in reversed(await self.store.list_events())]


async def stopped(store: Any, name: str = "app.note", event_name: str = "*", **options: Any) -> Post:
    """Return a stopped receiver whose handler the store knows."""
    post = Post(store, **options)
    post.receiver.on(event_name, name=name)(Notes())
    async with post.receiver:
        return post


@asynccontextmanager
async def opened(post: Post) -> AsyncIterator[Post]:
    async with post.receiver:
        yield post


class Flickering(MemoryStore):
    """Fails each method a few times."""

    def __init__(self, **failures: int) -> None:
        super().__init__(clock=wall)
        self.failures = failures

    def _fail(self, method: str) -> None:
        if self.failures.get(method, 0) > 0:
            self.failures[method] -= 1
            raise StoreError("the disk is busy")

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._fail("register_handlers")
        await super().register_handlers(subscriptions)

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._fail("release_handlers")
        await super().release_handlers(subscriptions)

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        self._fail("list_handlers")
        return await super().list_handlers()

    async def claim_jobs(self, handler: str, **options: Any) -> Sequence[ClaimedJob]:
        self._fail("claim_jobs")
        return await super().claim_jobs(handler, **options)

    async def finish_job(self, job: Job) -> bool:
        self._fail("finish_job")
        return await super().finish_job(job)

    async def fail_job(self, job: Job, **options: Any) -> bool:
        self._fail("fail_job")
        return await super().fail_job(job, **options)


class Notes:
    """A handler that records its events and their times, and then does what the test says."""

    def __init__(self, *endings: Callable[[], Any]) -> None:
        self.endings = list(endings)
        self.seen: list[tuple[float, Event]] = []

    async def __call__(self, event: Event) -> None:
        self.seen.append((now(), event))
        if self.endings:
            ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
            result = ending()
            if asyncio.iscoroutine(result):
                await result

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.seen]

    @property
    def uids(self) -> list[str]:
        return [event.ref.uid for _, event in self.seen if event.ref]


def crash() -> None:
    raise ValueError("a fault of the handler")


def nothing() -> None:
    return


hang = partial(asyncio.sleep, 1e9)
