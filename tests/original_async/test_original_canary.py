"""No secret is visible in anything that a user can see, even if the vendor echoes every request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import attrs
import pytest
from aiohttp import web

from original_async import Allocation, AllocationFailed, Claim, Keyring, OriginalClient, OriginalWebhooks, sign
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ClientClosed,
    Conflict,
    ConnectFailed,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    OperationMismatch,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    SignatureError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.http.timeouts import Timeouts
from rewards_core.operations import OperationStatus
from tests.canary import RecordCollector, locals_with, texts_of
from tests.original_async.conftest import REWARD, USER, WALLET
from tests.original_async.family_kit import CALLS
from tests.stepped_time import let_product_sleep

API_SECRET = "canary-api-secret-4d1f7c9a52b8e603-of-safe-length"
PEM = f"-----BEGIN PUBLIC KEY-----\n{API_SECRET}\n-----END PUBLIC KEY-----"
WEBHOOK_SECRET = "canary-webhook-secret-77e0c1"


async def echo(request: web.BaseRequest, tokens: set[str], hanging: asyncio.Event, over: asyncio.Event) -> web.StreamResponse:
    """Answer with the status in the last part of the path, and with everything that was sent in every field."""
    await request.read()
    tokens.add(request.headers["Authorization"].removeprefix("Bearer "))
    told = f"{request.headers['Authorization']} {API_SECRET} {request.headers['X-API-KEY']}"
    word = request.path.rsplit("/", 1)[-1]
    if word == "drop" and request.transport is not None:
        request.transport.abort()
    if word == "drip":
        response = web.StreamResponse(headers={"X-Told": told})
        await response.prepare(request)
        await response.write(b" " * 8 * 1024 * 1024)  # more than a buffer holds, so the client is reading
        hanging.set()
        await over.wait()
    if word == "hang":
        hanging.set()
        await over.wait()
    if word == "text":
        return web.Response(text=told)
    if word == "odd":
        return web.json_response({"success": True, "data": {"uid": told, "status": told, "amount": told}})
    status = int(word) if word.isdigit() else 400
    kind = "validation_error" if status == 422 else "client_error"
    detail = [{"code": told, "message": told, "field_name": told}]
    headers = {"X-Request-Id": told, "Location": f"http://example.com/?token={told.split()[1]}"}
    return web.json_response({"success": False, "error": {"type": kind, "detail": detail}}, status=status, headers=headers)


@pytest.fixture
def hanging() -> asyncio.Event:
    """Set when a request arrives that stays unanswered."""
    return asyncio.Event()


@pytest.fixture
def tokens() -> set[str]:
    """The tokens that the vendor got."""
    return set()


@pytest.fixture
async def echo_url(tokens: set[str], hanging: asyncio.Event) -> AsyncIterator[str]:
    over = asyncio.Event()
    runner = web.ServerRunner(web.Server(lambda request: echo(request, tokens, hanging, over)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    over.set()
    await runner.cleanup()


@pytest.mark.repeats_itself
async def test_no_secret_shows_anywhere(
    echo_url: str, tokens: set[str], hanging: asyncio.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(seconds: float) -> None:
        return None

    caplog.set_level(logging.DEBUG)
    let_product_sleep(at_once, monkeypatch)
    asyncio.get_running_loop().set_debug(True)
    watcher = RecordCollector()
    client = OriginalClient(
        "key",
        API_SECRET,
        base_url=echo_url,
        observers=[watcher],
        retry=RetryPolicy(attempts=2),
        timeouts=Timeouts(total=30.0, read=0.3),
    )
    things: list[Any] = [client, *vars(client).values()]

    async def meet(kind: type[BaseException], work: Any) -> None:
        with pytest.raises(kind) as caught:
            await work
        assert type(caught.value) is kind
        things.append(caught.value)

    for uid, kind in {
        "400": RequestRejected,
        "401": Unauthorized,
        "403": Forbidden,
        "404": NotFound,
        "422": ValidationFailed,
        "429": RateLimited,
        "500": ServerFailed,
        "302": UnexpectedResponse,
        "text": UnexpectedResponse,
        "odd": UnexpectedResponse,
        "drop": ServerFailed,
        "hang": ServerFailed,
    }.items():
        await meet(kind, client.get_claim(uid))
    await meet(RequestRejected, client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET))
    await meet(OutcomeUnknown, client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1", nonce="nonce_1"))
    await meet(ValueError, client.create_allocation(reward_uid="a/b", to_user_uid=USER, amount="1", nonce="nonce_1"))

    for call in CALLS.values():
        with pytest.raises(VendorError) as told:
            await call(client)
        things.append(told.value)
    patient = OriginalClient("key", API_SECRET, base_url=echo_url)
    short = OriginalClient("key", API_SECRET, base_url=echo_url, timeouts=Timeouts(total=0.2))
    await meet(DeadlineExceeded, short.get_claim("500"))
    nowhere = OriginalClient("key", API_SECRET, base_url="http://127.0.0.1:1/v1", observers=[watcher])
    await meet(ConnectFailed, nowhere.get_reward(REWARD))
    await nowhere.aclose()
    await meet(ClientClosed, nowhere.get_reward(REWARD))

    allocation = Allocation(
        uid="1", status=OperationStatus.PENDING, reward_uid="2", to_user_uid="3", amount=Decimal(1), nonce="nonce_1"
    )
    claim = Claim(uid="1", status=OperationStatus.DONE, reward_uid="2", from_user_uid="3", to_address=WALLET)
    for final, error in ((attrs.evolve(allocation, status=OperationStatus.FAILED), AllocationFailed), (claim, OperationMismatch)):
        with pytest.raises(error) as ended:
            client.conclude(allocation, final)
        things.append(ended.value)
    things += [allocation, claim, Conflict("held", existing=allocation)]

    keys = {"4o3vfxtcmo7b": WEBHOOK_SECRET}
    source = OriginalWebhooks(keys)
    body = json.dumps({"event": "reward.allocated", "data": {}}).encode()
    things += [source, Keyring(keys), source.parse(body)]
    for headers in ({}, {"x-webhook-signature": "nonsense"}, {"x-webhook-signature": f"4o3vfxtcmo7b,{'0' * 64}"}):
        with pytest.raises(SignatureError) as refused:
            source.verify(headers, body)
        things.append(refused.value)

    attempts: list[Any] = [
        lambda: Keyring({"4o3vfxtcmo7b": f"{WEBHOOK_SECRET}\udcff"}),
        lambda: OriginalClient(f"{API_SECRET}\n", API_SECRET),
        lambda: OriginalClient("key", f"{API_SECRET}\udcff"),
        lambda: OriginalClient("key", f"-----BEGIN PUBLIC KEY-----{API_SECRET}-----END PUBLIC KEY-----"),
        lambda: OriginalClient("key", API_SECRET, base_url=f"https://user:{API_SECRET}@example.com/v1"),
        lambda: OriginalClient("key", API_SECRET, base_url=f"https://example.com/v1?api_secret={API_SECRET}"),
        lambda: OriginalClient("key", f"{API_SECRET}\n"),
        lambda: OriginalClient("two words", API_SECRET),
        lambda: OriginalClient("key", API_SECRET, token_lifetime=1.0),
        lambda: OriginalClient.from_env(api_key="key", api_secret=API_SECRET, scope="no scope"),
        lambda: OriginalWebhooks({"4o3vfxtcmo7b": WEBHOOK_SECRET}, scope="no scope"),
        lambda: sign(b"", {"no id": WEBHOOK_SECRET}),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=": ") as wrong:
            attempt()
        things.append(wrong.value)

    for phase in ("hang", "drip"):
        hanging.clear()
        task = asyncio.ensure_future(patient.get_claim(phase))
        await hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        things.append(cancelled.value)
    await patient.aclose()
    await client.aclose()
    await short.aclose()
    assert len({type(thing) for thing in things if isinstance(thing, VendorError)}) >= 15
    assert len(watcher.records) >= 30
    assert tokens
    assert any(record.name.startswith(("aiohttp", "asyncio")) for record in caplog.records)
    shown = [text for thing in (*things, *watcher.records, *caplog.records) for text in texts_of(thing)]
    canaries = {
        "the API secret": API_SECRET,
        **{f"token {number}": token for number, token in enumerate(tokens)},
        **{f"signature {number}": token.rsplit(".", 1)[1] for number, token in enumerate(tokens)},
        "the webhook secret": WEBHOOK_SECRET,
        "the digest of a forged body": source.sign(body).partition(",")[2],
    }
    for thing in things:
        if isinstance(thing, BaseException):
            assert locals_with(thing, canaries.values()) == [], repr(thing)
    for name, canary in canaries.items():
        leaks = [text.replace(canary, f"<{name}>")[:300] for text in shown if canary in text]
        assert not leaks, f"{name} shows in {len(leaks)} places: {leaks[:3]}"


def test_the_walk_finds_a_secret_that_does_show() -> None:
    inner = ValueError(API_SECRET)
    outer = RequestRejected("nothing here")
    outer.__cause__ = inner
    assert any(API_SECRET in text for text in texts_of(outer))
