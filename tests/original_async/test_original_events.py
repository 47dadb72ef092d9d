"""What the webhooks say: identity, the operation found inside, and what is kept as a problem."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from original_async.events import OriginalWebhooks
from vendor_http.errors import SignatureError
from vendor_http.operations import EventSource, OperationRef

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
    event = source.parse(body("reward.claimed", allocation=ALLOCATION, allocated={"uid": "1"}))
    assert (event.ref, event.resource) == (ALLOCATION_REF, ALLOCATION)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"reward": CONTRACT},
        {"user": {"uid": "7"}},
        {"allocation": {"status": "done"}},
        {"allocation": "213134081289"},
        {"allocation": [ALLOCATION]},
        {"allocation": {"uid": 213134081289}},
        {"allocation": {"uid": ""}},
        {"allocation": {"uid": "a/b"}},
        {"allocation": {"uid": None}},
        {"transaction_log": {"uid": "1"}},
    ],
)
def test_a_body_without_a_uid_is_still_an_event(data: dict[str, Any]) -> None:
    event = source.parse(body(**data))
    assert (event.name, event.ref, event.resource, event.problem) == ("reward.allocated", None, None, None)


@pytest.mark.parametrize("data", [None, 7, "text", [ALLOCATION]])
def test_data_that_is_no_object_yields_no_operation(data: Any) -> None:
    event = source.parse(json.dumps({"event": "reward.allocated", "data": data}).encode())
    assert (event.name, event.ref, event.problem) == ("reward.allocated", None, None)


def test_events_of_other_resources_name_no_operation() -> None:
    event = source.parse(body("asset.minted", asset={"uid": "1", "name": "Dave Starbelly"}))
    assert (event.name, event.ref, event.problem) == ("asset.minted", None, None)
    assert source.parse(body("transfer.done", transfer={"uid": "1", "from_user_uid": "2", "asset_uid": "3"})).ref is None


@pytest.mark.parametrize("field", ["status", "reward_uid", "to_user_uid", "amount", "nonce"])
def test_a_resource_that_lacks_a_mandatory_field_settles_nothing(field: str) -> None:
    event = source.parse(body(allocation={name: value for name, value in ALLOCATION.items() if name != field}))
    assert (event.ref, event.resource, event.problem) == (ALLOCATION_REF, None, None)


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "pending"},
        {"status": "cancelled"},
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
    assert event.problem == "expected a JSON object in the body, got something else"
    assert (event.name, event.body, event.ref, event.attempt) == ("", raw, None, "1")
    assert event.identity != source.parse(raw + b" ").identity


def test_a_body_nested_too_deeply_to_be_written_again_is_a_problem() -> None:
    raw = b'{"event": "x", "data": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert len(source.parse(raw).identity) == 16


@pytest.mark.parametrize("name", [None, 7, "", ["reward.allocated"]])
def test_a_body_that_names_no_event_is_a_problem(name: Any) -> None:
    event = source.parse(body(name, allocation=ALLOCATION))
    assert event.problem == "expected the event's name in the body, got none"
    assert (event.name, event.ref, event.resource) == ("", None, None)


def test_a_name_that_is_not_printable_is_shown_on_one_line() -> None:
    assert source.parse(body("a\nb")).name == "a b"
    assert len(source.parse(body("a" * 999)).name) == 200


def test_an_event_of_another_app_is_a_problem() -> None:
    mine = OriginalWebhooks({"a": "s"}, app_uid="UB2DG8MW5KBQ")
    assert mine.parse(body(allocation=ALLOCATION)).problem is None
    other = OriginalWebhooks({"a": "s"}, app_uid="AAAAAAAAAAAA")
    assert other.parse(body(allocation=ALLOCATION)).problem == "expected the app AAAAAAAAAAAA, got UB2DG8MW5KBQ"
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


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["app", "uid", "allocation", "event", "data", "status", "é"]), inner)
    ),
)


@given(
    st.one_of(
        st.binary(), nested.map(lambda value: json.dumps(value).encode()), nested.map(lambda value: body(value, allocation=value))
    )
)
def test_parse_is_total(raw: bytes) -> None:
    event = source.parse(raw)
    assert event.body == raw
    assert len(event.identity) == 16
    assert event.problem is not None or event.name
    assert event.resource is None or event.ref is not None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"keys": {}}, ValueError), ({"keys": {"a": ""}}, ValueError), ({"scope": ""}, ValueError), ({"app_uid": 7}, TypeError)],
)
def test_what_cannot_be_is_refused_at_construction(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OriginalWebhooks(**{"keys": {"a": "s"}, **arguments})


def test_it_shows_scope_and_key_ids_only() -> None:
    assert repr(source) == "<OriginalWebhooks of default with <Keyring of 4o3vfxtcmo7b>>"
