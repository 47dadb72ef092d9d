"""Run handlers on kept events: at least once, each alone, none in the way of another."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from rewards_core.backoff import delay
from rewards_core.operations import EventSource
from rewards_core.text import counted, one_line
from rewards_core.validation import check_callable, check_methods, number, whole
from webhooks.errors import NotTaken
from webhooks.store.base import Subscriber
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.supervise import RestartPolicy, is_cancelled, keep_running, wait_at_most

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.store.base import ClaimedJob, Job, Store

logger = logging.getLogger(__name__)

Handler = Callable[["Event"], Awaitable[None]]

ANY_EVENT = "*"
_REMEMBERED = 1_000
_JITTER = 0.2


@frozen(kw_only=True)
class HandlerPolicy:
    """How handlers are run.

    Attributes:
        concurrency: Events one handler works on at a time, 1 or more.
        timeout: Seconds after which a run is cancelled, above 0 and below `lease`.
        lease: Seconds after which the job of a crashed process may be taken by another, above `timeout`.
        attempts: Runs before a job becomes a dead letter, 1 or more.
        first_delay: Seconds between the first run and the second, above 0; doubled with every run.
        max_delay: Seconds between two runs at most, above 0, before chance lengthens them by up to a fifth.
        look_every: Seconds between two looks for due jobs when no hint comes, above 0.

    Raises:
        TypeError: an attribute is no number, or not a whole one where that is counted.
        ValueError: one is out of range.
    """

    concurrency: int = field(default=10, validator=whole(at_least=1))
    timeout: float = field(default=30.0, validator=number(above=0))
    lease: float = field(default=60.0, validator=number(above=0))
    attempts: int = field(default=10, validator=whole(at_least=1))
    first_delay: float = field(default=1.0, validator=number(above=0))
    max_delay: float = field(default=300.0, validator=number(above=0))
    look_every: float = field(default=1.0, validator=number(above=0))

    def __attrs_post_init__(self) -> None:
        if self.timeout >= self.lease:
            raise ValueError(
                f"timeout: give fewer seconds than the lease of {self.lease}, not {self.timeout}; "
                "a run that outlives its lease would be started twice."
            )


@frozen(kw_only=True)
class DispatchStatistics:
    """What handlers did since the start.

    Attributes:
        finished: Runs that ended well.
        failed: Runs that raised or were cancelled at their timeout.
        dead: Jobs given up.
        running: Runs under way.
        restarts: How often the work behind a handler died and was started again.
    """

    finished: int
    failed: int
    dead: int
    running: int
    restarts: int


class Dispatcher(Subscriber):
    """Hand kept events to handlers, each with its own leases, slots and retries.

    Args:
        store: Where events and jobs are kept.
        sources: Scope to the source that can read its events again.
        policy: How handlers are run.
        clock: Unix time in seconds.
        random: Returns a number from 0 to 1; a retry waits up to a fifth longer by it.
    """

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, EventSource],
        *,
        policy: HandlerPolicy,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._sources = sources
        self._policy = policy
        self._clock = check_callable(clock, "clock")
        self._random = check_callable(random, "random")
        self._handlers: dict[str, Handler] = {}
        self._names: dict[str, list[str]] = {}
        self._answers: dict[str, tuple[str, ...]] = {}
        self._wakes: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False
        self._finished = self._failed = self._dead = self._restarts = 0

    @property
    def statistics(self) -> DispatchStatistics:
        """What handlers did since the start."""
        return DispatchStatistics(
            finished=self._finished,
            failed=self._failed,
            dead=self._dead,
            running=len(self._running),
            restarts=self._restarts,
        )

    def add(self, event_name: str, handler: Handler, name: str | None) -> None:
        """Let a handler run for events of a name, or of every name (`"*"`).

        Raises:
            TypeError: it is not an async function.
            ValueError: its name is taken by another handler.
            RuntimeError: the work has begun.
        """
        call = handler if inspect.isroutine(handler) else getattr(handler, "__call__", None)  # noqa: B004 - to look at it
        if not inspect.iscoroutinefunction(call):
            raise TypeError(f"handler: give an async function, written with `async def`, not {handler!r}.")
        if self._tasks:
            raise RuntimeError("expected handlers to be registered before start(); register them where the receiver is made")
        if name is None:
            name = f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', type(handler).__qualname__)}"
        if self._handlers.setdefault(name, handler) is not handler:
            raise ValueError(f"name: two handlers are called {name!r}; give one of them another name with name=.")
        names = self._names.setdefault(event_name, [])
        if name not in names:
            names.append(name)
        self._answers.clear()

    def names_for(self, event_name: str) -> tuple[str, ...]:
        """Return the names of the handlers that run for events of a name."""
        if not self._names:
            return ()
        answer = self._answers.get(event_name)
        if answer is None:
            wanted = [*self._names.get(event_name, ()), *self._names.get(ANY_EVENT, ())]
            answer = tuple(dict.fromkeys(wanted))
            if len(self._answers) < _REMEMBERED:  # the other side chooses the names
                self._answers[event_name] = answer
        return answer

    def read_again(self, event: Event) -> Event:
        """Return the event as its source reads its body now, with what is known only from its delivery."""
        source = self._sources.get(event.scope)
        if source is None or event.name == CONFLICT_EVENT:
            return event
        return evolve(
            source.parse(event.body), correlation_id=event.correlation_id, attempt=event.attempt, signature=event.signature
        )

    async def start(self) -> None:
        """Begin to run handlers; idempotent."""
        if self._tasks:
            return
        self._draining = False
        await self._retire()
        self._store.subscribe(self)
        names = self.names_for(CONFLICT_EVENT)
        self._store.route_conflicts(dict.fromkeys(self._sources, names))
        for name in self._handlers:
            wake = asyncio.Event()
            self._wakes.append(wake)
            self._tasks.append(asyncio.create_task(self._supervise(name, wake), name=f"handler {name}"))

    async def aclose(self, drain: float = 0.0) -> None:
        """Stop; idempotent. What is still running after `drain` seconds is cancelled, and its lease runs out by itself."""
        self._draining = True
        self._store.unsubscribe(self)
        if self._running and drain > 0:
            await asyncio.wait(self._running, timeout=drain)
        tasks, self._tasks = self._tasks, []
        self._wakes.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ready(self) -> None:
        """Look for jobs now."""
        for wake in self._wakes:
            wake.set()

    async def _retire(self) -> None:
        try:
            retired = await self._store.retire_jobs(self._sources.keys(), self._handlers.keys())
        except Exception:
            logger.exception("jobs of handlers that are not registered any more could not be looked for")
            return
        if retired:
            logger.warning("%d jobs of handlers that are not registered any more are kept as dead letters", retired)

    async def _supervise(self, name: str, wake: asyncio.Event) -> None:
        mine: set[asyncio.Task[None]] = set()  # they outlive a look for jobs that the store refuses
        try:
            await keep_running(
                lambda: self._work(name, wake, mine),
                name=f"the work behind handler {name}",
                policy=RestartPolicy(deaths=None),
                died=self._count_restart,
            )
        finally:
            for task in mine:
                task.cancel()
            await asyncio.gather(*mine, return_exceptions=True)

    def _count_restart(self, _: Exception) -> None:
        self._restarts += 1

    async def _work(self, name: str, wake: asyncio.Event, mine: set[asyncio.Task[None]]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            mine.discard(task)
            self._running.discard(task)
            wake.set()

        while True:
            wake.clear()
            free = self._policy.concurrency - len(mine)
            claimed: Sequence[ClaimedJob] = ()
            if free and not self._draining:
                claimed = await self._store.claim_jobs(name, limit=free, lease=self._policy.lease)
            for one in claimed:
                task = asyncio.create_task(self._run(name, one), name=f"handler {name} on event {one.job.event_id}")
                mine.add(task)
                self._running.add(task)
                task.add_done_callback(ended)
            if not claimed:
                await wait_at_most(wake, self._policy.look_every)

    async def _run(self, name: str, claimed: ClaimedJob) -> None:
        job, policy = claimed.job, self._policy
        if job.attempts > policy.attempts:
            await self._give_back(job, f"was started {counted(policy.attempts, 'time')} and never came to an end", final=True)
            return
        limit = asyncio.timeout(policy.timeout)
        try:
            event = claimed.event if claimed.event.resource is not None else self.read_again(claimed.event)
            async with limit:
                await self._handlers[name](event)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            reason = "was cancelled from inside"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as problem:
            if isinstance(problem, TimeoutError) and limit.expired():
                reason = f"ran longer than {policy.timeout:g} s and was cancelled"
            else:
                reason = one_line(f"raised {type(problem).__name__}: {problem}")
            trace = None if isinstance(problem, NotTaken) else problem
            logger.warning("handler %s on event %d %s", name, job.event_id, reason, exc_info=trace)
        else:
            self._finished += 1
            await self._note(job, self._store.finish_job(job))
            return
        self._failed += 1
        await self._give_back(job, reason, final=job.attempts >= policy.attempts)

    async def _give_back(self, job: Job, reason: str, *, final: bool) -> None:
        policy = self._policy
        retry_at = None
        if final:
            self._dead += 1
            logger.error("handler %s on event %d %s: kept as a dead letter", job.handler, job.event_id, reason)
        else:
            first, longest = policy.first_delay, policy.max_delay
            pause = delay(job.attempts - 1, first=first, longest=longest, jitter=_JITTER, chance=self._random())
            retry_at = self._clock() + pause
        await self._note(job, self._store.fail_job(job, reason=reason, retry_at=retry_at))

    async def _note(self, job: Job, noting: Awaitable[bool]) -> None:
        try:
            await noting
        except Exception:
            logger.exception(
                "the end of handler %s on event %d could not be noted; it runs again when its lease is over",
                job.handler,
                job.event_id,
            )


def by_scope(sources: Iterable[EventSource]) -> dict[str, EventSource]:
    """Return the sources by their scopes.

    Raises:
        TypeError: one of them is no source.
        ValueError: there is none, or two share a scope.
    """
    found: dict[str, EventSource] = {}
    for source in sources:
        check_methods(source, "sources", "one or more sources of events", EventSource)
        if found.setdefault(source.scope, source) is not source:
            raise ValueError(f"sources: give one source per scope, not two for {source.scope!r}.")
    if not found:
        raise ValueError("sources: give at least one source of events, not none.")
    return found
