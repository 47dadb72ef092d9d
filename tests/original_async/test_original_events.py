"""Events: their identity, the operation in them, and those with a problem."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from original_async.webhooks import OriginalWebhooks
from rewards_core.errors import SignatureError
from rewards_core.operations import Event, EventSource, OperationRef
from webhooks import MemoryStore, Receiver

APP = {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"}
ALLOCATION = {
    "uid": "213134081289",
    "status": "done",
    "reward_uid": "112144981245",
    "to_user_uid": "223144788242",
    "amount": "1.23",
    "nonce": "nonce_1",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
CLAIM = {
    "uid": "213134081289",
    "status": "done",
    "reward_uid": "112144981245",
    "from_user_uid": "223144788242",
    "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "amount": "1.23",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
CONTRACT = {"uid": "112144981245", "name": "Gold", "token_type": "ERC20", "token_name": "TORI", "contract_address": None}
LOG = {"type": "allocate", "chain_id": 80002, "transaction_hash": "0x00", "uid": "999"}
TIME = "2024-08-01T11:24:36.531141+00:00"
ALLOCATION_REF = OperationRef("default", "allocation", "213134081289")
CLAIM_REF = OperationRef("default", "claim", "213134081289")

source = OriginalWebhooks({"4o3vfxtcmo7b": "webhook-secret-one"})


def body(event: Any = "reward.allocated", **data: Any) -> bytes:
    return json.dumps({"data": {"app": APP, **data}, "event": event, "event_time": TIME, "sent_at": TIME}).encode()


def test_it_is_an_event_source() -> None:
    accepted: EventSource = source
    assert accepted.scope == "default"
    assert OriginalWebhooks({"a": "s"}, scope="second").scope == "second"


def test_it_knows_the_events_that_the_vendor_names(caplog: pytest.LogCaptureFixture) -> None:
    assert {"reward.allocated", "reward.claimed", "asset.minted"} < source.event_names
    receiver = Receiver(source, MemoryStore())

    async def handle(event: Event) -> None:
        """Do nothing."""

    for name in sorted(source.event_names):
        receiver.on(name)(handle)
    assert caplog.text == ""
    receiver.on("reward.alocated")(handle)
    assert "did you mean 'reward.allocated'?" in caplog.text


def test_what_it_signs_it_verifies() -> None:
    raw = body(allocation=ALLOCATION)
    assert source.verify({"X-Webhook-Signature": source.sign(raw)}, raw) == "4o3vfxtcmo7b"
    with pytest.raises(SignatureError):
        source.verify({"X-Webhook-Signature": source.sign(raw)}, raw + b" ")


def test_an_allocated_event_gives_its_operation_and_resource() -> None:
    raw = body(allocation=ALLOCATION, transaction_log=LOG)
    event = source.parse(raw, CIMultiDict({"X-Webhook-Correlation-Id": "c-1", "X-Webhook-Attempt": "2"}))
    assert event.ref == ALLOCATION_REF
    assert event.resource == ALLOCATION
    assert (event.scope, event.name, event.body, event.problem) == ("default", "reward.allocated", raw, None)
    assert (event.occurred_at, event.correlation_id, event.attempt) == (TIME, "c-1", "2")
    assert len(event.identity) == 16


@pytest.mark.parametrize("wrong", [None, 5, "{}", bytearray(b"{}")])
def test_a_body_that_is_no_bytes_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^body: "):
        source.parse(wrong)


def test_a_claimed_event_gives_its_operation_and_resource() -> None:
    event = source.parse(body("reward.claimed", claim=CLAIM))
    assert event.ref == CLAIM_REF
    assert event.resource == CLAIM


def test_a_claim_without_amount_is_complete() -> None:
    assert source.parse(body("reward.claimed", claim={**CLAIM, "amount": None})).resource


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


@pytest.mark.parametrize("field", ["status", "reward_uid", "to_user_uid", "amount", "nonce"])
def test_a_resource_that_lacks_a_mandatory_field_settles_nothing(field: str) -> None:
    event = source.parse(body(allocation={name: value for name, value in ALLOCATION.items() if name != field}))
    assert (event.ref, event.resource, event.problem) == (ALLOCATION_REF, None, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "pending"},
        {"status": "melting"},
        {"status": None},
        {"amount": "much"},
        {"amount": None},
        {"nonce": 7},
        {"created_at": "x"},
    ],
)
def test_a_resource_that_is_not_terminal_or_mistyped_settles_nothing(changed: dict[str, Any]) -> None:
    event = source.parse(body(allocation={**ALLOCATION, **changed}))
    assert (event.ref, event.resource, event.problem) == (ALLOCATION_REF, None, None)


@pytest.mark.parametrize("status", ["failed", "Done", "DONE"])
def test_the_outcome_is_what_the_resource_says(status: str) -> None:
    assert source.parse(body(allocation={**ALLOCATION, "status": status})).resource == {**ALLOCATION, "status": status}


def test_a_numeric_amount_keeps_every_digit() -> None:
    raw = body(allocation=ALLOCATION).replace(b'"1.23"', b"123456789012.123456789012345678")
    event = source.parse(raw)
    assert event.resource
    assert event.resource["amount"] == Decimal("123456789012.123456789012345678")


def test_one_event_has_one_identity_however_it_is_written() -> None:
    content = json.loads(body(allocation=ALLOCATION))
    again = json.dumps({**content, "sent_at": "2024-08-02T00:00:00Z"}, separators=(",", ":")).encode()
    shuffled = json.dumps(dict(reversed(content.items())), indent=2).encode()
    identities = {
        source.parse(raw, {"x-webhook-attempt": "2"}).identity for raw in (body(allocation=ALLOCATION), again, shuffled)
    }
    assert len(identities) == 1


def with_members(content: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({**content, **members}).encode()


@pytest.mark.parametrize("event_time", [{}, {"event_time": None}, {"event_time": ""}])
def test_without_its_own_time_an_event_is_told_apart_by_when_it_was_sent(event_time: dict[str, Any]) -> None:
    content = {"event": "reward.allocated", "data": {"allocation": ALLOCATION}, **event_time}
    first, second = (source.parse(with_members(content, sent_at=f"2024-0{month}-01T00:00:00Z")) for month in (7, 8))
    assert first.identity != second.identity


@pytest.mark.parametrize(
    "name",
    [
        "attempt",
        "webhook_attempt",
        "x-webhook-attempt",
        "X-Webhook-Attempt",
        "webhookAttempt",
        "correlation_id",
        "correlationId",
        "webhook_correlation_id",
        "x-webhook-correlation-id",
        "app_uid",
        "appUid",
        "x-app-uid",
        "webhook-app-uid",
    ],
)
def test_what_names_the_delivery_takes_no_part_in_the_identity(name: str) -> None:
    content = json.loads(body(allocation=ALLOCATION))
    for place in ("metadata", "headers"):
        deliveries = [with_members(content, **{place: {name: value, "kept": 1}}) for value in ("1", "2", 3, None)]
        assert len({source.parse(raw).identity for raw in deliveries}) == 1
    assert source.parse(with_members(content, **{name: "1"})).identity == source.parse(with_members(content)).identity


def test_a_delivery_that_is_told_apart_in_three_places_is_one_event() -> None:
    content = json.loads(body(allocation=ALLOCATION))
    deliveries = [
        with_members(content, sent_at=value, attempt=value, metadata={"correlationId": value}, headers={"X-App-Uid": value})
        for value in ("1", "2", "3")
    ]
    assert len({source.parse(raw).identity for raw in deliveries}) == 1


@pytest.mark.parametrize(
    "place",
    [
        lambda value: {"data": {"attempt": value}},
        lambda value: {"data": {"metadata": {"attempt": value}, "headers": {"x-webhook-attempt": value}}},
        lambda value: {"data": {"app_uid": value, "correlation_id": value}},
        lambda value: {"metadata": {"inner": {"attempt": value}}},
        lambda value: {"headers": [{"attempt": value}]},
        lambda value: {"other": {"attempt": value}},
        lambda value: {"attempts": value},
        lambda value: {"retry_attempt": value},
        lambda value: {"metadata": {"uid": value}},
        lambda value: {"metadata": {"sent_at": value}},
        lambda value: {"metadata": value},
    ],
)
def test_in_doubt_there_are_two_events(place: Callable[[str], dict[str, Any]]) -> None:
    content = {**json.loads(body(allocation=ALLOCATION)), "app_uid": "UB2DG8MW5KBQ"}
    first, second = (source.parse(with_members(content, **place(value))) for value in ("1", "2"))
    assert first.identity != second.identity


@pytest.mark.parametrize(
    ("raw", "identity"),
    [
        (
            (
                b'{"data": {"app": {"uid": "UB2DG8MW5KBQ"}, "allocation": {"uid": "213134081289", "amount": "1.23"}}, '
                b'"event": "reward.allocated", "event_time": "2024-08-01T11:24:36.531141+00:00", '
                b'"sent_at": "2024-08-01T11:24:37.531141+00:00"}'
            ),
            "a83ccac9a16698ecb15b1ca4baa62fcc",
        ),
        (
            (
                b'{"event": "reward.claimed", "event_time": "2024-08-01T11:24:36+00:00", "data": {"claim": {"uid": "1", '
                b'"amount": 1.50, "attempt": 3, "sent_at": "x"}, "metadata": {"attempt": 1}, "app_uid": "A"}}'
            ),
            "42a35788b16f1245b99a732bfb0a5793",  # the first release serialized fractions differently
        ),
        (b'{"event": "collection.deployed", "data": {"collection": {"uid": "1"}}}', "7746e8742c2d214e4649f3f1a1baf39b"),
        (
            '{"event": "reward.allocated", "event_time": "t", "sent_at": "s", "metadata": {"région": "EU", "attempts": 2}, '
            '"headers": ["attempt"], "retry": {"attempt": 1}}'.encode(),
            "8f5cf49f8a4d9639f116544b32eec488",
        ),
        (b"[1]", "080a9ed428559ef602668b4c00f114f1"),
        (b"nonsense", "999aaa8645bb72ff599e143b1e3d2a94"),
    ],
)
def test_an_identity_matches_what_earlier_versions_stored(raw: bytes, identity: str) -> None:
    assert source.parse(raw).identity.hex() == identity


def test_events_that_differ_anywhere_else_have_different_identities() -> None:
    identities = {
        source.parse(raw).identity
        for raw in (
            body(allocation=ALLOCATION),
            body("reward.claimed", allocation=ALLOCATION),
            body(allocation={**ALLOCATION, "uid": "213134081290"}),
            body(allocation={**ALLOCATION, "sent_at": TIME}),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.23"),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.230000000000000000001"),
            body(allocation=ALLOCATION).replace(b'"1.23"', b"1.230000000000000000002"),
            body(allocation=ALLOCATION).replace(b'"event_time": "2024', b'"event_time": "2025'),
        )
    }
    assert len(identities) == 8


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense", b"[1]", b'"text"', b"7", b"null", b'{"a":', b"\xff\xfe", b'{"a": NaN}', b"[" * 5000]
)
def test_a_body_that_is_no_json_object_is_a_problem(raw: bytes) -> None:
    event = source.parse(raw, {"x-webhook-attempt": "1"})
    assert event.problem == "the body is not a readable JSON object"
    assert (event.name, event.body, event.ref, event.attempt) == ("", raw, None, "1")
    assert event.identity != source.parse(raw + b" ").identity


def test_a_body_nested_too_deeply_to_be_written_again_is_a_problem() -> None:
    raw = b'{"event": "x", "data": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert len(source.parse(raw).identity) == 16


@pytest.mark.parametrize("name", [None, 7, "", ["reward.allocated"]])
def test_a_body_that_names_no_event_is_a_problem(name: Any) -> None:
    event = source.parse(body(name, allocation=ALLOCATION))
    assert event.problem == "the body does not name its event"
    assert (event.name, event.ref, event.resource) == ("", None, None)


def test_a_name_that_is_not_printable_is_shown_on_one_line() -> None:
    assert source.parse(body("a\nb")).name == "a b"
    assert len(source.parse(body("a" * 999)).name) == 200


def test_an_event_of_another_app_is_a_problem() -> None:
    mine = OriginalWebhooks({"a": "s"}, app_uid="UB2DG8MW5KBQ")
    assert mine.parse(body(allocation=ALLOCATION)).problem is None
    other = OriginalWebhooks({"a": "s"}, app_uid="AAAAAAAAAAAA")
    assert (
        other.parse(body(allocation=ALLOCATION)).problem
        == "the event belongs to app UB2DG8MW5KBQ; this source is configured for app AAAAAAAAAAAA"
    )
    assert (
        other.parse(body(app={"uid": 7}, allocation=ALLOCATION)).problem
        == "the event belongs to an app whose uid is not text; this source is configured for app AAAAAAAAAAAA"
    )
    assert other.parse(body(app={"name": "no uid"}, allocation=ALLOCATION)).problem is None
    assert other.parse(body(app="UB2DG8MW5KBQ", allocation=ALLOCATION)).problem is None


def test_the_scope_goes_into_event_and_ref() -> None:
    event = OriginalWebhooks({"a": "s"}, scope="second").parse(body(allocation=ALLOCATION))
    assert event.scope == "second"
    assert event.ref == OperationRef("second", "allocation", "213134081289")


@pytest.mark.parametrize("headers", [{}, {"x-webhook-attempt": 7}, {7: "x"}, 7, [("a", "b")]])
def test_hints_that_are_none_do_no_harm(headers: Any) -> None:
    event = source.parse(body(allocation=ALLOCATION), headers)
    assert (event.ref, event.correlation_id, event.attempt) == (ALLOCATION_REF, None, None)


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"X-Webhook-Signature": "k,ab  j,cd"}, "k,ab  j,cd"),
        (CIMultiDict([("x-webhook-signature", "k,ab"), ("x-webhook-signature", "j,cd")]), "k,ab j,cd"),
        ({}, None),
        ({"x-webhook-signature": "k,ab\r\nX-Other: y"}, None),
        ({"x-webhook-signature": "k,\udcff"}, None),
        ({"x-webhook-signature": "k" * 9_000}, None),
        (7, None),
    ],
)
def test_the_signature_is_kept_as_it_arrived_if_it_can_be_sent_on(headers: Any, kept: str | None) -> None:
    assert source.parse(body(allocation=ALLOCATION), headers).signature == kept


def test_hints_are_cut_to_one_short_line() -> None:
    event = source.parse(body(), {"X-Webhook-Correlation-Id": "a\r\nb" + "c" * 999})
    assert event.correlation_id
    assert event.correlation_id.isprintable()
    assert len(event.correlation_id) == 200


MEMBERS = {"event", "event_time", "sent_at", "data", "metadata", "headers", "attempt", "X-App-Uid", "é"}
FIELDS = {"app", "uid", "reward", "reward_uid", "to_user_uid", "from_user_uid", "nonce", "name", "status"}
OPERATIONS = {"allocation", "allocations", "reward_allocation", "allocation_uid", "claim", "claims", "claim_uid"}
words = st.sampled_from(sorted(MEMBERS | FIELDS | OPERATIONS))
nested = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["1", "2", "done"]),
    lambda inner: st.lists(inner) | st.dictionaries(words, inner),
)
contents = st.dictionaries(words, nested)
names = st.sampled_from(["reward.allocated", "reward.claimed", "reward.settled"])


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.repeats_itself
@given(
    st.one_of(
        st.binary(),
        nested.map(written),
        nested.map(lambda value: body(value, allocation=value)),
        st.builds(lambda name, data, content: written({**content, "event": name, "data": data}), names, contents, contents),
    )
)
def test_parse_is_total(raw: bytes) -> None:
    event = source.parse(raw)
    assert event.body == raw
    assert len(event.identity) == 16
    assert event.problem is not None or event.name
    refs = [ref for ref in (event.ref, *event.also) if ref is not None]
    assert len(set(refs)) == len(refs)
    assert event.ref is not None or not (event.also or event.resource or event.key)
    assert event.resource is None or (not event.also and event.ref and event.resource["uid"] == event.ref.uid)


@pytest.mark.repeats_itself
@given(names, contents)
def test_attempts_of_whatever_event_have_one_identity(name: str, data: dict[str, Any]) -> None:
    content = {"event": name, "event_time": TIME, "data": data}
    attempts = [
        written({**content, "sent_at": value, "attempt": value, "metadata": {"correlation_id": value}})
        for value in ("1", "2", "3")
    ]
    assert len({source.parse(raw).identity for raw in attempts}) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"keys": {}}, ValueError), ({"keys": {"a": ""}}, ValueError), ({"scope": ""}, ValueError), ({"app_uid": 7}, TypeError)],
)
def test_what_cannot_be_is_refused_at_construction(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OriginalWebhooks(**{"keys": {"a": "s"}, **arguments})


def test_it_shows_scope_and_key_ids_only() -> None:
    assert repr(source) == "<OriginalWebhooks of default with <Keyring of 4o3vfxtcmo7b>>"
