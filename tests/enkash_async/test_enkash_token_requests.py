"""Token requests with the documented bodies, and what their answers mean."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aioresponses import aioresponses

from enkash_async import CredentialsRejected, TokenUnavailable
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConnectFailed
from tests.enkash_async.client_kit import GRANT, New, sent
from tests.enkash_async.enkash_kit import ALLOCATE_URL, BALANCE, BALANCE_URL, TOKEN_REPLY, TOKEN_URL, text_of
from tests.stepped_time import SteppedTime
from tests.texts import said


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
