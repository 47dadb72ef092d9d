"""TLS, the event loop and process of a client, and cancelled calls."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from original_async import OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ClientClosed, ConnectFailed, VendorError
from rewards_core.rate import Limits
from tests.original_async.conftest import REWARD, USER, MakeClient
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import API_KEY, API_SECRET, OriginalSandbox


async def allocate(client: OriginalClient, nonce: str = "nonce_1") -> Any:
    return await client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1.23", nonce=nonce)


@asynccontextmanager
async def vendor_on_tls(authority: trustme.CA, seen: list[str]) -> AsyncIterator[str]:
    """Run a vendor with a certificate of this authority; give its address."""

    async def create(request: web.BaseRequest) -> web.Response:
        seen.append(request.path)
        return web.json_response({"success": True, "data": {"uid": "1"}}, status=201)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    runner = web.ServerRunner(web.Server(create), shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def test_a_vendor_whose_certificate_is_trusted_is_spoken_to(make_client: MakeClient) -> None:
    authority, seen, trust = trustme.CA(), list[str](), ssl.create_default_context()
    authority.configure_trust(trust)
    async with (
        vendor_on_tls(authority, seen) as url,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
    ):
        assert (await allocate(make_client(base_url=url, session=session))).uid == "1"
    assert seen == ["/v1/reward/allocate"]


async def test_a_vendor_whose_certificate_is_not_trusted_is_told_nothing(make_client: MakeClient) -> None:
    seen: list[str] = []
    async with vendor_on_tls(trustme.CA(), seen) as url:
        with pytest.raises(ConnectFailed):
            await allocate(make_client(base_url=url, retry=RetryPolicy(attempts=1)))
    assert seen == []


def test_a_client_is_of_the_loop_it_was_first_used_in() -> None:
    made: list[OriginalClient] = []

    async def use() -> int:
        async with OriginalSandbox(confirm=None) as sandbox, aiohttp.ClientSession() as session:
            made.append(OriginalClient(API_KEY, API_SECRET, base_url=sandbox.url, session=session))
            await allocate(made[0])
            return len(sandbox.requests)

    async def use_again() -> None:
        with pytest.raises(ClientClosed, match="event loop"):
            await allocate(made[0], "nonce_2")
        await made[0].aclose()

    assert asyncio.run(use()) == 1
    asyncio.run(use_again())


def _in_child(answers: Any, client: OriginalClient) -> None:
    async def use() -> str:
        try:
            await allocate(client)
        except VendorError as error:
            return repr(error)
        return "no error"

    answers.put(asyncio.run(use()))
    answers.close()
    answers.join_thread()
    os._exit(0)


def test_a_client_is_of_the_process_it_was_made_in() -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    client = OriginalClient(API_KEY, API_SECRET, base_url="http://127.0.0.1:1/v1")
    child = context.Process(target=_in_child, args=(answers, client))
    child.start()
    assert "ClientClosed('Original create_allocation: " in answers.get(timeout=600)
    child.join()
    answers.close()
    answers.join_thread()


@pytest.mark.parametrize("phase", ["the answer", "a pause", "a look-up", "the pause between look-ups"])
async def test_a_call_cancelled_in_any_phase_takes_nothing_with_it(
    make_client: MakeClient, sandbox: OriginalSandbox, ticks: SteppedTime, phase: str
) -> None:
    pausing = asyncio.Event()

    async def pause_for_ever() -> None:
        pausing.set()
        await asyncio.Event().wait()

    ticks.meanwhile = pause_for_ever
    attempts = 2 if phase == "a pause" else 1
    client = make_client(base_url=sandbox.url, retry=RetryPolicy(attempts=attempts), limits=Limits(connections=1))
    sandbox.options.slow_seconds = 3600
    if phase == "the answer":
        sandbox.script("slow_after_commit")
    else:
        sandbox.script("p503")
        sandbox.script("slow_after_commit" if phase == "a look-up" else "none", method="GET")
    call = asyncio.ensure_future(allocate(client))
    if phase == "the answer":
        await sandbox.until(lambda: bool(sandbox.state.by_nonce))
    elif phase == "a look-up":
        await sandbox.until(lambda: sandbox.request_counts["GET"] == 1)
    else:
        await pausing.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    sandbox.plan.steps.clear()
    assert (await allocate(client, "nonce_2")).uid
