"""How the client reads the documented replies about rewards, and the vendor's refusals."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aioresponses import aioresponses

from original_async import Allocation, Balance, DeploymentStatus, OriginalClient, Reward
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
from tests.original_async.reward_kit import ALLOCATION, CLAIM, CREATED, LIST, allocate, ok


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
    first = await client.find_allocation(USER, nonce="nonce_1")
    assert first is not None
    assert (first.uid, first.recovered) == ("213134081289", False)
    second = await client.find_allocation(USER, nonce="nonce_1", reward_uid=REWARD)
    assert second is not None
    assert second.uid == "2"
    assert await client.find_allocation(USER, nonce="nonce_1", reward_uid="999") is None
    assert await client.find_allocation(USER, nonce="nonce_2") is None


async def test_a_failed_allocation_does_not_hide_another_one_of_its_nonce(client: OriginalClient, wire: aioresponses) -> None:
    failed, done = {**ALLOCATION, "status": "failed"}, {**ALLOCATION, "uid": "2", "status": "done"}
    wire.get(LIST, payload=ok([failed, done]), repeat=True)
    found = await client.find_allocation(USER, nonce="nonce_1")
    assert found is not None
    assert (found.uid, found.status) == ("2", "done")


@pytest.mark.parametrize("body", [b"[]", b'{"data": {}}', b'{"data": null}', b"nonsense", b'{"data": [{"nonce": "nonce_1"}]}'])
async def test_a_list_that_is_none_is_unexpected(client: OriginalClient, wire: aioresponses, body: bytes) -> None:
    wire.get(LIST, body=body, repeat=True)
    with pytest.raises(UnexpectedResponse):
        await client.find_allocation(USER, nonce="nonce_1")


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
    balance = await client.get_balance("221137489875", user_uid="754566475542")
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
    found = await client.find_allocation(USER, nonce="nonce_1")
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
