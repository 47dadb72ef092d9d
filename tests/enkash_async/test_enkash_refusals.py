"""What a refusal or a missing answer says about coins and events: nothing happened, or unknown."""

from __future__ import annotations

import json
import pickle
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from enkash_async import BodyCipher, CoinAllocationRequest, CoinConfiguration, CoinEventRequest, StaticToken
from rewards_core.errors import (
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RequestRejected,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.operations import KeyedRequest
from tests.enkash_async.client_kit import GRANT, KNOWN, New, saying, sent
from tests.enkash_async.enkash_kit import (
    ALLOCATE_URL,
    ALLOCATED,
    BALANCE,
    BALANCE_URL,
    COINS,
    CREATE_URL,
    CREATED,
    NO_FUNDS,
    TOKEN_REPLY,
    TOKEN_URL,
    UPDATED,
    outcome,
    text_of,
)
from tests.stepped_time import SteppedTime
from tests.texts import said


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, NO_FUNDS, RequestRejected),
        (200, {**NO_FUNDS, "response_code": "1"}, RequestRejected),
        (200, {"code": 1, "message": "Insufficient balance in card account"}, RequestRejected),
        (400, NO_FUNDS, ValidationFailed),
        (422, NO_FUNDS, ValidationFailed),
        (403, NO_FUNDS, Forbidden),
        (404, NO_FUNDS, NotFound),
    ],
)
async def test_a_refusal_carries_the_vendors_words_and_is_final(
    new_client: New, with_token: aioresponses, status: int, body: Any, kind: type[VendorError]
) -> None:
    with_token.post(ALLOCATE_URL, status=status, payload=body, repeat=True)

    with pytest.raises(RequestRejected) as caught:
        await new_client().allocate_coins(**GRANT)

    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code, caught.value.idempotency_key) == (status, "1", "COIN_REQ1234567")
    assert caught.value.details[0].message == "Insufficient balance in card account"
    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 1


UNRELATED = [
    "Insufficient balance in card account",
    "User does not exist",
    "User already exists",
    "Duplicate beneficiary",
    "Request could not be processed",
    "Your request has not been processed",
    "Invalid requestId",
    "requestId is required",
    "Request id does not exist",
    "Coin configuration not found for companyId: CEK0TCW2W8 and event: REFERRAL_EVENT",
    "KYC is not uploaded or under review for the primary card. So bulk upload cannot be done",
    "Success",
    "",
]


@pytest.mark.parametrize("status", [200, 400, 404, 422])
@pytest.mark.parametrize("words", KNOWN)
async def test_a_refusal_that_knows_the_request_id_leaves_the_allocation_unknown(
    new_client: New, with_token: aioresponses, status: int, words: str
) -> None:
    with_token.post(ALLOCATE_URL, status=status, payload=saying(words), repeat=True)

    with pytest.raises(OutcomeUnknown) as caught:
        await new_client().allocate_coins(**GRANT)

    assert words in str(caught.value)
    said("allocate_coins: what to do", caught.value.advice)
    assert (caught.value.status, caught.value.code, caught.value.idempotency_key) == (status, "1", "COIN_REQ1234567")
    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 1


@pytest.mark.parametrize("status", [200, 400, 404, 422])
@pytest.mark.parametrize("words", UNRELATED)
async def test_a_refusal_for_another_reason_gave_no_coins(
    new_client: New, with_token: aioresponses, status: int, words: str
) -> None:
    with_token.post(ALLOCATE_URL, status=status, payload=saying(words), repeat=True)

    with pytest.raises(RequestRejected) as caught:
        await new_client().allocate_coins(**GRANT)
    assert [each.message for each in caught.value.details] == ([words] if words else [])

    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 1


@pytest.mark.parametrize("body", [json.dumps(NO_FUNDS), json.dumps(saying("")), "<html>", ""])
async def test_a_409_leaves_the_allocation_unknown_whatever_it_says(new_client: New, with_token: aioresponses, body: str) -> None:
    with_token.post(ALLOCATE_URL, status=409, body=body, repeat=True)

    with pytest.raises(OutcomeUnknown):
        await new_client().allocate_coins(**GRANT)

    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 1


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (409, "", OutcomeUnknown),
        (400, "Event already exists for this company", OutcomeUnknown),
        (400, "Company does not exist", RequestRejected),
    ],
)
async def test_an_event_that_exists_may_have_been_created_by_an_earlier_call(
    new_client: New, with_token: aioresponses, status: int, words: str, kind: type[VendorError]
) -> None:
    with_token.post(CREATE_URL, status=status, payload=saying(words))
    with pytest.raises(VendorError) as caught:
        await new_client().create_event(event="MEAL_CARD_PAYMENT", amount=6)
    assert type(caught.value) is kind or (kind is RequestRejected and isinstance(caught.value, RequestRejected))


@pytest.mark.parametrize(
    "reply",
    [
        {"response_code": 1, "response_message": "FAILURE", "payload": "Duplicate request id"},
        {"code": 1, "message": "FAILURE", "error": {"detail": "Request id has already been used"}},
    ],
)
async def test_the_reason_of_a_refusal_is_found_wherever_enkash_writes_it(
    new_client: New, with_token: aioresponses, reply: dict[str, Any]
) -> None:
    with_token.post(ALLOCATE_URL, status=200, payload=reply)
    with pytest.raises(OutcomeUnknown):
        await new_client().allocate_coins(**GRANT)


async def test_an_encrypted_refusal_that_knows_the_request_id_leaves_the_allocation_unknown(
    new_client: New, with_token: aioresponses
) -> None:
    body = BodyCipher("client-secret-1").encrypt(json.dumps(saying("Duplicate request id")).encode())
    with_token.post(ALLOCATE_URL, body=body)
    with_token.post(ALLOCATE_URL, status=422, body=body)
    client = new_client(encryption=True)

    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="Duplicate request id"):
            await client.allocate_coins(**GRANT)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_401_or_403_is_no_word_about_the_request_id(new_client: New, vendor: aioresponses, status: int) -> None:
    vendor.post(ALLOCATE_URL, status=status, payload=saying("Duplicate request id"))

    with pytest.raises(RequestRejected):
        await new_client(credentials=StaticToken("own-1"), company_id="C").allocate_coins(**GRANT)


SILENCE: list[dict[str, Any]] = [
    {"status": 408},
    {"status": 500, "payload": NO_FUNDS},
    {"status": 503},
    {"exception": aiohttp.ServerDisconnectedError()},
    {"exception": TimeoutError()},
    {"status": 200, "body": "<html>"},
    {"status": 200, "payload": {"payload": "Successfully allocated enkash Coins"}},
    {"status": 201, "payload": ALLOCATED},
]


@pytest.mark.parametrize("trouble", SILENCE, ids=str)
async def test_an_allocation_without_a_readable_answer_is_unknown_at_once(
    new_client: New, with_token: aioresponses, trouble: dict[str, Any]
) -> None:
    with_token.post(ALLOCATE_URL, **trouble, repeat=True)

    with pytest.raises(OutcomeUnknown) as caught:
        await new_client().allocate_coins(**GRANT)

    assert caught.value.idempotency_key == "COIN_REQ1234567"
    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 1


@pytest.mark.parametrize("trouble", SILENCE, ids=str)
async def test_a_new_event_without_a_readable_answer_is_unknown_at_once(
    new_client: New, with_token: aioresponses, trouble: dict[str, Any]
) -> None:
    with_token.post(CREATE_URL, **trouble, repeat=True)

    with pytest.raises(OutcomeUnknown):
        await new_client().create_event(event="E", amount=1)

    assert len(sent(with_token, "POST", CREATE_URL)) == 1


async def test_an_unknown_outcome_advises_what_can_be_done_at_this_vendor(new_client: New, with_token: aioresponses) -> None:
    event_url = f"{COINS}/api/v0/enkash-coins/WCC024845"
    for method, url in (("POST", ALLOCATE_URL), ("POST", CREATE_URL), ("PATCH", event_url)):
        with_token.add(url, method, status=503, repeat=True)
    client = new_client()

    calls = (client.allocate_coins(**GRANT), client.create_event(event="E", amount=1), client.update_event("WCC024845", amount=1))
    said("unknown outcomes: what to do", "\n".join([(await outcome(call)).advice for call in calls]))


async def test_an_unknown_outcome_names_what_was_asked_for(new_client: New, with_token: aioresponses) -> None:
    event_url = f"{COINS}/api/v0/enkash-coins/WCC024845"
    for method, url in (("POST", ALLOCATE_URL), ("POST", CREATE_URL), ("PATCH", event_url)):
        with_token.add(url, method, status=503, repeat=True)
    client = new_client()
    allocation = CoinAllocationRequest(
        event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="COIN_REQ1234567", company_id="CEK1GZBO6A"
    )
    creation = CoinEventRequest(event="E", amount=0, configuration=CoinConfiguration.CUSTOM, company_id="CEK1GZBO6A")
    change = CoinEventRequest(coin_config_id="WCC024845", amount=7)

    for call, asked in (
        (client.allocate_coins(**GRANT), allocation),
        (client.create_event(event="E", amount=0, configuration="custom"), creation),
        (client.update_event("WCC024845", amount=7), change),
    ):
        problem = await outcome(call)
        assert isinstance(problem, OutcomeUnknown)
        assert pickle.loads(pickle.dumps(problem)).request == problem.request == asked
        assert not isinstance(problem.request, KeyedRequest)


async def test_a_known_request_id_names_what_was_asked_for(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, status=409)

    with pytest.raises(OutcomeUnknown) as caught:
        await new_client().allocate_coins(**GRANT, company_id="CEKOTHER01")

    assert caught.value.request == CoinAllocationRequest(**GRANT, company_id="CEKOTHER01")


async def test_a_new_event_whose_id_cannot_be_read_is_unknown(new_client: New, with_token: aioresponses) -> None:
    with_token.post(CREATE_URL, payload={**CREATED, "payload": "created"})

    with pytest.raises(OutcomeUnknown):
        await new_client().create_event(event="E", amount=1)


@pytest.mark.parametrize("trouble", SILENCE, ids=str)
async def test_repeated_allocations_send_the_same_bytes_until_an_answer_can_be_read(
    new_client: New, with_token: aioresponses, trouble: dict[str, Any]
) -> None:
    with_token.post(ALLOCATE_URL, **trouble)
    with_token.post(ALLOCATE_URL, **trouble)
    with_token.post(ALLOCATE_URL, payload=ALLOCATED)

    receipt = await new_client(repeat_allocations=True).allocate_coins(**GRANT)

    assert receipt.request_id == "COIN_REQ1234567"
    assert len({text_of(call) for call in sent(with_token, "POST", ALLOCATE_URL)}) == 1
    assert len(sent(with_token, "POST", ALLOCATE_URL)) == 3


async def test_a_refusal_after_a_lost_reply_leaves_the_allocation_unknown(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, exception=aiohttp.ServerDisconnectedError())
    with_token.post(ALLOCATE_URL, payload={**NO_FUNDS, "response_message": "duplicate requestId"})

    with pytest.raises(OutcomeUnknown, match="duplicate requestId") as caught:
        await new_client(repeat_allocations=True).allocate_coins(**GRANT)

    assert caught.value.attempts == 2


async def test_an_update_without_a_readable_answer_is_repeated(new_client: New, with_token: aioresponses) -> None:
    url = f"{COINS}/api/v0/enkash-coins/WCC024845"
    with_token.patch(url, status=503)
    with_token.patch(url, payload={**UPDATED, "payload": 5})
    with_token.patch(url, payload=UPDATED)

    assert (await new_client().update_event("WCC024845", amount=10)).amount == 10


@pytest.mark.parametrize("payload", [None, "16", 16.0, True, {"balance": 16}])
async def test_a_balance_that_is_no_whole_number_is_unexpected(new_client: New, with_token: aioresponses, payload: Any) -> None:
    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload={**BALANCE, "payload": payload})

    with pytest.raises(UnexpectedResponse) as caught:
        await new_client().get_balance("EK6CYE6K")
    assert caught.value.path == "payload"


async def test_a_refused_refresh_after_a_lost_reply_leaves_the_allocation_unknown(
    new_client: New, vendor: aioresponses, time: SteppedTime
) -> None:
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "expires_in": 60})
    vendor.post(TOKEN_URL, status=400, repeat=True)
    vendor.post(ALLOCATE_URL, status=503)

    async def token_ends() -> None:
        time.at += 29

    time.meanwhile = token_ends
    client = new_client(repeat_allocations=True, token_lifetime=20)

    with pytest.raises(OutcomeUnknown):
        await client.allocate_coins(**GRANT)


async def test_an_encrypted_refusal_is_read(new_client: New, with_token: aioresponses) -> None:
    body = BodyCipher("client-secret-1").encrypt(json.dumps(NO_FUNDS).encode())
    with_token.post(ALLOCATE_URL, status=422, body=body)
    with_token.post(ALLOCATE_URL, status=422, body=BodyCipher("another").encrypt(json.dumps(NO_FUNDS).encode()))
    client = new_client(encryption=True)

    refusals = [await outcome(client.allocate_coins(**GRANT)) for _ in range(2)]
    assert [type(each) for each in refusals] == [ValidationFailed] * 2
    assert [[detail.message for detail in each.details] for each in refusals] == [[NO_FUNDS["payload"]], []]


async def test_an_answer_under_another_secret_leaves_the_allocation_unknown(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, body=BodyCipher("another").encrypt(json.dumps(ALLOCATED).encode()))

    with pytest.raises(OutcomeUnknown):
        await new_client(encryption=BodyCipher("client-secret-1")).allocate_coins(**GRANT)
