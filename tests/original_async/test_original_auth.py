"""Tokens: their claims, when they are renewed, and which credentials are refused."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import jwt
import pytest
from aioresponses import CallbackResult, aioresponses

from original_async import OriginalClient
from original_async.auth import TokenAuthorizer
from rewards_core.errors import Unauthorized
from tests.original_async.conftest import BASE, REWARD, MakeClient
from tests.stepped_time import DAY, SteppedTime, each_jump

SECRET = "a-secret-of-more-than-thirty-two-bytes"


def tokens(ticks: SteppedTime, **options: Any) -> TokenAuthorizer:
    return TokenAuthorizer("key", SECRET, **{"lifetime": 3600.0, "clock": ticks.wall, **options})


async def bearer(source: TokenAuthorizer) -> str:
    return (await source.headers(1.0)).fields["Authorization"].removeprefix("Bearer ")


def read(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
    return claims


async def test_a_token_says_what_the_documents_say_and_ends_in_an_hour(ticks: SteppedTime) -> None:
    claims = read(await bearer(tokens(ticks)))
    assert claims == {"user_id": "*", "resource": "*", "action": "*", "api_key": "key", "exp": 1_700_003_600}


async def test_a_token_without_end_has_no_exp_and_stays(ticks: SteppedTime) -> None:
    source = tokens(ticks, lifetime=None)
    token = await bearer(source)
    assert "exp" not in read(token)
    ticks.at += 10**9
    assert await bearer(source) == token
    assert not await source.renew(await source.headers(1.0), 1.0)


async def test_headers_stay_the_same_object_until_five_minutes_before_the_end(ticks: SteppedTime) -> None:
    source = tokens(ticks)
    first = await source.headers(1.0)
    ticks.at += 3299
    assert await source.headers(1.0) is first
    ticks.at += 1
    second = await source.headers(1.0)
    assert second is not first
    assert read(second.fields["Authorization"].removeprefix("Bearer "))["exp"] == int(ticks.now()) + 3600


async def test_a_short_token_is_replaced_half_way(ticks: SteppedTime) -> None:
    source = tokens(ticks, lifetime=120)
    first = await bearer(source)
    ticks.at += 59
    assert await bearer(source) == first
    ticks.at += 1
    assert await bearer(source) != first


@each_jump
async def test_a_token_is_renewed_in_time_though_the_clock_jumps(ticks: SteppedTime, jumps: list[float]) -> None:
    source = tokens(ticks)
    first = await bearer(source)
    for jump in jumps:
        ticks.ahead += jump
    ticks.at += 3300
    second = await bearer(source)
    assert second != first
    assert read(second)["exp"] == int(ticks.wall()) + 3600


async def test_a_clock_set_back_by_hours_does_not_put_off_renewal(ticks: SteppedTime) -> None:
    source = tokens(ticks)
    ticks.ahead -= 10_800
    second = await bearer(source)
    ticks.at += 3300
    assert await bearer(source) != second


async def test_a_token_is_renewed_at_once_when_the_clock_jumps_past_its_end(ticks: SteppedTime) -> None:
    source = tokens(ticks)
    first = await bearer(source)
    ticks.ahead += DAY
    second = await bearer(source)
    assert second != first
    assert read(second)["exp"] == int(ticks.wall()) + 3600
    ticks.ahead -= DAY
    assert read(await bearer(source))["exp"] == int(ticks.wall()) + 3600


@pytest.mark.parametrize(("passed", "jump"), [(61, -61), (61, -1_800), (0, 61), (0, -61)])
async def test_a_refused_token_is_replaced_if_either_clock_says_that_it_is_old(
    ticks: SteppedTime, passed: float, jump: float
) -> None:
    source = tokens(ticks)
    first = await source.headers(1.0)
    ticks.at += passed
    ticks.ahead += jump
    assert await source.renew(first, 1.0)
    assert await source.headers(1.0) is not first


async def test_a_refused_token_is_replaced_unless_it_is_new(ticks: SteppedTime) -> None:
    source = tokens(ticks)
    first = await source.headers(1.0)
    ticks.at += 59
    assert not await source.renew(first, 1.0)
    ticks.at += 1
    assert await source.renew(first, 1.0)
    second = await source.headers(1.0)
    assert second is not first
    assert await source.renew(first, 1.0), "somebody else replaced it in between"
    assert await source.headers(1.0) is second


async def test_a_call_refused_for_an_old_token_is_repeated_once_with_a_new_one(
    client: OriginalClient, wire: aioresponses, ticks: SteppedTime
) -> None:
    seen: list[str] = []

    def answer(url: Any, *, headers: Any, **_: Any) -> CallbackResult:
        seen.append(headers["Authorization"])
        return CallbackResult(status=401)

    wire.get(f"{BASE}/reward/{REWARD}", callback=answer, repeat=True)
    with pytest.raises(Unauthorized):
        await client.get_reward(REWARD)
    assert len(seen) == 1
    ticks.at += 61
    with pytest.raises(Unauthorized):
        await client.get_reward(REWARD)
    assert len(seen) == 3
    assert len(set(seen)) == 2


async def test_a_short_secret_warns_once_through_the_log(ticks: SteppedTime, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = TokenAuthorizer("key", "canary-short", lifetime=3600.0, clock=ticks.wall)
        ticks.at += 3600.0
        await source.headers(1.0)
    assert [(record.name, record.levelno) for record in caplog.records] == [("original_async", logging.WARNING)]
    assert "shorter than 32 bytes" in caplog.text
    assert "canary" not in caplog.text


def test_a_long_secret_warns_of_nothing(ticks: SteppedTime, caplog: pytest.LogCaptureFixture) -> None:
    tokens(ticks)
    assert not caplog.records


@pytest.mark.parametrize(
    ("api_key", "api_secret", "kind"),
    [
        ("", SECRET, ValueError),
        ("two words", SECRET, ValueError),
        ("canary\r\nX-Evil: 1", SECRET, ValueError),
        ("canary-é", SECRET, ValueError),
        (None, SECRET, TypeError),
        (b"key", SECRET, TypeError),
        ('"canary"', SECRET, ValueError),
        ("${CANARY}", SECRET, ValueError),
        ("canary" * 50, SECRET, ValueError),
        ("key", "", ValueError),
        ("key", " ", ValueError),
        ("key", None, TypeError),
        ("key", "canary\udcff", ValueError),
        ("key", "-----BEGIN PUBLIC KEY-----\ncanary\n-----END PUBLIC KEY-----", ValueError),
    ],
)
def test_credentials_that_cannot_be_are_refused_and_not_shown(
    make_client: MakeClient, api_key: Any, api_secret: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=r"^api_(key|secret): ") as caught:
        make_client(api_key, api_secret)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("lifetime", "kind"),
    [
        *((lifetime, ValueError) for lifetime in (0, 59.9, float("inf"), float("nan"), 10**40, 10**400)),
        *((lifetime, TypeError) for lifetime in ("3600", True)),
    ],
)
def test_a_lifetime_that_cannot_be_is_refused(make_client: MakeClient, lifetime: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^token_lifetime: "):
        make_client(token_lifetime=lifetime)


def test_its_text_shows_no_secret(ticks: SteppedTime) -> None:
    assert repr(tokens(ticks)) == "<TokenAuthorizer with <api_secret: hidden>>"


async def test_a_token_that_was_replaced_is_kept_out_of_messages_as_well(ticks: SteppedTime) -> None:
    source = tokens(ticks)
    first = await bearer(source)
    ticks.at += 3400.0
    assert await bearer(source) != first
    assert first in source.secrets()
