"""A scripted token endpoint and sample bodies of EnKash."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

from enkash_async import PasswordCredentials
from enkash_async.credentials import AccessToken
from enkash_async.tokens import PasswordTokens
from rewards_core.secrets import Secret

COINS = "https://coins.example"
AUTH = "https://auth.example"
TOKEN_URL = f"{AUTH}/oauth/token"
CREATE_URL = f"{COINS}/api/v0/enkash-coins/create-coins-config"
ALLOCATE_URL = f"{COINS}/api/v0/enkash-coins/allocate-coin"
BALANCE_URL = f"{COINS}/api/v0/coins/balance"

TOKEN_REPLY = {
    "access_token": "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "token_type": "bearer",
    "refresh_token": "BBBBBBBBBBBBBBBBBBBBBBBBBBB",
    "expires_in": 86399,
    "scope": "read write trust",
}
CREATED = {
    "payload": {
        "coinConfigId": "WCC817428",
        "configuration": "DEFAULT",
        "companyId": "CEKEKCARDS",
        "event": "MEAL_CARD_PAYMENT",
        "amount": 6,
    },
    "response_code": 0,
    "response_message": "Success",
}
UPDATED = {
    "payload": {"coinConfigId": "WCC024845", "configuration": "DEFAULT", "event": "INVOICE_PAYMENT", "amount": 10},
    "response_code": 0,
    "response_message": "Success",
}
ALLOCATED = {"payload": "Successfully allocated enkash Coins", "response_code": 0, "response_message": "Success"}
BALANCE = {"response_code": 0, "response_message": "Success", "payload": 16}
NO_FUNDS = {
    "response_code": 1,
    "response_message": "Insufficient balance in card account",
    "payload": "Insufficient balance in card account",
}
ENVIRONMENT = {
    "ENKASH_COINS_BASE_URL": "https://coins.example",
    "ENKASH_AUTH_BASE_URL": "https://auth.example",
    "ENKASH_CLIENT_ID": "CEK1GZBO6A",
    "ENKASH_CLIENT_SECRET": "client-secret-1",
    "ENKASH_USERNAME": "9000000000",
    "ENKASH_PASSWORD": "pass-word-1",
}


def token(text: str = "token-1", expires_in: float | None = 86399.0) -> AccessToken:
    return AccessToken(value=Secret(text, "access_token"), expires_in=expires_in)


def credentials(password: str = "pass-word-1") -> PasswordCredentials:
    return PasswordCredentials("CEK1GZBO6A", "client-secret-1", "9000000000", password)


class TokenEndpoint:
    """Answers `token-1`, `token-2`, … or the next step of its script; it hangs while `open` is not set."""

    def __init__(self) -> None:
        self.script: deque[AccessToken | BaseException] = deque()
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def __call__(self) -> AccessToken:
        self.calls += 1
        number = self.calls
        self.asked.set()
        await self.open.wait()
        answer = self.script.popleft() if self.script else token(f"token-{number}")
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Tokens:
    """A token manager that reveals its tokens."""

    def __init__(self, hidden: PasswordTokens) -> None:
        self._hidden = hidden
        self.aclose = hidden.aclose

    def ready(self) -> str | None:
        return None if (token := self._hidden.ready()) is None else token.reveal()

    async def token(self) -> str:
        return (await self._hidden.token()).reveal()

    async def renew(self, refused: str) -> str:
        return (await self._hidden.renew(Secret(refused))).reveal()


def text_of(call: Any) -> str:
    """Return the body of a request that aioresponses saw."""
    body: str = call.kwargs["data"].decode()
    return body


async def outcome(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a call returns or raises."""
    try:
        return await call
    except Exception as problem:
        return problem


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)
