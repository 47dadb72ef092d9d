"""Which operations an event is about, and whether it settles one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rewards_core.operations import OperationRef
from tests.original_async.event_kit import ALLOCATION, ALLOCATION_REF, APP, CLAIM, CLAIM_REF, CONTRACT, LOG, TIME, body, source


@pytest.mark.parametrize("key", ["allocation", "reward_allocation", "rewardAllocation", "reward", "thing"])
def test_the_resource_is_found_under_whatever_key(key: str) -> None:
    event = source.parse(body(transaction_log=LOG, **{key: ALLOCATION}))
    assert (event.ref, event.resource) == (ALLOCATION_REF, ALLOCATION)


@pytest.mark.parametrize("key", ["claim", "reward_claim", "allocation_claim", "reward", "thing"])
def test_a_claim_is_found_under_whatever_key(key: str) -> None:
    event = source.parse(body("reward.claimed", **{key: CLAIM}))
    assert (event.ref, event.resource) == (CLAIM_REF, CLAIM)


@pytest.mark.parametrize("event", ["reward.settled", "allocation.failed", "x"])
def test_under_another_event_name_the_resource_tells_its_kind(event: str) -> None:
    assert source.parse(body(event, thing=ALLOCATION)).ref == ALLOCATION_REF
    assert source.parse(body(event, thing=CLAIM)).ref == CLAIM_REF
    assert source.parse(body(event, allocation={"uid": "1"})).ref == OperationRef("default", "allocation", "1")


def test_a_labelled_operation_goes_before_what_merely_has_a_uid() -> None:
    event = source.parse(body(reward=CONTRACT, user={"uid": "7"}, thing={"uid": "8"}, allocation={"uid": "213134081289"}))
    assert event.ref == ALLOCATION_REF
    assert event.resource is None


def test_a_uid_without_label_is_the_operation_the_event_names() -> None:
    event = source.parse(
        body(reward=CONTRACT, user={"uid": "7"}, first={"uid": "213134081289", "reward_uid": "1"}, second={"uid": "9"})
    )
    assert event.ref == ALLOCATION_REF


def test_an_operation_of_another_kind_than_the_event_names_is_still_that_operation() -> None:
    event = source.parse(body("reward.claimed", allocation=ALLOCATION))
    assert (event.ref, event.resource) == (ALLOCATION_REF, ALLOCATION)


@pytest.mark.parametrize(
    ("name", "resource", "ref"), [("reward.allocated", ALLOCATION, ALLOCATION_REF), ("reward.claimed", CLAIM, CLAIM_REF)]
)
def test_a_resource_spread_over_data_settles(name: str, resource: dict[str, Any], ref: OperationRef) -> None:
    for event in (name, "reward.settled"):
        parsed = source.parse(body(event, transaction_log=LOG, reward=CONTRACT, **resource))
        assert (parsed.ref, parsed.also) == (ref, ())
        assert parsed.resource == {"app": APP, "transaction_log": LOG, "reward": CONTRACT, **resource}


@pytest.mark.parametrize("name", ["reward.allocated", "reward.claimed"])
def test_a_bare_uid_in_data_is_the_operation_the_event_names(name: str) -> None:
    event = source.parse(body(name, uid="213134081289"))
    assert (event.ref, event.resource) == (ALLOCATION_REF if name == "reward.allocated" else CLAIM_REF, None)
    assert source.parse(body("reward.settled", uid="213134081289")).ref is None


@pytest.mark.parametrize("name", ["reward.allocated", "reward.claimed", "reward.settled"])
@pytest.mark.parametrize(
    ("data", "ref"),
    [
        ({"allocation_uid": "213134081289"}, ALLOCATION_REF),
        ({"claim_uid": "213134081289"}, CLAIM_REF),
        ({"reward": {**CONTRACT, "allocation_uid": "213134081289"}}, ALLOCATION_REF),
        ({"reward": {"uid": "112144981245", "claim_uid": "213134081289"}}, CLAIM_REF),
        ({"allocations": [{"allocation_uid": "213134081289"}]}, ALLOCATION_REF),
        ({"uid": "5", "name": "Gold", "allocation_uid": "213134081289"}, ALLOCATION_REF),
        (
            {"reward": {"uid": "112144981245", "reward_uid": "1", "to_user_uid": "2", "allocation_uid": "213134081289"}},
            ALLOCATION_REF,
        ),
    ],
)
def test_an_operation_named_by_its_uid_alone_is_asked_about(name: str, data: dict[str, Any], ref: OperationRef) -> None:
    event = source.parse(body(name, transaction_log=LOG, **data))
    assert (event.ref, event.also, event.resource, event.key) == (ref, (), None, None)


def test_fields_beside_the_uid_of_an_allocation_do_not_settle_it_under_another_uid() -> None:
    event = source.parse(body(**{**ALLOCATION, "uid": "5", "allocation_uid": "213134081289"}))
    assert (event.ref, event.also, event.resource) == (ALLOCATION_REF, (), None)


@pytest.mark.parametrize("key", ["allocations", "reward_allocations", "rewardAllocations", "allocation"])
def test_a_list_of_one_settles_like_the_resource_itself(key: str) -> None:
    event = source.parse(body(**{key: [7, ALLOCATION, {"uid": 7}]}))
    assert (event.ref, event.also, event.resource, event.key) == (ALLOCATION_REF, (), ALLOCATION, "nonce_1")


@pytest.mark.parametrize("key", ["claims", "reward_claims"])
def test_every_claim_of_a_list_is_asked_about(key: str) -> None:
    event = source.parse(body("reward.claimed", **{key: [CLAIM, {"uid": "1"}]}))
    assert (event.ref, event.also, event.resource) == (CLAIM_REF, (OperationRef("default", "claim", "1"),), None)


def test_several_operations_are_all_asked_about_and_none_settles() -> None:
    event = source.parse(body(allocations=[ALLOCATION, {**ALLOCATION, "uid": "2", "nonce": "nonce_2"}, {"uid": "3"}]))
    assert event.ref == ALLOCATION_REF
    assert event.also == (OperationRef("default", "allocation", "2"), OperationRef("default", "allocation", "3"))
    assert (event.resource, event.key, event.problem) == (None, "nonce_1", None)


def test_the_operation_of_the_kind_the_event_names_comes_first() -> None:
    event = source.parse(body("reward.claimed", allocation=ALLOCATION, claim=CLAIM))
    assert (event.ref, event.also, event.resource) == (CLAIM_REF, (ALLOCATION_REF,), None)
    event = source.parse(body("reward.claimed", allocation_uid="1", moved={"uid": "213134081289", "to_address": "0x0"}))
    assert (event.ref, event.also) == (CLAIM_REF, (OperationRef("default", "allocation", "1"),))


def test_an_operation_named_twice_is_one() -> None:
    for data in (
        {"allocation_uid": "213134081289", "allocation": ALLOCATION},
        {"allocations": [ALLOCATION], "allocation_uid": "213134081289"},
    ):
        event = source.parse(body(**data))
        assert (event.ref, event.also, event.resource) == (ALLOCATION_REF, (), ALLOCATION)
    named_first = source.parse(body(reward={"uid": "1", "allocation_uid": "213134081289"}, allocation=ALLOCATION))
    assert (named_first.ref, named_first.also, named_first.resource) == (ALLOCATION_REF, (), ALLOCATION)


@pytest.mark.parametrize("second", [{**ALLOCATION, "status": "failed"}, {"uid": "213134081289"}, ALLOCATION])
def test_an_operation_described_twice_is_asked_about(second: dict[str, Any]) -> None:
    for data in ({"allocation": ALLOCATION, "reward_allocation": second}, {"allocations": [ALLOCATION, second, second]}):
        event = source.parse(body(**data))
        assert (event.ref, event.also, event.resource, event.key) == (ALLOCATION_REF, (), None, None)


def test_an_event_asks_about_its_first_operation_and_a_thousand_more() -> None:
    event = source.parse(body(allocations=[{"uid": str(number)} for number in range(1_500)]))
    assert event.ref == OperationRef("default", "allocation", "0")
    assert [ref.uid for ref in event.also] == [str(number) for number in range(1, 1_001)]
    both = source.parse(body(**{key: [{"uid": str(number)} for number in range(900)] for key in ("claims", "allocations")}))
    assert both.ref == OperationRef("default", "allocation", "0")
    assert len(both.also) == 1_000


@pytest.mark.parametrize(
    ("nonce", "key"),
    [("n", "n"), ("n" * 255, "n" * 255), ("", None), ("n" * 256, None), ("a\nb", None), (7, None), (None, None), (["n"], None)],
)
def test_the_key_is_the_nonce_where_the_body_carries_one(nonce: Any, key: str | None) -> None:
    assert source.parse(body(allocation={"uid": "213134081289", "nonce": nonce})).key == key
    assert source.parse(body(uid="213134081289", nonce=nonce)).key == key


def test_only_the_operation_the_ref_names_gives_the_key() -> None:
    assert source.parse(body(allocations=[{"uid": "1"}, ALLOCATION])).key is None
    assert source.parse(body("reward.claimed", claim={**CLAIM, "nonce": "7"})).key is None
    assert source.parse(body(nonce="n", user={"uid": "7", "nonce": "n"})).key is None


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"reward": CONTRACT},
        {"user": {"uid": "7"}},
        {"allocation": {"status": "done"}},
        {"allocation": "213134081289"},
        {"allocations": ["213134081289", 7, None, [ALLOCATION]]},
        {"things": [ALLOCATION]},
        {"allocation": {"uid": 213134081289}},
        {"allocation": {"uid": ""}},
        {"allocation": {"uid": "a/b"}},
        {"allocation": {"uid": None}},
        {"allocation_uid": 213134081289},
        {"uid": "a/b"},
    ],
)
def test_a_body_without_a_uid_is_still_an_event(data: dict[str, Any]) -> None:
    event = source.parse(body(**data))
    assert (event.name, event.ref, event.resource, event.problem) == ("reward.allocated", None, None, None)


@pytest.mark.parametrize("name", ["reward.allocated", "reward.claimed", "reward.settled"])
@pytest.mark.parametrize(
    "data",
    [
        {"reward": {"uid": "112144981245"}},
        {"reward": {"uid": "112144981245", "amount": "1.23", "nonce": "n"}},
        {"reward": {"uid": "112144981245", "reward_uid": "112144981245", "to_user_uid": "7", "from_user_uid": "7"}},
        {"reward_contract": {"uid": "112144981245", "amount": "1.23"}},
        {"thing": {**CONTRACT, "amount": "1.23"}},
        {"thing": {"uid": "7", "created_at": TIME}},
        CONTRACT,
        {"uid": "112144981245", "reward_uid": "112144981245", "to_user_uid": "7", "token_type": "ERC20"},
        {"uid": "7", "email": None, "wallet_address": "0x0"},
        {"transaction_log": {**LOG, "reward_uid": "1", "to_user_uid": "2"}},
        {"transactionLog": {**LOG, "reward_uid": "1", "to_user_uid": "2"}},
        {"app": {**APP, "reward_uid": "1", "to_user_uid": "2"}},
        {"user": {"uid": "7", "nonce": "n"}, "to_user": {"uid": "7", "amount": "1"}, "fromUser": {"uid": "7", "amount": "1"}},
        {"claimed_by": {"uid": "7"}, "allocated_to": {"uid": "8"}},
    ],
)
def test_the_uid_of_a_contract_an_app_a_user_or_a_log_is_no_operation(name: str, data: dict[str, Any]) -> None:
    event = source.parse(body(name, **data))
    assert (event.ref, event.also, event.key, event.resource, event.problem) == (None, (), None, None, None)


@pytest.mark.parametrize("data", [None, 7, "text", [ALLOCATION]])
def test_data_that_is_no_object_yields_no_operation(data: Any) -> None:
    event = source.parse(json.dumps({"event": "reward.allocated", "data": data}).encode())
    assert (event.name, event.ref, event.problem) == ("reward.allocated", None, None)


def test_events_of_other_resources_name_no_operation() -> None:
    event = source.parse(
        body("wallet.created", user={"uid": "1", "email": "a@example.com"}, wallet={"uid": "2", "network": "Amoy"})
    )
    assert (event.name, event.ref, event.problem) == ("wallet.created", None, None)
