"""The requests of the client about rewards."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from enum import StrEnum
from typing import Any

import jwt
import orjson
import pytest
from aioresponses import aioresponses
from yarl import URL

from original_async import Allocation, Claim, OriginalClient
from rewards_core.errors import NotFound, OutcomeUnknown, UnexpectedResponse
from rewards_core.operations import OperationStatus
from tests.original_async.conftest import BASE, REWARD, USER, WALLET, MakeClient
from tests.original_async.reward_kit import ALLOCATION, CREATED, allocate, ok
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import API_KEY, API_SECRET, OriginalSandbox


def only_request(wire: aioresponses, method: str, url: str) -> Any:
    """Return the arguments of the only request."""
    assert sum(len(calls) for calls in wire.requests.values()) == 1
    return wire.requests[(method, URL(url, encoded=True))][0].kwargs


async def test_an_allocation_is_asked_for_as_documented(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/reward/allocate", status=201, payload=CREATED)
    allocation = await allocate(client)
    assert allocation == Allocation(
        uid="324167489835",
        status=OperationStatus.PENDING,
        reward_uid=REWARD,
        to_user_uid=USER,
        amount=Decimal("1.23"),
        nonce="nonce_1",
    )
    assert allocation.raw == {"uid": "324167489835"}
    sent = only_request(wire, "POST", f"{BASE}/reward/allocate")
    assert sent["data"] == b'{"reward_uid":"764893807463","to_user_uid":"110985463782","amount":"1.23","nonce":"nonce_1"}'
    assert sent["allow_redirects"] is False


async def test_credentials_travel_in_headers_only(client: OriginalClient, wire: aioresponses, ticks: SteppedTime) -> None:
    wire.get(f"{BASE}/reward/{REWARD}", payload=ok({**ALLOCATION}))
    with pytest.raises(UnexpectedResponse):
        await client.get_reward(REWARD)
    ((method, url),) = wire.requests
    assert (method, url.query_string) == ("GET", "")
    headers = wire.requests[(method, url)][0].kwargs["headers"]
    assert headers["X-API-KEY"] == API_KEY
    assert headers["Content-Type"] == "application/json"
    token = headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, API_SECRET, algorithms=["HS256"], options={"verify_exp": False})
    assert claims == {"user_id": "*", "resource": "*", "action": "*", "api_key": API_KEY, "exp": int(ticks.now()) + 3600}
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(
    "amount", ["0.000000000000000001", "123456789012.123456789012345678", "9" * 30, 7, Decimal("1E+3"), Decimal("1.10")]
)
@pytest.mark.parametrize("amount_as", ["string", "number"])
async def test_amounts_leave_with_every_digit(make_client: MakeClient, wire: aioresponses, amount: Any, amount_as: Any) -> None:
    wire.post(f"{BASE}/reward/allocate", status=201, payload=CREATED)
    allocation = await allocate(make_client(amount_as=amount_as), amount=amount)
    digits = format(Decimal(amount), "f")
    written = f'"{digits}"' if amount_as == "string" else digits
    assert f'"amount":{written},"nonce"'.encode() in only_request(wire, "POST", f"{BASE}/reward/allocate")["data"]
    assert allocation.amount == Decimal(amount)


refused_ids: list[Any] = ["", " ", "a/b", "a?b", "a#b", "a%2f", "a b", "..", "a\n", "x" * 256, None, 7]


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"amount": amount}
            for amount in ("1e3", "NaN", "-1", "1_000", "\u0661", "0", "", " 1", 1.5, True, None, 0, -1, Decimal("NaN"))
        ),
        *({"reward_uid": uid} for uid in refused_ids),
        *({"to_user_uid": uid} for uid in refused_ids),
        *({"nonce": nonce} for nonce in ("", " ", "a\n", " a", None, 7, "x" * 256)),
        *({"repeated": repeated} for repeated in ("false", 0, 1, None)),
        *({"timeout": timeout} for timeout in ("5", 0, -1, float("inf"), 10**400)),
    ],
)
async def test_what_cannot_be_right_is_refused_before_any_request(
    client: OriginalClient, wire: aioresponses, changes: dict[str, Any]
) -> None:
    (name,) = changes
    with pytest.raises((ValueError, TypeError), match=rf"^{name}: "):
        await allocate(client, **changes)
    assert not wire.requests


async def test_what_comes_back_is_plain_text_whatever_kind_of_text_was_given(client: OriginalClient, wire: aioresponses) -> None:
    class Word(StrEnum):
        REWARD = REWARD
        NONCE = "nonce_1"

    wire.post(f"{BASE}/reward/allocate", status=201, payload=CREATED)
    wire.post(f"{BASE}/reward/claim", status=201, payload=CREATED)
    allocation = await allocate(client, reward_uid=Word.REWARD, nonce=Word.NONCE)
    claim = await client.create_claim(reward_uid=Word.REWARD, from_user_uid=USER, to_address=WALLET)
    assert [type(text) for text in (allocation.reward_uid, allocation.nonce, claim.reward_uid)] == [str] * 3
    assert pickle.loads(pickle.dumps((allocation, claim))) == (allocation, claim)


async def test_a_missing_nonce_is_refused_by_the_signature(client: OriginalClient) -> None:
    with pytest.raises(TypeError, match="nonce"):
        await client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["find_allocation", "find_asset", "get_balance", "get_deposit"])
async def test_no_two_ids_can_be_exchanged_unseen(client: OriginalClient, name: str) -> None:
    with pytest.raises(TypeError, match="positional"):
        await getattr(client, name)(USER, REWARD)


@pytest.mark.parametrize("uid", refused_ids)
async def test_no_method_takes_what_cannot_be_an_id(client: OriginalClient, wire: aioresponses, uid: Any) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.get_allocation(uid),
        lambda: client.get_allocations_by_user_uid(uid),
        lambda: client.find_allocation(uid, nonce="nonce_1"),
        lambda: client.get_claim(uid),
        lambda: client.get_claims_by_user_uid(uid),
        lambda: client.get_reward(uid),
        lambda: client.get_balance(uid, user_uid=USER),
        lambda: client.get_balance(REWARD, user_uid=uid),
        lambda: client.create_claim(reward_uid=uid, from_user_uid=USER, to_address=WALLET),
        lambda: client.create_claim(reward_uid=REWARD, from_user_uid=uid, to_address=WALLET),
        lambda: client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=uid),
    ]
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"^(uid|user_uid|to_user_uid|from_user_uid|reward_uid|to_address): "):
            await call()
    assert not wire.requests


async def test_path_and_query_parts_are_escaped(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    for read in (original.get_claim, original.get_reward, original.get_claims_by_user_uid):
        with suppress(NotFound):
            await read("é&api_key=b+;@")
    escaped = "%C3%A9%26api_key%3Db%2B%3B%40"
    assert [(seen.path, dict(seen.query)) for seen in sandbox.requests] == [
        (f"/v1/reward/claim/{escaped}", {}),
        (f"/v1/reward/{escaped}", {}),
        ("/v1/reward/claim", {"user_uid": "é&api_key=b+;@"}),
    ]


async def test_a_claim_is_asked_for_as_documented(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/reward/claim", status=201, payload=CREATED)
    claim = await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)
    assert claim == Claim(
        uid="324167489835", status=OperationStatus.PENDING, reward_uid=REWARD, from_user_uid=USER, to_address=WALLET
    )
    sent = only_request(wire, "POST", f"{BASE}/reward/claim")
    assert orjson.loads(sent["data"]) == {"reward_uid": REWARD, "from_user_uid": USER, "to_address": WALLET}


async def test_a_claim_is_never_sent_twice(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(f"{BASE}/reward/claim", status=503, repeat=True)
    with pytest.raises(OutcomeUnknown) as caught:
        await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)
    assert caught.value.attempts == 1


async def test_a_cancelled_call_is_cancelled(client: OriginalClient, wire: aioresponses) -> None:
    arrived = asyncio.Event()

    async def hang(url: URL, **_: Any) -> None:
        arrived.set()
        await asyncio.Event().wait()

    wire.post(f"{BASE}/reward/allocate", callback=hang)
    call = asyncio.ensure_future(allocate(client))
    await arrived.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
