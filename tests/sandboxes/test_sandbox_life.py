"""Sandboxes start and end cleanly, whatever is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from vendor_sandboxes import OriginalSandbox
from vendor_sandboxes.scheduler import Scheduler

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]


async def test_address_is_known_only_while_it_runs() -> None:
    sandbox = OriginalSandbox()
    with pytest.raises(RuntimeError):
        _ = sandbox.url
    async with sandbox:
        assert sandbox.url == f"{sandbox.origin}/v1"
        assert sandbox.url.startswith("http://127.0.0.1:")
    await sandbox.aclose()


async def test_it_listens_where_it_is_told(unused_tcp_port: int) -> None:
    async with OriginalSandbox(host="127.0.0.1", port=unused_tcp_port) as sandbox:
        assert sandbox.origin == f"http://127.0.0.1:{unused_tcp_port}"


@pytest.mark.slow
async def test_closing_cuts_deliveries_under_way_and_frees_who_waits_for_them(caller_of: CallerOf) -> None:
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.Response:
        arrived.set()
        await never.wait()
        return web.Response()

    runner = web.ServerRunner(web.Server(hang, handler_cancellation=True), shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with OriginalSandbox(confirm=None, webhook_url=f"http://127.0.0.1:{runner.addresses[0][1]}/") as sandbox:
        caller = caller_of(sandbox)
        *uids, last = [(await caller.allocate(f"nonce_{number}")).data["uid"] for number in range(71)]
        settling = [asyncio.ensure_future(sandbox.settle(uid)) for uid in uids]
        await arrived.wait()
        sandbox.options.webhook_reorder = 1
        settling.append(asyncio.ensure_future(sandbox.settle(last)))
        await sandbox.until(lambda: sandbox.webhooks.open == 71)
    await asyncio.gather(*settling)
    never.set()
    await runner.cleanup()


async def test_nothing_is_sent_after_the_end(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, webhook_url="http://127.0.0.1:1/") as sandbox:
        uid = (await caller_of(sandbox).allocate()).data["uid"]
    await sandbox.settle(uid)
    assert sandbox.books()["webhooks"] == {"open": 0}


async def test_waiting_for_what_never_comes_ends_with_a_timeout() -> None:
    async with OriginalSandbox() as sandbox:
        with pytest.raises(TimeoutError):
            await sandbox.until(lambda: False, timeout=0.001)


async def test_agenda_keeps_order_and_times() -> None:
    runs: list[int] = []
    scheduler, over = Scheduler(lambda: runs.append(len(seen))), asyncio.Event()
    seen: list[int | str] = []
    scheduler.call_later(3600, seen.append, "late")
    for number in range(1200):
        scheduler.call_later(0, seen.append, number)
    scheduler.call_later(0, over.set)
    await over.wait()
    assert (seen, scheduler.pending) == ([*range(1200)], 1)
    assert runs[-1] == 1200
    scheduler.close()


async def test_closed_agenda_forgets_everything() -> None:
    seen: list[int] = []
    scheduler = Scheduler(seen.clear)
    scheduler.call_later(0, seen.append, 1)
    scheduler.close()
    scheduler.call_later(0, seen.append, 2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (seen, scheduler.pending) == ([], 0)


async def test_sandbox_is_not_quiet_while_it_answers_a_caller_who_has_gone(
    caller_of: CallerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = asyncio.Event()

    async def hold(length: float) -> None:
        await go_on.wait()

    async with OriginalSandbox(confirm=None, latency=(0.0, 0.0)) as sandbox:
        monkeypatch.setattr(sandbox, "pause", hold)
        call = asyncio.ensure_future(caller_of(sandbox).allocate())
        await sandbox.until(lambda: sandbox.under_way == 1)
        call.cancel()
        quiet = asyncio.ensure_future(sandbox.quiet())
        await asyncio.sleep(0)
        assert not quiet.done()
        go_on.set()
        await quiet
        assert list(sandbox.state.by_nonce) == ["nonce_1"]
        assert sandbox.under_way == 0
