"""Close completions when a signal tells the server to stop.

A server such as uvicorn waits for open requests before it shuts the application down, so a request inside a long `wait` would
delay the shutdown.
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


@asynccontextmanager
async def close_on_signal(*completions: Closable) -> AsyncIterator[None]:
    """Close `Completions` as soon as a signal tells the server to stop; their waits raise `CompletionsClosed`.

    Use it in the lifespan of an application of FastAPI, Starlette or another ASGI framework, inside the `async with` of the
    completions:

        async with Completions(client, store) as completions, close_on_signal(completions):
            yield

    The server's own handlers of SIGTERM and SIGINT still run, and are restored at the end. Outside the main thread,
    where no signals arrive, it does nothing.

    Args:
        completions: The completions to close.

    Raises:
        TypeError: one of them cannot be closed.
    """
    for each in completions:
        check_methods(each, "completions", A_CLOSABLE, Closable)
    signalled = asyncio.Event()
    restore = _wrap_handlers(asyncio.get_running_loop(), signalled.set)
    closer = asyncio.create_task(_close(signalled, completions), name="close completions on a signal")
    try:
        yield
    finally:
        restore()
        if not signalled.is_set():
            closer.cancel()
        await asyncio.gather(closer, return_exceptions=True)


async def _close(signalled: asyncio.Event, completions: tuple[Closable, ...]) -> None:
    await signalled.wait()
    for each in completions:
        try:
            await each.aclose()
        except Exception:
            logger.exception("could not close completions on a signal; open waits delay the shutdown until they end")


def _wrap_handlers(loop: asyncio.AbstractEventLoop, notify: Callable[[], None]) -> Callable[[], None]:
    """Call `notify` before each installed signal handler; return a function that restores the handlers."""
    wrapped: dict[int, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        def handle(number: int, frame: Any) -> Any:
            if not loop.is_closed():
                loop.call_soon_threadsafe(notify)
            return handler(number, frame)

        return handle

    def restore() -> None:
        for number, (handler, installed) in wrapped.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, installed)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            installed = signal.getsignal(number)
            if callable(installed):  # a default action that ends the process stays in place
                wrapped[number] = (wrap(installed), installed)
                signal.signal(number, wrapped[number][0])
    return restore
