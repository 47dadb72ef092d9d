"""The example services that allocate in a route: on aiohttp, and on FastAPI in one process and in several."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rewards_core import NotFound
from tests.example_kit import EXAMPLES, ORDER, ROOT, app_of, ask, on_aiohttp, on_uvicorn
from tests.postgres_server import Server
from tests.webhooks.postgres_kit import run_sql
from vendor_sandboxes.testing import OriginalServer, RewardsBooks, SignDelivery
from webhooks import Completions, StoreError

PATH = "/webhooks/original"
USER = ORDER["user"]
SERVERS: dict[str, Callable[[Any], AbstractAsyncContextManager[str]]] = {
    "aiohttp_service": on_aiohttp,
    "fastapi_service": on_uvicorn,
}

Start = Callable[[], AbstractAsyncContextManager[str]]


@pytest.fixture(params=SERVERS)
def start(
    request: pytest.FixtureRequest, original_sandbox: OriginalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Start the service, to which the sandbox then sends its webhooks."""
    monkeypatch.chdir(tmp_path)

    @asynccontextmanager
    async def started() -> AsyncIterator[str]:
        async with SERVERS[request.param](await app_of(request.param)) as url:
            original_sandbox.webhook_url = f"{url}{PATH}"
            yield url

    return started


async def test_an_allocation_that_the_vendor_does_not_find_again_is_not_called_unpaid(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown_to_the_vendor(*_: Any, **__: Any) -> None:
        raise NotFound("the vendor does not know it", status=404)

    monkeypatch.setattr(Completions, "wait", unknown_to_the_vendor)
    async with start() as service:
        status, _ = await ask(service, ORDER)
    assert status == 503


async def test_it_answers_once_the_chain_has_confirmed(
    start: Start, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    async with start() as service:
        status, answer = await ask(service, ORDER)
    assert (status, answer["status"]) == (200, "done")
    assert rewards_books.paid(USER, "1.23", once=True)
    assert [(each.uid, each.key) for each in rewards_books.payments] == [(answer["uid"], "A-1001")]


@pytest.mark.slow
@pytest.mark.rewards(list_lag=600)  # no look-up can find it: only the webhook shows it
async def test_it_finds_what_the_vendor_made_of_an_order_whose_answer_was_lost(
    start: Start, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    original_sandbox.script("drop_after_commit")
    async with start() as service:
        status, answer = await ask(service, ORDER)
    assert (status, answer["status"]) == (200, "done")
    assert rewards_books.paid(USER, "1.23", once=True)


async def test_it_pays_an_order_once_however_often_it_is_asked(start: Start, rewards_books: RewardsBooks) -> None:
    async with start() as service:
        first, second = await ask(service, ORDER), await ask(service, {**ORDER, "again": True})
    assert first == second
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.parametrize("order", [{}, [], {**ORDER, "amount": 1.5}, {**ORDER, "user": "a/b"}, {**ORDER, "amount": "-1"}])
async def test_it_refuses_bad_orders_before_any_request(start: Start, original_sandbox: OriginalServer, order: Any) -> None:
    async with start() as service:
        status, _ = await ask(service, order)
    assert status in {400, 422}
    assert not original_sandbox.requests


async def test_it_refuses_a_body_that_is_no_json(start: Start) -> None:
    async with start() as service, aiohttp.ClientSession() as session, session.post(f"{service}/rewards", data=b"{") as response:
        assert response.status in {400, 422}


async def test_it_says_that_an_order_was_paid_with_another_amount(start: Start, rewards_books: RewardsBooks) -> None:
    async with start() as service:
        await ask(service, ORDER)
        assert (await ask(service, {**ORDER, "amount": "9"}))[0] == 409
    assert rewards_books.total(USER) == rewards_books.payments[0].amount


@pytest.mark.rewards(fail_rate=1)
async def test_it_says_that_an_order_failed_on_the_blockchain(start: Start) -> None:
    async with start() as service:
        status, answer = await ask(service, ORDER)
    assert (status, answer["again"]) == (422, False)


@pytest.mark.rewards(strict=True)
async def test_it_says_that_the_vendor_refused_an_order(start: Start, rewards_books: RewardsBooks) -> None:
    async with start() as service:
        status, answer = await ask(service, {**ORDER, "user": "1"})
    assert (status, answer["again"]) == (422, False)
    assert not rewards_books.payments


@pytest.mark.rewards(strict=True)
async def test_refused_credentials_say_nothing_about_an_earlier_request(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_API_SECRET", "another-api-secret-of-more-than-thirty-two-characters")
    async with start() as service:
        status, answer = await ask(service, {**ORDER, "again": True})
    assert (status, answer["again"]) == (503, True)


@pytest.mark.slow
async def test_it_says_that_asking_again_is_safe_if_it_cannot_reach_the_vendor(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("ORIGINAL_BASE_URL", f"http://127.0.0.1:{port}/v1")
    async with start() as service:
        status, answer = await ask(service, ORDER)
    assert (status, answer["again"]) == (503, True)


async def test_callers_do_not_learn_where_the_store_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreError("db.internal:5432 cannot be reached")

    monkeypatch.setattr(Completions, "wait", fail)
    async with start() as service:
        status, answer = await ask(service, ORDER)
    assert (status, answer["again"]) == (503, True)
    assert "db.internal" not in answer["error"]


async def test_it_accepts_only_signed_deliveries(start: Start, signed_delivery: SignDelivery) -> None:
    delivery = signed_delivery("reward.allocated", uid="636154847295")
    async with start() as service, aiohttp.ClientSession(service, headers=delivery.headers) as vendor:
        for body, status in ((delivery.body + b" ", 401), (delivery.body, 200), (delivery.body, 200)):
            async with vendor.post(PATH, data=body) as response:
                assert response.status == status


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[str]:
    """A store that several processes can share, in the current folder or in a database of its own."""
    if request.param == "sqlite":
        yield "sqlite:///inbox.db"
        return
    server: Server = request.getfixturevalue("postgres")
    run_sql(server, "CREATE DATABASE shop")
    yield server.url.replace("/postgres?", "/shop?")
    run_sql(server, "DROP DATABASE shop WITH (FORCE)")


@asynccontextmanager
async def workers(
    folder: Path, sandbox: OriginalServer, **environment: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run the FastAPI service in two processes of uvicorn, as its first lines say."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        sandbox.webhook_url = f"{url}{PATH}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--factory", "--app-dir", str(EXAMPLES), "--workers", "2"),
            *("fastapi_service:make_app", "--fd", str(listening.fileno()), "--log-level", "warning"),
            *("--timeout-worker-healthcheck", "600"),  # seconds after which a busy machine makes a worker look stuck
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            pass_fds=[listening.fileno()],
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield url, process
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


@pytest.mark.slow
async def test_workers_share_the_store(
    store: str, original_sandbox: OriginalServer, rewards_books: RewardsBooks, tmp_path: Path
) -> None:
    orders = [{**ORDER, "order": f"A-{number}"} for number in range(20)]
    async with workers(tmp_path, original_sandbox, STORE=store) as (service, process):
        answers = await asyncio.gather(*(ask(service, order) for order in orders))
        assert {status for status, _ in answers} == {200}
        unhandled = {f"reward.allocated: default/allocation/{answer['uid']}" for _, answer in answers}
        assert process.stdout is not None
        while unhandled:  # whichever process accepted an event
            unhandled.discard((await process.stdout.readline()).decode().strip())
    assert sorted(each.key for each in rewards_books.payments) == sorted(order["order"] for order in orders)


@pytest.mark.slow
@pytest.mark.rewards(confirm="never")
async def test_a_signal_ends_requests_that_wait(original_sandbox: OriginalServer, tmp_path: Path) -> None:
    async with workers(tmp_path, original_sandbox) as (service, process):
        asking = asyncio.create_task(ask(service, ORDER))
        while not original_sandbox.books()["allocations"]:
            await asyncio.sleep(0)
        process.terminate()
        status, answer = await asking
    assert (status, answer["again"]) == (503, True)
    assert "closed" in answer["error"]
