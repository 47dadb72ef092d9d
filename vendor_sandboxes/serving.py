"""What both sandboxes share: a server on loopback, its log of requests, and faults that hit them."""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Self

from aiohttp import web
from attrs import field, frozen
from yarl import URL

from vendor_sandboxes.agenda import Agenda
from vendor_sandboxes.faults import UNHARMED, FaultPlan, Faults

BOOKS_PATH = "/_sandbox/books"
# The fault of the request that the running task answers; older versions of aiohttp have no typed storage in a request.
FAULT: ContextVar[str] = ContextVar("fault")
_HIDDEN_QUERY = frozenset({"api_key", "api_secret"})
_NOT_FOUND_PAGE = """<!doctype html>
<html lang="en">
<head><title>Not Found</title></head>
<body><h1>Not Found</h1><p>The requested resource was not found on this server.</p></body>
</html>
"""


@frozen(kw_only=True)
class Seen:
    """One request as it arrived.

    Attributes:
        method: The HTTP method.
        path: The path as it was on the wire, escapes kept, without the query.
        query: Names and values of the query; values of credentials are hidden.
        headers: Lower-case names of the headers; values are not kept, they hold credentials.
        body: The raw body.
        fault: The fault that hit it, `"none"` if none did.
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


def json_reply(text: str | bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a reply whose body is this JSON text."""
    body = text if isinstance(text, bytes) else text.encode()
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def no_such_route() -> web.Response:
    """Return the page that stands where no route does."""
    return web.Response(text=_NOT_FOUND_PAGE, status=404, content_type="text/html")


class Sandbox(ABC):
    """A vendor on a port of its own, from `async with` to its end.

    Args:
        host: Address to listen on.
        port: Port to listen on, 0 for any free one.
        switches: The faults, read anew for every request.
        seed: Equal seeds give equal faults.
        clock: Seconds since the epoch.
        log_limit: How many requests `requests` keeps.

    Attributes:
        requests: The latest requests, as they arrived.
        request_counts: How many there were of each method.
        under_way: How many are being answered now, whether or not anybody still waits for the answer.
    """

    prefix = ""

    def __init__(
        self,
        switches: Faults,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        log_limit: int = 100_000,
    ) -> None:
        self.plan = FaultPlan(switches, seed)
        self.requests: deque[Seen] = deque(maxlen=log_limit)
        self.request_counts: Counter[str] = Counter()
        self.under_way = 0
        self.agenda = Agenda(self.changed)
        self._switches = switches
        self._host = host
        self._port = port
        self._clock = clock
        self._runner: web.ServerRunner | None = None
        self._closing = asyncio.Event()
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @property
    def origin(self) -> str:
        """The address without a path, such as `http://127.0.0.1:9400`."""
        if self._runner is None:
            raise RuntimeError("the sandbox is not running: use it inside `async with`")
        host, port = self._runner.addresses[0][:2]
        return str(URL.build(scheme="http", host=host, port=port))

    @property
    def url(self) -> str:
        """The address a client is given."""
        return self.origin + self.prefix

    def script(self, *faults: str, method: str = "POST", path: str = "") -> None:
        """Say what happens to the next requests; see `FaultPlan.script`."""
        self.plan.script(*faults, method=method, path=path)

    async def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait until `condition()` holds.

        It is asked whenever a request arrives or is answered, the chain confirms, or a webhook was tried.

        Raises:
            TimeoutError: it did not hold within `timeout` seconds.
        """
        if condition():
            return
        watcher = (condition, asyncio.get_running_loop().create_future())
        self._watchers.append(watcher)
        try:
            async with asyncio.timeout(timeout):
                await watcher[1]
        finally:
            self._watchers.remove(watcher)

    def changed(self) -> None:
        """Tell those in `until` that something happened."""
        for condition, waiting in self._watchers:
            if not waiting.done() and condition():
                waiting.set_result(None)

    async def start(self) -> None:
        """Listen."""
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=1024).start()

    async def aclose(self) -> None:
        """Stop listening; slow replies end at once and operations under way stay where they are."""
        self._closing.set()
        self.agenda.close()
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
        """Return what the vendor knows, as plain JSON values."""

    @abstractmethod
    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Do what the request asks and say so; `path` is raw and stands below the prefix."""

    @abstractmethod
    def overloaded(self) -> web.Response:
        """Return the vendor's 503."""

    @abstractmethod
    def throttled(self, retry_after: str) -> web.Response:
        """Return the vendor's 429."""

    async def pause(self, length: float) -> None:
        """Wait that many seconds, or until the sandbox closes."""
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
            self._note(request, path, body, fault)
            if self._switches.latency is not None:
                await self.pause(self.plan.between("latency", self._switches.latency))
            response = await self._answered(request, path, body, fault)
        finally:
            self.under_way -= 1
            self.changed()
        if response is None:
            request.protocol.force_close()
            return web.Response()
        return response

    async def _answered(self, request: web.BaseRequest, path: str, body: bytes, fault: str) -> web.Response | None:
        if fault == "p429":
            return self.throttled(f"{self._switches.retry_after:g}")
        if fault == "p503":
            return self.overloaded()
        if fault == "drop_before_commit":
            return None
        if path.startswith(self.prefix + "/"):
            response = await self.answer(request.method, path[len(self.prefix) :], request, body)
        else:
            response = no_such_route()
        if fault == UNHARMED:
            return response
        if fault == "p503_after_commit":
            return self.overloaded()
        if fault == "drop_after_commit":
            return None
        self.changed()
        await self.pause(self._switches.slow_seconds)
        return response

    def _note(self, request: web.BaseRequest, path: str, body: bytes, fault: str) -> None:
        query = request.rel_url.query if request.rel_url.raw_query_string else {}
        self.requests.append(
            Seen(
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
