"""The listener's back door: health and metrics for machines, and changes to the store for the command line."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from attrs import evolve

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from webhooks.cli.options import LARGEST_ID
from webhooks.ingress.answers import PlainAnswer
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.base import Reply
from webhooks.store.base import EventState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rewards_core.secrets import Secret
    from webhooks.ingress.limits import ArmourLimits

_OPEN = frozenset({"/healthz", "/readyz"})


class Behind(Protocol):
    """What the back door leads to."""

    async def why_not_ready(self) -> str | None:
        """Return why no delivery should be sent here now, None if it should."""
        ...

    async def metrics(self) -> bytes | None:
        """Return the metrics, None if the extra is missing."""
        ...

    async def replay(self, event_ids: Sequence[int]) -> int:
        """Read events again and let their handlers run anew; return how many could be used."""
        ...

    async def retry(self, event_ids: Sequence[int]) -> int:
        """Let dead jobs run again; return of how many events."""
        ...

    async def purge(self, before: float, state: EventState) -> int:
        """Remove events; return how many."""
        ...

    async def watch(self, refs: Sequence[OperationRef]) -> bool:
        """Poll operations until they settle; return whether anybody polls here."""
        ...


class HealthServer(ArmouredServer):
    """Serve health, readiness and metrics on the admin port, with the armour of the port for deliveries.

    Without it strangers who only hold connections to this port would take the files that deliveries need.

    Args:
        behind: The listener.
        token: What a caller must show to see more than health and readiness, None where only this machine can call.
        limits: What one peer may take.
    """

    def __init__(self, behind: Behind, token: Secret | None, *, limits: ArmourLimits) -> None:
        super().__init__({}, limits=limits)
        self._behind = behind
        self._token = token

    async def _answer(self, request: web.BaseRequest, connection: Any) -> web.StreamResponse:  # noqa: ARG002 - see the base class
        path = request.raw_path.partition("?")[0]
        if request.method not in {"GET", "HEAD"}:
            reply = Reply(status=405, headers={"Allow": "GET, HEAD"}, close=True)
        elif self._token is not None and path not in _OPEN and not _shows(request, self._token):
            reply = Reply(status=401, headers={"WWW-Authenticate": "Bearer"}, body=b"Show the admin token.\n")
        else:
            reply = await _seen(self._behind, path)
        return PlainAnswer(reply if request.method != "HEAD" else evolve(reply, body=b""))


def control_app(behind: Behind) -> web.Application:
    """Return what the admin socket serves, whose file only its owner can open: all of the admin port, and changes."""

    async def replay(words: dict[str, Any]) -> dict[str, Any]:
        return {"events": await behind.replay(_numbers(words["ids"]))}

    async def retry(words: dict[str, Any]) -> dict[str, Any]:
        return {"events": await behind.retry(_numbers(words["ids"]))}

    async def purge(words: dict[str, Any]) -> dict[str, Any]:
        return {"events": await behind.purge(float(words["before"]), EventState(words["state"]))}

    async def watch(words: dict[str, Any]) -> dict[str, Any]:
        refs = [OperationRef(*(str(part) for part in (scope, kind, uid))) for scope, kind, uid in words["refs"]]
        return {"polled": await behind.watch(refs)}

    async def look(request: web.Request) -> web.Response:
        reply = await _seen(behind, request.path)
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)

    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_get("/{path:.*}", look)
    for name, change in (("replay", replay), ("retry", retry), ("purge", purge), ("watch", watch)):
        app.router.add_post(f"/{name}", _answering(change))
    return app


async def _seen(behind: Behind, path: str) -> Reply:
    """Return what a path of health, readiness or metrics shows."""
    if path == "/healthz":
        return Reply(status=200, body=b"ok\n")
    if path == "/readyz":
        reason = await behind.why_not_ready()
        return Reply(status=200, body=b"ready\n") if reason is None else Reply(status=503, body=f"{reason}\n".encode())
    if path == "/metrics":
        text = await behind.metrics()
        if text is None:
            return Reply(status=501, body=b"Install rewards-async[metrics] to have metrics.\n")
        return Reply(status=200, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}, body=text)
    return Reply(status=404, body=b"There are /healthz, /readyz and /metrics.\n")


def _answering(change: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await change(await request.json()))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as problem:
            return web.json_response({"error": f"not understood ({type(problem).__name__})"}, status=400)
        except StoreError as problem:
            return web.json_response({"error": str(problem)}, status=503)

    return answer


def _numbers(values: list[Any]) -> list[int]:
    numbers = [int(value) for value in values]
    if not all(0 <= number <= LARGEST_ID for number in numbers):
        raise ValueError("an id that no event can have")
    return numbers


def _shows(request: web.BaseRequest, token: Secret) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token.reveal()}".encode())
