"""Run handlers on kept events: at least once, each alone, none in the way of another."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING

from attrs import field, frozen

from rewards_core.backoff import delay
from rewards_core.operations import EventSource
from rewards_core.text import counted, one_line
from rewards_core.validation import check_callable, check_methods, check_name, number, optional, shown, whole
from webhooks.errors import NotTaken
from webhooks.store.base import Subscriber
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import ANY_EVENT, UNSERVED_DAYS, Subscription, handler_of, job_name
from webhooks.supervise import RestartPolicy, is_cancelled, keep_running, wait_at_most

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.readings import Readings
    from webhooks.store.base import Store
    from webhooks.store.records import ClaimedJob, Job

logger = logging.getLogger(__name__)

Handler = Callable[["Event"], Awaitable[None]]

_JITTER = 0.2
_SHAPE = "Write it as `async def handle(event: Event) -> None`"


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
        give_up_after: Seconds after a job's first run within which its next run must begin, above 0, else the job becomes a dead
            letter; those in which the host is off are not counted. None for no such limit.
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
    give_up_after: float | None = field(default=None, validator=optional(number(above=0)))
    look_every: float = field(default=1.0, validator=number(above=0))

    def __attrs_post_init__(self) -> None:
        if self.timeout >= self.lease:
            raise ValueError(
                f"timeout: give fewer seconds than the lease of {self.lease}, not {self.timeout}; "
                "a run that outlives its lease would be started twice."
            )


@frozen(kw_only=True)
class HandlerStatistics:
    """What a receiver's handlers did since it was made.

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


class HandlerRunner(Subscriber):
    """Run the handlers of one receiver, each with its own leases, slots and retries.

    Args:
        store: Where events, subscriptions and jobs are kept.
        sources: Scope to the source that can read its events again.
        service: The service that the handlers belong to.
        policy: How handlers are run.
        readings: Reads events again.
        random: Returns a number from 0 to 1; a retry waits up to a fifth longer by it.

    Raises:
        TypeError: `service` is not a str, or `random` cannot be called.
        ValueError: `service` is empty or holds what no name or a slash can hold.
    """

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, EventSource],
        *,
        service: str,
        policy: HandlerPolicy,
        readings: Readings,
        random: Callable[[], float],
    ) -> None:
        if "/" in check_name(service, "service"):
            raise ValueError(f"service: give a name without '/', not {shown(service)}.")
        self._store = store
        self._sources = sources
        self._service = service
        self._policy = policy
        self._readings = readings
        self._random = check_callable(random, "random")
        self._handlers: dict[str, Handler] = {}
        self._patterns: dict[str, set[str]] = {}
        self._served: list[Subscription] | None = None
        self._wakes: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False
        self._finished = self._failed = self._dead = self._restarts = 0

    @property
    def statistics(self) -> HandlerStatistics:
        """What the handlers did since the receiver was made."""
        return HandlerStatistics(
            finished=self._finished,
            failed=self._failed,
            dead=self._dead,
            running=len(self._running),
            restarts=self._restarts,
        )

    def add(self, event_name: str, handler: Handler, name: str | None) -> None:
        """Let a handler run for events of a name, or of every name (`"*"`).

        Raises:
            TypeError: it is no async function of one argument.
            ValueError: its name is taken by another handler, or could be that of another service's.
            RuntimeError: the handlers run already.
        """
        if name is None:
            name = f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', type(handler).__qualname__)}"
        _check_handler(handler, name)
        if self._served is not None:
            raise RuntimeError("expected handlers to be registered before start(); register them where the receiver is made")
        if handler_of(job_name(self._service, name)) != (self._service, name):
            raise ValueError(f"name: {shown(name)} could be a handler of another service. Give a name without '/'.")
        if self._handlers.setdefault(name, handler) is not handler:
            raise ValueError(f"name: two handlers are called {name!r}; give one of them another name with name=.")
        self._warn_of_strange(event_name, name)
        self._patterns.setdefault(name, set()).add(event_name)

    @property
    def running(self) -> bool:
        """Whether there are handlers, and they were started."""
        return bool(self._served)

    async def read_again(self, event: Event) -> Event:
        """Return the event as its source reads its body now, with what is known only from its delivery."""
        source = self._sources.get(event.scope)
        if source is None or event.name == CONFLICT_EVENT:
            return event
        return await self._readings.read_again(source, event)

    async def start(self) -> None:
        """Begin to run handlers; idempotent.

        Raises:
            StoreError: they could not be registered, so that events might come without jobs for them; nothing runs.
        """
        if self._served is not None:
            return
        self._draining = False
        self._served = [
            Subscription(service=self._service, handler=name, scope=scope, patterns=frozenset(patterns))
            for name, patterns in self._patterns.items()
            for scope in self._sources
        ]
        try:
            if self._served:  # without handlers there is nothing to hear of
                await self._store.subscribe(self)
                await self._store.register_handlers(self._served)
        except BaseException:
            self._served = None
            self._store.unsubscribe(self)
            raise
        await self._warn_of_unserved()
        for name in self._handlers:
            wake = asyncio.Event()
            self._wakes.append(wake)
            self._tasks.append(asyncio.create_task(self._supervise(name, wake), name=f"handler {name}"))

    async def aclose(self, drain: float = 0.0) -> None:
        """Stop; idempotent. What is still running after `drain` seconds is cancelled, and its lease runs out by itself."""
        self._draining = True
        self._store.unsubscribe(self)
        try:
            if self._running and drain > 0:
                await asyncio.wait(self._running, timeout=drain)
        finally:
            tasks, self._tasks = self._tasks, []
            served, self._served = self._served, None
            self._wakes.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if served:
                await self._release(served)

    def jobs_ready(self) -> None:
        """Look for jobs now."""
        for wake in self._wakes:
            wake.set()

    def missed(self) -> None:
        """Look for jobs now."""
        self.jobs_ready()

    async def _release(self, served: Sequence[Subscription]) -> None:
        try:
            await self._store.release_handlers(served)
        except Exception:
            logger.exception("the store could not be told that handlers stopped; they count as served until this process ends")

    async def _warn_of_unserved(self) -> None:
        try:
            handlers = await self._store.list_handlers()
        except Exception:
            logger.exception("whether jobs wait for handlers that are not running could not be found out")
            return
        waiting: Counter[str] = Counter()
        for handler in handlers:
            if handler.ready and not handler.served and handler.subscription.scope in self._sources:
                waiting[handler.subscription.job_name] += handler.ready
        if waiting:
            logger.warning(
                "jobs wait for handlers that no receiver runs: %s. Start a receiver with these handlers, or retire them: their "
                "jobs become dead letters after %d days",
                ", ".join(f"{name} ({counted(count, 'job')})" for name, count in sorted(waiting.items())),
                UNSERVED_DAYS,
            )

    def _warn_of_strange(self, event_name: str, handler: str) -> None:
        """Warn of an event name that no source knows; sources that do not say what they know may know it."""
        offered = [getattr(source, "event_names", None) for source in self._sources.values()]
        known = {ANY_EVENT, CONFLICT_EVENT}.union(*(names for names in offered if names is not None))
        if None in offered or event_name in known:
            return
        close = get_close_matches(event_name, known, n=1)
        logger.warning(
            "handler %s waits for %r, an event that no source knows%s; it runs only if such an event comes",
            handler,
            event_name,
            f" (did you mean {close[0]!r}?)" if close else "",
        )

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

        jobs, scopes = job_name(self._service, name), tuple(self._sources)
        while True:
            wake.clear()
            free = self._policy.concurrency - len(mine)
            claimed: Sequence[ClaimedJob] = ()
            if free and not self._draining:
                claimed = await self._store.claim_jobs(jobs, scopes=scopes, limit=free, lease=self._policy.lease)
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
            await self._give_back(job, f"was started {counted(policy.attempts, 'time')} and never came to an end", None)
            return
        started = asyncio.get_running_loop().time()
        limit = asyncio.timeout(policy.timeout)
        try:
            event = claimed.event if claimed.event.resource is not None else await self.read_again(claimed.event)
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
                raised = "" if isinstance(problem, NotTaken) else f"raised {type(problem).__name__}: "
                reason = one_line(f"{raised}{problem}")
            trace = None if isinstance(problem, NotTaken) else problem
            logger.warning("handler %s on event %d %s", name, job.event_id, reason, exc_info=trace)
        else:
            self._finished += 1
            await self._note(job, self._store.finish_job(job))
            return
        self._failed += 1
        await self._give_back(job, reason, self._pause(job, job.age + asyncio.get_running_loop().time() - started))

    def _pause(self, job: Job, age: float) -> float | None:
        """Return the seconds until a job that has failed runs again, None if it does not."""
        policy = self._policy
        if job.attempts >= policy.attempts:
            return None
        first, longest = policy.first_delay, policy.max_delay
        pause = delay(job.attempts - 1, first=first, longest=longest, jitter=_JITTER, chance=self._random())
        return None if policy.give_up_after is not None and age + pause > policy.give_up_after else pause

    async def _give_back(self, job: Job, reason: str, retry_in: float | None) -> None:
        if retry_in is None:
            self._dead += 1
            logger.error(
                "handler %s on event %d %s: kept as a dead letter after %s; it does not run again by itself",
                job.handler,
                job.event_id,
                reason,
                counted(job.attempts, "attempt"),
            )
        await self._note(job, self._store.fail_job(job, reason=reason, retry_in=retry_in))

    async def _note(self, job: Job, noting: Awaitable[bool]) -> None:
        try:
            await noting
        except Exception:
            logger.exception(
                "the end of handler %s on event %d could not be noted; its job is taken up again when its lease is over",
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


def _check_handler(handler: object, name: str) -> None:
    function = inspect.isroutine(handler) or isinstance(handler, partial)
    called = handler if function else getattr(handler, "__call__", None)  # noqa: B004 - its signature is needed
    if isinstance(handler, type) or not inspect.iscoroutinefunction(called):
        raise TypeError(f"handler: {name} is not an async function. {_SHAPE}.")
    try:
        inspect.signature(called).bind(None)
    except TypeError as problem:
        raise TypeError(f"handler: {name} cannot be called with an event alone ({problem}). {_SHAPE}.") from None
