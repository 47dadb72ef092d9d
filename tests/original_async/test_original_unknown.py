"""Unknown outcomes: which calls end so, what the error holds, and how its operation is found."""

from __future__ import annotations

import pickle
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from aioresponses import aioresponses

from original_async import Allocation, AllocationRequest, Claim, ClaimRequest, OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import Forbidden, NotFound, OutcomeUnknown, RateLimited, RequestRejected, ServerFailed
from tests.original_async.conftest import BASE, REWARD, USER, WALLET, MakeClient
from tests.texts import said

LIST = f"{BASE}/reward/allocate?user_uid={USER}"
ALLOCATION: Any = {
    "uid": "213134081289",
    "status": "pending",
    "reward_uid": "112144981245",
    "to_user_uid": "223144788242",
    "amount": "1.23",
    "nonce": "nonce_1",
}


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


def allocate(client: OriginalClient, amount: str) -> Awaitable[Allocation]:
    return client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount=amount, nonce="nonce_1")


def claim(client: OriginalClient) -> Awaitable[Claim]:
    return client.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "A claim of this user is pending."),
        (400, "Claim already exists."),
        (400, "A claim is in progress."),
        (422, "Duplicate request."),
        (409, "Insufficient balance."),
        (409, ""),
    ],
)
async def test_a_claim_the_vendor_may_have_is_unknown(
    client: OriginalClient, wire: aioresponses, status: int, message: str
) -> None:
    wire.post(f"{BASE}/reward/claim", status=status, payload={"detail": message})
    with pytest.raises(OutcomeUnknown) as caught:
        await claim(client)
    assert (caught.value.status, caught.value.attempts, caught.value.idempotency_key) == (status, 1, None)
    said("create_claim: what to do", caught.value.advice)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "User already exists.", RequestRejected),
        (400, "There is nothing to claim.", RequestRejected),
        (404, "Reward not found.", NotFound),
        (403, "A claim of this user is pending.", Forbidden),
        (429, "A claim of this user is pending.", RateLimited),
    ],
)
async def test_a_claim_refused_for_another_reason_is_rejected(
    make_client: MakeClient, wire: aioresponses, status: int, message: str, kind: type[Exception]
) -> None:
    wire.post(f"{BASE}/reward/claim", status=status, payload={"detail": message})
    with pytest.raises(kind) as caught:
        await claim(make_client(retry=RetryPolicy(attempts=1)))
    assert type(caught.value) is kind


async def test_an_unknown_outcome_carries_what_was_asked_for(make_client: MakeClient, wire: aioresponses) -> None:
    client = make_client(scope="second", retry=RetryPolicy(attempts=1))
    wire.post(re.compile(""), status=503, repeat=True)
    wire.get(LIST, payload=ok([]), repeat=True)
    calls: list[Callable[[], Awaitable[object]]] = [lambda: allocate(client, "1.230"), lambda: claim(client)]
    errors = []
    for call in calls:
        with pytest.raises(OutcomeUnknown) as caught:
            await call()
        errors.append(pickle.loads(pickle.dumps(caught.value)))
    assert [error.request for error in errors] == [
        AllocationRequest(reward_uid=REWARD, to_user_uid=USER, amount=Decimal("1.23"), nonce="nonce_1", scope="second"),
        ClaimRequest(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET, scope="second"),
    ]


async def test_operations_are_found_by_the_requests_of_one_user_with_one_list(client: OriginalClient, wire: aioresponses) -> None:
    def asked(nonce: str, **changes: Any) -> AllocationRequest:
        return AllocationRequest(**{"reward_uid": REWARD, "to_user_uid": USER, "amount": Decimal(1), "nonce": nonce, **changes})

    failed = {**ALLOCATION, "uid": "1", "status": "failed"}
    wire.get(LIST, payload=ok([failed, ALLOCATION, {**ALLOCATION, "uid": "2", "nonce": "nonce_2"}, {"nonce": "nonce_3"}]))
    found = await client.find_operations([asked("nonce_1"), asked("nonce_2"), asked("nonce_4")])
    assert [(each.uid, each.nonce, each.recovered) for each in found] == [
        ("213134081289", "nonce_1", True),
        ("2", "nonce_2", True),
        ("1", "nonce_1", True),
    ]
    assert await client.find_operations([]) == []
    odd: list[list[Any]] = [
        [asked("nonce_1"), asked("nonce_2", to_user_uid="999")],
        [asked("nonce_1", scope="second")],
    ]
    for requests in odd:
        with pytest.raises(ValueError, match=r"^requests: "):
            await client.find_operations(requests)
    claim = ClaimRequest(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET)
    wrong: list[Any] = [
        5,
        None,
        "nonce_1",
        {},
        asked("nonce_1"),
        ["nonce_1"],
        [asked("nonce_1"), claim],
        [claim, asked("nonce_1")],
    ]
    for requests in wrong:
        with pytest.raises(TypeError, match=r"^requests: "):
            await client.find_operations(requests)
    hook: Any = 5
    for call in (client.find_operations([], before_page=hook), client.get_allocations_by_user_uid(USER, before_page=hook)):
        with pytest.raises(TypeError, match=r"^before_page: "):
            await call
    assert [len(calls) for calls in wire.requests.values()] == [1]


async def test_operations_of_a_list_that_fails_are_an_error(make_client: MakeClient, wire: aioresponses) -> None:
    wire.get(LIST, status=500)
    asked = AllocationRequest(reward_uid=REWARD, to_user_uid=USER, amount=Decimal(1), nonce="nonce_1")
    with pytest.raises(ServerFailed):
        await make_client(retry=RetryPolicy(attempts=1)).find_operations([asked])
