"""Wait for what the vendor has accepted, and write down how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from payouts.states import Entry, State
from payouts.vendors import as_told
from rewards_core.errors import NotFound, OperationFailed, OperationMismatch
from webhooks.errors import CompletionTimeout

if TYPE_CHECKING:
    from payouts.pipeline.recording import Recorder
    from rewards_core.errors import OutcomeUnknown
    from rewards_core.operations import Operation, OperationRef
    from webhooks import Completion, Completions, CompletionStream

Found: TypeAlias = "Callable[[Entry, OperationRef], None]"
"""Called with a row whose answer was lost, and the operation that the vendor made of it."""


class Settling:
    """Follow accepted rows to their end, without a task or a future for each, and look for lost ones, with a task for each.

    Args:
        completions: What they are waited for with.
        conclude: Raises if what settled is not what the row asked for, or failed.
        recorder: Writes down how they ended.
        timeout: Seconds to wait for each, None for as long as it takes.
        lookup_timeout: Seconds for which a row without an answer is looked for, in events and at the vendor.
        ended: Called with each row that is not waited for any more, after it is written down.
    """

    def __init__(
        self,
        completions: Completions,
        recorder: Recorder,
        *,
        conclude: Callable[[Entry, Operation], None],
        timeout: float | None,
        lookup_timeout: float,
        ended: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self._completions = completions
        self._conclude = conclude
        self._recorder = recorder
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._ended = ended
        self._waiting: dict[str, Entry] = {}
        self._reserved: set[str] = set()
        self._fresh: asyncio.Queue[OperationRef | None] = asyncio.Queue()
        self._urgent: asyncio.Queue[OperationRef | None] = asyncio.Queue()
        self._streams: list[CompletionStream[Any]] = []
        self._sought: asyncio.Queue[tuple[Entry, OutcomeUnknown, Found] | None] = asyncio.Queue()
        self._searches: set[asyncio.Task[None]] = set()

    def knows(self, uid: str) -> bool:
        """Return whether an operation is waited for, or soon will be."""
        return uid in self._waiting or uid in self._reserved

    def reserve(self, uid: str) -> None:
        """Keep an operation for the row that will wait for it once that is written down."""
        self._reserved.add(uid)

    def add(self, entry: Entry, ref: OperationRef, *, urgent: bool) -> None:
        """Wait for an accepted row.

        Args:
            entry: The row, its uid known and not waited for yet.
            ref: What the vendor named; what was asked for need not be kept beside the row.
            urgent: Ask the vendor at once, because its news may have come while nobody listened.
        """
        self._reserved.discard(ref.uid)
        self._waiting[ref.uid] = entry
        (self._urgent if urgent else self._fresh).put_nowait(ref)

    def seek(self, entry: Entry, unknown: OutcomeUnknown, found: Found) -> None:
        """Look for a row that may have been carried out without an answer.

        Args:
            entry: The row, `unknown`.
            unknown: The error its call ended with.
            found: Called with the row and the operation that the vendor made of it, once that is known.
        """
        self._sought.put_nowait((entry, unknown, found))

    def no_more(self) -> None:
        """Let `run` end once everything that is waited for has ended."""
        self._sought.put_nowait(None)

    async def run(self) -> None:
        """Wait until `no_more` was called and all have ended, or `give_up` was."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self._fresh, poll_now=False))
            tasks.create_task(self._follow(self._urgent, poll_now=True))
            await self._search()
            self._fresh.put_nowait(None)
            self._urgent.put_nowait(None)
        await self._recorder.drain()

    async def give_up(self) -> None:
        """Stop waiting; what has not ended stays accepted or unknown."""
        self.no_more()
        for search in self._searches:
            search.cancel()
        for stream in self._streams:
            await stream.aclose()

    async def _search(self) -> None:
        """Look for each row that is sought, until there are no more."""
        async with asyncio.TaskGroup() as tasks:
            while (sought := await self._sought.get()) is not None:
                search = tasks.create_task(self._find(*sought), name=f"search for {sought[0].key}")
                self._searches.add(search)
                search.add_done_callback(self._searches.discard)
        await self._recorder.drain()  # what was found last is waited for only once it is written down

    async def _find(self, entry: Entry, unknown: OutcomeUnknown, found: Found) -> None:
        try:
            ref = await self._completions.find(unknown, timeout=self._lookup_timeout)
        except CompletionTimeout:
            await self._ended(entry)
        else:
            found(entry, ref)

    async def _follow(self, accepted: asyncio.Queue[OperationRef | None], *, poll_now: bool) -> None:
        async with self._completions.as_completed(_until_none(accepted), timeout=self._timeout, poll_now=poll_now) as stream:
            self._streams.append(stream)
            async for completion in stream:
                await self._heard(completion)

    async def _heard(self, completion: Completion[Any]) -> None:
        entry = self._waiting.pop(completion.ref.uid)
        problem = completion.error
        if completion.operation is not None:
            problem = None
            try:
                self._conclude(entry, completion.operation)
            except (OperationFailed, OperationMismatch) as told:
                problem = as_told(told, looked_up=True)
        state = state_after(problem)
        if state is State.ACCEPTED:
            await self._ended(entry)
        else:
            self._recorder.put(entry, state, {"settled_by": completion.via, "problem": problem}, self._ended)


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


async def _until_none(queue: asyncio.Queue[OperationRef | None]) -> AsyncIterator[OperationRef]:
    while (ref := await queue.get()) is not None:
        yield ref
