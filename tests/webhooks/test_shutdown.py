"""A server stops at once on a signal, whatever its requests wait for."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.webhooks.fakes import FakeSource
from tests.webhooks.waiting_server import KINDS
from webhooks import MemoryStore, Receiver
from webhooks.ingress.aiohttp_app import close_on_shutdown
from webhooks.ingress.asgi import AsgiIngress
from webhooks.ingress.signals import close_on_signal

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running server of `waiting_server`, and its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.webhooks.waiting_server", request.param, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "number"), [*((kind, signal.SIGTERM) for kind in KINDS), ("aiohttp", signal.SIGINT)], indirect=["server"]
)
async def test_open_waits_are_answered_and_do_not_hold_up_the_server(
    server: tuple[asyncio.subprocess.Process, str], number: signal.Signals
) -> None:
    process, url = server
    async with aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(url + path) as response:
                return response.status, await response.text()

        waits = [asyncio.create_task(get("/wait")) for _ in range(3)]
        while await get("/waiting") != (200, "3"):
            pass
        process.send_signal(number)
        assert await asyncio.gather(*waits) == [(503, "closed")] * 3
    assert await process.wait() in {0, -number}


class Closable:
    """Something to close, which may fail."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.closed = asyncio.Event()
        self.problem = problem

    async def aclose(self) -> None:
        self.closed.set()
        if self.problem is not None:
            raise self.problem


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that the server's own handlers hear, as uvicorn installs them."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_at_a_signal_completions_close_and_the_servers_own_handler_runs(heard: list[int]) -> None:
    installed = signal.getsignal(signal.SIGTERM)
    first, second = Closable(RuntimeError("broken")), Closable()
    async with close_on_signal(first, second):
        signal.raise_signal(signal.SIGTERM)
        await second.closed.wait()
        assert first.closed.is_set()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is installed


async def test_without_a_signal_nothing_is_closed_and_the_handlers_are_put_back(heard: list[int]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    completions = Closable()
    async with close_on_signal(completions):
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert not completions.closed.is_set()
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


async def test_a_handler_that_came_later_stays_and_ours_passes_signals_on(heard: list[int]) -> None:
    later: list[int] = []
    async with close_on_signal(Closable()):
        ours: Any = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            later.append(number)
            ours(number, frame)

        signal.signal(signal.SIGTERM, handle)
    signal.raise_signal(signal.SIGTERM)
    assert later == heard == [signal.SIGTERM]


async def test_a_signal_that_ends_the_process_still_ends_it() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        async with close_on_signal(Closable()):
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_no_handler_is_touched(heard: list[int]) -> None:
    installed = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    async def live() -> None:
        async with close_on_signal(Closable()):
            seen.append(signal.getsignal(signal.SIGTERM) is installed)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    thread.join()
    assert seen == [True]


async def test_what_cannot_be_closed_is_refused() -> None:
    receiver, app = Receiver(FakeSource(), MemoryStore()), web.Application()
    with pytest.raises(TypeError, match=r"^completions: "):
        receiver.register(app, "/a", object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^completions: "):
        close_on_shutdown(app, object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^app: "):
        close_on_shutdown(object(), Closable())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^completions: "):
        AsgiIngress(receiver, object())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^completions: "):
        async with close_on_signal(object()):  # type: ignore[arg-type]
            raise AssertionError
