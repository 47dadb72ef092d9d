"""The five calls with the documented bodies: requests, results and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aioresponses import aioresponses

from enkash_async import BodyCipher, CoinAllocation, CoinConfiguration, StaticToken
from tests.enkash_async.client_kit import GRANT, New, body_of, sent
from tests.enkash_async.enkash_kit import (
    ALLOCATE_URL,
    ALLOCATED,
    BALANCE,
    BALANCE_URL,
    COINS,
    CREATE_URL,
    CREATED,
    TOKEN_URL,
    UPDATED,
    text_of,
)


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


async def test_encryption_may_have_its_own_cipher(new_client: New, vendor: aioresponses) -> None:
    cipher = BodyCipher("another-secret")
    vendor.post(ALLOCATE_URL, body=cipher.encrypt(json.dumps(ALLOCATED).encode()))

    receipt = await new_client(credentials=StaticToken("t"), company_id="C1", encryption=cipher).allocate_coins(**GRANT)

    (call,) = sent(vendor, "POST", ALLOCATE_URL)
    assert json.loads(cipher.decrypt(text_of(call).encode()))["requestId"] == receipt.request_id == "COIN_REQ1234567"
