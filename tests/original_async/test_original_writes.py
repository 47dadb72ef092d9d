"""What each answer to each write means, cell by cell: what is sent again, what is found, and what stays unknown."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
from errno import ECONNRESET
from typing import Any

import pytest
from aiohttp import ClientOSError, ClientPayloadError, ServerDisconnectedError, SocketTimeoutError
from aioresponses import aioresponses

from original_async import OriginalClient
from rewards_core.errors import (
    ConnectFailed,
    Forbidden,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnexpectedResponse,
    VendorError,
)
from tests.original_async.conftest import BASE, USER, MakeClient
from tests.original_async.family_kit import CALLS, READS, WRITES, Stage, Write, set_stage
from tests.stepped_time import SteppedTime
from tests.texts import said
from vendor_sandboxes.original import OriginalSandbox

STAGE = Stage(USER, "151854912345")
UNEDITED = {"uid": STAGE.asset_uid, "name": "x", "collection_uid": "1", "is_minted": True, "metadata": {"name": "x"}}
each_write = pytest.mark.parametrize("write", WRITES, ids=lambda write: write.name)


async def end_of(write: Write, original: OriginalClient, stage: Stage) -> Any:
    """Return the result of a call, or the error that it raised."""
    try:
        return await write.send(original, stage)
    except VendorError as error:
        return error


def sent(sandbox: OriginalSandbox, write: Write, before: int) -> int:
    """Return how often a write was sent."""
    return sum(each.method == write.method and write.path in each.path for each in list(sandbox.requests)[before:])


async def outcome_with(write: Write, original: OriginalClient, sandbox: OriginalSandbox, *faults: str) -> tuple[Any, int, int]:
    """Return how a call with these faults ends, how often it was sent, and how many things it made."""
    stage = await set_stage(original, sandbox)
    before = len(sandbox.requests)
    sandbox.script(*faults, method=write.method, path=write.path)
    end = await end_of(write, original, stage)
    return end, sent(sandbox, write, before), write.made(sandbox.books())


def answer_writes(wire: aioresponses, **answer: Any) -> None:
    wire.post(re.compile(""), **answer)
    wire.put(re.compile(""), **answer)


def find_nothing(wire: aioresponses, write: Write) -> None:
    """Answer every read as if the write had not been carried out."""
    answers = {"/user": {"success": False, "data": None}, "/asset/": {"success": True, "data": UNEDITED}}
    wire.get(re.compile(""), payload=answers.get(write.path, {"success": True, "data": []}), repeat=True)


def refusal(text: str) -> dict[str, Any]:
    """Return the answer that the vendor documents."""
    detail = {"code": "bad_request", "message": text}
    return {"status": 400, "payload": {"success": False, "error": {"type": "client_error", "detail": detail}}}


@each_write
async def test_a_write_without_a_fault_is_sent_once(original: OriginalClient, sandbox: OriginalSandbox, write: Write) -> None:
    end, times, made = await outcome_with(write, original, sandbox)
    assert not isinstance(end, VendorError)
    assert (times, made, end.recovered) == (1, 1, False)


@each_write
async def test_a_write_that_the_vendor_throttles_is_sent_again(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write
) -> None:
    end, times, made = await outcome_with(write, original, sandbox, "p429")
    assert not isinstance(end, VendorError)
    assert (times, made, end.recovered) == (2, 1, False)


@each_write
@pytest.mark.parametrize("fault", ["p503", "drop_before_commit"])
async def test_a_write_that_did_nothing_but_may_have_is_repeated_or_unknown(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write, fault: str
) -> None:
    end, times, made = await outcome_with(write, original, sandbox, fault)
    if write.repeats:
        assert (times, made, end.recovered) == (2, 1, False)
    else:
        assert (type(end), times, made) == (OutcomeUnknown, 1, 0)
        assert isinstance(end.request, write.request)


@each_write
@pytest.mark.parametrize("fault", ["p503_after_commit", "drop_after_commit"])
async def test_a_write_that_was_carried_out_is_found_and_never_made_twice(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write, fault: str
) -> None:
    end, times, made = await outcome_with(write, original, sandbox, fault)
    assert (times, made) == (2 if write.repeats else 1, 1)
    if write.found:
        assert end.recovered
    else:
        assert isinstance(end, OutcomeUnknown)
        assert isinstance(end.request, write.request)


@each_write
async def test_a_write_that_was_carried_out_is_found_although_every_attempt_fails(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write
) -> None:
    end, _, made = await outcome_with(write, original, sandbox, *["drop_after_commit"] * 3)
    assert made == 1
    if write.found:
        assert end.recovered
    else:
        assert isinstance(end, OutcomeUnknown)


@each_write
@pytest.mark.parametrize("fault", ["p503_after_commit", "drop_after_commit"])
async def test_a_write_that_lists_do_not_show_yet_is_made_once(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write, fault: str
) -> None:
    sandbox.options.list_lag = 3600.0
    end, times, made = await outcome_with(write, original, sandbox, fault)
    assert (times, made) == (2 if write.repeats else 1, 1)
    if write.name != "create_user":  # found by e-mail address, not in a list
        assert isinstance(end, OutcomeUnknown)
        assert isinstance(pickle.loads(pickle.dumps(end)).request, write.request)


@each_write
async def test_wrong_credentials_do_nothing(
    make_client: MakeClient, original: OriginalClient, sandbox: OriginalSandbox, write: Write
) -> None:
    stage = await set_stage(original, sandbox)
    stranger = make_client(api_secret="another-secret-of-thirty-two-characters-or-more", base_url=sandbox.url)
    end = await end_of(write, stranger, stage)
    assert (type(end), write.made(sandbox.books())) == (Unauthorized, 0)


LOST: dict[str, dict[str, Any]] = {
    "a read timeout": {"exception": SocketTimeoutError()},
    "a connection that is closed": {"exception": ServerDisconnectedError()},
    "a connection that is reset": {"exception": ClientOSError(ECONNRESET, "reset")},
    "an answer cut short": {"exception": ClientPayloadError()},
    "an answer that cannot be read": {"status": 201, "body": "<html>"},
    "an answer without an id": {"status": 201, "payload": {"success": False, "data": {}}},
    **{str(status): {"status": status} for status in (408, 500, 502, 503, 504)},
}
"""Ends of an attempt after which the vendor may have carried it out."""
ANSWERS: list[tuple[str, dict[str, Any], type[VendorError]]] = [
    ("401", {"status": 401, "payload": {"detail": "already exists"}}, Unauthorized),
    ("403", {"status": 403, "payload": {"detail": "already exists"}}, Forbidden),
    ("429", {"status": 429}, RateLimited),
    ("a refusal of another field", {"status": 400, "payload": {"colour": ["Not a valid string."]}}, RequestRejected),
    ("a refusal", {"status": 400, "payload": {"detail": "Not today."}}, RequestRejected),
    ("a redirect", {"status": 302, "headers": {"Location": "https://example.com/"}}, UnexpectedResponse),
    ("a name that is taken", refusal("An asset with this name already exists in the collection."), RequestRejected),
    ("an asset that is gone", refusal("The asset has already been burned."), RequestRejected),
    ("409", {"status": 409, "payload": {"detail": "Odd."}}, OutcomeUnknown),
    ("a duplicate", {"status": 400, "payload": {"detail": "Duplicate request."}}, OutcomeUnknown),
    *[(name, answer, OutcomeUnknown) for name, answer in LOST.items()],
]


@each_write
@pytest.mark.parametrize(("answer", "expected"), [each[1:] for each in ANSWERS], ids=[each[0] for each in ANSWERS])
async def test_what_an_answer_means_where_nothing_is_found(
    client: OriginalClient, wire: aioresponses, write: Write, answer: dict[str, Any], expected: type[VendorError]
) -> None:
    answer_writes(wire, **answer, repeat=True)
    find_nothing(wire, write)
    end = await end_of(write, client, STAGE)
    if not write.keyed and answer.get("status") in {400, 409}:
        expected = RequestRejected  # the vendor keeps no key that it could know
    assert type(end) is expected


NOTHING_DONE = {"401": {"status": 401}, "429": {"status": 429}}


@each_write
@pytest.mark.parametrize("name", [*NOTHING_DONE, *LOST])
async def test_which_answers_are_followed_by_another_attempt(
    client: OriginalClient, wire: aioresponses, ticks: SteppedTime, write: Write, name: str
) -> None:
    ticks.at += 61  # a token of a minute may be replaced
    answer_writes(wire, **{**NOTHING_DONE, **LOST}[name])
    answer_writes(wire, status=201, payload={"success": True, "data": {"uid": "1"}})
    find_nothing(wire, write)
    end = await end_of(write, client, STAGE)
    tokens = [
        call.kwargs["headers"]["Authorization"]
        for (method, _), calls in wire.requests.items()
        for call in calls
        if method == write.method
    ]
    if name in NOTHING_DONE or write.repeats:
        assert (isinstance(end, VendorError), len(tokens), len(set(tokens))) == (False, 2, 2 if name == "401" else 1)
        assert not end.recovered
    else:
        assert (type(end), len(tokens)) == (OutcomeUnknown, 1)


@each_write
async def test_after_an_ambiguous_attempt_a_refusal_proves_nothing(
    client: OriginalClient, wire: aioresponses, write: Write
) -> None:
    answer_writes(wire, status=503)
    answer_writes(wire, status=400, payload={"colour": ["Not a valid string."]}, repeat=True)
    find_nothing(wire, write)
    assert isinstance(await end_of(write, client, STAGE), OutcomeUnknown)


@each_write
async def test_a_write_that_never_left_sent_nothing(make_client: MakeClient, write: Write) -> None:
    end = await end_of(write, make_client(base_url="http://127.0.0.1:1/v1"), STAGE)
    assert isinstance(end, ConnectFailed)


@each_write
async def test_a_look_up_that_fails_proves_nothing(client: OriginalClient, wire: aioresponses, write: Write) -> None:
    answer_writes(wire, status=503, repeat=True)
    wire.get(re.compile(""), status=500, repeat=True)
    end = await end_of(write, client, STAGE)
    assert isinstance(end, OutcomeUnknown)
    said(f"{write.name}: neither the attempts nor the look-up were answered", re.sub(r":[0-9a-f]{24}", ":TOKEN", str(end)))


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_reads_are_repeated_and_then_fail(client: OriginalClient, wire: aioresponses, read: Any) -> None:
    wire.get(re.compile(re.escape(BASE)), status=503, repeat=True)
    with pytest.raises(ServerFailed) as caught:
        await read(client)
    assert caught.value.attempts == 3
    wire.clear()
    wire.get(re.compile(re.escape(BASE)), body="<html>", repeat=True)
    with pytest.raises(UnexpectedResponse):
        await read(client)


def test_every_call_of_the_client_has_a_row() -> None:
    calls = {name for name, method in inspect.getmembers(OriginalClient, inspect.iscoroutinefunction) if name[0] != "_"}
    assert {name.partition(" ")[0] for name in CALLS} == calls - {"aclose"}


@each_write
async def test_a_call_cancelled_after_it_was_sent_says_so_in_the_log(
    original: OriginalClient, sandbox: OriginalSandbox, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    stage = await set_stage(original, sandbox)
    sandbox.script("slow_after_commit", method=write.method, path=write.path)
    call = asyncio.ensure_future(write.send(original, stage))
    await sandbox.until(lambda: write.made(sandbox.books()) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [each for each in caplog.records if each.levelname == "WARNING"]
