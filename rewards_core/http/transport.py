"""Calls over aiohttp: the sessions, one attempt, and whether its request was ever sent."""

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

from rewards_core.backoff import RetryPolicy, parse_http_date
from rewards_core.errors import ClientClosed
from rewards_core.http.calls import Call
from rewards_core.http.failures import Failure, FailureKind
from rewards_core.http.messages import MAX_REPLY, Answer, Authorizer, Effect, Headers, Refusal, Request
from rewards_core.http.time_limits import TimeLimits
from rewards_core.http.timeouts import Timeouts
from rewards_core.observe import Observers
from rewards_core.rate import Limiter, Limits
from rewards_core.secrets import without_frames
from rewards_core.validation import check_callable, check_instance, check_timeout, setting

if TYPE_CHECKING:
    from rewards_core.operations import MaySend

T = TypeVar("T")

Session = aiohttp.ClientSession
"""The type of a borrowed session, for modules that may not import aiohttp."""

KEEP_IDLE = 4.0
"""Seconds that an idle connection is kept open."""
KEEP_IDLE_BARE = 1.0
"""The same for bare writes, whose outcome is unknown if the vendor closes the connection just then."""

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
_BAD_ADDRESS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "no address for the host name"),
    (aiohttp.ClientSSLError, "no trusted TLS connection"),
    (aiohttp.ConnectionTimeoutError, "no connection in time"),
    (aiohttp.ClientHttpProxyError, "the proxy refused to connect"),
    (aiohttp.ClientConnectorError, "no connection"),
    (TimeoutError, "no answer in time"),
    (aiohttp.ClientResponseError, "the answer is not HTTP"),
    (aiohttp.ClientPayloadError, "the answer was cut off or cannot be decompressed"),
)
"""The first entry that matches says what happened."""
_CONNECT = ("aiohttp.connector", "connect")
_FOREIGN = frozenset({"aiohttp.client_middlewares", "aiohttp.tracing"})
"""Modules that run the caller's hooks and middlewares around a request."""


class Transport:
    """The calls of one client to one base URL.

    Args:
        vendor: The vendor's name, for messages.
        base_url: The address that every path is appended to.
        authorizer: The source of the headers.
        refusal: Reads the vendor's error bodies; never raises.
        session: A session to borrow, which is never closed here; by default the transport owns its sessions.
        timeouts: Seconds per call and attempt.
        retry: How often a call is attempted.
        limits: How many calls run at once, and how fast they start.
        observers: Objects that are notified of each call.
        random: Returns a number from 0 to 1.

    Raises:
        TypeError: a setting or the session has the wrong type.
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
        self._usual_timeout = self._timeout(self.timeouts.read)
        self._time_limits = TimeLimits()
        self._last_date: tuple[str, float] = ("", 0.0)

    def __repr__(self) -> str:
        return f"<Transport to {self.vendor} at {self._base}>"

    def url(self, *parts: str, query: Mapping[str, str] | None = None) -> URL:
        """Return the URL of a path below the base URL, with parts and query escaped."""
        path = "/".join([part if part.isalnum() and part.isascii() else quote(part, safe="") for part in parts])
        text = f"{self._base}/{path}"
        if query:
            text += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
        return URL(text, encoded=True)

    def deadline(self, timeout: float | None = None) -> float:
        """Return when a call that begins now must end, in the running loop's time; None is `timeouts.total`."""
        seconds = self.timeouts.total if timeout is None else check_timeout(timeout)
        return asyncio.get_running_loop().time() + seconds

    def vendor_time(self, moment: float) -> float | None:
        """Return the earliest Unix time that the vendor's clock can have shown at a moment of the running loop's time.

        It comes from the Date header of the last answer, which is cut to seconds; None if that had none.
        """
        date, received = self._last_date
        sent = parse_http_date(date)
        return None if sent is None else sent - (received - moment)

    def same_origin(self, link: str, asked: URL) -> URL | None:
        """Return the URL of a link in an answer, at the origin of the request; None if it leads to another host.

        A vendor behind a proxy often writes links with its internal scheme or port, so only path and query are used.
        """
        try:
            url = asked.join(URL(link))
            if url.host != asked.host:
                return None
            return asked.origin().join(url.relative())
        except ValueError:
            return None

    def call(self, request: Request[T]) -> Coroutine[Any, Any, T]:
        """Make one logical call; it raises a `VendorError` as the table of answers says for the request's effect."""
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
        """Make one logical call that reads; it raises as `call`."""
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
        """Close the owned sessions; idempotent. A forked child leaves the parent's connections open.

        Raises:
            ClientClosed: connections are open in another event loop; close the client where it was used.
        """
        if self._owned and self._pid == os.getpid() and self._loop is not asyncio.get_running_loop():
            raise ClientClosed(
                f"{self.vendor}: aclose() was called in another event loop. Close the client in the event loop that used it."
            )
        self._closed = True
        owned, self._owned = self._owned, {}
        if self._pid == os.getpid():
            for session in owned.values():
                await session.close()

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        """Send one attempt and read its answer."""
        if (reason := self.unusable()) is not None:
            return Failure(FailureKind.UNUSABLE, reason)
        if timeout <= 0:
            return Failure(FailureKind.TOO_LATE, "no time left to send it")
        session = self._borrowed or self._session(bare=request.effect is Effect.BARE)
        response: aiohttp.ClientResponse | None = None
        sent_once = _sent_once(session, request)
        try:
            with self._time_limits.limit(min(timeout, self.timeouts.read)):
                response = await session.request(
                    request.method,
                    request.url,
                    data=request.body,
                    headers=headers.fields,
                    allow_redirects=False,
                    raise_for_status=False,
                    timeout=self._usual_timeout if timeout >= self.timeouts.read else self._timeout(timeout),
                    **sent_once,
                )
                try:
                    length = response.content_length
                    if length is None or "Content-Encoding" in response.headers:
                        content = await self._content(response, request.max_reply)
                    else:
                        content = await response.read() if length <= request.max_reply else None
                finally:
                    if response.connection is not None:  # the body was not read to its end
                        response.close()
        except asyncio.CancelledError as problem:
            request.maybe_sent = not _had_no_connection(problem)
            response = None  # the answer may echo credentials
            without_frames(problem)
            raise
        except _Lost as lost:
            return self._failed(lost.problem)
        except Exception as problem:  # noqa: BLE001 - any error counts as sent unless it proves the opposite
            return self._failed(problem)
        if content is None:
            return Failure(FailureKind.UNREADABLE, f"the answer is longer than {request.max_reply} bytes", response.status)
        self._last_date = (response.headers.get("Date", ""), asyncio.get_running_loop().time())
        return Answer(response.status, response.headers, content)

    def unusable(self) -> str | None:
        """Return why no request can be sent, or None."""
        if self._closed:
            return "the client was closed"
        if self._pid != os.getpid():
            return "the client was made before this process was forked; make one client in each process"
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            return "the client belongs to another event loop; make one client in each loop"
        if self._borrowed is not None and self._borrowed.closed:
            return "the borrowed session was closed"
        return None

    def _failed(self, problem: Exception) -> Failure:
        if _had_no_connection(problem):
            return Failure(FailureKind.NOT_SENT, _reason(problem))
        if _is_mistake(problem):
            return Failure(FailureKind.MISCONFIGURED, self._mistake(problem))
        return Failure(FailureKind.UNANSWERED, _reason(problem))

    def _mistake(self, problem: Exception) -> str:
        """Return what the user must correct. The text of the error is left out, because it may hold headers."""
        if isinstance(problem, _BAD_ADDRESS):
            return f"{self._base} is not a usable address. Correct the base URL"
        if self._borrowed is not None:
            return (
                f"the borrowed session does not accept the client's headers ({type(problem).__name__}). Make it without auth=, "
                "and without trust_env=True if netrc has an entry for this host"
            )
        return f"the request cannot be built ({type(problem).__name__}). Check the client's settings"

    @staticmethod
    async def _content(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
        """Read a body of unknown length; return None for one that is too long."""
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
        """Return aiohttp's timeouts. Connecting times out before the attempt, so that the error shows that nothing was sent."""
        connect = min(self.timeouts.connect, seconds * 0.9)
        return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=float("inf"))


class _Lost(Exception):
    """The connection of a write was lost, in a form that aiohttp does not take for a reason to send it again."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.problem = problem


async def _never_again(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as problem:
        raise _Lost(problem) from None


def _sent_once(session: aiohttp.ClientSession, request: Request[Any]) -> dict[str, Any]:
    """Return the arguments with which aiohttp sends a request once.

    It sends a PUT again by itself after a lost connection, below our count of attempts: the answer to the second one would hide
    that the first may have arrived.
    """
    if request.effect is Effect.READ or request.method != "PUT":
        return {}
    return {"middlewares": (*getattr(session, "_middlewares", ()), _never_again)}  # those of a borrowed session stay in force


def _had_no_connection(problem: BaseException) -> bool:
    """Return whether an attempt failed before it had a connection (name look-up, proxy and TLS included), so nothing was sent.

    The error must come from this request's own connect: a hook or middleware of a borrowed session may fail to connect elsewhere,
    or on a second try, after the request was sent.
    """
    frames = _frames(problem)
    if _CONNECT in frames:
        frames = frames[: frames.index(_CONNECT)]
    elif not isinstance(problem, _NOT_SENT):
        return False
    return not any(module in _FOREIGN for module, _ in frames)


def _is_mistake(problem: Exception) -> bool:
    """Return whether the session refused the request before connecting: a bad address, a second Authorization, a failing hook.

    A ValueError from deeper down, such as a hook after the answer, may come after the request was sent.
    """
    frames = _frames(problem)
    if isinstance(problem, _BAD_ADDRESS) or ("aiohttp.tracing", "send_request_start") in frames:
        return True
    return isinstance(problem, ValueError) and [module for module, _ in frames][-1:] == ["aiohttp.client"]


def _frames(problem: BaseException) -> list[tuple[str, str]]:
    """Return module and function of each frame on an error's traceback, the one that raised it last."""
    if isinstance(problem, TimeoutError) and isinstance(problem.__cause__, asyncio.CancelledError):
        problem = problem.__cause__  # a timeout: where the attempt was cancelled
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in walk_tb(problem.__traceback__)]


def _reason(problem: Exception) -> str:
    """Return what happened, without the text of a foreign error, which may hold headers."""
    words = next((words for kind, words in _REASONS if isinstance(problem, kind)), "the connection was lost")
    status = f"HTTP {problem.status}, " if isinstance(problem, aiohttp.ClientHttpProxyError) else ""
    return f"{words} ({status}{type(problem).__name__})"
