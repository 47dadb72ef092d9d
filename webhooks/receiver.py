"""The receiver behind every ingress: it verifies, stores and acknowledges deliveries, and does no IO except in its store."""

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
from rewards_core.secrets import shielded
from rewards_core.validation import check_callable, check_methods, check_name, check_number, check_whole, setting
from webhooks.delivery_reports import DeliveryReports
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
from webhooks.parsing import BodyParser, unreadable_event
from webhooks.spans import delivery_span, links_of, note_verdict
from webhooks.store import open_store
from webhooks.store.base import A_STORE, Store
from webhooks.store.records import DEFAULT_SERVICE, Acceptance
from webhooks.verification import Verifier

if TYPE_CHECKING:
    from types import TracebackType

    from rewards_core.operations import Event, EventSource
    from webhooks.delivery_log import Verdict
    from webhooks.delivery_watch import DeliveryObserver
    from webhooks.ingress.base import BodyProblem, Closable
    from webhooks.refusals import Refusal

logger = logging.getLogger(__name__)

H = TypeVar("H", bound=Handler)

MAX_BODY = 262_144

_NOT_STARTED = (
    "a delivery was stored, but its handlers do not run because the receiver was not started. Put `async with receiver:` into "
    "the application's lifespan (FastAPI, Starlette) or around your program, or use receiver.register(app, path) (aiohttp). "
    "Events that arrived before the first start of a handler can be replayed by receiver.replay"
)


@frozen(kw_only=True)
class ReceiverStatistics:
    """Counters of a receiver.

    Attributes:
        accepted: New events, including dead letters.
        duplicates: Deliveries of known events.
        dead_letters: New events that cannot be used.
        rejected: Refused deliveries by reason.
        store_failures: Deliveries that could not be stored.
        last_delivery_at: Unix time of the last signed delivery, None if there was none.
    """

    accepted: int
    duplicates: int
    dead_letters: int
    rejected: Mapping[str, int]
    store_failures: int
    last_delivery_at: float | None


class Receiver:
    """Verify deliveries, store them, acknowledge them, and run handlers on the stored events.

    `aclose()`, as at the end of `async with`, cancels running handlers, which run again later; `aclose(drain)` lets them finish.

    Args:
        sources: One `EventSource`, or several with different scopes on one path.
        store: A store, which the receiver does not close; or a URL for `open_store`, whose store it closes.
        service: The service that the handlers belong to, a name without a slash. Services that share a store need different
            names; all processes of one service have the same handlers.
        handlers: How handlers are run.
        max_body: Maximum size of a body in bytes, 1 or more.
        body_timeout: Seconds in which a body must arrive, above 0.
        clock: Returns Unix time in seconds.
        random: Returns a number from 0 to 1, which lengthens a handler's retry delay by up to a fifth.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `max_body` or `body_timeout` is out of range, there is no source, two sources share a scope, the URL names no
            store, or `service` is not a valid name.
    """

    @shielded
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
        self._verifier = Verifier(by_scopes.values())
        self._owns_store = isinstance(store, str)
        self._store = open_store(store) if isinstance(store, str) else check_methods(store, "store", A_STORE, Store)
        self._links = links_of(self._store)
        policy = setting(handlers, "handlers", HandlerPolicy)
        self._parser = BodyParser()
        self._handlers = HandlerRunner(self._store, by_scopes, service=service, policy=policy, parser=self._parser, random=random)
        self._max_body = check_whole(max_body, "max_body", at_least=1)
        self._body_timeout = check_number(body_timeout, "body_timeout", above=0, unit="seconds")
        self._clock = check_callable(clock, "clock")
        self._accepted = self._duplicates = self._dead_letters = self._store_failures = 0
        self._last_delivery_at: float | None = None
        self._handlers_not_started = False
        self._reports = DeliveryReports(self._clock)
        self._store_lines = LogLimit(clock=loop_time)  # a store that fails does so for every delivery

    @property
    def store(self) -> Store:
        """The store of its events."""
        return self._store

    @property
    def max_body(self) -> int:
        """Maximum size of a body in bytes."""
        return self._max_body

    @property
    def body_timeout(self) -> float:
        """Seconds in which a body must arrive."""
        return self._body_timeout

    @property
    def handler_statistics(self) -> HandlerStatistics:
        """Counters of the handlers."""
        return self._handlers.statistics

    @property
    def statistics(self) -> ReceiverStatistics:
        """Counters of the deliveries."""
        return ReceiverStatistics(
            accepted=self._accepted,
            duplicates=self._duplicates,
            dead_letters=self._dead_letters,
            rejected=dict(self._reports.refusals.total),
            store_failures=self._store_failures,
            last_delivery_at=self._last_delivery_at,
        )

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """The last refused deliveries, newest first: at most 256 after similar ones are merged, without their bodies."""
        return self._reports.refusals.newest_first()

    def observe(self, observer: DeliveryObserver | None) -> None:
        """Call a function with each delivery once it is answered, refused ones included, from now on.

        Args:
            observer: Replaces the one before; None ends that. It must return quickly, as the event loop waits; errors are logged.

        Raises:
            TypeError: `observer` cannot be called.
        """
        self._reports.observe(observer)

    def on(self, event_name: str, *, name: str | None = None) -> Callable[[H], H]:
        """Register the decorated async function as a handler.

        It runs at least once for each event, so it must be idempotent. An event name that no source knows is logged as a warning.

        Args:
            event_name: The vendor's name, such as `"reward.allocated"`; `"*"` for all events; or `"outcome.conflict"` for
                outcomes that differ from the first one of their operation.
            name: The handler's name, under which its jobs are stored, so keep it when you rename the function. Default: module
                and function name.

        Raises:
            TypeError: the function is not async or does not take one event, or a name is not a str.
            ValueError: the name is empty, malformed, used by another handler, or could belong to another service.
            RuntimeError: the receiver is started already.
        """
        check_name(event_name, "event_name")
        if name is not None:
            check_name(name, "name")

        def register(handler: H) -> H:
            self._handlers.add(event_name, handler, name)
            self._handlers_not_started = True
            return handler

        return register

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        """Return the reply to a request that is refused before its body is read, None if the body should be read.

        A delivery that no source admits gets a 401, and its connection should be closed.

        Args:
            method: The request's method.
            headers: The request's headers, in a case-insensitive mapping.
            content_length: The body's length, None if it is unknown.
            peer: The client's address, for logs.
            unread: Whether the body has not arrived yet. If it has, `receive` checks the signature.
        """
        unfit = self._preflight(method, headers, content_length)
        if unfit is not None:
            claimed = self._verifier.claimed_key_ids(headers)
            return self._reports.refused(*unfit, peer, method=method, length=content_length, key_ids=claimed)
        if unread and not self._verifier.admits(headers):
            problem = self._verifier.find_signer(headers, b"")
            if isinstance(problem, SignatureError):
                return self._refuse_unsigned(problem, UNADMITTED, peer, content_length)
        return None

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Return the reply to a delivery whose body could not be read, and count it.

        Args:
            reason: `"slow"` if the body did not arrive in `body_timeout` seconds, `"absent"` if none of it arrived, `"size"` if
                it has more than `max_body` bytes, `"broken"` if it was interrupted or framed wrongly, `"read_before"` if a
                middleware consumed it.
            peer: The client's address, for logs.
            headers: The request's headers, in a case-insensitive mapping; the length and the key ids are kept.
        """
        if headers is None:
            return self._reports.refused(reason, BODY_PROBLEMS[reason], peer)
        length, claimed = content_length(headers), self._verifier.claimed_key_ids(headers)
        return self._reports.refused(reason, BODY_PROBLEMS[reason], peer, length=length, key_ids=claimed)

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        """Process a delivery and return the reply to it.

        Args:
            headers: The delivery's headers, in a case-insensitive mapping.
            body: The raw bytes, as they arrived.
            peer: The client's address, for logs.

        Returns:
            200 once the event is stored (or was before), 401 if no source accepts the signature, 413 if the body is too large,
            503 if the event could not be stored.
        """
        if len(body) > self._max_body:
            claimed = self._verifier.claimed_key_ids(headers)
            return self._reports.refused("size", TOO_LARGE, peer, length=len(body), key_ids=claimed)
        started = time.perf_counter() if self._reports.timed else None
        signer, event = await self._verifier.verify(headers, body)
        if isinstance(signer, SignatureError):
            seconds = None if started is None else time.perf_counter() - started
            return self._refuse_unsigned(signer, UNSIGNED, peer, len(body), seconds)
        if event is None:
            try:
                event = await self._parser.parse(signer, body, headers, remember=self._handlers.running)
            except Exception as problem:  # noqa: BLE001 - a body may trigger any bug of a source
                event = unreadable_event(signer, body, problem)
        with delivery_span(event, self._links) as span:
            verdict = await self._keep(event)
            note_verdict(span, event, verdict, self._links)
        reply = NOT_KEPT if verdict == "not kept" else ACCEPTED
        if started is not None:
            self._reports.signed(event, verdict, reply.status, time.perf_counter() - started, peer)
        return reply

    async def replay(self, event_ids: Sequence[int]) -> int:
        """Parse stored events again and process them as new ones, for all handlers that want them.

        Args:
            event_ids: The events; unknown, erased and still unusable ones are skipped.

        Returns:
            The number of events that were replayed.

        Raises:
            StoreError: the store failed; the first of `event_ids` may have been replayed.
        """
        count = 0
        for event_id in event_ids:
            stored = await self._store.get_event(event_id)
            if stored is None or not stored.event.body:
                continue
            event = await self._handlers.parse_again(stored.event)
            if event.problem is not None:
                continue
            if event is not stored.event:
                await self._store.amend(event_id, event)
            await self._store.requeue([event_id], every_handler=True)
            count += 1
        return count

    def register(self, app: Any, path: str, completions: Closable | None = None) -> None:
        """Serve deliveries on a path of an aiohttp application, which starts the receiver, and closes it by `aclose()`.

        Args:
            app: An `aiohttp.web.Application` that has not started.
            path: Such as `"/webhooks/rewards"`.
            completions: The `Completions` with which the application's requests wait. It is closed at shutdown before the server
                waits for open requests, so that no `wait` delays it. The application starts it.

        Raises:
            TypeError: `app` is not such an application, `path` not a str, or `completions` cannot be closed.
            ValueError: `path` does not begin with `/`, or the application's `client_max_size` is below `max_body`, so that a
                middleware could not read every delivery.
        """
        from webhooks.ingress.aiohttp_app import register  # noqa: PLC0415 - only this needs aiohttp's server

        register(self, app, path, completions)

    async def start(self) -> None:
        """Start the handlers; idempotent.

        Raises:
            StoreError: the handlers could not be registered; none runs.
        """
        await self._handlers.start()
        self._handlers_not_started = False

    async def aclose(self, drain: float = 0.0) -> None:
        """Stop the handlers, and close the store if this receiver opened it; idempotent.

        Args:
            drain: Seconds that running handlers have to finish, 0 or more; others are cancelled, and run again later.

        Raises:
            TypeError: `drain` is not a number; nothing was stopped.
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

    def _preflight(self, method: str, headers: Mapping[str, str], length: int | None) -> tuple[str, Reply] | None:
        """Return the reason and the reply for a request that is refused whatever its signature."""
        if method != "POST":
            return "method", WRONG_METHOD
        encoding = headers.get("content-encoding")
        if encoding and encoding.strip().lower() != "identity":
            return "encoding", ENCODED
        if length is not None and length > self._max_body:
            return "size", TOO_LARGE
        return None

    async def _keep(self, event: Event) -> Verdict:
        """Store the event of a delivery, count it, and return the verdict."""
        try:
            acceptance = await self._store.accept(event)
        except Exception:
            self._store_failures += 1
            if self._store_lines.allows("store"):
                logger.exception("a delivery could not be stored and was answered 503, so the vendor repeats it")
            return "not kept"
        await asyncio.sleep(0)  # the deliveries of one commit continue together, and waiters run before the replies
        self._last_delivery_at = self._clock()
        if self._handlers_not_started:
            self._handlers_not_started = False
            logger.warning(_NOT_STARTED)
        if acceptance is Acceptance.DUPLICATE:
            self._duplicates += 1
            return "duplicate"
        self._accepted += 1
        if event.problem is None:
            return "new"
        self._dead_letters += 1
        logger.warning("a signed delivery was stored as a dead letter: %s", event.problem)
        return "dead letter"

    def _refuse_unsigned(
        self, problem: SignatureError, reply: Reply, peer: object, length: int | None, seconds: float | None = None
    ) -> Reply:
        self._store.refused(problem.reason)
        facts = {"length": length, "key_ids": problem.key_ids, "advice": str(problem)}
        return self._reports.refused(problem.reason, reply, peer, seconds, **facts)
