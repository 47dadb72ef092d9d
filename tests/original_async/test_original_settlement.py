"""Which operation is meant, and whether the one that settled is what was asked for."""

from __future__ import annotations

import copy
import json
import pickle
from decimal import Decimal
from typing import Any, cast

import pytest
from attrs import evolve

from original_async import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Claim,
    ClaimFailed,
    ClaimRequest,
    OriginalClient,
    OriginalWebhooks,
)
from rewards_core.errors import OperationFailed, OperationMismatch, UnexpectedResponse
from rewards_core.operations import Event, Operation, OperationRef, OperationStatus
from tests.original_async.conftest import REWARD, USER
from tests.texts import said
from vendor_sandboxes.original import OriginalSandbox

ALLOCATION = Allocation(
    uid="1", status=OperationStatus.PENDING, reward_uid="2", to_user_uid="3", amount=Decimal("1.23"), nonce="nonce_1"
)
REQUEST = AllocationRequest(reward_uid="2", to_user_uid="3", amount=Decimal("1.23"), nonce="nonce_1")
CLAIM = Claim(uid="1", status=OperationStatus.PENDING, reward_uid="2", from_user_uid="3", to_address="0xAbC")
RESOURCE = {"uid": "1", "status": "done", "reward_uid": "2", "to_user_uid": "3", "amount": "1.23", "nonce": "nonce_1"}


def done(operation: Any, **changes: Any) -> Any:
    return evolve(operation, status=OperationStatus.DONE, **changes)


@pytest.mark.parametrize("operation", [ALLOCATION, CLAIM])
def test_an_operation_that_is_done_as_asked_comes_back(client: OriginalClient, operation: Operation) -> None:
    final = done(operation, amount=Decimal("1.230"), raw={"uid": "1"})
    assert client.conclude(operation, final) is final
    assert client.conclude(None, final) is final


def test_the_case_of_a_hexadecimal_address_says_nothing(client: OriginalClient) -> None:
    final = done(CLAIM, to_address="0XaBc")
    assert client.conclude(CLAIM, final) is final
    with pytest.raises(OperationMismatch):
        client.conclude(evolve(CLAIM, to_address="AbC"), done(CLAIM, to_address="aBc"))


def test_a_failed_allocation_is_its_own_error(client: OriginalClient) -> None:
    final = evolve(ALLOCATION, status=OperationStatus.FAILED)
    with pytest.raises(AllocationFailed) as caught:
        client.conclude(ALLOCATION, final)
    said("conclude: a failed allocation", caught.value)
    assert isinstance(caught.value, OperationFailed)
    assert (caught.value.operation, caught.value.idempotency_key) == (final, "nonce_1")
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert (type(twin), str(twin), twin.operation) == (AllocationFailed, str(caught.value), final)


def test_a_failed_claim_is_its_own_error(client: OriginalClient) -> None:
    final = evolve(CLAIM, status=OperationStatus.FAILED)
    with pytest.raises(ClaimFailed) as caught:
        client.conclude(None, final)
    said("conclude: a failed claim", caught.value)
    assert caught.value.operation is final


@pytest.mark.parametrize(
    ("field", "other"),
    [("nonce", "nonce_2"), ("reward_uid", "9"), ("to_user_uid", "9"), ("amount", Decimal("1.24")), ("uid", "9")],
)
@pytest.mark.parametrize("status", [OperationStatus.DONE, OperationStatus.FAILED])
def test_an_allocation_that_settled_as_another_is_a_mismatch(
    client: OriginalClient, field: str, other: Any, status: OperationStatus
) -> None:
    final = evolve(cast("Any", ALLOCATION), **{"status": status, field: other})
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(ALLOCATION, final)
    assert caught.value.differences == {field: (getattr(ALLOCATION, field), other)}
    assert (caught.value.operation, caught.value.asked, caught.value.idempotency_key) == (final, ALLOCATION, "nonce_1")
    assert pickle.loads(pickle.dumps(caught.value)).differences == caught.value.differences


@pytest.mark.parametrize(("field", "other"), [("reward_uid", "9"), ("from_user_uid", "9"), ("to_address", "0xdef")])
def test_a_claim_that_settled_as_another_is_a_mismatch(client: OriginalClient, field: str, other: str) -> None:
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(CLAIM, done(CLAIM, **{field: other}))
    assert caught.value.differences == {field: (getattr(CLAIM, field), other)}


def test_what_a_request_asked_for_comes_back_as_recovered(client: OriginalClient) -> None:
    final = done(ALLOCATION, uid="7", amount=Decimal("1.230"), raw={"uid": "7"})
    concluded = client.conclude(REQUEST, final)
    assert (concluded, concluded.recovered, concluded.raw) == (evolve(final, recovered=True), True, {"uid": "7"})


def test_an_allocation_that_was_recovered_stays_so(client: OriginalClient) -> None:
    assert client.conclude(evolve(ALLOCATION, recovered=True), done(ALLOCATION)).recovered
    assert not client.conclude(ALLOCATION, done(ALLOCATION)).recovered


@pytest.mark.parametrize(
    ("field", "other"), [("nonce", "nonce_2"), ("reward_uid", "9"), ("to_user_uid", "9"), ("amount", Decimal("1.24"))]
)
@pytest.mark.parametrize("status", [OperationStatus.DONE, OperationStatus.FAILED])
def test_an_allocation_that_is_not_what_a_request_asked_for_is_a_mismatch(
    client: OriginalClient, field: str, other: Any, status: OperationStatus
) -> None:
    final = evolve(cast("Any", ALLOCATION), **{"status": status, field: other})
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(REQUEST, final)
    assert caught.value.differences == {field: (getattr(REQUEST, field), other)}
    assert (caught.value.asked, caught.value.idempotency_key) == (REQUEST, "nonce_1")
    assert pickle.loads(pickle.dumps(caught.value)).asked == REQUEST


def test_what_a_request_asked_for_may_have_failed(client: OriginalClient) -> None:
    with pytest.raises(AllocationFailed) as caught:
        client.conclude(REQUEST, evolve(ALLOCATION, status=OperationStatus.FAILED))
    assert (caught.value.operation.recovered, caught.value.idempotency_key) == (True, "nonce_1")


def test_a_claim_is_no_allocation_that_was_asked_for(client: OriginalClient) -> None:
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(REQUEST, done(CLAIM))
    assert caught.value.differences == {"kind": ("allocation", "claim")}


def test_a_request_for_a_claim_concludes_nothing(client: OriginalClient) -> None:
    request = ClaimRequest(reward_uid="2", from_user_uid="3", to_address="0xAbC")
    with pytest.raises(TypeError, match=r"^asked: "):
        client.conclude(cast("Any", request), done(CLAIM))


def test_another_kind_is_a_mismatch(client: OriginalClient) -> None:
    with pytest.raises(OperationMismatch) as caught:
        client.conclude(ALLOCATION, done(CLAIM))
    assert caught.value.differences == {"kind": ("allocation", "claim")}


@pytest.mark.parametrize("status", ["pending", "queued"])
def test_an_operation_that_is_not_over_cannot_be_concluded(client: OriginalClient, status: str) -> None:
    with pytest.raises(ValueError, match=r"^final: "):
        client.conclude(None, evolve(ALLOCATION, status=OperationStatus(status)))


def test_only_an_operation_can_be_concluded(client: OriginalClient) -> None:
    with pytest.raises(TypeError, match=r"^final: "):
        client.conclude(None, cast("Any", "1"))
    with pytest.raises(TypeError, match=r"^asked: "):
        client.conclude(cast("Any", "1"), done(ALLOCATION))


def test_an_operation_is_named_by_itself_its_ref_or_its_uid(client: OriginalClient) -> None:
    ref = OperationRef("default", "allocation", "1")
    assert client.ref_of(ALLOCATION) == client.ref_of(ref) == client.ref_of("1") == ref
    assert client.ref_of(CLAIM) == OperationRef("default", "claim", "1")


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("", ValueError),
        ("a/b", ValueError),
        (OperationRef("default", "allocation", "a/b"), ValueError),
        (OperationRef("second", "allocation", "1"), ValueError),
        (OperationRef("default", "coin", "1"), ValueError),
        (evolve(ALLOCATION, scope="second"), ValueError),
        (7, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_operation_of_this_client_is_refused(client: OriginalClient, operation: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^(operation|uid): "):
        client.ref_of(operation)


def test_a_resource_becomes_its_model(client: OriginalClient) -> None:
    parsed = client.parse_operation(OperationRef("default", "allocation", "1"), {**RESOURCE, "extra": 1})
    assert parsed == done(ALLOCATION)
    assert parsed.raw["extra"] == 1


@pytest.mark.parametrize(
    ("uid", "changes"),
    [("2", {}), ("1", {"nonce": None}), ("1", {"amount": 1.5}), ("1", {"amount": "much"}), ("1", {"status": 7})],
)
def test_a_resource_of_another_operation_or_an_incomplete_one_is_unexpected(
    client: OriginalClient, uid: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(UnexpectedResponse):
        client.parse_operation(OperationRef("default", "allocation", uid), {**RESOURCE, **changes})


WEBHOOKS = OriginalWebhooks({"4o3vfxtcmo7b": "webhook-secret"})


def told(**changes: Any) -> Event:
    data = {"allocation": {**RESOURCE, "uid": "213134081289", **changes}}
    return WEBHOOKS.parse(json.dumps({"event": "reward.allocated", "data": data}).encode())


def test_an_event_gives_its_operation_as_a_model(client: OriginalClient) -> None:
    operation = client.operation_of(told(amount="123456789.123456789012345678"))
    assert isinstance(operation, Allocation)
    assert (operation.uid, operation.amount) == ("213134081289", Decimal("123456789.123456789012345678"))
    assert (operation.status, operation.scope) == (OperationStatus.DONE, "default")


@pytest.mark.parametrize(
    "event",
    [
        told(status="pending"),
        told(amount="much"),
        WEBHOOKS.parse(b'{"event": "asset.minted", "data": {}}'),
        WEBHOOKS.parse(b"garbage"),
        evolve(told(), resource=RESOURCE),
        evolve(told(), ref=OperationRef("second", "allocation", "213134081289")),
        evolve(told(), ref=OperationRef("default", "coin", "213134081289")),
    ],
)
def test_an_event_without_a_usable_resource_of_this_client_gives_none(client: OriginalClient, event: Event) -> None:
    assert client.operation_of(event) is None


async def test_a_replayed_nonce_with_another_amount_shows_when_it_settles(
    original: OriginalClient, sandbox: OriginalSandbox
) -> None:
    sandbox.options.duplicate_nonce = "replay"
    first = await original.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1.23", nonce="nonce_1")
    second = await original.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1.24", nonce="nonce_1")
    assert second.uid == first.uid
    await sandbox.settle(first.uid)
    final = await original.read_operation(second.ref)
    assert original.conclude(first, final) is final
    with pytest.raises(OperationMismatch) as caught:
        original.conclude(second, final)
    assert caught.value.differences == {"amount": (Decimal("1.24"), Decimal("1.23"))}
