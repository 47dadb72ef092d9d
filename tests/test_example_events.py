"""The example with an event source of its own: orders that a shop signs are rewarded, each once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio

from tests.example_kit import app_of, load, on_aiohttp
from vendor_sandboxes.testing import OriginalServer, RewardsBooks, SignDelivery
from webhooks import Receiver, SQLiteStore

SECRET = "a-secret-of-the-shop"
USER = "110985463782"
PAID = {"event": "order.paid", "order": "A-1001", "user": USER, "reward": "1.23"}


def body_of(**words: object) -> bytes:
    return json.dumps({**PAID, **words}).encode()


def signed(body: bytes) -> dict[str, str]:
    return {"X-Shop-Signature": hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_SECRET", SECRET)


@pytest_asyncio.fixture
async def url(original_sandbox: OriginalServer, place: None) -> AsyncIterator[str]:
    """The path of both signers."""
    async with on_aiohttp(await app_of("event_source")) as service:
        original_sandbox.webhook_url = f"{service}/webhooks"
        yield original_sandbox.webhook_url


async def deliver(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        return response.status


async def settled(sandbox: OriginalServer, allocations: int) -> None:
    """Wait until this many allocations are done."""
    while sum(each["status"] == "done" for each in sandbox.books()["allocations"]) < allocations:
        await asyncio.sleep(0)


@pytest.mark.parametrize("secret", ["", None])
async def test_without_a_secret_nothing_starts(
    original_sandbox: OriginalServer, place: None, secret: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_SECRET")
    if secret is not None:
        monkeypatch.setenv("SHOP_SECRET", secret)
    with pytest.raises(SystemExit, match="SHOP_SECRET"):
        load("event_source").make_app()


@pytest.mark.slow
async def test_a_paid_order_is_rewarded(url: str, original_sandbox: OriginalServer, rewards_books: RewardsBooks) -> None:
    body = body_of()
    assert await deliver(url, body, signed(body)) == 200
    await settled(original_sandbox, 1)
    assert rewards_books.paid(USER, "1.23", once=True)


async def test_an_order_is_rewarded_once_however_often_it_is_told(
    url: str, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    for body in (body_of(), body_of(), body_of(spelled="otherwise"), body_of(order="A-1002", reward="2")):
        assert await deliver(url, body, signed(body)) == 200
    await settled(original_sandbox, 2)
    while len([each for each in original_sandbox.requests if each.method == "POST"]) < 3:  # each event, but its duplicate
        await asyncio.sleep(0)
    assert rewards_books.total(USER) == Decimal("3.23")


async def test_an_order_that_another_process_accepted_is_rewarded_after_the_next_start(
    place: None, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    async with on_aiohttp(await app_of("event_source")):
        pass
    body = body_of()
    other = await asyncio.to_thread(Receiver, load("event_source").ShopEvents(SECRET), "sqlite:///inbox.db", service="other")
    async with other:
        assert (await other.receive(signed(body), body)).status == 200
    async with on_aiohttp(await app_of("event_source")):
        await settled(original_sandbox, 1)
    assert rewards_books.paid(USER, "1.23", once=True)


async def test_deliveries_of_the_vendor_arrive_on_the_same_path(url: str, signed_delivery: SignDelivery) -> None:
    delivery = signed_delivery("reward.allocated", uid="636154847295")
    assert await deliver(url, delivery.body, delivery.headers) == 200


@pytest.mark.parametrize("signature", [None, "", "0" * 64, "signature of ü", signed(b"another body")["X-Shop-Signature"]])
async def test_what_the_shop_has_not_signed_is_refused(url: str, signature: str | None, rewards_books: RewardsBooks) -> None:
    headers = {} if signature is None else {"X-Shop-Signature": signature}
    assert await deliver(url, body_of(), headers) == 401
    assert not rewards_books.payments


async def test_a_delivery_without_a_signature_is_refused_before_its_body(url: str) -> None:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"POST /webhooks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"order": "A-1001"}'])
async def test_a_signed_body_without_an_event_becomes_a_dead_letter(url: str, body: bytes) -> None:
    assert await deliver(url, body, signed(body)) == 200
    store = await asyncio.to_thread(SQLiteStore, "inbox.db")
    assert (await store.statistics()).dead == 1
    await store.aclose()


@pytest.mark.rewards(confirm="never")
async def test_the_service_ends_without_a_word_while_handlers_wait(
    place: None, original_sandbox: OriginalServer, caplog: pytest.LogCaptureFixture
) -> None:
    body = body_of()
    with caplog.at_level(logging.WARNING):
        async with on_aiohttp(await app_of("event_source")) as service:
            await deliver(f"{service}/webhooks", body, signed(body))
            while not any(each.method == "GET" for each in original_sandbox.requests):  # until the handler waits, and polls
                await asyncio.sleep(0)
    assert not caplog.records
