"""The admin port: health, readiness and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from attrs import evolve, frozen

from webhooks.cli.sockets import url_of
from webhooks.ingress.answers import PlainAnswer
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.base import Reply
from webhooks.ingress.limits import ArmourLimits

if TYPE_CHECKING:
    from rewards_core.secrets import Secret
    from webhooks.cli.settings import AdminSettings

ADMIN_LIMITS = ArmourLimits(connections=32, connections_per_peer=1_000)  # one machine may ask from one address
_OPEN = frozenset({"/healthz", "/readyz"})


@frozen(kw_only=True)
class Readiness:
    """Whether deliveries should be sent to a listener now.

    Attributes:
        ready: Whether they should.
        reasons: Why not, or what is wrong with a part of it; a line each.
    """

    ready: bool
    reasons: Sequence[str] = ()


class Watched(Protocol):
    """What the admin port tells of."""

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now."""
        ...

    async def metrics(self) -> bytes | None:
        """Return the metrics, None if the extra is missing."""
        ...


class HealthServer(ArmouredServer):
    """Serve health, readiness and metrics on the admin port, with the armour of the port for deliveries.

    Without it strangers who only hold connections to this port would take the files that deliveries need.

    Args:
        watched: The listener.
        token: What a caller must show to see more than health and readiness, None where only this machine can call.
        limits: What one peer may take.
    """

    def __init__(self, watched: Watched, token: Secret | None, *, limits: ArmourLimits) -> None:
        super().__init__({}, limits=limits)
        self._watched = watched
        self._token = token

    async def _answer(self, request: web.BaseRequest, connection: Any) -> web.StreamResponse:  # noqa: ARG002 - see the base class
        path = request.raw_path.partition("?")[0]
        if request.method not in {"GET", "HEAD"}:
            reply = Reply(status=405, headers={"Allow": "GET, HEAD"}, close=True)
        elif self._token is not None and path not in _OPEN and not _shows(request, self._token):
            reply = Reply(status=401, headers={"WWW-Authenticate": "Bearer"}, body=b"Show the admin token.\n")
        else:
            reply = await _seen(self._watched, path)
        return PlainAnswer(reply if request.method != "HEAD" else evolve(reply, body=b""))


async def open_admin(
    stack: AsyncExitStack, watched: Watched, settings: AdminSettings | None, token: Secret | None
) -> dict[str, str]:
    """Serve the admin port until the stack is closed, and return its URL as `admin`; nothing where there is none.

    Raises:
        OSError: the address cannot be had.
    """
    if settings is None:
        return {}
    health = HealthServer(watched, token, limits=ADMIN_LIMITS)
    server = await asyncio.get_running_loop().create_server(health, settings.host, settings.port)
    stack.push_async_callback(health.drain, ADMIN_LIMITS.linger_seconds)
    stack.callback(server.close)
    return {"admin": url_of("http", server.sockets[0])}


async def _seen(watched: Watched, path: str) -> Reply:
    """Return what a path of health, readiness or metrics shows."""
    if path == "/healthz":
        return Reply(status=200, body=b"ok\n")
    if path == "/readyz":
        found = await watched.readiness()
        lines = [*(["ready"] if found.ready else []), *found.reasons]
        return Reply(status=200 if found.ready else 503, body="".join(f"{line}\n" for line in lines).encode())
    if path == "/metrics":
        text = await watched.metrics()
        if text is None:
            return Reply(status=501, body=b"Install rewards-async[metrics] to have metrics.\n")
        return Reply(status=200, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, body=text)
    return Reply(status=404, body=b"There are /healthz, /readyz and /metrics.\n")


def _shows(request: web.BaseRequest, token: Secret) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token.reveal()}".encode())
