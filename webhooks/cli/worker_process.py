"""A worker process, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from webhooks.cli.control import Channel
from webhooks.cli.errors import CannotStart
from webhooks.cli.refusal_lists import from_json
from webhooks.supervise import wait_at_most

if TYPE_CHECKING:
    from webhooks.cli.totals import Families
    from webhooks.refusals import Refusal

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""What a worker blocks from its first instruction until it can handle it."""

_GOODBYE_SECONDS = 10.0


class WorkerProcess:
    """A running worker; make it by `worker_process`.

    Args:
        process: The process.
        channel: The control channel to it.

    Attributes:
        pid: Its process id.
        state: `"starting"`, `"ready"` or `"draining"`.
        counted: What it counted when it was last asked.
        refused: What it had refused when it was last asked.
        failure: Why it could not start, if it said so.
    """

    def __init__(self, process: Process, channel: Channel) -> None:
        self.pid = process.pid
        self.state = "starting"
        self.counted: Families = []
        self.refused: Sequence[Refusal] = ()
        self.failure: CannotStart | None = None
        self._process = process
        self._channel = channel
        self._asked: dict[str, asyncio.Event] = {}
        self._answers: dict[str, Mapping[str, Any]] = {}

    def tell(self, order: str) -> None:
        """Give an order: `"reload"` or `"stop"`."""
        self._channel.send({"do": order})

    async def ask(self, question: str, seconds: float) -> Mapping[str, Any] | None:
        """Return the answer with its `value`, None if there is none in time.

        Args:
            question: `"readiness"`, `"counted"`, `"refused"` or `"held"`. While a question is open it is not asked again.
            seconds: How long to wait.
        """
        answered = self._asked.get(question)
        if answered is None or answered.is_set():
            answered = self._asked[question] = asyncio.Event()
            self._channel.send({"ask": question})
        await wait_at_most(answered, seconds)
        return self._answers.get(question) if answered.is_set() else None

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self, ready: Callable[[], None]) -> int:
        """Receive its messages until it has ended, and return its exit code, negative for a signal.

        Args:
            ready: Called when it takes deliveries.
        """
        while (message := await self._channel.receive()) is not None:
            if "answer" in message:
                question = message["answer"]
                self._answers[question] = message
                if question == "counted":
                    self.counted = message["value"]
                elif question == "refused":
                    self.refused = from_json(message["value"])
                if question in self._asked:
                    self._asked[question].set()
            elif "failed" in message:
                self.failure = CannotStart(message["failed"], message["code"])
            else:
                self.state = message["state"]
                if self.state == "ready":
                    ready()
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
            return await self._process.wait()

    async def let_go(self) -> None:
        """End it if it still runs; what was asked stays without an answer."""
        self._channel.close()
        self._answers.clear()
        for answered in self._asked.values():
            answered.set()
        if self._process.returncode is None:
            self.kill()
            await self._process.wait()


@asynccontextmanager
async def worker_process(sockets: Sequence[socket.socket], orders: Mapping[str, Any]) -> AsyncIterator[WorkerProcess]:
    """Start a worker, and end it by force if it still runs when the context ends.

    Args:
        sockets: Listening sockets for it to inherit.
        orders: The first message to it.

    Raises:
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    try:
        with theirs:
            process = await _spawn(theirs.fileno(), [each.fileno() for each in sockets])
    except BaseException:
        channel.close()
        raise
    worker = WorkerProcess(process, channel)
    try:
        channel.send({**orders, "sockets": [each.fileno() for each in sockets]})
        yield worker
    finally:
        await worker.let_go()


async def _spawn(control: int, sockets: Sequence[int]) -> Process:
    # Without -P a module in the current folder would be imported in place of ours; what this process imports from is kept.
    command = (sys.executable, "-P", "-m", "webhooks.cli.worker", str(control))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, env=environment, pass_fds=(control, *sockets)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # whatever it was before: two may be starting at a time


def words_for(code: int) -> str:
    """Return how a process ended that nothing had told to, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
