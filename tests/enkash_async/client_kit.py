"""An allocation, and what was sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aioresponses import aioresponses
from yarl import URL

from enkash_async import EnkashClient
from tests.enkash_async.enkash_kit import text_of

New = Callable[..., EnkashClient]
GRANT: dict[str, Any] = {"event": "REFERRAL_EVENT", "user_id": "EKQZVMQK", "request_id": "COIN_REQ1234567"}


def sent(vendor: aioresponses, method: str, url: str) -> list[Any]:
    """Return the requests to an address, in order."""
    return list(vendor.requests.get((method, URL(url)), []))


def body_of(call: Any) -> Any:
    return json.loads(text_of(call))


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


def saying(words: str) -> dict[str, Any]:
    return {"response_code": 1, "response_message": words, "payload": words}
