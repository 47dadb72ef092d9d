"""Queues: one in memory that behaves as Amazon SQS does, and SQS itself as moto plays it, behind a gate."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from inspect import isawaitable
from itertools import count
from typing import Any

import aiohttp
from aiobotocore.session import get_session
from aiohttp import web
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


REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "a-secret-of-aws-that-nobody-may-see"}
AWS = {
    **CREDENTIALS,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


_session = get_session()  # it keeps the models that it reads


@contextmanager
def moto() -> Iterator[str]:
    """Run moto in a process of its own, and give its URL."""
    command = [sys.executable, "-m", "tests.webhooks.moto_process"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


class Sqs:
    """A queue with a dead-letter queue, as their owner sees them.

    Attributes:
        url: The queue's URL.
    """

    def __init__(self, client: Any, url: str, dead: str) -> None:
        self._client = client
        self.url = url
        self._dead = dead

    async def send(self, body: bytes | str, attributes: Mapping[str, Any]) -> None:
        """Send a message; attributes are texts, or what SQS calls a message attribute."""
        await self._client.send_message(
            QueueUrl=self.url,
            MessageBody=body if isinstance(body, str) else body.decode(),
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} if isinstance(value, str) else value
                for name, value in attributes.items()
            },
        )

    async def counts(self) -> tuple[int, int]:
        """Return how many messages wait, and how many a consumer holds."""
        found = (await self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"]))["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    async def until_empty(self) -> None:
        """Wait until nothing waits and nobody holds anything. A message that begins to be held may be in neither count once."""
        empty = 0
        while empty < 2:
            empty = empty + 1 if await self.counts() == (0, 0) else 0

    async def dead(self) -> str:
        """Wait for a message in the dead-letter queue, and return its body."""
        while not (found := await self._client.receive_message(QueueUrl=self._dead, WaitTimeSeconds=1)).get("Messages"):
            pass
        return str(found["Messages"][0]["Body"])

    async def delete(self) -> None:
        """Delete the queue."""
        await self._client.delete_queue(QueueUrl=self.url)


@asynccontextmanager
async def a_queue(endpoint: str, name: str, max_receives: int | None = 5, **attributes: str) -> AsyncIterator[Sqs]:
    """Create a queue of this name, whose messages go to a dead-letter queue after so many receipts."""
    keys = {"aws_access_key_id": "owner", "aws_secret_access_key": "owner"}
    async with _session.create_client("sqs", region_name=REGION, endpoint_url=endpoint, **keys) as client:
        dead = (await client.create_queue(QueueName=f"{name}-dead"))["QueueUrl"]
        if max_receives is not None:
            arn = f"arn:aws:sqs:{REGION}:123456789012:{name}-dead"
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_receives})
        yield Sqs(client, (await client.create_queue(QueueName=name, Attributes=attributes))["QueueUrl"], dead)


class Gate:
    """Stands before SQS.

    Attributes:
        url: Its URL.
        calls: The arguments of the calls that came, by the name of the operation.
        answers: For an operation, what answers its next calls instead of SQS: functions from the arguments to a status and a
            body, async or not.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.url = ""
        self.calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.answers: dict[str, list[Callable[[dict[str, Any]], Any]]] = defaultdict(list)
        self._called = asyncio.Event()
        self._passing: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    def refuse(self, operation: str, code: str, times: int = 1, status: int = 400) -> None:
        """Let the next calls of an operation fail with a code."""
        self.answers[operation] += [lambda _: (status, {"__type": f"com.amazonaws.sqs#{code}", "message": "no"})] * times

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so after a call."""
        while not condition():
            self._called.clear()
            await self._called.wait()

    async def open(self) -> None:
        """Let calls through, at the same port as before."""
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Let nobody connect."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, request: web.Request) -> web.Response:
        task = asyncio.ensure_future(self._answer(request))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        return await task

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        operation, arguments = request.headers["X-Amz-Target"].rpartition(".")[2], json.loads(body)
        self.calls[operation].append(arguments)
        self._called.set()
        if self.answers[operation]:
            answer = self.answers[operation].pop(0)(arguments)
            status, words = await answer if isawaitable(answer) else answer
            return web.json_response(words, status=status, content_type="application/x-amz-json-1.0")
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.post(f"{self._endpoint}/", data=body, headers=request.headers) as answer,
        ):
            headers = {
                name: value for name, value in answer.headers.items() if name.lower().startswith(("content-type", "x-amz"))
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)


@asynccontextmanager
async def a_gate(endpoint: str) -> AsyncIterator[Gate]:
    gate = Gate(endpoint)
    await gate.open()
    try:
        yield gate
    finally:
        await gate.close()
