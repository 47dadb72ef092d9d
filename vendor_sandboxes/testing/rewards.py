"""The whole of a service around a sandboxed Original: client, store, receiver on loopback, and completions."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from aiohttp import web

from original_async import OriginalClient, OriginalWebhooks
from rewards_core.text import counted
from webhooks import Completions, MemoryStore, Receiver
from webhooks.ingress.aiohttp_app import serve

if TYPE_CHECKING:
    from vendor_sandboxes.testing.servers import OriginalServer
    from vendor_sandboxes.testing.thread import LoopThread

T = TypeVar("T")

_FINISHING = 5.0
_LOOK_EVERY = 0.01


class Rewards:
    """A client, a receiver and completions that are wired to a sandboxed Original.

    Attributes:
        sandbox: The vendor.
        client: A client of it, made by `OriginalClient.from_env`.
        store: The store that receiver and completions share.
        receiver: Takes the vendor's webhooks on `webhook_url`. Handlers that are registered with `receiver.on` before the first
            webhook run.
        completions: Waits for operations.
        webhook_url: Where the vendor sends webhooks.
    """

    def __init__(self, sandbox: OriginalServer, thread: LoopThread | None = None) -> None:
        self.sandbox = sandbox
        self.webhook_url = ""
        self._thread = thread
        self._stack = AsyncExitStack()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop of these objects and return its result: for synchronous tests.

        Raises:
            RuntimeError: the test is asynchronous, so that it can await the coroutine.
        """
        if self._thread is None:
            coroutine.close()
            raise RuntimeError("This test is asynchronous: await the coroutine instead of passing it to rewards.run().")
        return self._thread.run(coroutine)

    async def __aenter__(self) -> Self:
        self.store = MemoryStore()
        self.receiver = Receiver(OriginalWebhooks.from_env(), self.store)
        self._stack.push_async_callback(self.receiver.aclose)
        self.client = await self._stack.enter_async_context(OriginalClient.from_env())
        self.completions = await self._stack.enter_async_context(Completions(self.client, self.store))
        runner = web.ServerRunner(web.Server(self._deliver))
        self._stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.webhook_url = self.sandbox.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/original"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _deliver(self, request: web.BaseRequest) -> web.StreamResponse:
        await self.receiver.start()  # so that a test can register handlers first
        return await serve(self.receiver, request)

    async def left_over(self) -> list[str]:
        """Return a line for each thing that a test has left unfinished; at teardown it fails the test."""
        waits = [f"A wait for {ref} is still open: await it, or cancel its task." for ref in self.completions.pending()]
        with suppress(TimeoutError):
            async with asyncio.timeout(_FINISHING):
                await self._finish()
        stored = await self.store.statistics()
        again = ", which failed and runs again later" if self.receiver.handler_statistics.failed else ""
        return [
            *waits,
            *([f"{counted(stored.ready, 'event')} still waiting for a handler{again}."] if stored.ready else []),
            *([f"{counted(stored.dead, 'dead letter')} in the store."] if stored.dead else []),
        ]

    async def _finish(self) -> None:
        """Wait for the webhooks of what has settled, and then for their handlers."""
        if self.sandbox.webhook_url == self.webhook_url:
            await self.sandbox.delivered()
        while (await self.store.statistics()).ready and not self.receiver.handler_statistics.failed:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY)
