"""The rules of a nonce, case by case, and the words that say that a nonce is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest
from aioresponses import aioresponses

from original_async import Allocation, OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    Conflict,
    ConnectFailed,
    Forbidden,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    Unauthorized,
    VendorError,
)
from tests.original_async.conftest import BASE, REWARD, USER, MakeClient
from vendor_sandboxes.original import OriginalSandbox

CREATE = f"{BASE}/reward/allocate"
LIST = f"{CREATE}?user_uid={USER}"
HELD = {"uid": "1", "status": "pending", "reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1"}


async def allocate(client: OriginalClient, **changes: Any) -> Allocation:
    arguments = {"reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1", **changes}
    return await client.create_allocation(**arguments)


async def outcome(client: OriginalClient, **changes: Any) -> type[object]:
    """Return the type of what the call returns or raises."""
    try:
        return type(await allocate(client, **changes))
    except VendorError as error:
        return type(error)


def envelope(detail: Any, kind: str = "client_error") -> dict[str, Any]:
    return {"success": False, "error": {"type": kind, "detail": detail}}


def listing(*entries: dict[str, Any], **around: Any) -> dict[str, Any]:
    return {"payload": {"success": True, "data": list(entries), **around}}


REFUSALS: dict[str, dict[str, Any]] = {
    "for any reason": {"status": 400, "payload": envelope({"code": "bad_request", "message": "Out of budget."})},
    "because of another field": {
        "status": 400,
        "payload": envelope([{"code": "taken", "message": "Already exists.", "field_name": "to_user_uid"}], "validation_error"),
    },
    "because of the nonce's form": {"status": 400, "payload": {"nonce": ["Ensure this field has no more than 32 characters."]}},
    "with 404": {"status": 404, "payload": {"detail": "Not found."}},
    "with 409 because of another field": {"status": 409, "payload": {"amount": ["Conflicts with the reward's limit."]}},
    "because it knows the nonce": {"status": 400, "payload": {"nonce": ["This field must be unique."]}},
    "because it exists": {"status": 422, "payload": {"detail": "Allocation already exists."}},
    "with 409": {"status": 409, "payload": {}},
}
"""Rejections; from the sixth on they say that the nonce is known."""

LISTS: dict[str, dict[str, Any]] = {
    "what was asked for": listing({**HELD, "nonce": "other"}, HELD),
    "what was asked for, and more exists": listing(HELD, count=2),
    "another amount": listing({**HELD, "amount": "1.24"}),
    "another reward": listing({**HELD, "reward_uid": "112144981245"}),
    "another user": listing({**HELD, "to_user_uid": "223144788242"}),
    "nothing": listing(),
    "nothing, and more exists": listing(count=1),
    "an error": {"status": 500},
}


def expected(refusal: str, shown: str, *, repeated: bool, ambiguous: bool) -> type[object]:
    """Return the outcome by the first rule that matches."""
    alone = not repeated and not ambiguous
    if shown.startswith("what was asked for"):
        return Allocation
    if shown == "another amount" or (shown in {"another reward", "another user"} and alone):
        return Conflict
    if not alone or shown in {"nothing, and more exists", "an error"}:
        return OutcomeUnknown
    return OutcomeUnknown if list(REFUSALS).index(refusal) >= 5 else RequestRejected


@pytest.mark.parametrize("shown", LISTS)
@pytest.mark.parametrize("ambiguous", [False, True], ids=["every attempt answered", "an attempt unanswered"])
@pytest.mark.parametrize("repeated", [False, True], ids=["first call", "repeated"])
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refused_creation_ends_by_the_rules(
    make_client: MakeClient, wire: aioresponses, refusal: str, repeated: bool, ambiguous: bool, shown: str
) -> None:
    if ambiguous:
        wire.post(CREATE, status=502)
    wire.post(CREATE, **REFUSALS[refusal])
    wire.get(LIST, repeat=True, **LISTS[shown])
    ended = await outcome(make_client(retry=RetryPolicy(attempts=2)), repeated=repeated)
    assert issubclass(ended, expected(refusal, shown, repeated=repeated, ambiguous=ambiguous))


KNOWN = [
    "Allocation already exists.",
    "allocation with this nonce already exists.",
    "Nonce already used",
    "This nonce has been used.",
    "nonce must be unique",
    "The fields user, nonce must make a unique set.",
    "The nonce has already been taken.",
    "Duplicate request.",
    "Request was already processed.",
    "DUPLICATE_NONCE",
]
NOT_KNOWN = [
    "User does not exist.",
    "User already exists.",
    'Invalid pk "7" - object does not exist.',
    "Your request could not be processed.",
    "Reward is already closed.",
    "No allocation exists for this user.",
    "Ensure this field has no more than 32 characters.",
    "A valid number is required.",
]
SHAPES: dict[str, Callable[[str], Any]] = {
    "detail": lambda text: {"detail": text},
    "detail with a code": lambda text: {"code": "invalid", "detail": text},
    "non_field_errors": lambda text: {"non_field_errors": [text]},
    "list of texts": lambda text: [text],
    "documented object": lambda text: envelope({"code": "bad_request", "message": text}),
    "documented list": lambda text: envelope([{"code": "invalid", "message": "Odd."}, {"code": "invalid", "message": text}]),
    "DRF inside the envelope": lambda text: envelope({"non_field_errors": [text]}, "validation_error"),
    "message with errors beside": lambda text: {"message": "Invalid data.", "errors": {"__all__": [text]}},
    "error with a message beside": lambda text: {"statusCode": 400, "error": "Bad Request", "message": [text]},
    "title alone": lambda text: {"type": "about:blank", "title": text, "status": 400},
    "plain text": lambda text: text.encode(),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("text", "ended"), [*((text, OutcomeUnknown) for text in KNOWN), *((text, RequestRejected) for text in NOT_KNOWN)]
)
async def test_a_refusal_is_read_in_whatever_shape_it_comes(
    client: OriginalClient, wire: aioresponses, shape: str, text: str, ended: type[object]
) -> None:
    body = SHAPES[shape](text)
    wire.post(CREATE, status=400, body=body if isinstance(body, bytes) else orjson.dumps(body))
    wire.get(LIST, repeat=True, **listing())
    assert issubclass(await outcome(client), ended)


@pytest.mark.parametrize(
    ("body", "ended"),
    [
        ({"nonce": ["This field must be unique."]}, OutcomeUnknown),
        ({"nonce": "already exists"}, OutcomeUnknown),
        ({"nonce": ["Not a valid string."]}, RequestRejected),
        ({"to_user_uid": ["object does not exist."]}, RequestRejected),
        ({"to_user_uid": ["This field must be unique."]}, RequestRejected),
        ({"amount": ["Odd."], "nonce": ["has already been used"]}, OutcomeUnknown),
        ({"error": {"code": "duplicate_nonce"}}, OutcomeUnknown),
        ({"error": {"code": "not_found"}}, RequestRejected),
        ({"error": "Bad Request", "message": "Nonce already used."}, OutcomeUnknown),
        ({"message": "Invalid.", "documentation": "https://example.com/already-exists"}, RequestRejected),
        ({"message": "Invalid data.", "errors": {"nonce": ["has already been taken"]}}, OutcomeUnknown),
        (b"[" * 500 + b"]" * 500, RequestRejected),
        (b"<html>Allocation already exists.</html>", RequestRejected),
        (b"\n\n<!doctype html><title>Allocation already exists.</title>", RequestRejected),
        (b"", RequestRejected),
    ],
)
async def test_a_refusal_is_about_the_field_it_names(
    client: OriginalClient, wire: aioresponses, body: Any, ended: type[object]
) -> None:
    wire.post(CREATE, status=400, body=body if isinstance(body, bytes) else orjson.dumps(body))
    wire.get(LIST, repeat=True, **listing())
    assert issubclass(await outcome(client), ended)


async def test_what_the_vendor_says_beside_a_message_is_told_field_by_field(client: OriginalClient, wire: aioresponses) -> None:
    body = {
        "message": "Invalid data.",
        "code": "invalid",
        "link": "https://example.com",
        "errors": {"amount": ["Too much.", "Odd."]},
    }
    wire.post(CREATE, status=422, payload=body)
    wire.get(LIST, **listing())
    with pytest.raises(RequestRejected) as caught:
        await allocate(client)
    assert (caught.value.status, caught.value.code) == (422, "invalid")
    assert [each.field for each in caught.value.field_errors] == ["amount", "amount"]
    assert [each.message for each in caught.value.details] == ["Invalid data.", "Too much.", "Odd."]


@pytest.mark.parametrize("text", KNOWN)
@pytest.mark.parametrize("status", [400, 409, 422])
async def test_a_payout_that_exists_is_never_rejected_because_the_list_lags(
    original: OriginalClient, sandbox: OriginalSandbox, text: str, status: int
) -> None:
    sandbox.options.known_nonce_text, sandbox.options.known_nonce_status = text, status
    first = await allocate(original)
    sandbox.options.list_lag = 600.0
    assert await outcome(original) is OutcomeUnknown
    sandbox.options.list_lag = 0.0
    assert (await allocate(original)).uid == first.uid


@pytest.mark.parametrize("text", ["nonce already used", "Out of budget."])
@pytest.mark.parametrize("read_path", ["both", "allocation"])
async def test_another_process_that_repeats_is_never_told_of_a_rejection(
    make_client: MakeClient, sandbox: OriginalSandbox, text: str, read_path: str
) -> None:
    sandbox.options.known_nonce_text, sandbox.options.read_path = text, read_path
    sandbox.options.list_lag = 600.0
    sandbox.script("drop_after_commit")
    first, second = (make_client(base_url=sandbox.url, retry=RetryPolicy(attempts=1)) for _ in range(2))
    assert await outcome(first) is OutcomeUnknown
    assert await outcome(second, repeated=True) is OutcomeUnknown
    sandbox.options.list_lag = 0.0
    found = await allocate(second, repeated=True)
    assert (found.recovered, [found.uid]) == (True, list(sandbox.state.operations["allocation"]))


async def test_repeating_what_never_arrived_pays_once(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.script(*["p503"] * 3)
    assert await outcome(original) is OutcomeUnknown
    made = await allocate(original, repeated=True)
    assert (made.recovered, [made.uid]) == (False, list(sandbox.state.operations["allocation"]))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 403}, Forbidden),
        ({"status": 403, "payload": {"detail": "Nonce already used."}}, Forbidden),
        ({"status": 429}, RateLimited),
        ({"exception": aiohttp.ConnectionTimeoutError()}, ConnectFailed),
    ],
)
async def test_a_call_that_was_kept_out_says_so_and_looks_nothing_up(
    client: OriginalClient, wire: aioresponses, repeated: bool, answer: dict[str, Any], kind: type[object]
) -> None:
    wire.post(CREATE, repeat=True, **answer)
    assert await outcome(client, repeated=repeated) is kind
    assert {method for method, _ in wire.requests} == {"POST"}
