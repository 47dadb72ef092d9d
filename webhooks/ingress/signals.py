"""End what requests wait for when the server is told to stop.

A server such as uvicorn waits for its open requests before it tells the application to shut down, so a request inside a long
`wait` would hold it up for as long.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rewards_core.validation import check_methods
from webhooks.ingress.base import A_CLOSABLE, Closable

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def close_on_signal(*completions: Closable) -> AsyncIterator[None]:
    """Close `Completions` as soon as a signal tells the server to stop; their waits raise `CompletionsClosed`.

    Use it in the lifespan of an application of FastAPI, Starlette or another ASGI framework, inside `async with` of what it
    closes. The server's own handlers of SIGTERM and SIGINT run as ever, and are put back at the end. Outside the main thread,
    where no signal arrives, it does nothing.

    Args:
        completions: What to close.

    Raises:
        TypeError: one of them cannot be closed.
    """
    for one in completions:
        check_methods(one, "completions", A_CLOSABLE, Closable)
    told = asyncio.Event()
    put_back = _wrap_handlers(asyncio.get_running_loop(), told.set)
    closer = asyncio.create_task(_close(told, completions), name="the closing of completions at a signal")
    try:
        yield
    finally:
        put_back()
        if not told.is_set():
            closer.cancel()
        await asyncio.gather(closer, return_exceptions=True)


async def _close(told: asyncio.Event, completions: tuple[Closable, ...]) -> None:
    await told.wait()
    for one in completions:
        try:
            await one.aclose()
        except Exception:
            logger.exception("completions could not be closed at a signal; open waits hold up the server until they end")


def _wrap_handlers(loop: asyncio.AbstractEventLoop, tell: Callable[[], None]) -> Callable[[], None]:
    """Let each handler of a signal tell first; return what puts them back. A default that ends the process stays as it is."""
    wrapped: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        def handle(number: int, frame: Any) -> Any:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell)
            return handler(number, frame)

        return handle

    def put_back() -> None:
        for number, (handler, installed) in wrapped.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, installed)

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            installed = signal.getsignal(number)
            if callable(installed):
                wrapped[number] = (wrap(installed), installed)
                signal.signal(number, wrapped[number][0])
    return put_back
