"""The examples that no command in the documents runs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from original_async import sign
from rewards_core.errors import ConnectFailed, OutcomeUnknown, RequestRejected, VendorError
from vendor_sandboxes import OriginalSandbox

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ORDER = {"user": "110985463782", "amount": "1.23", "order": "A-1001"}


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[OriginalSandbox]:
    async with OriginalSandbox(confirm=(0.0, 0.0)) as played:
        yield played


@pytest_asyncio.fixture
async def service(sandbox: OriginalSandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setenv("ORIGINAL_API_KEY", sandbox.api_key)
    monkeypatch.setenv("ORIGINAL_API_SECRET", sandbox.api_secret)
    monkeypatch.setenv("ORIGINAL_BASE_URL", sandbox.url)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", ":".join(next(iter(sandbox.webhooks.keys.items()))))
    runner = web.AppRunner(load("service").make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    sandbox.webhook_url = f"{url}/webhooks/original"
    yield url
    await runner.cleanup()


async def ask(url: str, order: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{url}/rewards", json=order) as response:
        return response.status, await response.json()


async def test_service_answers_once_the_chain_has_confirmed(service: str, sandbox: OriginalSandbox) -> None:
    status, answer = await ask(service, ORDER)
    assert (status, answer["status"]) == (200, "done")
    (allocation,) = sandbox.books()["allocations"]
    assert (allocation["uid"], allocation["nonce"], allocation["amount"]) == (answer["uid"], "A-1001", "1.23")


async def test_service_finds_what_the_vendor_made_of_an_order_whose_answer_was_lost(
    service: str, sandbox: OriginalSandbox
) -> None:
    sandbox.options.list_lag = 600.0  # no look-up can find it: only the webhook shows it
    sandbox.plan.script("drop_after_commit")
    status, answer = await ask(service, ORDER)
    assert (status, answer["status"]) == (200, "done")
    assert sandbox.books()["created"] == {"A-1001": 1}


async def test_service_pays_an_order_once_however_often_it_is_asked(service: str, sandbox: OriginalSandbox) -> None:
    first, second = await ask(service, ORDER), await ask(service, {**ORDER, "again": True})
    assert first == second
    assert sandbox.books()["created"] == {"A-1001": 1}


@pytest.mark.parametrize("order", [{}, [], {**ORDER, "amount": 1.5}, {**ORDER, "user": "a/b"}])
async def test_service_refuses_bad_orders_before_any_request(service: str, sandbox: OriginalSandbox, order: Any) -> None:
    status, answer = await ask(service, order)
    assert status == 400
    assert answer["error"]
    assert not sandbox.requests


async def test_service_refuses_a_body_that_is_no_json(service: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{service}/rewards", data=b"{") as response:
        assert response.status == 400


async def test_service_says_that_an_order_was_paid_with_another_amount(service: str, sandbox: OriginalSandbox) -> None:
    await ask(service, ORDER)
    status, _ = await ask(service, {**ORDER, "amount": "9"})
    assert status == 409
    assert sandbox.books()["created"] == {"A-1001": 1}


async def test_service_that_cannot_reach_the_vendor_says_that_asking_again_is_safe(
    service: str, sandbox: OriginalSandbox
) -> None:
    await sandbox.aclose()
    status, answer = await ask(service, ORDER)
    assert (status, answer["again"]) == (503, True)


def test_examples_are_short_enough_to_read() -> None:
    for name in ("smallest", "service", "many"):
        assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 70, name


async def test_a_fastapi_service_keeps_a_delivery_and_hands_it_to_its_handler(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_service:app"),
            *("--fd", str(listening.fileno()), "--log-level", "warning"),
            cwd=tmp_path,
            env={**os.environ, "ORIGINAL_WEBHOOK_KEYS": "4o3vfxtcmo7b:a-webhook-secret"},
            pass_fds=[listening.fileno()],
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            body = b'{"event": "reward.allocated", "data": {"allocation": {"uid": "1"}}}'
            headers = {"x-webhook-signature": sign(body, {"4o3vfxtcmo7b": "a-webhook-secret"})}
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/webhooks/original"
            async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
                assert response.status == 200
            assert process.stdout is not None
            assert await process.stdout.readline() == b"reward.allocated: default/allocation/1\n"
        finally:
            process.terminate()
            await process.wait()


def cashback(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENKASH_")}
    command = [sys.executable, str(EXAMPLES / "enkash_cashback.py"), *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_cashback_gives_every_user_the_coins_of_the_event_once(tmp_path: Path) -> None:
    done = cashback("--sandbox", "--coins", "7", "EK1", "EK2", "EK3", "EK2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    event, *lines = done.stdout.splitlines()
    assert event.startswith("MEAL_CARD_PAYMENT gives 7 coins (WCC")
    users = ("EK1", "EK2", "EK3")
    assert sorted(lines[:3]) == [f"{user}: Successfully allocated enkash Coins (cashback-1-{user})" for user in users]
    assert lines[3:] == [f"{user} has 7 coins" for user in users]


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (OutcomeUnknown("it may have been carried out"), "EK1: unknown: it may have been carried out"),
        (RequestRejected("no funds"), "EK1: nothing given by this run: no funds"),
        (ConnectFailed("no network"), "EK1: nothing given by this run: no network"),
    ],
)
async def test_cashback_prints_how_each_allocation_ended(
    capsys: pytest.CaptureFixture[str], problem: VendorError, line: str
) -> None:
    class Client:
        async def allocate_coins(self, **_: str) -> None:
            raise problem

        async def get_balance(self, user: str) -> int:
            raise problem

    example = load("enkash_cashback")
    assert await example.grant(Client(), "E", "EK1", "campaign") is False
    assert capsys.readouterr().out.strip() == line
    assert str(problem) in await example.balance(Client(), "EK1")


def test_cashback_without_credentials_names_the_missing_variables(tmp_path: Path) -> None:
    done = cashback(cwd=tmp_path)
    assert done.returncode == 2
    assert "ENKASH_CLIENT_SECRET" in done.stderr
