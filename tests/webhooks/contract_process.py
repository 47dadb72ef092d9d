"""A process with store objects that another process calls as if they were its own, in a time that both share.

contract_process SOCKET     make a store object for each connection to a unix socket; end with the standard input

Each message is a pickle after its length. The first is a function that makes a store, each later one a call.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import logging.handlers
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewards_core.operations import OperationRef
from tests.webhooks.store_contract import EPOCH
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import Outcome

ROOT = Path(__file__).parents[2]


class SharedTime:
    """The host's uptime and its wall clock, in a file that several processes have open; they move only when one moves them."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            is_new = file.tell() == 0
            file.truncate(16)
            self._both = memoryview(mmap.mmap(file.fileno(), 16)).cast("d")
        if is_new:
            self._both[0], self._both[1] = EPOCH, 1_000.0

    def clock(self) -> float:
        return self._both[0]

    def uptime(self) -> float:
        return self._both[1]

    def move(self, *, wall: float, passed: float) -> None:
        self._both[0] += wall
        self._both[1] += passed


async def receive(reader: asyncio.StreamReader) -> Any:
    """Return the next message, None after the last."""
    try:
        length = int.from_bytes(await reader.readexactly(8), "big")
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def send(writer: asyncio.StreamWriter, *message: Any) -> None:
    if not writer.is_closing():
        raw = pickle.dumps(message)
        writer.write(len(raw).to_bytes(8, "big") + raw)


class StoreElsewhere:
    """A store object in the other process, with every method of a store; see `OtherProcess.open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._subscribers: dict[int, Subscriber] = {}
        self._hearing = asyncio.create_task(self._hear(reader))

    def __getattr__(self, method: str) -> Callable[..., asyncio.Future[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return lambda *args, **options: self._call(method, *args, **options)

    def subscribe(self, subscriber: Subscriber) -> asyncio.Future[None]:
        self._subscribers[id(subscriber)] = subscriber
        return self._call("subscribe", id(subscriber), getattr(subscriber, "refs", ()))

    def unsubscribe(self, subscriber: Subscriber) -> asyncio.Future[None]:
        return self._call("unsubscribe", id(subscriber), ())

    def _call(self, method: str, *args: Any, **options: Any) -> asyncio.Future[Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        send(self._writer, number, method, args, options)
        return answer

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive(reader)) is not None:
            match message:
                case "answer", number, result, problem:
                    answer = self._answers.pop(number)
                    if answer.cancelled():
                        continue
                    answer.set_result(result) if problem is None else answer.set_exception(problem)
                case "hint", subscriber, hint, words:
                    getattr(self._subscribers[subscriber], hint)(*words)
                case "log", record:
                    logging.getLogger(record.name).handle(record)
        for answer in self._answers.values():
            answer.cancel("the other process has ended")

    async def let_go(self) -> None:
        """Close the store object, if it is open, and wait for that."""
        self._writer.write_eof()
        await self._hearing
        self._writer.close()
        await self._writer.wait_closed()


class OtherProcess:
    """The process, while it runs; see `other_process`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._opened: list[StoreElsewhere] = []

    async def open(self, make: Callable[[], Store]) -> StoreElsewhere:
        """Return a store object that a picklable function makes there."""
        reader, writer = await asyncio.open_unix_connection(self._socket)
        send(writer, make)
        store = StoreElsewhere(reader, writer)
        self._opened.append(store)
        return store

    async def close_all(self) -> None:
        """Close every store object there."""
        while self._opened:
            await self._opened.pop().let_go()


@contextmanager
def other_process() -> Iterator[OtherProcess]:
    """Start the process; it is killed at the end, and ends by itself if this one is killed."""
    with tempfile.TemporaryDirectory() as folder:  # a socket's path may have few characters
        socket = Path(folder) / "socket"
        command = [sys.executable, "-m", "tests.webhooks.contract_process", str(socket)]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                yield OtherProcess(socket)
            finally:
                process.kill()


# in the other process


class Relay(Subscriber):
    """Forwards notifications to a subscriber in the calling process."""

    def __init__(self, writer: asyncio.StreamWriter, subscriber: int, refs: set[OperationRef]) -> None:
        self.refs = refs
        self._writer = writer
        self._subscriber = subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        return ref in self.refs

    def settled(self, outcome: Outcome) -> None:
        self._tell("settled", outcome)

    def confirmed(self, outcome: Outcome) -> None:
        self._tell("confirmed", outcome)

    def polls_due(self) -> None:
        self._tell("polls_due")

    def jobs_ready(self) -> None:
        self._tell("jobs_ready")

    def missed(self) -> None:
        self._tell("missed")

    def refused(self, reason: str) -> None:
        self._tell("refused", reason)

    def _tell(self, hint: str, *words: Any) -> None:
        send(self._writer, "hint", self._subscriber, hint, words)


class Logs(logging.handlers.QueueHandler):
    """Forwards log records before the answer to the call that made them."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._writer = writer
        self._loop = asyncio.get_running_loop()

    def enqueue(self, record: logging.LogRecord) -> None:
        if threading.current_thread() is threading.main_thread():
            send(self._writer, "log", record)
        else:
            self._loop.call_soon_threadsafe(send, self._writer, "log", record)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Make a store object and run the caller's calls on it until the last one."""
    (make,) = await receive(reader)
    store = make()
    relays: dict[int, Relay] = {}
    logging.root.handlers = [Logs(writer)]

    async def answer(number: int, method: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if method in {"subscribe", "unsubscribe"}:
            args = (relays.setdefault(args[0], Relay(writer, *args)),)
        try:
            found = getattr(store, method)(*args, **options)
            result = await found if inspect.isawaitable(found) else found
        except Exception as problem:
            send(writer, "answer", number, None, problem)
        else:
            send(writer, "answer", number, result, None)

    async with asyncio.TaskGroup() as calls:
        while (call := await receive(reader)) is not None:
            calls.create_task(answer(*call))
    await store.aclose()
    writer.close()


async def main() -> None:
    await asyncio.start_unix_server(serve, sys.argv[1])
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    logging.root.setLevel(logging.INFO)
    asyncio.run(main())
