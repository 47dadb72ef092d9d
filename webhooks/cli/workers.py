"""Worker processes as their supervisor sees them: started, asked, restarted, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from attrs import asdict

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import current_log_settings
from webhooks.cli.control_channel import Channel, settings_to_json
from webhooks.cli.errors import CannotStart
from webhooks.cli.metric_families import Families, cumulative, summed
from webhooks.cli.refusal_lists import from_json
from webhooks.delivery_watch import NOTHING
from webhooks.refusals import merged
from webhooks.supervise import wait_at_most

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings
    from webhooks.refusals import Refusal

logger = logging.getLogger("webhooks.listener")

STATES = ("starting", "ready", "draining", "dead")
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that a worker blocks from its first instruction until it can handle them."""

_EXIT_TIMEOUT = 10.0


class WorkerDied(Exception):
    """A worker ended without having been stopped."""


class WorkerProcess:
    """One worker of several: a process, restarted when it ends.

    Args:
        number: Its number, from 0.
        settings: The listener's settings.
        sockets: The listening sockets.

    Attributes:
        number: As given.
        starts: How many processes were started.
        first_start: Done when the first process takes deliveries, or no longer needs to; holds the error if it cannot start.
        cut_off: Whether the last process ended, after `stop`, with unanswered deliveries.
    """

    def __init__(self, number: int, settings: ListenerSettings, sockets: Sequence[socket.socket]) -> None:
        self.number = number
        self.starts = 0
        self.first_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cut_off = False
        self._process: _WorkerProcess | None = None
        self._past_families: Families = []
        self._past_refusals: Sequence[Refusal] = ()
        self._stopping = False
        self._sockets = sockets
        self._orders = {
            "number": number,
            "settings": settings_to_json(settings),
            "log": asdict(current_log_settings()),
        }

    @property
    def state(self) -> str:
        """One of `STATES`; `"dead"` until another process is started."""
        return "dead" if self._process is None else self._process.state

    def families(self) -> list[Families]:
        """Return the metrics of earlier processes, and the last ones known of this one."""
        return [self._past_families, [] if self._process is None else self._process.families]

    def refusals(self) -> Sequence[Refusal]:
        """Return the refusals of earlier processes, and the last ones known of this one."""
        return [*self._past_refusals, *(() if self._process is None else self._process.refusals)]

    def take_deliveries(self, filters: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
        """Return the answers about deliveries since the last call; answers to other filters are reduced to their counts."""
        if self._process is None:
            return ()
        taken, self._process.deliveries = self._process.deliveries, []
        return [each if each["filters"] == filters else {**each, "shown": [NOTHING] * len(filters)} for each in taken]

    async def run(self) -> None:
        """Run one process after another until `stop`, or until the first one cannot start.

        Raises:
            WorkerDied: a process ended without having been stopped.
            CannotStart: a later process cannot start.
            OSError: no later process can be created.
        """
        while not self._stopping:
            try:
                await self._run_once()
            except CannotStart as problem:
                if self.first_start.done():
                    raise
                self.first_start.set_exception(problem)
                return
            except (WorkerDied, OSError) as problem:
                if self.first_start.done():
                    raise
                text = f"could not start worker {self.number}: {problem}"
                self.first_start.set_exception(CannotStart(text, Exit.UNAVAILABLE))
                return

    def stop(self) -> bool:
        """Let the process drain, and start no other; return whether there is one. Idempotent."""
        self._stopping = True
        self._end_first_start()
        self.order("stop")
        return self._process is not None

    def order(self, order: str) -> None:
        """Send `"reload"`, `"rest"` or `"stop"` to the process, if there is one."""
        if self._process is not None:
            self._process.order(order)

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None:
            self._process.kill()

    async def ask(self, question: str, timeout: float, **more: Any) -> Mapping[str, Any] | None:
        """Return the answer of the process, as its `value`; None if it is not ready or does not answer in time."""
        if self._process is None or self._process.state != "ready":
            return None
        return await self._process.ask(question, timeout, **more)

    async def why_not_ready(self, timeout: float) -> str | None:
        """Return why the worker cannot store deliveries now; None if it can."""
        if self.state != "ready":
            return self.state
        answer = await self.ask("readiness", timeout)
        return "does not answer" if answer is None else answer["value"]

    async def _run_once(self) -> None:
        async with _worker_process(self._sockets, self._orders) as process:
            self.starts += 1
            self._process = process
            if self._stopping:
                process.order("stop")
            try:
                code = await process.run(self._ready)
            finally:
                self._process = None
                self._past_families = cumulative(summed([self._past_families, process.families]))
                self._past_refusals = merged([*self._past_refusals, *process.refusals])
        if self._stopping:
            self.cut_off = code != Exit.OK and process.failure is None
        elif process.failure is not None:
            raise process.failure
        elif process.state != "draining" or code not in {Exit.OK, Exit.NOT_YET}:
            raise WorkerDied(f"process {process.pid} {_describe_exit(code)}")

    def _ready(self) -> None:
        if self._process is not None:
            logger.info("worker %d takes deliveries as process %d", self.number, self._process.pid)
        self._end_first_start()

    def _end_first_start(self) -> None:
        if not self.first_start.done():
            self.first_start.set_result(None)


class _WorkerProcess:
    """A running process.

    Attributes:
        pid: Its process id.
        state: `"starting"`, `"ready"` or `"draining"`.
        families: Its metrics when it was last asked.
        refusals: Its refusals when it was last asked.
        deliveries: Its answers about deliveries, until they are taken.
        failure: Why it could not start, if it said so.
    """

    def __init__(self, process: Process, channel: Channel) -> None:
        self.pid = process.pid
        self.state = "starting"
        self.families: Families = []
        self.refusals: Sequence[Refusal] = ()
        self.deliveries: list[Mapping[str, Any]] = []
        self.failure: CannotStart | None = None
        self._process = process
        self._channel = channel
        self._asked: dict[str, asyncio.Event] = {}
        self._answers: dict[str, Mapping[str, Any]] = {}

    def order(self, order: str) -> None:
        self._channel.send({"do": order})

    async def ask(self, question: str, timeout: float, **more: Any) -> Mapping[str, Any] | None:
        """Return the answer to a question that the worker's program knows; an open question is not asked again."""
        answered = self._asked.get(question)
        if answered is None or answered.is_set():
            answered = self._asked[question] = asyncio.Event()
            self._channel.send({"ask": question, **more})
        await wait_at_most(answered, timeout)
        return self._answers.get(question) if answered.is_set() else None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()

    async def run(self, ready: Callable[[], None]) -> int:
        """Handle its messages until it ends, and return its exit code, negative for a signal; call `ready` when it is."""
        while (message := await self._channel.receive()) is not None:
            if "answer" in message:
                question = message["answer"]
                self._answers[question] = message
                if question == "counted":
                    self.families = message["value"]
                elif question == "refused":
                    self.refusals = from_json(message["value"])
                elif question == "deliveries":
                    self.deliveries.append(message["value"])
                if question in self._asked:
                    self._asked[question].set()
            elif "failed" in message:
                self.failure = CannotStart(message["failed"], message["code"])
            else:
                self.state = message["state"]
                if self.state == "ready":
                    ready()
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
            return await self._process.wait()

    async def close(self) -> None:
        """Kill it if it still runs; open questions stay unanswered."""
        self._channel.close()
        self._answers.clear()
        for answered in self._asked.values():
            answered.set()
        if self._process.returncode is None:
            self.kill()
            await self._process.wait()


@asynccontextmanager
async def _worker_process(sockets: Sequence[socket.socket], orders: Mapping[str, Any]) -> AsyncIterator[_WorkerProcess]:
    """Start a worker that inherits these sockets; kill it if it still runs when the context ends."""
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    try:
        with theirs:
            process = await _spawn(theirs.fileno(), [each.fileno() for each in sockets])
    except BaseException:
        channel.close()
        raise
    worker = _WorkerProcess(process, channel)
    try:
        channel.send({**orders, "sockets": [each.fileno() for each in sockets]})
        yield worker
    finally:
        await worker.close()


async def _spawn(control: int, sockets: Sequence[int]) -> Process:
    # -P: a module in the current folder must not be imported in place of ours; the import path of this process is passed on.
    command = (sys.executable, "-P", "-m", "webhooks.cli.worker", str(control))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=DEVNULL, env=environment, pass_fds=(control, *sockets)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # not the earlier mask: two workers may be starting at a time


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
