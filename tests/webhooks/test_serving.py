"""A port of this process that takes deliveries, without a web framework."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientConnectionError

from tests.webhooks.fakes import FakeSource
from tests.webhooks.receiver_kit import DONE, send
from tests.wrong_values import Kind, Number, cases, refuses
from webhooks import MemoryStore, Receiver, serving

SIGNED = FakeSource().sign(DONE)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_deliveries_are_taken_while_the_block_runs(host: str) -> None:
    store = MemoryStore()
    async with Receiver(FakeSource(), store) as receiver, serving({"/rewards": receiver}, host=host, port=0) as url:
        assert await send(f"{url}/rewards", DONE, SIGNED) == 200
        assert await send(f"{url}/rewards", DONE, {}) == 401
        assert await send(f"{url}/others", DONE, SIGNED) == 404
        assert receiver.statistics.accepted == 1
    with pytest.raises(ClientConnectionError):
        await send(f"{url}/rewards", DONE, SIGNED)
    await store.aclose()


async def test_a_delivery_under_way_at_the_end_of_the_block_is_answered() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def accept(self, event: Any) -> Any:
            entered.set()
            await go_on.wait()
            return await super().accept(event)

    store = Slow()
    async with Receiver(FakeSource(), store) as receiver, asyncio.TaskGroup() as group:
        async with serving({"/rewards": receiver}, port=0) as url:
            sent = group.create_task(send(f"{url}/rewards", DONE, SIGNED))
            await entered.wait()
            asyncio.get_running_loop().call_soon(go_on.set)
        assert await sent == 200
    await store.aclose()


TAKES = {
    "routes": Kind((5, "text", None, [("a", "b")], {"/rewards": None}, {5: None}), ({"rewards": None},)),
    "host": Kind((5, None, True), ("",)),
    "port": Number((-1, 65_536), whole=True),
}


@pytest.mark.parametrize(("name", "value", "error"), cases(TAKES))
def test_wrong_arguments_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    def serve(**wrong: Any) -> None:
        async def enter() -> None:
            async with serving(**({"routes": {}} | wrong)):
                pass

        asyncio.run(enter())

    refuses(serve, name, value, error)


async def test_a_port_that_is_taken_is_an_error_and_stops_nobody() -> None:
    async with serving({}, port=0) as url:
        with pytest.raises(OSError, match="address already in use"):
            async with serving({}, port=int(url.rpartition(":")[2])):
                pass
        assert await send(f"{url}/rewards", DONE, SIGNED) == 404
