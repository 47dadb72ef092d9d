"""The admin port: health, readiness, metrics, refusals and the console."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import HttpVersion11, web

from rewards_core.install_hint import install_hint
from webhooks.cli.hosts import AllowedHosts, from_another_site, is_address
from webhooks.cli.refusal_lists import to_json
from webhooks.cli.sockets import open_tcp, url_of
from webhooks.ingress.acceptor import Acceptor
from webhooks.ingress.base import Reply, StreamReply
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits

if TYPE_CHECKING:
    from rewards_core.secrets import Secret
    from webhooks.cli.settings import AdminSettings, ListenerSettings
    from webhooks.console.console import Console
    from webhooks.console.watched import Readiness, Watched
    from webhooks.refusals import Refusal, Refusals
    from webhooks.store.base import Store

ADMIN_LIMITS = ServerLimits(connections=32, connections_per_peer=1_000, answer_seconds=10.0)  # one machine may send all requests
_OPEN_PATHS = frozenset({"/healthz", "/readyz"})

_WRONG_METHOD = Reply(status=405, headers={"Allow": "GET, HEAD"}, close=True)
_CROSS_SITE = Reply(status=403, body=b"Pages of other sites may not send requests here.\n")
_NO_HOST = Reply(status=400, body=b"The Host header is missing.\n")
_WRONG_HOST = Reply(status=421, body=b"This port does not serve this host name. Allow it with --admin-allow-host.\n")
_NO_TOKEN = Reply(status=401, headers={"WWW-Authenticate": "Bearer"}, body=b"Send the admin token.\n")
_NO_CONSOLE_TOKEN = Reply(
    status=401, headers={"WWW-Authenticate": "Bearer"}, body=b"Open the link that was printed at the start.\n"
)
_NOT_FOUND = Reply(status=404, body=b"There are /healthz, /readyz, /metrics and /refused, and with --console /console/.\n")


class Monitored(Protocol):
    """What the admin port shows: a listener or a supervisor."""

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now."""
        ...

    async def metrics(self) -> bytes | None:
        """Return the metrics; None if the extra `metrics` is not installed."""
        ...

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals, newest first."""
        ...


class AdminServer(HardenedServer):
    """Serve health, readiness, metrics, refusals and perhaps a console, as hardened as the port for deliveries.

    Otherwise strangers who only hold connections to this port would use up the files that deliveries need.
    """

    def __init__(
        self,
        monitored: Monitored,
        token: Secret | None,
        hosts: AllowedHosts,
        refusals: Refusals,
        console: Console | None = None,
    ) -> None:
        super().__init__({}, limits=ADMIN_LIMITS, refusals=refusals)
        self._monitored = monitored
        self._token = token
        self._hosts = hosts
        self._console = console

    async def _answer(self, request: web.BaseRequest, connection: Any) -> Reply:
        path, _, query = request.raw_path.partition("?")
        refusal = self._refusal(request, path)
        reply = await self._get(path, query) if refusal is None else refusal[1]
        if reply is _NOT_FOUND:
            refusal = "admin_path", reply
        if refusal is not None:
            self.refusals.note(refusal[0], connection.peer, status=reply.status, method=request.method, path=path)
        if request.method == "HEAD":
            if isinstance(reply, StreamReply):
                await reply.frames.aclose()
            return Reply(status=reply.status, headers=reply.headers, close=reply.close)
        return reply

    async def _get(self, path: str, query: str) -> Reply:
        console = self._console_at(path)
        return await _get(self._monitored, path) if console is None else await console.answer(path, query) or _NOT_FOUND

    def _console_at(self, path: str) -> Console | None:
        return self._console if self._console is not None and self._console.owns(path) else None

    def _refusal(self, request: web.BaseRequest, path: str) -> tuple[str, Reply] | None:
        """Return why a request is refused, and the reply; None if it is not."""
        if request.method not in {"GET", "HEAD"}:
            return "admin_method", _WRONG_METHOD
        if from_another_site(request.headers.get("Sec-Fetch-Site")):
            return "admin_site", _CROSS_SITE
        given = request.headers.getall("Host", ())
        if not given and request.version >= HttpVersion11:
            return "admin_host", _NO_HOST
        host, is_open = "".join(given), path in _OPEN_PATHS
        if (console := self._console_at(path)) is not None:
            return self._console_refusal(request, console, path, host)
        # A page that rebinds its name does not know the token, and health probes send the machine's address or no host.
        known = _has_token(request, self._token) or (is_open and (not host or is_address(host)))
        if not known and not self._hosts.allow(host, request.get_extra_info("sockname")):
            return "admin_host", _WRONG_HOST
        if not known and not is_open and self._token is not None:
            return "admin_token", _NO_TOKEN
        return None

    def _console_refusal(self, request: web.BaseRequest, console: Console, path: str, host: str) -> tuple[str, Reply] | None:
        """Return why a request to the console is refused, even with a token, and the reply; None if it is not."""
        if not self._hosts.allow(host, request.get_extra_info("sockname")):
            return "admin_host", _WRONG_HOST
        if console.is_open(path) or _has_token(request, console.token) or _has_token(request, self._token):
            return None
        return "console_token", _NO_CONSOLE_TOKEN


def console_of(watched: Watched, store: Store, settings: ListenerSettings) -> Console | None:
    """Return the console of a listener, None if it has none."""
    if not settings.console:
        return None
    from webhooks.console.console import Console  # noqa: PLC0415 - few listeners have one

    return Console(watched, store, settings.store)


async def open_admin(
    stack: AsyncExitStack,
    monitored: Monitored,
    settings: AdminSettings | None,
    token: Secret | None,
    refusals: Refusals,
    console: Console | None = None,
) -> dict[str, str]:
    """Serve the admin port until the stack is closed; return its URL as `admin` and the link of its console as `console`.

    Nothing is served if `settings` is None.
    """
    if settings is None:
        return {}
    server = AdminServer(monitored, token, settings.hosts(), refusals, console)
    if console is not None:
        await console.load()
    acceptor = Acceptor(server, None, limits=ADMIN_LIMITS, refusals=refusals)
    sockets = await open_tcp(settings.host, settings.port)
    stack.push_async_callback(server.drain, ADMIN_LIMITS.linger_seconds)
    stack.push_async_callback(acceptor.aclose)
    acceptor.open(sockets)
    url = url_of("http", sockets[0])
    if console is None:
        return {"admin": url}
    stack.push_async_callback(console.aclose)  # its feeds end before the server drains
    return {"admin": url, "console": console.link(url, settings.token_file)}


async def _get(monitored: Monitored, path: str) -> Reply:
    if path == "/healthz":
        return Reply(status=200, body=b"ok\n")
    if path == "/readyz":
        found = await monitored.readiness()
        lines = [*(["ready"] if found.ready else []), *found.reasons]
        return Reply(status=200 if found.ready else 503, body="".join(f"{line}\n" for line in lines).encode())
    if path == "/metrics":
        text = await monitored.metrics()
        if text is None:
            hint = await asyncio.to_thread(install_hint, "metrics")  # it reads files
            return Reply(status=501, body=f"Metrics need the package prometheus-client. Run {hint}.\n".encode())
        return Reply(status=200, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, body=text)
    if path == "/refused":
        refused = json.dumps({"refused": to_json(await monitored.refused())})
        return Reply(status=200, headers={"Content-Type": "application/json"}, body=refused.encode())
    return _NOT_FOUND


def _has_token(request: web.BaseRequest, token: Secret | None) -> bool:
    if token is None:
        return False
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token.reveal()}".encode())
