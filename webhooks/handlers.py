"""Run handlers on stored events, at least once each and independently of each other."""

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
from rewards_core.errors import StoreClosed
from rewards_core.operations import EventSource
from rewards_core.text import counted, one_line
from rewards_core.validation import check_callable, check_methods, check_name, number, optional, shown, whole
from webhooks.errors import RetryLater
from webhooks.spans import handler_span, links_of
from webhooks.store.base import Subscriber
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import ANY_EVENT, UNSERVED_DAYS, Subscription, handler_of, job_name
from webhooks.supervise import RestartPolicy, is_cancelled, keep_running, wait_at_most

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.parsing import BodyParser
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
        concurrency: Events that one handler processes at a time, 1 or more.
        timeout: Seconds after which a run is cancelled, above 0 and below `lease`.
        lease: Seconds after which another process may claim the job of a crashed one, above `timeout`.
        attempts: Runs before a job becomes a dead letter, 1 or more.
        first_delay: Seconds between the first run and the second, above 0; doubled after each run.
        max_delay: Maximum seconds between two runs, above 0; up to a fifth is added at random.
        give_up_after: Seconds since a job's first run after which no new run starts and the job becomes a dead letter, above 0;
            time while the host is off does not count. None for no limit.
        poll_interval: Seconds between two polls for due jobs when no hint arrives, above 0.

    Raises:
        TypeError: an attribute is not a number, or not a whole one where it is a count.
        ValueError: an attribute is out of range.
    """

    concurrency: int = field(default=10, validator=whole(at_least=1))
    timeout: float = field(default=30.0, validator=number(above=0))
    lease: float = field(default=60.0, validator=number(above=0))
    attempts: int = field(default=10, validator=whole(at_least=1))
    first_delay: float = field(default=1.0, validator=number(above=0))
    max_delay: float = field(default=300.0, validator=number(above=0))
    give_up_after: float | None = field(default=None, validator=optional(number(above=0)))
    poll_interval: float = field(default=1.0, validator=number(above=0))

    def __attrs_post_init__(self) -> None:
        if self.timeout >= self.lease:
            raise ValueError(
                f"timeout: give fewer seconds than the lease of {self.lease}, not {self.timeout}. "
                "A job whose lease expires during its run would be run twice."
            )


@frozen(kw_only=True)
class HandlerStatistics:
    """Counters of a receiver's handlers.

    Attributes:
        finished: Runs that succeeded.
        failed: Runs that raised or timed out.
        dead: Jobs that became dead letters.
        running: Runs in progress.
        restarts: Restarts of a handler's background task after a crash.
    """

    finished: int
    failed: int
    dead: int
    running: int
    restarts: int


class HandlerRunner(Subscriber):
    """Run the handlers of one receiver, each with its own leases, slots and retries. `sources` maps scopes to event sources."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, EventSource],
        *,
        service: str,
        policy: HandlerPolicy,
        parser: BodyParser,
        random: Callable[[], float],
    ) -> None:
        if "/" in check_name(service, "service"):
            raise ValueError(f"service: give a name without '/', not {shown(service)}.")
        self._store = store
        self._links = links_of(store)
        self._sources = sources
        self._service = service
        self._policy = policy
        self._parser = parser
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
        """Counters of the handlers."""
        return HandlerStatistics(
            finished=self._finished,
            failed=self._failed,
            dead=self._dead,
            running=len(self._running),
            restarts=self._restarts,
        )

    def add(self, event_name: str, handler: Handler, name: str | None) -> None:
        """Register a handler; see `Receiver.on`."""
        if name is None:
            name = f"{getattr(handler, '__module__', '')}.{getattr(handler, '__qualname__', type(handler).__qualname__)}"
        _check_handler(handler, name)
        if self._served is not None:
            raise RuntimeError("The receiver has already started. Register handlers before start(), where the receiver is made.")
        if handler_of(job_name(self._service, name)) != (self._service, name):
            raise ValueError(f"name: {shown(name)} could be a handler of another service. Give a name without '/'.")
        if self._handlers.setdefault(name, handler) is not handler:
            raise ValueError(f"name: two handlers are called {name!r}. Give one of them another name with name=.")
        self._warn_of_unknown_event(event_name, name)
        self._patterns.setdefault(name, set()).add(event_name)

    @property
    def running(self) -> bool:
        """Whether there are handlers that were started."""
        return bool(self._served)

    async def parse_again(self, event: Event) -> Event:
        """Return the event as its source parses its body now, with the hints that only its delivery had."""
        source = self._sources.get(event.scope)
        if source is None or event.name == CONFLICT_EVENT:
            return event
        return await self._parser.parse_again(source, event)

    async def start(self) -> None:
        """Start the handlers; idempotent. If the store cannot register them, none runs, as their events would get no jobs."""
        if self._served is not None:
            return
        self._draining = False
        self._served = [
            Subscription(service=self._service, handler=name, scope=scope, patterns=frozenset(patterns))
            for name, patterns in self._patterns.items()
            for scope in self._sources
        ]
        try:
            if self._served:
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
        """Stop; idempotent. A run that has not finished after `drain` seconds is cancelled, and its lease expires."""
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
            logger.exception("the store failed while handlers were released; they count as served until this process ends")

    async def _warn_of_unserved(self) -> None:
        try:
            handlers = await self._store.list_handlers()
        except Exception:
            logger.exception("the store failed, so jobs without a running handler were not counted; no job is lost")
            return
        waiting: Counter[str] = Counter()
        for handler in handlers:
            if handler.ready and not handler.served and handler.subscription.scope in self._sources:
                waiting[handler.subscription.job_name] += handler.ready
        if waiting:
            logger.warning(
                "jobs wait for handlers that no receiver runs: %s. Start a receiver with these handlers, or retire them. Their "
                "jobs become dead letters after %d days",
                ", ".join(f"{name} ({counted(count, 'job')})" for name, count in sorted(waiting.items())),
                UNSERVED_DAYS,
            )

    def _warn_of_unknown_event(self, event_name: str, handler: str) -> None:
        """Warn if no source knows an event name and all sources list theirs."""
        offered = [getattr(source, "event_names", None) for source in self._sources.values()]
        known = {ANY_EVENT, CONFLICT_EVENT}.union(*(names for names in offered if names is not None))
        if None in offered or event_name in known:
            return
        close = get_close_matches(event_name, known, n=1)
        logger.warning(
            "handler %s is registered for %r, an event that no source knows%s; it runs only if such an event arrives",
            handler,
            event_name,
            f" (did you mean {close[0]!r}?)" if close else "",
        )

    async def _supervise(self, name: str, wake: asyncio.Event) -> None:
        mine: set[asyncio.Task[None]] = set()  # they survive a restart after a store failure
        try:
            await keep_running(
                lambda: self._work(name, wake, mine),
                name=f"the task of handler {name}",
                policy=RestartPolicy(max_crashes=None),
                died=self._count_restart,
            )
        except StoreClosed:
            logger.error(  # noqa: TRY400 - its traceback shows only this task
                "handler %s has stopped, because its store was closed. Its jobs wait for another receiver. Close a store after "
                "whatever uses it",
                name,
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
            for job in claimed:
                task = asyncio.create_task(self._run(name, job), name=f"handler {name} on event {job.job.event_id}")
                mine.add(task)
                self._running.add(task)
                task.add_done_callback(ended)
            if not claimed:
                await wait_at_most(wake, self._policy.poll_interval)

    async def _run(self, name: str, claimed: ClaimedJob) -> None:
        job, policy = claimed.job, self._policy
        if job.attempts > policy.attempts:
            await self._fail(job, f"was started {counted(policy.attempts, 'time')} and never finished", None)
            return
        started = asyncio.get_running_loop().time()
        limit = asyncio.timeout(policy.timeout)
        try:
            event = claimed.event if claimed.event.resource is not None else await self.parse_again(claimed.event)
            with handler_span(event, job, self._links):
                async with limit:
                    await self._handlers[name](event)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            reason = "raised CancelledError"
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as problem:
            if isinstance(problem, TimeoutError) and limit.expired():
                reason = f"ran longer than {policy.timeout:g} s and was cancelled"
            else:
                raised = "" if isinstance(problem, RetryLater) else f"raised {type(problem).__name__}: "
                reason = one_line(f"{raised}{problem}")
            trace = None if isinstance(problem, RetryLater) else problem
            logger.warning("handler %s on event %d %s", name, job.event_id, reason, exc_info=trace)
        else:
            self._finished += 1
            await self._save_result(job, self._store.finish_job(job))
            return
        self._failed += 1
        await self._fail(job, reason, self._retry_delay(job, job.age + asyncio.get_running_loop().time() - started))

    def _retry_delay(self, job: Job, age: float) -> float | None:
        """Return the seconds until a failed job is retried, None if it is not."""
        policy = self._policy
        if job.attempts >= policy.attempts:
            return None
        first, longest = policy.first_delay, policy.max_delay
        pause = delay(job.attempts - 1, first=first, longest=longest, jitter=_JITTER, chance=self._random())
        return None if policy.give_up_after is not None and age + pause > policy.give_up_after else pause

    async def _fail(self, job: Job, reason: str, retry_in: float | None) -> None:
        if retry_in is None:
            self._dead += 1
            logger.error(
                "handler %s on event %d %s: the job is a dead letter after %s and is not retried automatically",
                job.handler,
                job.event_id,
                reason,
                counted(job.attempts, "attempt"),
            )
        await self._save_result(job, self._store.fail_job(job, reason=reason, retry_in=retry_in))

    async def _save_result(self, job: Job, saving: Awaitable[bool]) -> None:
        try:
            await saving
        except Exception:
            logger.exception(
                "the result of handler %s on event %d could not be stored; its job runs again when its lease expires",
                job.handler,
                job.event_id,
            )


def by_scope(sources: Iterable[EventSource]) -> dict[str, EventSource]:
    """Return the sources by their scopes; there must be at least one, and one for each scope."""
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
