"""The base of both sandboxes: a server with a log of requests, and the faults that hit them."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web
from attrs import field, frozen
from yarl import URL

from vendor_sandboxes.faults import NO_FAULT, FaultPlan
from vendor_sandboxes.scheduler import Scheduler

if TYPE_CHECKING:
    from vendor_sandboxes.options import SandboxOptions

BOOKS_PATH = "/_sandbox/books"
# The fault of the request of the running task; older versions of aiohttp have no typed storage in a request.
FAULT: ContextVar[str] = ContextVar("fault")
_HIDDEN_QUERY = frozenset({"api_key", "api_secret"})
_NOT_FOUND_PAGE = """<!doctype html>
<html lang="en">
<head><title>Not Found</title></head>
<body><h1>Not Found</h1><p>The requested resource was not found on this server.</p></body>
</html>
"""


@frozen(kw_only=True)
class ReceivedRequest:
    """One received request.

    Attributes:
        method: The HTTP method.
        path: The raw path without the query.
        query: The query; values of credentials are hidden.
        headers: Lower-case names of the headers; their values hold credentials and are not kept.
        body: The raw body.
        fault: The fault that hit it, or `"none"`.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: frozenset[str]
    body: bytes = field(repr=False)
    fault: str

    def json(self) -> Any:
        """Return the body parsed."""
        return json.loads(self.body)


def json_reply(text: str | bytes, status: int = 200) -> web.Response:
    """Return a reply with this JSON text."""
    body = text if isinstance(text, bytes) else text.encode()
    return web.Response(body=body, status=status, content_type="application/json")


def no_such_route() -> web.Response:
    """Return the page of an unknown route."""
    return web.Response(text=_NOT_FOUND_PAGE, status=404, content_type="text/html")


class Sandbox(ABC):
    """A vendor on its own port, inside `async with`.

    Args:
        options: The faults, read for every request.
        host: Address to listen on.
        port: Port to listen on, 0 for any free one.
        seed: Equal seeds give equal faults.
        clock: Returns Unix time.

    Attributes:
        port: The port it was made with.
        requests: The latest requests.
        request_counts: The number of requests of each method.
        under_way: The number of requests that are being answered, even if the caller has gone.
    """

    prefix = ""
    options_type: type[SandboxOptions]

    def __init__(
        self,
        options: SandboxOptions,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.plan = FaultPlan(options, seed)
        self.requests: deque[ReceivedRequest] = deque(maxlen=100_000)
        self.request_counts: Counter[str] = Counter()
        self.under_way = 0
        self.scheduler = Scheduler(self.changed)
        self._options = options
        self._host = host
        self.port = port
        self._clock = clock
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def origin(self) -> str:
        """The address without a path, such as `http://127.0.0.1:9400`."""
        if self._runner is None:
            raise RuntimeError("the sandbox is not running: use it inside `async with`")
        host, port = self._runner.addresses[0][:2]
        return str(URL.build(scheme="http", host=host, port=port))

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return self.origin + self.prefix

    def script(self, *faults: str, method: str = "POST", path: str = "") -> None:
        """Set one fault for each of the next requests; these come before any random faults.

        Args:
            faults: Names of options such as `"drop_after_commit"`, or `"none"` for a request without a fault.
            method: Only requests with this method use up a fault.
            path: Only requests whose path contains this text use up a fault.

        Raises:
            ValueError: a name is not that of a fault that can hit a request.
        """
        self.plan.script(*faults, method=method, path=path)

    async def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until `condition()` is true; it is checked after each request, answer, confirmation and webhook.

        Raises:
            TimeoutError: it is not true within `timeout` seconds.
        """
        if condition():
            return
        waiter = (condition, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        finally:
            self._waiters.remove(waiter)

    @property
    def busy(self) -> bool:
        """Whether a request, or what it caused, is pending."""
        return bool(self.under_way or self.scheduler.pending)

    async def quiet(self, timeout: float = 30.0) -> None:
        """Wait, for at most `timeout` seconds, until no request, confirmation or webhook is pending."""
        await self.until(lambda: not self.busy, timeout)

    def changed(self) -> None:
        """Check the conditions of `until`."""
        for condition, waiting in self._waiters:
            if not waiting.done() and condition():
                waiting.set_result(None)

    async def start(self) -> None:
        """Listen."""
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port, backlog=1024).start()

    async def aclose(self) -> None:
        """Stop listening; slow replies end at once, and pending operations stay pending."""
        self._closing.set()
        self.scheduler.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @abstractmethod
    def books(self) -> dict[str, Any]:
        """Return the vendor's state as plain JSON values."""

    @abstractmethod
    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request; `path` is raw and without the prefix."""

    @abstractmethod
    def overloaded(self) -> web.Response:
        """Return the vendor's 503."""

    @abstractmethod
    def throttled(self, retry_after: str) -> web.Response:
        """Return the vendor's 429."""

    async def pause(self, length: float) -> None:
        """Wait this many seconds, or until the sandbox closes."""
        if length > 0:
            try:
                async with asyncio.timeout(length):
                    await self._closing.wait()
            except TimeoutError:
                pass

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read() if request.can_read_body else b""
        path = request.rel_url.raw_path
        if path == BOOKS_PATH:
            return json_reply(json.dumps(self.books()))
        method = request.method
        fault = self.plan.for_request(method, path)
        FAULT.set(fault)
        self.under_way += 1
        try:
            self._log(request, path, body, fault)
            if self._options.latency is not None:
                await self.pause(self.plan.between("latency", self._options.latency))
            response = await self._answered(request, path, body, fault)
        finally:
            self.under_way -= 1
            self.changed()
        if response is None:
            request.protocol.force_close()
            return web.Response()
        response.headers["Date"] = formatdate(self._clock(), usegmt=True)
        return response

    async def _answered(self, request: web.BaseRequest, path: str, body: bytes, fault: str) -> web.Response | None:
        if fault == "p429":
            return self.throttled(f"{self._options.retry_after:g}")
        if fault == "p503":
            return self.overloaded()
        if fault == "drop_before_commit":
            return None
        if path.startswith(self.prefix + "/"):
            response = await self.answer(request.method, path[len(self.prefix) :], request, body)
        else:
            response = no_such_route()
        if fault == NO_FAULT:
            return response
        if fault == "p503_after_commit":
            return self.overloaded()
        if fault == "drop_after_commit":
            return None
        self.changed()
        await self.pause(self._options.slow_seconds)
        return response

    def _log(self, request: web.BaseRequest, path: str, body: bytes, fault: str) -> None:
        query = request.rel_url.query if request.rel_url.raw_query_string else {}
        self.requests.append(
            ReceivedRequest(
                method=request.method,
                path=path,
                query={name: "[hidden]" if name in _HIDDEN_QUERY else value for name, value in query.items()},
                headers=frozenset(name.lower() for name in request.headers),
                body=body,
                fault=fault,
            )
        )
        self.request_counts[request.method] += 1
        self.changed()
