"""Wait for what the vendor has accepted, and write down how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from payouts.states import Entry, State
from vendor_http.errors import NotFound, OperationFailed, OperationMismatch
from webhooks.errors import CompletionTimeout

if TYPE_CHECKING:
    from payouts.ledger import Facts, Ledger
    from vendor_http.operations import Operation
    from webhooks import Completion, Completions, CompletionStream

_RECORDED_AT_ONCE = 500


class Settling:
    """Follow accepted rows to their end; no task and no future for each.

    Args:
        completions: What they are waited for with.
        ledger: Where their end is written.
        timeout: Seconds to wait for each, None for as long as it takes.
        ended: Called with each row that is not waited for any more, after it is written down.
    """

    def __init__(
        self, completions: Completions, ledger: Ledger, *, timeout: float | None, ended: Callable[[Entry], Awaitable[None]]
    ) -> None:
        self._completions = completions
        self._ledger = ledger
        self._timeout = timeout
        self._ended = ended
        self._waiting: dict[str, Entry] = {}
        self._fresh: asyncio.Queue[Operation | None] = asyncio.Queue()
        self._urgent: asyncio.Queue[Operation | None] = asyncio.Queue()
        self._streams: list[CompletionStream[Any]] = []
        self._heard: list[Completion[Any]] = []
        self._news = asyncio.Event()
        self._following = 2

    def knows(self, uid: str) -> bool:
        """Return whether an operation is waited for."""
        return uid in self._waiting

    def add(self, entry: Entry, asked: Operation, *, urgent: bool) -> None:
        """Wait for an accepted row.

        Args:
            entry: The row, its uid known and not waited for yet.
            asked: What was asked for, to be compared with what settles.
            urgent: Ask the vendor at once, because its news may have come while nobody listened.
        """
        self._waiting[asked.ref.uid] = entry
        (self._urgent if urgent else self._fresh).put_nowait(asked)

    def no_more(self) -> None:
        """Let `run` end once everything that is waited for has ended."""
        self._fresh.put_nowait(None)
        self._urgent.put_nowait(None)

    async def run(self) -> None:
        """Wait until `no_more` was called and all have ended, or `give_up` was."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record())
            tasks.create_task(self._follow(self._fresh, poll_now=False))
            tasks.create_task(self._follow(self._urgent, poll_now=True))

    async def give_up(self) -> None:
        """Wait for nothing any more; what has not ended stays accepted."""
        self.no_more()
        for stream in self._streams:
            await stream.aclose()

    async def _follow(self, accepted: asyncio.Queue[Operation | None], *, poll_now: bool) -> None:
        async with self._completions.as_completed(_until_none(accepted), timeout=self._timeout, poll_now=poll_now) as stream:
            self._streams.append(stream)
            async for completion in stream:
                self._heard.append(completion)
                self._news.set()
        self._following -= 1
        self._news.set()

    async def _record(self) -> None:
        while self._following or self._heard:
            await self._news.wait()
            self._news.clear()
            while self._heard:
                some, self._heard = self._heard[:_RECORDED_AT_ONCE], self._heard[_RECORDED_AT_ONCE:]
                await self._write(some)

    async def _write(self, completions: Sequence[Completion[Any]]) -> None:
        """Write a batch down with one fsync; a row whose time is over stays as it is."""
        steps: list[tuple[Entry, State, Facts]] = []
        over: list[Entry] = []
        for completion in completions:
            entry = self._waiting.pop(completion.ref.uid)
            state = state_after(completion.error)
            if state is State.ACCEPTED:
                over.append(entry)
            else:
                steps.append((entry, state, {"settled_by": completion.via, "problem": completion.error}))
        for entry in (await self._ledger.move_all(steps) if steps else []) + over:
            await self._ended(entry)


def state_after(problem: Exception | None) -> State:
    """Return where a wait leads a row that ended with this problem, or well.

    Raises:
        Exception: the problem itself, where it is none of this row's.
    """
    if problem is None:
        return State.DONE
    if isinstance(problem, OperationMismatch):
        return State.MISMATCH
    if isinstance(problem, OperationFailed):
        return State.FAILED
    if isinstance(problem, NotFound):
        return State.UNKNOWN
    if isinstance(problem, CompletionTimeout):
        return State.ACCEPTED
    raise problem


async def _until_none(queue: asyncio.Queue[Operation | None]) -> AsyncIterator[Operation]:
    while (operation := await queue.get()) is not None:
        yield operation
