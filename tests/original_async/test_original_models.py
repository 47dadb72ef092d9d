"""The models parse the documented bodies exactly, and are frozen values."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError

from original_async.models import Allocation, AllocationRequest, Balance, Claim, ClaimRequest, DeploymentStatus, Reward
from rewards_core.errors import OutcomeUnknown, UnexpectedResponse
from rewards_core.json import decode
from rewards_core.operations import KeyedRequest, Operation, OperationRef, OperationStatus

ALLOCATION = (
    b'{"uid":"213134081289","status":"pending","reward_uid":"112144981245","to_user_uid":"223144788242","amount":"1.23",'
    b'"nonce":"nonce_1","created_at":"2023-08-10T14:07:14.494142Z"}'
)
CLAIM = (
    b'{"uid":"213134081289","status":"pending","reward_uid":"112144981245","from_user_uid":"223144788242",'
    b'"to_address":"0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045","amount":"1.23","created_at":"2023-08-10T14:07:14.494142Z"}'
)
REWARD = (
    b'{"uid":"151854912345","name":"Test SDK Reward 1","status":"deployed","token_type":"ERC20","token_name":"TestnetORI",'
    b'"created_at":"2024-02-13T10:45:56.952745Z","contract_address":"0x124a6755ee787153bb6228463d5dc3a02890a7db",'
    b'"withdraw_receiver":"0x4881ab2f73c48a54b907a8b697b270f490768e6d","description":"Description of the reward",'
    b'"explorer_url":"https://mumbai.polygonscan.com/address/0x124a6755ee787153bb6228463d5dc3a02890a7db"}'
)


def test_an_allocation_reads_as_documented() -> None:
    allocation = decode(ALLOCATION, Allocation)
    assert allocation == Allocation(
        uid="213134081289",
        status=OperationStatus.PENDING,
        reward_uid="112144981245",
        to_user_uid="223144788242",
        amount=Decimal("1.23"),
        nonce="nonce_1",
        created_at=datetime(2023, 8, 10, 14, 7, 14, 494142, UTC),
    )
    assert allocation.raw["nonce"] == "nonce_1"
    assert allocation.ref == OperationRef("default", "allocation", "213134081289")
    assert isinstance(allocation, Operation)
    assert not allocation.recovered


def test_a_claim_reads_as_documented_and_its_amount_may_be_null() -> None:
    claim = decode(CLAIM, Claim)
    assert (claim.amount, claim.to_address) == (Decimal("1.23"), "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045")
    assert claim.ref == OperationRef("default", "claim", "213134081289")
    assert isinstance(claim, Operation)
    assert decode(CLAIM.replace(b'"1.23"', b"null"), Claim).amount is None
    assert decode(CLAIM.replace(b'"1.23"', b"123.123"), Claim).amount == Decimal("123.123")


def test_a_reward_reads_as_documented_and_keeps_a_new_status() -> None:
    reward = decode(REWARD, Reward)
    assert (reward.status, reward.chain_id) == (DeploymentStatus.DEPLOYED, None)
    assert decode(REWARD.replace(b'"deployed"', b'"Closing"'), Reward).status == "closing"


@pytest.mark.parametrize("text", [b'"Done"', b'"done"', b'"DONE"'])
def test_a_status_is_the_same_in_any_case(text: bytes) -> None:
    assert decode(ALLOCATION.replace(b'"pending"', text), Allocation).status is OperationStatus.DONE


def test_an_unknown_status_is_kept_and_is_not_terminal() -> None:
    status = decode(ALLOCATION.replace(b'"pending"', b'"Queued"'), Allocation).status
    assert status == "queued"
    assert not status.terminal


@pytest.mark.parametrize("text", ["123456789012.123456789012345678", "100.0", "7", "0.1", "999999999999999999999999999999.5"])
def test_an_amount_is_exact_as_string_and_as_number(text: str) -> None:
    for written in (text, f'"{text}"'):
        amount = decode(b'{"reward_uid":"1","user_uid":"2","amount":%s}' % written.encode(), Balance).amount
        assert format(amount, "f") == text


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (b'"uid":"213134081289"', b'"uid":213134081289', "uid"),
        (b'"nonce_1"', b"null", "nonce"),
        (b'"nonce":"nonce_1",', b"", "nonce"),
        (b'"1.23"', b'"1e3"', "amount"),
        (b'"1.23"', b"true", "amount"),
        (b'"pending"', b"7", "status"),
        (b'"2023-08-10T14:07:14.494142Z"', b'"yesterday"', "created_at"),
    ],
)
def test_a_wrong_type_is_named_by_its_path(old: bytes, new: bytes, path: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        decode(b'{"data":%s}' % ALLOCATION.replace(old, new), Allocation, inside=("data",))
    assert caught.value.path == f"data.{path}"


def test_what_the_vendor_sends_never_fills_a_field_of_ours() -> None:
    allocation = decode(ALLOCATION.replace(b"}", b',"scope":"theirs","recovered":true}'), Allocation)
    assert (allocation.scope, allocation.recovered) == ("default", False)
    assert allocation.raw["scope"] == "theirs"


def test_an_allocation_has_its_nonce_as_key_and_a_claim_has_none() -> None:
    allocation, claim = decode(ALLOCATION, Allocation), decode(CLAIM, Claim)
    assert (allocation.key, allocation.recovered) == ("nonce_1", False)
    assert (claim.key, claim.recovered) == (None, False)


ASKED = AllocationRequest(
    reward_uid="112144981245", to_user_uid="223144788242", amount=Decimal("1.230"), nonce="nonce_1", scope="second"
)


def test_a_request_says_how_its_allocation_is_found() -> None:
    assert isinstance(ASKED, KeyedRequest)
    assert (ASKED.scope, ASKED.kind, ASKED.key, ASKED.owner) == ("second", "allocation", "nonce_1", "223144788242")
    assert not isinstance(ClaimRequest(reward_uid="1", from_user_uid="2", to_address="0x"), KeyedRequest)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"nonce_1"', b'"nonce_2"'), (b'"112144981245"', b'"7"'), (b'"223144788242"', b'"7"'), (b"1.23", b"1.24")]
)
def test_a_request_is_met_by_nothing_but_what_it_asked_for(old: bytes, new: bytes) -> None:
    assert ASKED.is_met_by(decode(ALLOCATION, Allocation))
    assert not ASKED.is_met_by(decode(ALLOCATION.replace(old, new), Allocation))
    assert not ASKED.is_met_by(decode(CLAIM, Claim))


@pytest.mark.parametrize("request_", [ASKED, ClaimRequest(reward_uid="1", from_user_uid="2", to_address="0x", scope="second")])
def test_the_request_of_an_unknown_outcome_travels_with_it(request_: Any) -> None:
    error = OutcomeUnknown("it is not known", request=request_, idempotency_key="nonce_1")
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (twin.request, type(twin.request)) == (request_, type(request_))
    assert hash(pickle.loads(pickle.dumps(request_))) == hash(request_)
    with pytest.raises(FrozenInstanceError):
        request_.scope = "other"


@pytest.mark.parametrize(("body", "model"), [(ALLOCATION, Allocation), (CLAIM, Claim), (REWARD, Reward)])
def test_models_are_frozen_values_and_raw_takes_no_part(body: bytes, model: type[Any]) -> None:
    one = decode(body, model)
    other = decode(body.replace(b"}", b',"extra":"canary"}'), model)
    assert one == other
    assert hash(one) == hash(other)
    assert "canary" not in repr(other)
    assert pickle.loads(pickle.dumps(other)).raw == other.raw
    assert copy.deepcopy(other) == other
    with pytest.raises(FrozenInstanceError):
        one.uid = "other"


ALLOCATION_REQUEST = {"reward_uid": "1", "to_user_uid": "2", "amount": Decimal("3.5"), "nonce": "n"}
CLAIM_REQUEST = {"reward_uid": "1", "from_user_uid": "2", "to_address": "0x1"}


@pytest.mark.parametrize("wrong", [5, 3.5, None, b"x", "text"])
@pytest.mark.parametrize(
    ("kind", "usual", "name"),
    [
        *((AllocationRequest, ALLOCATION_REQUEST, name) for name in (*ALLOCATION_REQUEST, "scope")),
        *((ClaimRequest, CLAIM_REQUEST, name) for name in (*CLAIM_REQUEST, "scope")),
    ],
)
def test_a_request_of_wrong_types_is_not_made(kind: Any, usual: dict[str, Any], name: str, wrong: Any) -> None:
    if wrong == "text" and name != "amount":
        assert getattr(kind(**usual | {name: wrong}), name) == wrong
        return
    with pytest.raises(TypeError, match=rf"^{name}: "):
        kind(**usual | {name: wrong})
