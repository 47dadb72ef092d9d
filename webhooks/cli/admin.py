"""The listener's back door: health and metrics for machines, and changes to the store for the command line."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from vendor_http.operations import OperationRef
from webhooks.errors import StoreError
from webhooks.store.base import EventState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vendor_http.secrets import Secret

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


def health_app(behind: Behind, token: Secret | None) -> web.Application:
    """Return what the admin port serves: health, readiness, metrics.

    Args:
        behind: The listener.
        token: What a caller must show to see more than health and readiness, None where only this machine can call.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        if token is not None and request.path not in _OPEN and not _shows(request, token):
            return web.Response(status=401, text="Show the admin token.\n", headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    app = web.Application(middlewares=[guard])
    _add_health(app, behind)
    return app


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

    app = web.Application(client_max_size=16 * 1024 * 1024)
    _add_health(app, behind)
    for name, change in (("replay", replay), ("retry", retry), ("purge", purge), ("watch", watch)):
        app.router.add_post(f"/{name}", _answering(change))
    return app


def _add_health(app: web.Application, behind: Behind) -> None:
    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = await behind.why_not_ready()
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def metrics(_: web.Request) -> web.Response:
        text = await behind.metrics()
        if text is None:
            return web.Response(status=501, text="Install rewards-async[metrics] to have metrics.\n")
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)


def _answering(change: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        try:
            return web.json_response(await change(await request.json()))
        except (ValueError, KeyError, TypeError) as problem:
            return web.json_response({"error": f"not understood ({type(problem).__name__})"}, status=400)
        except StoreError as problem:
            return web.json_response({"error": str(problem)}, status=503)

    return answer


def _numbers(values: list[Any]) -> list[int]:
    return [int(value) for value in values]


def _shows(request: web.Request, token: Secret) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token.reveal()}".encode())
