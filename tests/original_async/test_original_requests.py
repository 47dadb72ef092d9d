"""The requests of the client, and how it reads the documented replies."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import jwt
import orjson
import pytest
from aioresponses import aioresponses
from yarl import URL

from original_async import Allocation, Balance, Claim, DeploymentStatus, OriginalClient, Reward
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    FieldError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
)
from rewards_core.operations import OperationReader, OperationStatus
from tests.original_async.conftest import BASE, REWARD, USER, WALLET, MakeClient
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import API_KEY, API_SECRET, OriginalSandbox

CREATED: Any = {"success": True, "data": {"uid": "324167489835"}}
ALLOCATION: Any = {
    "uid": "213134081289",
    "status": "pending",
    "reward_uid": "112144981245",
    "to_user_uid": "223144788242",
    "amount": "1.23",
    "nonce": "nonce_1",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
CLAIM: Any = {
    "uid": "213134081289",
    "status": "pending",
    "reward_uid": "112144981245",
    "from_user_uid": "223144788242",
    "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "amount": "1.23",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
LIST = f"{BASE}/reward/allocate?user_uid={USER}"


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def only_request(wire: aioresponses, method: str, url: str) -> Any:
    """Return the arguments of the only request."""
    assert sum(len(calls) for calls in wire.requests.values()) == 1
    return wire.requests[(method, URL(url, encoded=True))][0].kwargs


async def allocate(client: OriginalClient, **changes: Any) -> Allocation:
    arguments = {"reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1", **changes}
    return await client.create_allocation(**arguments)


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


@pytest.mark.parametrize("uid", refused_ids)
async def test_no_method_takes_what_cannot_be_an_id(client: OriginalClient, wire: aioresponses, uid: Any) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: client.get_allocation(uid),
        lambda: client.get_allocations_by_user_uid(uid),
        lambda: client.find_allocation(uid, "nonce_1"),
        lambda: client.get_claim(uid),
        lambda: client.get_claims_by_user_uid(uid),
        lambda: client.get_reward(uid),
        lambda: client.get_balance(uid, USER),
        lambda: client.get_balance(REWARD, uid),
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


async def test_an_allocation_is_read(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/reward/allocation/213134081289", payload=ok(ALLOCATION))
    allocation = await client.get_allocation("213134081289")
    assert allocation == Allocation(
        uid="213134081289",
        status=OperationStatus.PENDING,
        reward_uid="112144981245",
        to_user_uid="223144788242",
        amount=Decimal("1.23"),
        nonce="nonce_1",
        created_at=datetime(2023, 8, 10, 14, 7, 14, 494142, UTC),
    )


@pytest.mark.parametrize("written", [b"123456789012.123456789012345678", b'"123456789012.123456789012345678"'])
async def test_amounts_arrive_with_every_digit(client: OriginalClient, wire: aioresponses, written: bytes) -> None:
    body = orjson.dumps(ok([ALLOCATION])).replace(b'"1.23"', written)
    wire.get(LIST, body=body)
    (allocation,) = await client.get_allocations_by_user_uid(USER)
    assert str(allocation.amount) == "123456789012.123456789012345678"


async def test_lists_are_read_and_an_unknown_user_has_none(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(LIST, payload=ok([ALLOCATION, {**ALLOCATION, "uid": "2", "status": "Done"}]))
    wire.get(LIST, payload=ok([]))
    assert [each.status for each in await client.get_allocations_by_user_uid(USER)] == ["pending", "done"]
    assert await client.get_allocations_by_user_uid(USER) == []
    wire.get(f"{BASE}/reward/claim?user_uid={USER}", payload=ok([CLAIM]))
    assert [each.to_address for each in await client.get_claims_by_user_uid(USER)] == [WALLET]


async def test_an_allocation_is_found_by_its_nonce(client: OriginalClient, wire: aioresponses) -> None:
    odd = [7, None, {"nonce": None}, {"uid": 7, "nonce": "other"}]
    wire.get(LIST, payload=ok([*odd, ALLOCATION, {**ALLOCATION, "uid": "2", "reward_uid": REWARD}]), repeat=True)
    first = await client.find_allocation(USER, "nonce_1")
    assert first is not None
    assert (first.uid, first.recovered) == ("213134081289", False)
    second = await client.find_allocation(USER, "nonce_1", REWARD)
    assert second is not None
    assert second.uid == "2"
    assert await client.find_allocation(USER, "nonce_1", "999") is None
    assert await client.find_allocation(USER, "nonce_2") is None


async def test_a_failed_allocation_does_not_hide_another_one_of_its_nonce(client: OriginalClient, wire: aioresponses) -> None:
    failed, done = {**ALLOCATION, "status": "failed"}, {**ALLOCATION, "uid": "2", "status": "done"}
    wire.get(LIST, payload=ok([failed, done]), repeat=True)
    found = await client.find_allocation(USER, "nonce_1")
    assert found is not None
    assert (found.uid, found.status) == ("2", "done")


@pytest.mark.parametrize("body", [b"[]", b'{"data": {}}', b'{"data": null}', b"nonsense", b'{"data": [{"nonce": "nonce_1"}]}'])
async def test_a_list_that_is_none_is_unexpected(client: OriginalClient, wire: aioresponses, body: bytes) -> None:
    wire.get(LIST, body=body, repeat=True)
    with pytest.raises(UnexpectedResponse):
        await client.find_allocation(USER, "nonce_1")


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


async def test_a_claim_is_read(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/reward/claim/213134081289", payload=ok(CLAIM))
    assert (await client.get_claim("213134081289")).amount == Decimal("1.23")


async def test_a_reward_is_read(client: OriginalClient, wire: aioresponses) -> None:
    data = {
        "uid": "151854912345",
        "name": "Test SDK Reward 1",
        "status": "deployed",
        "token_type": "ERC20",
        "token_name": "TestnetORI",
        "created_at": "2024-02-13T10:45:56.952745Z",
        "contract_address": "0x124a6755ee787153bb6228463d5dc3a02890a7db",
        "withdraw_receiver": "0x4881ab2f73c48a54b907a8b697b270f490768e6d",
        "description": "Description of the reward",
        "explorer_url": "https://mumbai.polygonscan.com/address/0x124a6755ee787153bb6228463d5dc3a02890a7db",
    }
    wire.get(f"{BASE}/reward/151854912345", payload=ok(data))
    reward = await client.get_reward("151854912345")
    assert isinstance(reward, Reward)
    assert (reward.status, reward.name) == (DeploymentStatus.DEPLOYED, "Test SDK Reward 1")


@pytest.mark.parametrize("amount", [b"100.0", b'"100.0"'])
async def test_a_balance_is_read(client: OriginalClient, wire: aioresponses, amount: bytes) -> None:
    body = b'{"success":true,"data":{"reward_uid":"221137489875","user_uid":"754566475542","amount":%s}}' % amount
    wire.get(f"{BASE}/reward/balance?reward_uid=221137489875&user_uid=754566475542", body=body)
    balance = await client.get_balance("221137489875", "754566475542")
    assert balance == Balance(reward_uid="221137489875", user_uid="754566475542", amount=Decimal("100.0"))


async def test_a_reply_about_another_operation_is_unexpected(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/reward/claim/1", payload=ok(CLAIM))
    with pytest.raises(UnexpectedResponse) as caught:
        await client.get_claim("1")
    assert caught.value.path == "data.uid"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"{}", b'{"data": null}', b'{"data": {}}', b'{"data": {"uid": 7}}', b'{"data": {"uid": ""}}'),
        *(b'{"data": {"uid": "a/b"}}', b'{"success": false, "data": {"uid": "1"}}'),
    ],
)
async def test_a_creation_whose_reply_holds_no_uid_is_unknown(client: OriginalClient, wire: aioresponses, body: bytes) -> None:
    wire.post(f"{BASE}/reward/claim", status=201, body=body)
    with pytest.raises(OutcomeUnknown):
        await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)


def error(kind: str, detail: Any) -> dict[str, Any]:
    return {"success": False, "error": {"type": kind, "detail": detail}}


async def test_a_refusal_carries_the_vendors_words(client: OriginalClient, wire: aioresponses) -> None:
    wire.post(
        f"{BASE}/reward/claim",
        status=400,
        payload=error("client_error", {"code": "bad_request", "message": "User already exists."}),
    )
    with pytest.raises(RequestRejected) as caught:
        await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)
    assert (caught.value.status, caught.value.code, caught.value.field_errors) == (400, "bad_request", ())


async def test_a_failed_validation_names_the_fields(client: OriginalClient, wire: aioresponses) -> None:
    detail = [
        {"code": "null", "message": "This field may not be null.", "field_name": "user_external_id"},
        {"code": "invalid", "message": "Enter a valid email address.", "field_name": "email"},
    ]
    wire.post(f"{BASE}/reward/claim", status=400, payload=error("validation_error", detail), headers={"X-Request-Id": "r-1"})
    with pytest.raises(ValidationFailed) as caught:
        await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)
    assert caught.value.field_errors == (
        FieldError(field="user_external_id", message="This field may not be null.", code="null"),
        FieldError(field="email", message="Enter a valid email address.", code="invalid"),
    )
    assert (caught.value.code, caught.value.request_id) == ("null", "r-1")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, UnexpectedResponse),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (422, RequestRejected),
        (429, RateLimited),
        (500, ServerFailed),
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"<html>Not Found</html>", b"[]", b'{"error": 7}', b'{"error": {"detail": [7, {"message": 7}]}}']
)
async def test_a_body_in_no_envelope_changes_nothing(
    make_client: MakeClient, wire: aioresponses, status: int, kind: type[Exception], body: bytes
) -> None:
    wire.get(f"{BASE}/reward/{REWARD}", status=status, body=body, repeat=True)
    with pytest.raises(kind):
        await make_client(retry=RetryPolicy(attempts=2)).get_reward(REWARD)


async def test_scope_goes_into_everything(make_client: MakeClient, wire: aioresponses) -> None:
    client = make_client(scope="second")
    reader: OperationReader = client
    assert reader.scope == "second"
    wire.post(f"{BASE}/reward/allocate", status=201, payload=CREATED)
    wire.post(f"{BASE}/reward/claim", status=201, payload=CREATED)
    wire.get(f"{BASE}/reward/allocation/213134081289", payload=ok(ALLOCATION))
    wire.get(f"{BASE}/reward/claim/213134081289", payload=ok(CLAIM))
    wire.get(LIST, payload=ok([ALLOCATION]), repeat=True)
    found = await client.find_allocation(USER, "nonce_1")
    assert found
    operations = [
        await allocate(client),
        await client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET),
        await client.get_allocation("213134081289"),
        await client.get_claim("213134081289"),
        *await client.get_allocations_by_user_uid(USER),
        found,
        client.parse_operation(found.ref, ALLOCATION),
    ]
    assert {operation.ref.scope for operation in operations} == {"second"}
    assert found.raw == ALLOCATION


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
