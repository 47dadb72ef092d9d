"""Carry calls over aiohttp: sessions and their lives, one attempt, and whether it ever left."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ClientClosed
from rewards_core.http.calls import Call, Met, Trouble
from rewards_core.http.messages import MAX_REPLY, Answer, Authorizer, Effect, Headers, Refusal, Request
from rewards_core.http.timeouts import Timeouts
from rewards_core.observe import Observers
from rewards_core.rate import Limiter, Limits
from rewards_core.secrets import without_frames
from rewards_core.validation import check_callable, check_instance, check_timeout, setting

if TYPE_CHECKING:
    from types import TracebackType

    from rewards_core.operations import MaySend

T = TypeVar("T")

Session = aiohttp.ClientSession
"""What can be borrowed; other modules name it by this, because only this one imports aiohttp."""

KEEP_IDLE = 4.0
"""Seconds an idle connection is kept."""
KEEP_IDLE_BARE = 1.0
"""The same for bare writes: a connection the vendor has just closed would make one unknown for nothing."""

_NEVER_LEFT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_BAD_ADDRESS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_CONNECT = ("aiohttp.connector", "connect")
_STRANGERS = frozenset({"aiohttp.client_middlewares", "aiohttp.tracing"})
"""What runs other people's code around a request."""


class Transport:
    """The calls of one client to one base URL.

    Args:
        vendor: Name for messages.
        base_url: What every path is appended to, without trailing slash.
        authorizer: Where headers come from.
        refusal: Reads the vendor's error bodies; total.
        session: A session to borrow, never closed here; otherwise one is made in the running loop and owned.
        timeouts: Seconds per call and attempt.
        retry: How often a call is tried.
        limits: How much is under way.
        observers: Who watches.
        random: A number from 0 to 1.

    Raises:
        TypeError: a setting or the session is of another type; found now, not in the middle of a call.
    """

    def __init__(
        self,
        *,
        vendor: str,
        base_url: str,
        authorizer: Authorizer,
        refusal: Callable[[Answer], Refusal],
        session: aiohttp.ClientSession | None = None,
        timeouts: Timeouts | None = None,
        retry: RetryPolicy | None = None,
        limits: Limits | None = None,
        observers: Sequence[Any] = (),
        random: Callable[[], float] = random.random,
    ) -> None:
        if session is not None:
            check_instance(session, "session", aiohttp.ClientSession)
        self.vendor = vendor
        self.authorizer = authorizer
        self.refusal = refusal
        self.retry = setting(retry, "retry", RetryPolicy)
        self.timeouts = setting(timeouts, "timeouts", Timeouts)
        limits = setting(limits, "limits", Limits)
        self.limiter = Limiter(limits, random=random)
        self.observers = Observers(observers)
        self.random = check_callable(random, "random")
        self._base = base_url.rstrip("/")
        self._borrowed = session
        self._owned: dict[bool, aiohttp.ClientSession] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closed = False
        self._timer = SharedTimer(self.timeouts.read)
        self._usual_timeout = self._timeout(self.timeouts.read)

    def __repr__(self) -> str:
        return f"<Transport to {self.vendor} at {self._base}>"

    def url(self, *parts: str, query: Mapping[str, str] | None = None) -> URL:
        """Return the address of a path below the base URL; parts and query are escaped."""
        path = "/".join(quote(part, safe="") for part in parts)
        text = f"{self._base}/{path}"
        if query:
            text += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
        return URL(text, encoded=True)

    def deadline(self, timeout: float | None = None) -> float:
        """Return when a logical call that begins now must be over, in the running loop's time.

        Args:
            timeout: Seconds for this call, above 0; None for those of the client's settings.

        Raises:
            TypeError: it is no number.
            ValueError: it is not above 0, or not finite.
        """
        seconds = self.timeouts.total if timeout is None else check_timeout(timeout)
        return asyncio.get_running_loop().time() + seconds

    def same_origin(self, link: str, asked: URL) -> URL | None:
        """Return the address of a link that an answer holds, at the origin that was asked; None if it leads to another host.

        A vendor behind a proxy often writes links with the scheme or port of its inner side, so only their path and query count.
        """
        try:
            url = asked.join(URL(link))
            if url.host != asked.host:
                return None
            return asked.origin().join(url.relative())
        except ValueError:
            return None

    def call(self, request: Request[T]) -> Coroutine[Any, Any, T]:
        """Carry one logical call to its end.

        Raises:
            VendorError: as the table of answers says for the request's effect.
        """
        return Call(self, request).run()

    def get(
        self,
        operation: str,
        url: URL,
        read: Callable[[Answer], T],
        deadline: float,
        *,
        max_reply: int = MAX_REPLY,
        may_send: MaySend | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Read what stands at an address.

        Raises:
            VendorError: as the table of answers says for a read.
        """
        return self.call(
            Request(
                operation=operation,
                method="GET",
                url=url,
                effect=Effect.READ,
                read=read,
                deadline=deadline,
                max_reply=max_reply,
                may_send=may_send,
            )
        )

    async def aclose(self) -> None:
        """Close what is owned; a second time does nothing, and a forked child leaves the parent's connections alone.

        Raises:
            ClientClosed: connections are open in another event loop; close the client where it was used.
        """
        if self._owned and self._pid == os.getpid() and self._loop is not asyncio.get_running_loop():
            raise ClientClosed(f"{self.vendor}: expected aclose() in the event loop the client was used in, got it in another")
        self._closed = True
        owned, self._owned = self._owned, {}
        if self._pid == os.getpid():
            for session in owned.values():
                await session.close()

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Trouble:
        """Send one attempt and read its answer, within the time one attempt has."""
        if (reason := self.unusable()) is not None:
            return Trouble(Met.CLOSED, reason)
        if timeout <= 0:
            return Trouble(Met.NEVER_LEFT, "time ran out before it was sent")
        session = self._borrowed or self._session(bare=request.effect is Effect.BARE)
        response: aiohttp.ClientResponse | None = None
        try:
            with TimeLimit(self._timer, timeout):
                response = await session.request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=headers.fields,
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=self._usual_timeout if timeout >= self.timeouts.read else self._timeout(timeout),
                )
                try:
                    length = response.content_length
                    if length is None or "Content-Encoding" in response.headers:
                        content = await self._content(response, request.max_reply)
                    else:
                        content = await response.read() if length <= request.max_reply else None
                finally:
                    if response.connection is not None:  # it was not read to its end
                        response.close()
        except asyncio.CancelledError as problem:
            request.left = not _had_no_connection(problem)
            response = None  # it may echo credentials
            without_frames(problem)
            raise
        except Exception as problem:  # noqa: BLE001 - what does not surely tell that it never left counts as sent
            return self._failed(problem)
        if content is None:
            return Trouble(Met.UNREADABLE, f"an answer of over {request.max_reply} bytes", response.status)
        return Answer(response.status, response.headers, content)

    def unusable(self) -> str | None:
        """Return why no request can be sent, None if one can."""
        if self._closed:
            return "aclose() was called"
        if self._pid != os.getpid():
            return "the process was forked; make a client in each process"
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            return "another event loop runs; make a client in each loop"
        if self._borrowed is not None and self._borrowed.closed:
            return "its borrowed session was closed"
        return None

    def _failed(self, problem: Exception) -> Trouble:
        if _had_no_connection(problem):
            return Trouble(Met.NEVER_LEFT, _words(problem))
        if _is_mistake(problem):
            return Trouble(Met.MISTAKE, self._mistake(problem))
        return Trouble(Met.UNANSWERED, _words(problem))

    def _mistake(self, problem: Exception) -> str:
        """Return what is wrong here, without the text of a foreign error, which may hold headers."""
        if isinstance(problem, _BAD_ADDRESS):
            return f"the address {self._base} cannot be used; correct the base URL"
        if self._borrowed is not None:
            return (
                "the borrowed session refuses the client's headers; give it no auth=, and no trust_env=True where netrc has an "
                f"entry for this host ({type(problem).__name__})"
            )
        return f"the request cannot be put together ({type(problem).__name__}); check the client's settings"

    @staticmethod
    async def _content(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
        """Read a body of unknown length; return None if it is too long."""
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _session(self, *, bare: bool) -> aiohttp.ClientSession:
        session = self._owned.get(bare)
        if session is None:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE_BARE if bare else KEEP_IDLE),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._owned[bare] = session
        return session

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        """Return the timer of connecting: it always ends before the attempt does, so that a slow connect is known as one."""
        connect = min(self.timeouts.connect, seconds * 0.9)
        return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=float("inf"))


class SharedTimer:
    """One timer for all attempts of a client: a timer for each, as asyncio and aiohttp have it, costs a tenth of a call.

    Args:
        seconds: How long an attempt usually may take. All such attempts share a timer, a shorter one has its own.
    """

    __slots__ = ("due", "seconds", "timer")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.due: dict[TimeLimit, float] = {}  # in the order in which their time is over, as all take equally long
        self.timer: asyncio.TimerHandle | None = None

    def fire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Expire those whose time is over, and wait for the next."""
        self.timer = None
        now = loop.time()
        for limit, due in self.due.items():
            if due > now:
                self.timer = loop.call_at(due, self.fire, loop)
                break
            limit.expire()


class TimeLimit:
    """Bound a body of one task, as `asyncio.timeout` does it; it ends with `TimeoutError`.

    Args:
        shared: The timer of all that take its usual time.
        seconds: How long the body may take.
    """

    __slots__ = ("_cancelled_before", "_expired", "_own_timer", "_seconds", "_shared", "_task")

    def __init__(self, shared: SharedTimer, seconds: float) -> None:
        self._shared = shared
        self._seconds = seconds
        self._expired = False

    def __enter__(self) -> None:
        shared = self._shared
        loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] = asyncio.current_task(loop)  # type: ignore[assignment]  # coroutines run in tasks
        self._cancelled_before = self._task.cancelling()
        self._own_timer: asyncio.TimerHandle | None = None
        if self._seconds < shared.seconds:
            self._own_timer = loop.call_later(self._seconds, self.expire)
            return
        due = shared.due[self] = loop.time() + shared.seconds
        if shared.timer is None:
            shared.timer = loop.call_at(due, shared.fire, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._own_timer is None:
            del self._shared.due[self]  # the timer is left to fire without effect: cancelling it each time is what costs
        else:
            self._own_timer.cancel()
        if self._expired and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the body; leaving it makes a timeout of that, unless somebody else has cancelled the task as well."""
        if not self._expired:
            self._expired = True
            self._task.cancel()


def _had_no_connection(problem: BaseException) -> bool:
    """Return whether an attempt never had a connection: name look-up, proxy and TLS included, nothing can have left.

    The error must come from this request's own way to its connection. A hook or a middleware of a borrowed session may fail to
    connect elsewhere, or have tried again, when the request is long gone.
    """
    way = _frames(problem)
    if _CONNECT in way:
        way = way[: way.index(_CONNECT)]
    elif not isinstance(problem, _NEVER_LEFT):
        return False
    return not any(module in _STRANGERS for module, _ in way)


def _is_mistake(problem: Exception) -> bool:
    """Return whether the session itself refused the request before it connected: its address, a second Authorization, a hook.

    A ValueError from deeper down, such as a hook after the answer, may come when the request is long gone.
    """
    way = _frames(problem)
    if isinstance(problem, _BAD_ADDRESS) or ("aiohttp.tracing", "send_request_start") in way:
        return True
    return isinstance(problem, ValueError) and [module for module, _ in way][-1:] == ["aiohttp.client"]


def _frames(problem: BaseException) -> list[tuple[str, str]]:
    """Return module and function of each frame that an error passed through, the one that raised it last."""
    if isinstance(problem, TimeoutError) and isinstance(problem.__cause__, asyncio.CancelledError):
        problem = problem.__cause__  # an attempt that was cut short: where it stood then
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in walk_tb(problem.__traceback__)]


def _words(problem: Exception) -> str:
    """Return what happened without the text of a foreign error, which may hold headers."""
    kind = type(problem).__name__
    if isinstance(problem, aiohttp.ClientConnectorDNSError):
        return f"no address for the host ({kind})"
    if isinstance(problem, aiohttp.ClientSSLError):
        return f"no trusted TLS connection ({kind})"
    if isinstance(problem, aiohttp.ConnectionTimeoutError):
        return f"no connection in time ({kind})"
    if isinstance(problem, aiohttp.ClientHttpProxyError):
        return f"the proxy refused to connect, HTTP {problem.status} ({kind})"
    if isinstance(problem, aiohttp.ClientConnectorError):
        return f"no connection ({kind})"
    if isinstance(problem, TimeoutError):
        return f"no answer in time ({kind})"
    if isinstance(problem, aiohttp.ClientResponseError):
        return f"an answer that is no HTTP ({kind})"
    if isinstance(problem, aiohttp.ClientPayloadError):
        return f"an answer that broke off or cannot be unpacked ({kind})"
    return f"a broken connection ({kind})"
