"""Queues of Amazon SQS as moto plays it, and a gate before it at which calls are seen, answered or cut off."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from inspect import isawaitable
from typing import Any

import aiohttp
from aiobotocore.session import get_session
from aiohttp import web

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
