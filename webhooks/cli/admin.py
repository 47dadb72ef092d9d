"""The admin port: health, readiness, metrics and refusals."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import HttpVersion11, web
from attrs import evolve, frozen

from webhooks.cli.hosts import Hosts, from_another_site, is_address
from webhooks.cli.refusal_lists import to_json
from webhooks.cli.sockets import open_tcp, url_of
from webhooks.ingress.answers import PlainAnswer
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.base import Reply
from webhooks.ingress.gate import Gate
from webhooks.ingress.limits import ArmourLimits

if TYPE_CHECKING:
    from rewards_core.secrets import Secret
    from webhooks.cli.settings import AdminSettings
    from webhooks.refusals import Refusal, Refusals

ADMIN_LIMITS = ArmourLimits(connections=32, connections_per_peer=1_000)  # one machine may ask from one address
_OPEN = frozenset({"/healthz", "/readyz"})

_WRONG_METHOD = Reply(status=405, headers={"Allow": "GET, HEAD"}, close=True)
_ANOTHER_SITE = Reply(status=403, body=b"A page of another site may not ask here.\n")
_NO_HOST = Reply(status=400, body=b"Name this host in a Host header.\n")
_ANOTHER_HOST = Reply(status=421, body=b"This port is not asked by this name. Add the name with --admin-allow-host.\n")
_NO_TOKEN = Reply(status=401, headers={"WWW-Authenticate": "Bearer"}, body=b"Show the admin token.\n")
_NOWHERE = Reply(status=404, body=b"There are /healthz, /readyz, /metrics and /refused.\n")


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

    async def refused(self) -> Sequence[Refusal]:
        """Return what was refused last, newest first."""
        ...


class HealthServer(ArmouredServer):
    """Serve health, readiness, metrics and refusals on the admin port, with the armour of the port for deliveries.

    Without it strangers who only hold connections to this port would take the files that deliveries need.

    Args:
        watched: The listener.
        token: What a caller must show to see more than health and readiness, None where only this machine can call.
        hosts: The names that it is asked by.
        limits: What one peer may take.
        refusals: Where it counts and keeps what it refuses.
    """

    def __init__(self, watched: Watched, token: Secret | None, hosts: Hosts, *, limits: ArmourLimits, refusals: Refusals) -> None:
        super().__init__({}, limits=limits, refusals=refusals)
        self._watched = watched
        self._token = token
        self._hosts = hosts

    async def _answer(self, request: web.BaseRequest, connection: Any) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        refusal = self._why_not(request, path)
        reply = await _seen(self._watched, path) if refusal is None else refusal[1]
        if reply is _NOWHERE:
            refusal = "admin_path", reply
        if refusal is not None:
            self.refusals.note(refusal[0], connection.peer, status=reply.status, method=request.method, path=path)
        return PlainAnswer(reply if request.method != "HEAD" else evolve(reply, body=b""))

    def _why_not(self, request: web.BaseRequest, path: str) -> tuple[str, Reply] | None:
        """Return why a request is refused, and what to answer; None for one that is not."""
        if request.method not in {"GET", "HEAD"}:
            return "admin_method", _WRONG_METHOD
        if from_another_site(request.headers.get("Sec-Fetch-Site")):
            return "admin_site", _ANOTHER_SITE
        given = request.headers.getall("Host", ())
        if not given and request.version >= HttpVersion11:
            return "admin_host", _NO_HOST
        host, is_open = "".join(given), path in _OPEN
        # A page that rebinds its name knows no token, and a probe of health names the machine by its address, if at all.
        known = _shows(request, self._token) or (is_open and (not host or is_address(host)))
        if not known and not self._hosts.hold(host, request.get_extra_info("sockname")):
            return "admin_host", _ANOTHER_HOST
        if not known and not is_open and self._token is not None:
            return "admin_token", _NO_TOKEN
        return None


async def open_admin(
    stack: AsyncExitStack, watched: Watched, settings: AdminSettings | None, token: Secret | None, refusals: Refusals
) -> dict[str, str]:
    """Serve the admin port until the stack is closed, and return its URL as `admin`; nothing where there is none.

    Raises:
        OSError: the address cannot be had.
    """
    if settings is None:
        return {}
    health = HealthServer(watched, token, settings.hosts(), limits=ADMIN_LIMITS, refusals=refusals)
    gate = Gate(health, None, limits=ADMIN_LIMITS, refusals=refusals)
    sockets = await open_tcp(settings.host, settings.port)
    stack.push_async_callback(health.drain, ADMIN_LIMITS.linger_seconds)
    stack.push_async_callback(gate.aclose)
    gate.open(sockets)
    return {"admin": url_of("http", sockets[0])}


async def _seen(watched: Watched, path: str) -> Reply:
    """Return what a path shows."""
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
    if path == "/refused":
        refused = json.dumps({"refused": to_json(await watched.refused())})
        return Reply(status=200, headers={"Content-Type": "application/json"}, body=refused.encode())
    return _NOWHERE


def _shows(request: web.BaseRequest, token: Secret | None) -> bool:
    if token is None:
        return False
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token.reveal()}".encode())
