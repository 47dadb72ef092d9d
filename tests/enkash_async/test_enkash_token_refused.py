"""Calls whose token is refused or cannot be had, also from a provider of one's own."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from enkash_async import CredentialsRejected, StaticToken, TokenUnavailable
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ConfigurationError,
    ConnectFailed,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Unauthorized,
    VendorError,
)
from tests.enkash_async.client_kit import GRANT, New, sent
from tests.enkash_async.enkash_kit import ALLOCATE_URL, ALLOCATED, BALANCE, BALANCE_URL, TOKEN_REPLY, TOKEN_URL, outcome


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
