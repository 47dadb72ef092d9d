"""Events: what they carry, those with a problem, and the hints of a delivery."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from original_async.webhooks import OriginalWebhooks
from rewards_core.errors import SignatureError
from rewards_core.operations import Event, EventSource, OperationRef
from tests.original_async.event_kit import ALLOCATION, ALLOCATION_REF, CLAIM, CLAIM_REF, LOG, TIME, body, source
from tests.texts import said
from webhooks import MemoryStore, Receiver


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
    assert "'reward.allocated'" in caplog.text


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


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense", b"[1]", b'"text"', b"7", b"null", b'{"a":', b"\xff\xfe", b'{"a": NaN}', b"[" * 5000]
)
def test_a_body_that_is_no_json_object_is_a_problem(raw: bytes) -> None:
    event = source.parse(raw, {"x-webhook-attempt": "1"})
    said("events: a body that is no JSON object", event.problem)
    assert (event.name, event.body, event.ref, event.attempt) == ("", raw, None, "1")
    assert event.identity != source.parse(raw + b" ").identity


def test_a_body_nested_too_deeply_to_be_written_again_is_a_problem() -> None:
    raw = b'{"event": "x", "data": ' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert len(source.parse(raw).identity) == 16


@pytest.mark.parametrize("name", [None, 7, "", ["reward.allocated"]])
def test_a_body_that_names_no_event_is_a_problem(name: Any) -> None:
    event = source.parse(body(name, allocation=ALLOCATION))
    said("events: a body that names no event", event.problem)
    assert (event.name, event.ref, event.resource) == ("", None, None)


def test_a_name_that_is_not_printable_is_shown_on_one_line() -> None:
    assert source.parse(body("a\nb")).name == "a b"
    assert len(source.parse(body("a" * 999)).name) == 200


def test_an_event_of_another_app_is_a_problem() -> None:
    mine = OriginalWebhooks({"a": "s"}, app_uid="UB2DG8MW5KBQ")
    assert mine.parse(body(allocation=ALLOCATION)).problem is None
    other = OriginalWebhooks({"a": "s"}, app_uid="AAAAAAAAAAAA")
    problems = [
        other.parse(given).problem for given in (body(allocation=ALLOCATION), body(app={"uid": 7}, allocation=ALLOCATION))
    ]
    said("events: of another app", "\n".join(map(str, problems)))
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


@pytest.mark.slow
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


@pytest.mark.slow
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
