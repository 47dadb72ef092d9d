"""Behind every ingress: a signed delivery in, what to answer out. It does no IO but through its store."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import frozen

from rewards_core.clock import loop_time
from rewards_core.errors import SignatureError
from rewards_core.log_limit import LogLimit
from rewards_core.validation import check_callable, check_methods, check_name, check_number, check_whole, setting
from webhooks.advice import ADVICE, NOT_STARTED
from webhooks.delivery_log import deliveries, log_delivery, log_refused
from webhooks.handlers import Handler, HandlerPolicy, HandlerRunner, HandlerStatistics, by_scope
from webhooks.ingress.base import (
    ACCEPTED,
    BODY_PROBLEMS,
    ENCODED,
    NOT_KEPT,
    TOO_LARGE,
    UNADMITTED,
    UNSIGNED,
    WRONG_METHOD,
    Reply,
    content_length,
)
from webhooks.readings import LARGE_BODY, Readings, unreadable
from webhooks.refusals import Refusal, Refusals
from webhooks.store.base import A_STORE, Store
from webhooks.store.records import DEFAULT_SERVICE, Acceptance
from webhooks.store.url import open_store

if TYPE_CHECKING:
    from types import TracebackType

    from rewards_core.operations import Event, EventSource
    from webhooks.ingress.base import BodyProblem, Closable

    _Found = tuple[EventSource | SignatureError, Event | None]
    _Arrived = tuple[Mapping[str, str], bytes, asyncio.Future[_Found]]

logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)

MAX_BODY = 262_144

_FAULT = SignatureError(ADVICE["error"], reason="error")
_NEARNESS: Mapping[str, int] = {"error": -1, "missing": 0, "malformed": 1, "unknown_key": 2, "mismatch": 3}
"""How near a refused signature came to be one, by reason; a source's own words are at 0."""


@frozen(kw_only=True)
class ReceiverStatistics:
    """What came in since the receiver was made.

    Attributes:
        accepted: New events, dead letters included.
        duplicates: Deliveries of events that were known.
        dead_letters: New events that cannot be used.
        rejected: Reason of refusal to number of deliveries.
        store_failures: Deliveries that could not be kept.
        last_delivery_at: When the last signed delivery came, Unix time; None if none came.
    """

    accepted: int
    duplicates: int
    dead_letters: int
    rejected: Mapping[str, int]
    store_failures: int
    last_delivery_at: float | None


class Receiver:
    """Take in deliveries: verify, keep, acknowledge; then run handlers on what was kept.

    Args:
        sources: Whose deliveries: one source, or several with different scopes on one path.
        store: Where events are kept: a store, which stays its owner's to close; or the URL of one, as for `open_store`, which
            is closed with the receiver.
        service: The service that the handlers belong to. Give each service a name of its own, without a slash, once several
            share a store; all processes of one service have the same handlers.
        handlers: How handlers are run.
        max_body: Bytes a body may have, 1 or more.
        body_timeout: Seconds a body may take to arrive, above 0.
        clock: Unix time in seconds.
        random: Returns a number from 0 to 1; a handler's retry waits up to a fifth longer by it.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `max_body` or `body_timeout` is out of range, there is no source, two share a scope, the URL names no store,
            or `service` cannot be a name.
    """

    def __init__(
        self,
        sources: EventSource | Iterable[EventSource],
        store: Store | str,
        *,
        service: str = DEFAULT_SERVICE,
        handlers: HandlerPolicy | None = None,
        max_body: int = MAX_BODY,
        body_timeout: float = 10.0,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        several = sources if isinstance(sources, Iterable) else (sources,)
        by_scopes = by_scope(several)
        self._sources = tuple(by_scopes.values())
        self._owns_store = isinstance(store, str)
        self._store = open_store(store) if isinstance(store, str) else check_methods(store, "store", A_STORE, Store)
        policy = setting(handlers, "handlers", HandlerPolicy)
        self._readings = Readings()
        self._handlers = HandlerRunner(
            self._store, by_scopes, service=service, policy=policy, readings=self._readings, random=random
        )
        self._max_body = check_whole(max_body, "max_body", at_least=1)
        self._body_timeout = check_number(body_timeout, "body_timeout", above=0, unit="seconds")
        self._clock = check_callable(clock, "clock")
        self._accepted = self._duplicates = self._dead_letters = self._store_failures = 0
        self._last_delivery_at: float | None = None
        self._unstarted = False
        self._arrived: list[_Arrived] = []
        self._refusals = Refusals(logger, clock=self._clock)
        self._log_limit = LogLimit(clock=loop_time)  # for what may happen with every delivery
        self._refused_lines = LogLimit(1.0, lines=10, clock=loop_time)  # strangers must not fill the log

    @property
    def store(self) -> Store:
        """Where events are kept."""
        return self._store

    @property
    def max_body(self) -> int:
        """Bytes a body may have."""
        return self._max_body

    @property
    def body_timeout(self) -> float:
        """Seconds a body may take to arrive."""
        return self._body_timeout

    @property
    def handler_statistics(self) -> HandlerStatistics:
        """What the handlers did since the receiver was made."""
        return self._handlers.statistics

    @property
    def statistics(self) -> ReceiverStatistics:
        """What came in since the receiver was made."""
        return ReceiverStatistics(
            accepted=self._accepted,
            duplicates=self._duplicates,
            dead_letters=self._dead_letters,
            rejected=dict(self._refusals.total),
            store_failures=self._store_failures,
            last_delivery_at=self._last_delivery_at,
        )

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The last deliveries that were refused, newest first: at most 256, those alike as one, and nothing of their bodies."""
        return self._refusals.newest_first()

    def on(self, event_name: str, *, name: str | None = None) -> Callable[[H], H]:
        """Register the decorated async function for events of a name, `"*"` for every event.

        It runs at least once for each event, so it must be idempotent. `outcome.conflict` tells of an outcome that differs
        from the first. A name that no source knows is warned about.

        Args:
            event_name: The vendor's name, such as `"reward.allocated"`.
            name: The handler's own name, the same in every release: jobs are kept under it. Default: module and function name.

        Raises:
            TypeError: it is not an async function that takes one event, or a name is not a str.
            ValueError: its name is taken by another handler or could be another service's, or a name is empty or holds what none
                can hold.
            RuntimeError: the receiver was started.
        """
        check_name(event_name, "event_name")
        if name is not None:
            check_name(name, "name")

        def register(handler: H) -> H:
            self._handlers.add(event_name, handler, name)
            self._unstarted = True
            return handler

        return register

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        """Return what to answer without reading the body, None if it may be read.

        A delivery that no source admits is not worth its body: it is answered 401, and its connection is to be closed.

        Args:
            method: The request's method.
            headers: The request's headers, in a mapping that folds the case of names.
            content_length: What they say of the body's length, None if they do not.
            peer: Whose request it is, for people to read.
            unread: Whether the body has yet to arrive; one that is there is judged by `receive`.
        """
        unfit = self._unfit(method, headers, content_length)
        if unfit is not None:
            claimed = self._claimed(headers)
            return self._refuse(*unfit, peer, method=method, length=content_length, key_ids=claimed)
        if unread and not any(_admits(source, headers) for source in self._sources):
            problem = self._signer(headers, b"")
            if isinstance(problem, SignatureError):
                return self._refuse_unsigned(problem, UNADMITTED, peer, content_length)
        return None

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Return what to answer to a delivery whose body could not be read, and count it.

        Args:
            reason: `"slow"` if it did not arrive in `body_timeout` seconds, `"absent"` if nothing of it did, `"size"` if it has
                more than `max_body` bytes, `"broken"` if it broke off or was framed wrongly, `"read_before"` if something in
                front of the receiver took it.
            peer: Whose request it is, for people to read.
            headers: The request's headers, in a mapping that folds the case of names; its length and key ids are kept.
        """
        if headers is None:
            return self._refuse(reason, BODY_PROBLEMS[reason], peer)
        length, claimed = content_length(headers), self._claimed(headers)
        return self._refuse(reason, BODY_PROBLEMS[reason], peer, length=length, key_ids=claimed)

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        """Return what to answer to a delivery; an answer of 200 means that it is kept.

        Args:
            headers: The delivery's headers.
            body: The raw bytes, as they arrived.
            peer: Whose request it is, for people to read.

        Returns:
            200 if the event is kept (or was already), 401 if no source signed it, 413 if it is too large, 503 if it could not be
            kept.
        """
        if len(body) > self._max_body:
            return self._refuse("size", TOO_LARGE, peer, length=len(body), key_ids=self._claimed(headers))
        started = time.perf_counter() if deliveries.isEnabledFor(logging.INFO) else None
        signer, event = await self._look_at(headers, body)
        if isinstance(signer, SignatureError):
            seconds = None if started is None else time.perf_counter() - started
            return self._refuse_unsigned(signer, UNSIGNED, peer, len(body), seconds)
        if event is None:
            try:
                event = await self._readings.read(signer, body, headers, remember=self._handlers.running)
            except Exception as problem:  # noqa: BLE001 - whatever a body does to a source
                event = unreadable(signer, body, problem)
        try:
            acceptance = await self._store.accept(event)
        except Exception:
            self._store_failures += 1
            if self._log_limit.allows("store"):
                logger.exception("a delivery could not be kept and was answered 503")
            if started is not None:
                log_delivery(event, "not kept", time.perf_counter() - started, peer)
            return NOT_KEPT
        await asyncio.sleep(0)  # so that all deliveries of one commit go on together, and waiters before answers
        self._last_delivery_at = self._clock()
        if self._unstarted:
            self._unstarted = False
            logger.warning(NOT_STARTED)
        if acceptance is Acceptance.DUPLICATE:
            self._duplicates += 1
            verdict = "duplicate"
        else:
            self._accepted += 1
            verdict = "new"
            if event.problem is not None:
                self._dead_letters += 1
                verdict = "dead letter"
                logger.warning("a signed delivery is kept as a dead letter: %s", event.problem)
        if started is not None:
            log_delivery(event, verdict, time.perf_counter() - started, peer)
        return ACCEPTED

    async def replay(self, event_ids: Sequence[int]) -> int:
        """Read kept events again and let every handler that wants them run again; what they settle or ask is settled and asked.

        Args:
            event_ids: The events; unknown ones, erased ones and those that still cannot be used are passed over.

        Returns:
            How many events could be used.

        Raises:
            StoreError: the store could not be read or written; what came before in `event_ids` may have been replayed.
        """
        count = 0
        for event_id in event_ids:
            stored = await self._store.get_event(event_id)
            if stored is None or not stored.event.body:
                continue
            event = await self._handlers.read_again(stored.event)
            if event.problem is not None:
                continue
            if event is not stored.event:
                await self._store.amend(event_id, event)
            await self._store.requeue([event_id], every_handler=True)
            count += 1
        return count

    def register(self, app: Any, path: str, completions: Closable | None = None) -> None:
        """Serve deliveries under a path of an aiohttp application.

        The handlers start and stop with the application.

        Args:
            app: An `aiohttp.web.Application` that has not started.
            path: Such as `"/webhooks/rewards"`.
            completions: What the application's requests wait with, closed when it shuts down: before the server waits for open
                requests, so that no `wait` holds it up. It stays the application's to start.

        Raises:
            TypeError: `app` is no such application, `path` no str, or `completions` cannot be closed.
            ValueError: `path` does not begin with `/`, or the application's `client_max_size` is below `max_body`, so that a
                middleware could not read every delivery.
        """
        from webhooks.ingress.aiohttp_app import register  # noqa: PLC0415 - aiohttp's server is needed by this alone

        register(self, app, path, completions)

    async def start(self) -> None:
        """Begin to run handlers; idempotent.

        Raises:
            StoreError: the handlers could not be registered; nothing runs.
        """
        await self._handlers.start()
        self._unstarted = False

    async def aclose(self, drain: float = 0.0) -> None:
        """Stop running handlers, and close the store if this receiver opened it; idempotent.

        Args:
            drain: Seconds that running handlers get to come to their end, 0 or more.

        Raises:
            TypeError: `drain` is no number; nothing was stopped.
            ValueError: it is negative or not finite; nothing was stopped.
        """
        check_number(drain, "drain", at_least=0, unit="seconds")
        try:
            await self._handlers.aclose(drain)
        finally:
            if self._owns_store:
                await self._store.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _unfit(self, method: str, headers: Mapping[str, str], length: int | None) -> tuple[str, Reply] | None:
        """Return why a request can be no delivery, whoever signed it, and what to answer."""
        if method != "POST":
            return "method", WRONG_METHOD
        encoding = headers.get("content-encoding")
        if encoding and encoding.strip().lower() != "identity":
            return "encoding", ENCODED
        if length is not None and length > self._max_body:
            return "size", TOO_LARGE
        return None

    async def _look_at(self, headers: Mapping[str, str], body: bytes) -> _Found:
        """Return who signed a delivery, or why nobody did, and the event unless the body is too large to be read at once."""
        loop = asyncio.get_running_loop()
        looked_at: asyncio.Future[_Found] = loop.create_future()
        self._arrived.append((headers, body, looked_at))
        if len(self._arrived) == 1:
            loop.call_soon(self._look_at_all)
        return await looked_at

    def _look_at_all(self) -> None:
        """Verify all deliveries of one moment, then read them all.

        A step that many take one after the other keeps its code in the processor's caches: in `benchmarks deliveries` it takes a
        third less of the server's time than each delivery by itself.
        """
        arrived, self._arrived = self._arrived, []
        found: list[_Found] = []
        for signer, (headers, body, _) in zip([self._signer(*each[:2]) for each in arrived], arrived, strict=True):
            event = None
            if not isinstance(signer, SignatureError) and len(body) < LARGE_BODY:
                try:
                    event = signer.parse(body, headers)
                except Exception as problem:  # noqa: BLE001 - whatever a body does to a source
                    event = unreadable(signer, body, problem)
            found.append((signer, event))
        for (_, _, looked_at), each in zip(arrived, found, strict=True):
            if not looked_at.done():
                looked_at.set_result(each)

    def _signer(self, headers: Mapping[str, str], body: bytes) -> EventSource | SignatureError:
        """Return the source whose key signed the body, or why there is none: of several what came nearest."""
        nearest = _FAULT
        for source in self._sources:
            try:
                source.verify(headers, body)
            except SignatureError as problem:
                if _nearness(problem) > _nearness(nearest):
                    # with its traceback it would hold this frame, and so the body, until garbage is collected
                    nearest = problem.with_traceback(None)
            except Exception as problem:  # noqa: BLE001 - whatever a delivery does to a source, it is answered
                if self._log_limit.allows("error"):
                    logger.warning("a source failed to verify a delivery: %s", type(problem).__name__)
            else:
                return source
        return nearest

    def _claimed(self, headers: Mapping[str, str]) -> Sequence[str]:
        """Return the ids of the keys that headers claim, as far as a source can read them without the body."""
        for source in self._sources:
            try:
                source.verify(headers, b"")
            except SignatureError as problem:
                if problem.key_ids:
                    return problem.key_ids
            except Exception:  # noqa: BLE001, S112 - they are for people to read
                continue
        return ()

    def _refuse_unsigned(
        self, problem: SignatureError, reply: Reply, peer: object, length: int | None, seconds: float | None = None
    ) -> Reply:
        self._store.refused(problem.reason)
        facts = {"length": length, "key_ids": problem.key_ids, "advice": str(problem)}
        return self._refuse(problem.reason, reply, peer, seconds, **facts)

    def _refuse(self, reason: str, reply: Reply, peer: object, seconds: float | None = None, **facts: Any) -> Reply:
        self._refusals.note(reason, peer, status=reply.status, **facts)
        if deliveries.isEnabledFor(logging.INFO) and self._refused_lines.allows("refused"):
            log_refused(reason, reply.status, peer, seconds)
        return reply


def _nearness(problem: SignatureError) -> int:
    return _NEARNESS.get(problem.reason, 0)


def _admits(source: EventSource, headers: Mapping[str, str]) -> bool:
    admits = getattr(source, "admits", None)
    try:
        return admits is None or bool(admits(headers))
    except Exception:  # noqa: BLE001 - whatever headers do to a source, `verify` decides
        return True
