"""The workers of a supervisor: each is a process, and another one in its place when that has ended."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from attrs import asdict

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import current_log_settings
from webhooks.cli.control import settings_to_json
from webhooks.cli.errors import CannotStart
from webhooks.cli.totals import growing, summed
from webhooks.cli.worker_process import WorkerProcess, words_for, worker_process
from webhooks.refusals import merged

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from webhooks.cli.settings import ListenerSettings
    from webhooks.cli.totals import Families
    from webhooks.refusals import Refusal

logger = logging.getLogger("webhooks.listener")

STATES = ("starting", "ready", "draining", "dead")


class WorkerDied(Exception):
    """A worker ended although nothing had told it to."""


class Worker:
    """One worker of several.

    Args:
        number: Its place among them, from 0.
        settings: What the listener is told.
        sockets: Those on which deliveries arrive.

    Attributes:
        number: As given.
        starts: How many processes there were.
        first_start: Done when the first process takes deliveries, or need not any more; it holds why the process cannot.
        cut_off: Whether the last process ended, after `stop`, before it had answered everything.
    """

    def __init__(self, number: int, settings: ListenerSettings, sockets: Sequence[socket.socket]) -> None:
        self.number = number
        self.starts = 0
        self.first_start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cut_off = False
        self._process: WorkerProcess | None = None
        self._past: Families = []
        self._past_refused: Sequence[Refusal] = ()
        self._stopping = False
        self._sockets = sockets
        self._orders = {
            "number": number,
            "settings": settings_to_json(settings),
            "log": asdict(current_log_settings()),
        }

    @property
    def state(self) -> str:
        """One of `STATES`; `"dead"` until another process takes its place."""
        return "dead" if self._process is None else self._process.state

    def counted(self) -> list[Families]:
        """Return what former processes counted, and what this one did when it was last asked."""
        return [self._past, [] if self._process is None else self._process.counted]

    def refused(self) -> Sequence[Refusal]:
        """Return what former processes refused last, and what this one had when it was last asked."""
        return [*self._past_refused, *(() if self._process is None else self._process.refused)]

    async def live(self) -> None:
        """Run one process after another until `stop`, or until the first one cannot start.

        Raises:
            WorkerDied: a process ended although nothing had told it to.
            CannotStart: a later process cannot start.
            OSError: there can be no later process.
        """
        while not self._stopping:
            try:
                await self._live_once()
            except CannotStart as problem:
                if self.first_start.done():
                    raise
                self.first_start.set_exception(problem)
                return
            except (WorkerDied, OSError) as problem:
                if self.first_start.done():
                    raise
                words = f"could not start worker {self.number}: {problem}"
                self.first_start.set_exception(CannotStart(words, Exit.UNAVAILABLE))
                return

    def stop(self) -> bool:
        """Let the process drain and start no other; return whether there is one. Idempotent."""
        self._stopping = True
        self._started()
        self.tell("stop")
        return self._process is not None

    def tell(self, order: str) -> None:
        """Give an order to the process, if there is one."""
        if self._process is not None:
            self._process.tell(order)

    def kill(self) -> None:
        """End the process now."""
        if self._process is not None:
            self._process.kill()

    async def ask(self, question: str, seconds: float) -> Mapping[str, Any] | None:
        """Return what a process that is ready answers, None if there is none or it does not answer in time."""
        if self._process is None or self._process.state != "ready":
            return None
        return await self._process.ask(question, seconds)

    async def why_not_ready(self, seconds: float) -> str | None:
        """Return why it can keep no delivery now, None if it can; ask it for so many seconds."""
        if self.state != "ready":
            return self.state
        answer = await self.ask("readiness", seconds)
        return "does not answer" if answer is None else answer["value"]

    async def _live_once(self) -> None:
        async with worker_process(self._sockets, self._orders) as process:
            self.starts += 1
            self._process = process
            if self._stopping:
                process.tell("stop")
            try:
                code = await process.ended(self._ready)
            finally:
                self._process = None
                self._past = growing(summed([self._past, process.counted]))
                self._past_refused = merged([*self._past_refused, *process.refused])
        if self._stopping:
            self.cut_off = code != Exit.OK and process.failure is None
        elif process.failure is not None:
            raise process.failure
        elif process.state != "draining" or code not in {Exit.OK, Exit.NOT_YET}:
            raise WorkerDied(f"process {process.pid} {words_for(code)}")

    def _ready(self) -> None:
        if self._process is not None:
            logger.info("worker %d takes deliveries as process %d", self.number, self._process.pid)
        self._started()

    def _started(self) -> None:
        if not self.first_start.done():
            self.first_start.set_result(None)
