"""The sandboxed Original lets in who holds the key and a token signed with the secret, and nobody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vendor_sandboxes import OriginalSandbox
from vendor_sandboxes.original import API_KEY, API_SECRET

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Answer, Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
NOW = 1_700_000_000.0
HEADER = {"alg": "HS256", "typ": "JWT"}
ALL = {"user_id": "*", "resource": "*", "action": "*"}


def part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def signed(claims: Any = ALL, *, secret: str = API_SECRET, header: Any = HEADER) -> str:
    """Return a token of any claims and any header, signed with HMAC-SHA256 whatever the header says."""
    text = part(header) + b"." + part(claims)
    digest = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


async def knock(caller: Caller, *, key: str = API_KEY, authorization: str) -> Answer:
    return await caller.call("GET", "/reward/764893807463", headers={"X-API-KEY": key, "Authorization": authorization})


@pytest.mark.parametrize(
    "claims", [ALL, {**ALL, "api_key": API_KEY}, {**ALL, "exp": NOW + 1}, {**ALL, "exp": 10**400}, {**ALL, "iat": int(NOW)}]
)
async def test_every_form_of_token_the_vendor_takes_is_taken(caller_of: CallerOf, claims: dict[str, Any]) -> None:
    async with OriginalSandbox(clock=lambda: NOW) as sandbox:
        assert (await knock(caller_of(sandbox), authorization=f"Bearer {signed(claims)}")).status == 200


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", "not_authenticated"),
        ("Basic abc", "not_authenticated"),
        ("Bearer", "authentication_failed"),
        ("Bearer a.b.c", "authentication_failed"),
        ("Bearer é.é.é", "authentication_failed"),
        ("Bearer " + "a." * 50, "authentication_failed"),
        (f"Bearer {signed(secret='another secret of thirty-two characters or more')}", "authentication_failed"),
        (f"Bearer {signed(header={'alg': 'HS512'})}", "authentication_failed"),
        (f"Bearer {signed(header=[])}", "authentication_failed"),
        (f"Bearer {signed([])}", "authentication_failed"),
        (f"Bearer {signed({**ALL, 'exp': True})}", "authentication_failed"),
        (f"Bearer {signed({**ALL, 'exp': NOW})}", "authentication_failed"),
        (f"Bearer {signed({**ALL, 'exp': float('nan')})}", "authentication_failed"),
        (f"Bearer e30.{base64.urlsafe_b64encode(b'[' * 4500).decode()}.x", "authentication_failed"),
    ],
)
async def test_whoever_cannot_prove_it_is_answered_401(caller_of: CallerOf, authorization: str, code: str) -> None:
    async with OriginalSandbox(clock=lambda: NOW) as sandbox:
        answer = await knock(caller_of(sandbox), authorization=authorization)
        assert (answer.status, answer.error["type"], answer.error["detail"]["code"]) == (401, "client_error", code)


@pytest.mark.parametrize("claims", [{}, {**ALL, "action": "read"}, {**ALL, "api_key": "another"}])
async def test_token_that_may_not_do_everything_is_answered_403(caller_of: CallerOf, claims: dict[str, Any]) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await knock(caller_of(sandbox), authorization=f"Bearer {signed(claims)}")
        assert (answer.status, answer.error["detail"]["code"]) == (403, "permission_denied")


@pytest.mark.parametrize(
    ("key", "code"), [("", "not_authenticated"), ("another", "authentication_failed"), ("é", "authentication_failed")]
)
async def test_wrong_key_is_answered_401(caller_of: CallerOf, key: str, code: str) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await knock(caller_of(sandbox), key=key, authorization=f"Bearer {signed()}")
        assert (answer.status, answer.error["detail"]["code"]) == (401, code)


async def test_token_expires_while_it_is_in_use(caller_of: CallerOf) -> None:
    now = NOW
    async with OriginalSandbox(clock=lambda: now) as sandbox:
        token = f"Bearer {signed({**ALL, 'exp': NOW + 10})}"
        assert (await knock(caller_of(sandbox), authorization=token)).status == 200
        now += 10
        assert (await knock(caller_of(sandbox), authorization=token)).error["detail"]["message"] == "Signature has expired."


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_many_tokens_are_told_apart(caller_of: CallerOf) -> None:
    async with OriginalSandbox(clock=lambda: NOW) as sandbox:
        caller = caller_of(sandbox)
        for number in range(1002):
            assert (await knock(caller, authorization=f"Bearer {signed({**ALL, 'jti': str(number)})}")).status == 200
        assert (await knock(caller, authorization="Bearer x.y.z")).status == 401
