"""The sandboxed EnKash gives tokens, counts rejections, and locks the account after three in a row."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.sandboxes.enkash_partner import EVENT, EVENTS, PartnerOf, failure, logged_in
from vendor_sandboxes import EnkashSandbox


async def test_token_reply_has_the_documented_keys(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        status, reply = await partner_of(sandbox).token()
        assert status == 200
        assert set(reply) == {"access_token", "token_type", "refresh_token", "expires_in", "scope"}
        assert (len(reply["access_token"]), reply["token_type"], reply["expires_in"]) == (27, "bearer", 300)


async def test_token_reply_may_promise_more_than_it_keeps(partner_of: PartnerOf) -> None:
    now = 0.0
    async with EnkashSandbox(token_life=300, expires_in=86399, token_keys="camel", clock=lambda: now) as sandbox:
        partner = partner_of(sandbox)
        assert (await partner.token())[1]["expiresIn"] == 86399
        await partner.log_in()
        assert await partner.balance() == 0
        now = 300
        status, reply = await partner.call("GET", "/api/v0/coins/balance?userId=u")
        assert (status, reply["error"]) == (401, "invalid_token")


async def test_every_token_can_be_ended_at_once(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        sandbox.expire_tokens()
        assert (await partner.allocate())[0] == 401
        await partner.log_in()
        assert (await partner.create())[0] == 200


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Basic eA=="])
async def test_coins_need_a_token(partner_of: PartnerOf, authorization: str) -> None:
    async with EnkashSandbox() as sandbox:
        status, reply = await partner_of(sandbox).call("POST", EVENTS, EVENT, Authorization=authorization)
        assert (status, reply["error"]) == (401, "invalid_token")
        assert sandbox.token_rejections == 0


@pytest.mark.parametrize(
    ("wrong", "status", "error"),
    [
        ({"basic": ""}, 401, "invalid_client"),
        ({"basic": "Basic eDp5"}, 401, "invalid_client"),
        ({"basic": "Bearer eDp5"}, 401, "invalid_client"),
        ({"content_type": "text/plain"}, 400, "invalid_request"),
        ({"username": None}, 400, "invalid_request"),
        ({"password": ""}, 400, "invalid_request"),
        ({"grant_type": "refresh_token"}, 400, "unsupported_grant_type"),
        ({"password": "wrong é"}, 400, "invalid_grant"),
        ({"clientId": "another"}, 400, "invalid_grant"),
    ],
)
async def test_wrong_token_call_is_rejected_and_counted(
    partner_of: PartnerOf, wrong: dict[str, Any], status: int, error: str
) -> None:
    async with EnkashSandbox() as sandbox:
        answered, reply = await partner_of(sandbox).token(**wrong)
        assert (answered, reply["error"]) == (status, error)
        assert (sandbox.token_requests, sandbox.token_rejections, sandbox.locked) == (1, 1, False)


async def test_third_rejection_in_a_row_locks_the_account_for_good(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        partner = await logged_in(partner_of, sandbox)
        for _ in range(2):
            await partner.token(password="wrong")
        await partner.log_in()
        for expected in (False, False, True):
            await partner.token(password="wrong")
            assert sandbox.locked is expected
        assert await partner.token() == (401, {"error": "invalid_grant", "error_description": "User account is locked"})
        assert await partner.balance() == 0
        assert sandbox.books()["tokens"] == {"requests": 8, "rejections": 6, "issued": 2, "locked": True}


async def test_rejection_may_hide_behind_status_200(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(rejection="envelope") as sandbox:
        assert await partner_of(sandbox).token(password="wrong") == (200, failure("Bad credentials"))


async def test_rejection_whose_reply_is_lost_counts(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(drop_after_commit=1, only_path="/oauth/token") as sandbox:
        for _ in range(3):
            with pytest.raises(aiohttp.ClientConnectionError):
                await partner_of(sandbox).token(password="wrong")
        assert sandbox.locked


@pytest.mark.parametrize(
    ("answer", "status", "head"),
    [
        ("redirect", 302, ("Location", "/login")),
        ("empty", 204, None),
        ("page", 200, ("Content-Type", "text/html; charset=utf-8")),
    ],
)
async def test_token_call_may_be_answered_astray_and_counts_neither_way(
    partner_of: PartnerOf, answer: str, status: int, head: tuple[str, str] | None
) -> None:
    async with EnkashSandbox() as sandbox:
        partner = partner_of(sandbox)
        for _ in range(2):
            await partner.token(password="wrong")
        sandbox.options.token_answer = answer
        for password in ("wrong", sandbox.password):
            reply = await partner.token_reply(password=password)
            assert reply.status == status
            assert head is None or reply.headers[head[0]].removeprefix(sandbox.url) == head[1]
            assert "access_token" not in await reply.text()
        assert sandbox.books()["tokens"] == {"requests": 4, "rejections": 2, "issued": 0, "locked": False}
        assert sandbox.books()["faults"] == {"token_answer": 2}
        sandbox.options.token_answer = "normal"
        await partner.token(password="wrong")
        assert sandbox.locked


async def test_token_endpoint_hangs_after_it_has_counted(partner_of: PartnerOf) -> None:
    async with EnkashSandbox(token_hang=3600) as sandbox:
        asking = asyncio.ensure_future(partner_of(sandbox).token(password="wrong"))
        await sandbox.until(lambda: sandbox.token_rejections == 1)
        assert not asking.done()
        sandbox.options.token_hang = 0
        assert (await partner_of(sandbox).token())[0] == 200
    assert (await asking)[0] == 400


async def test_token_path_takes_only_posts(partner_of: PartnerOf) -> None:
    async with EnkashSandbox() as sandbox:
        assert (await partner_of(sandbox).call("GET", "/oauth/token"))[0] == 405
        assert sandbox.token_requests == 0
