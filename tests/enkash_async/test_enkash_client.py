"""The five calls with the documented bodies: requests, results and errors."""

from __future__ import annotations

import json
import pickle
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aioresponses import aioresponses
from yarl import URL

from enkash_async import (
    BodyCipher,
    CoinAllocation,
    CoinAllocationRequest,
    CoinConfiguration,
    CoinEventRequest,
    CredentialsRejected,
    EnkashClient,
    StaticToken,
    TokenUnavailable,
)
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ConfigurationError,
    ConnectFailed,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.operations import KeyedRequest
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

New = Callable[..., EnkashClient]
GRANT: dict[str, Any] = {"event": "REFERRAL_EVENT", "user_id": "EKQZVMQK", "request_id": "COIN_REQ1234567"}


def sent(vendor: aioresponses, method: str, url: str) -> list[Any]:
    """Return the requests to an address, in order."""
    return list(vendor.requests.get((method, URL(url)), []))


def body_of(call: Any) -> Any:
    return json.loads(text_of(call))


async def test_create_event_sends_and_reads_the_documented_bodies(new_client: New, with_token: aioresponses) -> None:
    with_token.post(CREATE_URL, payload=CREATED)

    event = await new_client(company_id="CEKEKCARDS").create_event(event="MEAL_CARD_PAYMENT", amount=6)

    (call,) = sent(with_token, "POST", CREATE_URL)
    assert body_of(call) == {"configuration": "DEFAULT", "companyId": "CEKEKCARDS", "event": "MEAL_CARD_PAYMENT", "amount": 6}
    assert call.kwargs["headers"]["Authorization"] == "Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAA"
    assert call.kwargs["headers"]["Content-Type"] == "application/json"
    assert (event.coin_config_id, event.company_id, event.amount) == ("WCC817428", "CEKEKCARDS", 6)
    assert event.configuration is CoinConfiguration.DEFAULT


async def test_create_event_can_be_custom_and_for_another_company(new_client: New, with_token: aioresponses) -> None:
    with_token.post(CREATE_URL, payload=CREATED)

    await new_client().create_event(
        event="MEAL_CARD_PAYMENT", amount=0, configuration=CoinConfiguration.CUSTOM, company_id="CEK0TCW2W8"
    )

    (call,) = sent(with_token, "POST", CREATE_URL)
    assert body_of(call) == {"configuration": "CUSTOM", "companyId": "CEK0TCW2W8", "event": "MEAL_CARD_PAYMENT", "amount": 0}


async def test_get_event_reads_it(new_client: New, with_token: aioresponses) -> None:
    with_token.get(f"{COINS}/api/v0/enkash-coins/WCC12345", payload=CREATED)

    assert (await new_client().get_event("WCC12345")).event == "MEAL_CARD_PAYMENT"


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"amount": 10, "configuration": "DEFAULT"}, {"amount": 10, "configuration": "DEFAULT"}),
        ({"amount": 0}, {"amount": 0}),
        ({"configuration": "custom"}, {"configuration": "CUSTOM"}),
        (
            {"event": "INVOICE_PAYMENT", "company_id": "CEKEKCARDS"},
            {"companyId": "CEKEKCARDS", "event": "INVOICE_PAYMENT"},
        ),
    ],
)
async def test_update_event_sends_only_what_was_given(
    new_client: New, with_token: aioresponses, given: dict[str, Any], fields: dict[str, Any]
) -> None:
    url = f"{COINS}/api/v0/enkash-coins/WCC024845"
    with_token.patch(url, payload=UPDATED)

    event = await new_client().update_event("WCC024845", **given)

    (call,) = sent(with_token, "PATCH", url)
    assert body_of(call) == fields
    assert (event.amount, event.company_id) == (10, None)


async def test_allocate_coins_sends_and_reads_the_documented_bodies(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, payload=ALLOCATED)

    receipt = await new_client(company_id="CEK0TCW2W8").allocate_coins(**GRANT)

    (call,) = sent(with_token, "POST", ALLOCATE_URL)
    assert body_of(call) == {
        "companyId": "CEK0TCW2W8",
        "event": "REFERRAL_EVENT",
        "requestId": "COIN_REQ1234567",
        "userId": "EKQZVMQK",
    }
    assert receipt == CoinAllocation(
        event="REFERRAL_EVENT",
        user_id="EKQZVMQK",
        request_id="COIN_REQ1234567",
        company_id="CEK0TCW2W8",
        message="Successfully allocated enkash Coins",
    )
    assert receipt.raw == ALLOCATED


async def test_an_allocation_is_settled_by_code_0_whatever_stands_beside_it(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, payload={**ALLOCATED, "payload": {"transactionId": "T1"}})

    receipt = await new_client().allocate_coins(**GRANT)

    assert receipt.message == "Success"
    assert receipt.raw["payload"] == {"transactionId": "T1"}


async def test_the_company_is_the_client_id_unless_given(new_client: New, with_token: aioresponses) -> None:
    with_token.post(ALLOCATE_URL, payload=ALLOCATED, repeat=True)
    client = new_client()

    await client.allocate_coins(**GRANT)
    await client.allocate_coins(**GRANT, company_id="CEKOTHER01")

    assert [body_of(call)["companyId"] for call in sent(with_token, "POST", ALLOCATE_URL)] == ["CEK1GZBO6A", "CEKOTHER01"]


async def test_get_balance_returns_a_number(new_client: New, with_token: aioresponses) -> None:
    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    assert await new_client().get_balance("EK6CYE6K") == 16


async def test_the_token_request_is_the_documented_one(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    await new_client().get_balance("EK6CYE6K")

    (call,) = sent(vendor, "POST", TOKEN_URL)
    assert call.kwargs["headers"]["Authorization"] == f"Basic {b64encode(b'CEK1GZBO6A:client-secret-1').decode()}"
    assert call.kwargs["headers"]["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(text_of(call)) == {
        "username": ["9000000000"],
        "password": ["pass-word-1"],
        "grant_type": ["password"],
        "clientId": ["CEK1GZBO6A"],
    }
    assert call.kwargs["allow_redirects"] is False


@pytest.mark.parametrize(
    "reply",
    [
        {"accessToken": "camel", "tokenType": "bearer", "expiresIn": 300, "refreshToken": "r"},
        {"access_token": "snake", "expires_in": "299"},
        {"access_token": "snake"},
        {"access_token": "snake", "expires_in": None},
        {"access_token": "snake", "expires_in": True},
        {"access_token": "snake", "expires_in": -5},
    ],
)
async def test_documented_variations_of_the_token_reply_are_read(new_client: New, vendor: aioresponses, reply: Any) -> None:
    vendor.post(TOKEN_URL, payload=reply)
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    assert await new_client().get_balance("EK6CYE6K") == 16


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *(
            (status, json.dumps({"error": "invalid_grant", "error_description": "Bad credentials"}))
            for status in (400, 401, 403, 404, 422)
        ),
        (401, '{"timestamp": 1, "status": 401, "error": "Unauthorized", "path": "/oauth/token"}'),
        (403, '{"response_code": 403, "response_message": "APIs are not enabled"}'),
        (401, ""),
        (400, "{}"),
        (200, '{"response_code": 1, "response_message": "invalid response"}'),
        (200, '{"response_code": "1", "response_message": "invalid response"}'),
        (200, '{"code": 1, "response_code": 0}'),
        (200, '{"code": "LOCKED"}'),
        (200, '{"error": "invalid_grant"}'),
        (201, '{"error": "invalid_grant", "response_code": 0}'),
    ],
)
async def test_a_token_request_that_was_refused_is_made_once(
    new_client: New, vendor: aioresponses, status: int, body: str
) -> None:
    vendor.post(TOKEN_URL, status=status, body=body, repeat=True)
    client = new_client()

    for _ in range(3):
        with pytest.raises(CredentialsRejected) as caught:
            await client.get_balance("EK6CYE6K")

    assert caught.value.status == status
    assert len(sent(vendor, "POST", TOKEN_URL)) == 1


PAGE = "<html><body>Sign in at https://login.example</body></html>"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, PAGE) for status in (301, 302, 303, 304, 307, 308)),
        (302, '{"error": "invalid_grant"}'),
        (204, ""),
        *((status, PAGE) for status in (200, 201, 400, 401, 403, 404, 422)),
        (404, '{"message": "no Route matched with those values"}'),
        (404, '{"timestamp": 1, "status": 404, "error": "Not Found"}'),
        (405, '{"code": 405, "message": "method not allowed"}'),
        (403, '{"message": "Forbidden"}'),
        (200, '{"error": "maintenance"}'),
        (400, '{"error": "temporarily_unavailable"}'),
        (400, ""),
        (403, "[]"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"access_token": ""}'),
        (200, '{"access_token": 5}'),
        (200, '{"access_token": "two words"}'),
        (200, '{"access_token": "line\\nbreak"}'),
        (200, '{"response_code": 0, "code": null, "error": null}'),
    ],
)
async def test_what_is_no_answer_of_a_token_endpoint_refuses_nothing(
    new_client: New, vendor: aioresponses, time: SteppedTime, status: int, body: str
) -> None:
    for _ in range(2):
        vendor.post(TOKEN_URL, status=status, body=body, headers={"Location": "https://login.example/secret-path"})
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)
    client = new_client()

    for _ in range(3):
        with pytest.raises(TokenUnavailable, match=rf"\(HTTP {status}\).*auth_base_url") as caught:
            await client.get_balance("EK6CYE6K")
    assert len(sent(vendor, "POST", TOKEN_URL)) == 2
    assert "login" not in str(caught.value)

    time.at += 600
    assert await client.get_balance("EK6CYE6K") == 16


async def test_a_407_of_a_proxy_counts_as_no_attempt(new_client: New, vendor: aioresponses) -> None:
    for _ in range(4):
        vendor.post(TOKEN_URL, status=407, body=PAGE)
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)
    client = new_client(retry=RetryPolicy(attempts=2))

    for _ in range(2):
        with pytest.raises(ConnectFailed, match="407"):
            await client.get_balance("EK6CYE6K")

    assert await client.get_balance("EK6CYE6K") == 16


async def test_a_refusal_written_as_a_200_is_passed_on_in_the_vendors_words(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload={"response_code": 1, "response_message": "User pass-word-1 is locked\nfor good"})

    with pytest.raises(CredentialsRejected) as caught:
        await new_client().get_balance("EK6CYE6K")
    said("token: rejected with HTTP 200", caught.value)


@pytest.mark.parametrize(
    "trouble", [{"status": 500}, {"status": 408}, {"exception": aiohttp.ServerDisconnectedError()}], ids=["500", "408", "lost"]
)
@pytest.mark.parametrize(("proven", "pause"), [(True, 60), (False, 600)])
async def test_a_token_request_without_an_answer_is_sent_twice_and_not_again_for_a_while(
    new_client: New, vendor: aioresponses, time: SteppedTime, trouble: Any, proven: bool, pause: int
) -> None:
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE, repeat=True)
    client = new_client()
    if proven:
        vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
        await client.get_balance("EK6CYE6K")
        time.at += 300
        vendor.requests.clear()
    vendor.post(TOKEN_URL, **trouble)
    vendor.post(TOKEN_URL, **trouble)
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)

    for _ in range(3):
        with pytest.raises(TokenUnavailable):
            await client.get_balance("EK6CYE6K")
    time.at += pause - 1
    with pytest.raises(TokenUnavailable) as caught:
        await client.get_balance("EK6CYE6K")
    assert caught.value.retry_after == 1
    assert len(sent(vendor, "POST", TOKEN_URL)) == 2

    time.at += 1
    assert await client.get_balance("EK6CYE6K") == 16


async def test_a_token_endpoint_that_cannot_be_reached_is_asked_again_as_every_other(
    new_client: New, vendor: aioresponses
) -> None:
    vendor.post(TOKEN_URL, exception=aiohttp.ConnectionTimeoutError())
    vendor.post(TOKEN_URL, status=429, headers={"Retry-After": "2"})
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    assert await new_client().get_balance("EK6CYE6K") == 16


async def test_no_connection_to_the_token_endpoint_means_that_nothing_was_sent(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, exception=aiohttp.ConnectionTimeoutError(), repeat=True)
    client = new_client(retry=RetryPolicy(attempts=2))

    with pytest.raises(ConnectFailed):
        await client.allocate_coins(**GRANT)

    assert len(sent(vendor, "POST", TOKEN_URL)) == 2
    assert not sent(vendor, "POST", ALLOCATE_URL)


async def test_a_401_renews_the_token_and_repeats_once_even_a_bare_write(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": "first"})
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": "second"})
    vendor.post(ALLOCATE_URL, status=401)
    vendor.post(ALLOCATE_URL, payload=ALLOCATED)

    await new_client().allocate_coins(**GRANT)

    used = [call.kwargs["headers"]["Authorization"] for call in sent(vendor, "POST", ALLOCATE_URL)]
    assert used == ["Bearer first", "Bearer second"]


async def test_a_401_for_every_token_ends_after_one_renewal(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": "first"})
    vendor.post(TOKEN_URL, payload={**TOKEN_REPLY, "access_token": "second"})
    vendor.post(ALLOCATE_URL, status=401, payload={"error_description": "Invalid access token: second"}, repeat=True)

    with pytest.raises(Unauthorized, match=r"\[hidden\]"):
        await new_client().allocate_coins(**GRANT)

    assert len(sent(vendor, "POST", ALLOCATE_URL)) == 2
    assert len(sent(vendor, "POST", TOKEN_URL)) == 2


async def test_a_401_after_which_the_password_is_refused_says_so(new_client: New, vendor: aioresponses) -> None:
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.post(TOKEN_URL, status=400, payload={"error": "invalid_grant", "error_description": "Bad credentials"})
    vendor.post(ALLOCATE_URL, status=401)

    with pytest.raises(CredentialsRejected) as caught:
        await new_client().allocate_coins(**GRANT)

    assert (caught.value.status, caught.value.idempotency_key) == (400, "COIN_REQ1234567")
    assert len(sent(vendor, "POST", ALLOCATE_URL)) == 1


@pytest.mark.parametrize(
    ("trouble", "kind"), [({"status": 503}, TokenUnavailable), ({"exception": aiohttp.ConnectionTimeoutError()}, ConnectFailed)]
)
async def test_a_401_after_which_no_token_can_be_had_means_that_nothing_happened(
    new_client: New, vendor: aioresponses, trouble: dict[str, Any], kind: type[VendorError]
) -> None:
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.post(TOKEN_URL, **trouble, repeat=True)
    vendor.post(ALLOCATE_URL, status=401)

    with pytest.raises(ConnectFailed) as caught:
        await new_client().allocate_coins(**GRANT)

    assert (type(caught.value), caught.value.status) == (kind, 401)
    assert len(sent(vendor, "POST", ALLOCATE_URL)) == 1


async def test_a_401_after_a_lost_reply_leaves_the_allocation_unknown_whatever_the_token_endpoint_says(
    new_client: New, vendor: aioresponses
) -> None:
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY)
    vendor.post(TOKEN_URL, status=400)
    vendor.post(ALLOCATE_URL, status=503)
    vendor.post(ALLOCATE_URL, status=401)

    with pytest.raises(OutcomeUnknown) as caught:
        await new_client(repeat_allocations=True).allocate_coins(**GRANT)
    assert caught.value.attempts == 2


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


KNOWN = [
    "Duplicate request id",
    "Duplicate requestId: COIN_REQ1234567",
    "duplicate request",
    "requestId already exists",
    "Request id has already been used",
    "RequestId must be unique",
    "Transaction already processed",
    "Coins already allocated",
    "This allocation has already been processed.",
    "Already exists",
]
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


def saying(words: str) -> dict[str, Any]:
    return {"response_code": 1, "response_message": words, "payload": words}


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


async def test_an_extra_header_replaces_the_user_agent(new_client: New, with_token: aioresponses) -> None:
    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)
    await new_client(extra_headers={"user-agent": "a shop"}).get_balance("EK6CYE6K")
    (agents,) = [
        call.kwargs["headers"].getall("User-Agent")
        for (_, url), calls in with_token.requests.items()
        for call in calls
        if "userId" in str(url)
    ]
    assert agents == ["a shop"]


async def test_extra_headers_go_to_the_coin_endpoints_and_nowhere_else(new_client: New, with_token: aioresponses) -> None:
    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    await new_client(extra_headers={"Cookie": "JSESSIONID=1"}).get_balance("EK6CYE6K")

    assert sent(with_token, "GET", f"{BALANCE_URL}?userId=EK6CYE6K")[0].kwargs["headers"]["Cookie"] == "JSESSIONID=1"
    assert "Cookie" not in sent(with_token, "POST", TOKEN_URL)[0].kwargs["headers"]


async def test_no_cookie_is_sent_by_default(new_client: New, with_token: aioresponses) -> None:
    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)

    await new_client().get_balance("EK6CYE6K")

    assert "Cookie" not in sent(with_token, "GET", f"{BALANCE_URL}?userId=EK6CYE6K")[0].kwargs["headers"]


@pytest.mark.parametrize("encrypted_answer", [True, False])
async def test_encryption_covers_bodies_both_ways_but_not_the_token_request(
    new_client: New, with_token: aioresponses, encrypted_answer: bool
) -> None:
    cipher = BodyCipher("client-secret-1")
    reply = json.dumps(ALLOCATED).encode()
    with_token.post(ALLOCATE_URL, body=cipher.encrypt(reply) if encrypted_answer else reply)
    with_token.post(CREATE_URL, body=cipher.encrypt(json.dumps(CREATED).encode()))
    client = new_client(encryption=True)

    await client.allocate_coins(**GRANT)
    event = await client.create_event(event="MEAL_CARD_PAYMENT", amount=6)

    (call,) = sent(with_token, "POST", ALLOCATE_URL)
    assert json.loads(cipher.decrypt(text_of(call).encode()))["requestId"] == "COIN_REQ1234567"
    assert "COIN_REQ1234567" not in text_of(call)
    assert event.coin_config_id == "WCC817428"
    assert "grant_type=password" in text_of(sent(with_token, "POST", TOKEN_URL)[0])


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


class Provider:
    """Returns `own-1`, then `own-2`; or the given answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or ["own-1", "own-2"]
        self.refused: list[str] = []

    async def token(self) -> str:
        answer = self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def renew(self, refused: str) -> str:
        self.refused.append(refused)
        self.answers.pop(0)
        return await self.token()


async def test_a_provider_of_ones_own_needs_no_token_endpoint(new_client: New, vendor: aioresponses) -> None:
    vendor.post(ALLOCATE_URL, status=401)
    vendor.post(ALLOCATE_URL, payload=ALLOCATED)
    provider = Provider()
    client = new_client(auth_base_url=None, credentials=provider, company_id="CEK0TCW2W8")

    await client.allocate_coins(**GRANT)

    assert provider.refused == ["own-1"]
    assert [call.kwargs["headers"]["Authorization"] for call in sent(vendor, "POST", ALLOCATE_URL)] == [
        "Bearer own-1",
        "Bearer own-2",
    ]


async def test_one_token_that_is_refused_is_not_tried_twice(new_client: New, vendor: aioresponses) -> None:
    vendor.get(f"{BALANCE_URL}?userId=EK6CYE6K", status=401, repeat=True)
    client = new_client(credentials=StaticToken("own-1"))

    with pytest.raises(Unauthorized):
        await client.get_balance("EK6CYE6K")

    assert len(sent(vendor, "GET", f"{BALANCE_URL}?userId=EK6CYE6K")) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (KeyError("own-1"), TokenUnavailable, "KeyError"),
        (None, TokenUnavailable, "access_token: "),
        ("", TokenUnavailable, "access_token: "),
        ("own\r\nHost: evil", TokenUnavailable, "access_token: "),
        ("\u00f6wn", TokenUnavailable, "access_token: "),
        (Unauthorized("the vault is closed"), Unauthorized, "the vault is closed"),
        (RateLimited("not so fast"), RateLimited, "not so fast"),
        (OutcomeUnknown("the vault did not answer"), TokenUnavailable, "the vault did not answer"),
        (NotFound("no such vault"), TokenUnavailable, "no such vault"),
        (ConfigurationError("the vault has no address"), ConfigurationError, "the vault has no address"),
    ],
)
async def test_a_provider_that_fails_ends_the_call_before_it_left(
    new_client: New, vendor: aioresponses, answer: Any, kind: type[Exception], words: str
) -> None:
    client = new_client(credentials=Provider(answer), company_id="C")

    problem = await outcome(client.allocate_coins(**GRANT))

    assert type(problem) is kind
    assert words in str(problem)
    assert not vendor.requests


async def test_one_error_raised_to_many_callers_names_each_ones_own_request(new_client: New, vendor: aioresponses) -> None:
    closed = Unauthorized("the vault is closed")
    client = new_client(credentials=Provider(closed), company_id="C")

    problems = [await outcome(client.allocate_coins(**{**GRANT, "request_id": f"R{number}"})) for number in range(3)]

    assert [problem.idempotency_key for problem in problems] == ["R0", "R1", "R2"]
    assert {str(problem) for problem in problems} == {"EnKash allocate_coins: the vault is closed"}
    assert (str(closed), closed.idempotency_key) == ("the vault is closed", None)


@pytest.mark.parametrize("then", [IndexError("no more"), ConfigurationError("the vault has no address")], ids=repr)
async def test_a_provider_that_fails_after_a_lost_reply_leaves_the_allocation_unknown(
    new_client: New, vendor: aioresponses, then: Exception
) -> None:
    class Forgetful(Provider):
        async def token(self) -> str:
            token = await super().token()
            self.answers = [then]
            return token

    vendor.post(ALLOCATE_URL, status=503)

    with pytest.raises(OutcomeUnknown):
        await new_client(credentials=Forgetful("own-1"), company_id="C", repeat_allocations=True).allocate_coins(**GRANT)


async def test_a_provider_that_cannot_renew_after_a_lost_reply_leaves_the_allocation_unknown(
    new_client: New, vendor: aioresponses
) -> None:
    class Misplaced(Provider):
        async def renew(self, refused: str) -> str:
            raise ConfigurationError("the vault has no address")

    vendor.post(ALLOCATE_URL, status=503)
    vendor.post(ALLOCATE_URL, status=401)

    with pytest.raises(OutcomeUnknown, match="the vault has no address"):
        await new_client(credentials=Misplaced(), company_id="C", repeat_allocations=True).allocate_coins(**GRANT)


async def test_a_provider_that_takes_too_long_means_that_nothing_was_sent(new_client: New, vendor: aioresponses) -> None:
    class Late(Provider):
        async def token(self) -> str:
            raise TimeoutError

    with pytest.raises(ConnectFailed):
        await new_client(credentials=Late(), company_id="C", retry=RetryPolicy(attempts=1)).allocate_coins(**GRANT)


async def test_without_a_company_an_allocation_is_refused_before_a_request(new_client: New, vendor: aioresponses) -> None:
    client = new_client(credentials=StaticToken("own-1"))

    with pytest.raises(ValueError, match=r"^company_id: "):
        await client.allocate_coins(**GRANT)
    assert not vendor.requests


async def test_observers_see_the_token_request_too(new_client: New, with_token: aioresponses) -> None:
    class Watcher:
        def __init__(self) -> None:
            self.ended: list[Any] = []

        def on_end(self, record: Any) -> None:
            self.ended.append(record)

    with_token.get(f"{BALANCE_URL}?userId=EK6CYE6K", payload=BALANCE)
    watcher = Watcher()

    await new_client(observers=[watcher]).get_balance("EK6CYE6K")

    assert [record.operation for record in watcher.ended] == ["token", "get_balance"]
