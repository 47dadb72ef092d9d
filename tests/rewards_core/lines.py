"""Small builders for the tests of the call engine."""

from __future__ import annotations

import asyncio
from typing import Any

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import FieldError, UnexpectedResponse
from rewards_core.http.messages import Answer, Effect, Headers, Refusal, Request
from rewards_core.http.transport import Transport
from rewards_core.json import loads
from rewards_core.observe import CallRetried

SECRET = "canary-3f9a1c-secret"


class Credentials:
    """An authorizer whose token can be renewed once, if told so."""

    def __init__(self, *, renewable: bool = False) -> None:
        self.current = Headers.of({"Authorization": f"Bearer {SECRET}"})
        self.renewable = renewable
        self.renewals = 0

    async def headers(self, timeout: float) -> Headers:
        return self.current

    async def renew(self, refused: Headers, timeout: float) -> bool:
        if not self.renewable:
            return False
        self.renewals += 1
        self.current = Headers.of({"Authorization": f"Bearer {SECRET}-{self.renewals}"})
        return True

    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)


def refusal(answer: Answer) -> Refusal:
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        return Refusal()
    details = [FieldError(**detail) for detail in body.get("details", ())]
    return Refusal(message=body.get("message", ""), code=body.get("code"), details=details, invalid=bool(body.get("invalid")))


PATIENT = RetryPolicy(first_delay=20.0, max_delay=20.0)
"""Pauses for nearly all of a call's time, so that a test can do something meanwhile."""


class Pausing:
    """An observer that says when a pause begins."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def on_retry(self, record: CallRetried) -> None:
        self.begun.set()


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.on_start = self.on_retry = self.on_end = self.records.append


def read_json(answer: Answer) -> Any:
    return loads(answer.body)


def request_to(transport: Transport, effect: Effect = Effect.READ, **options: Any) -> Request[Any]:
    options.setdefault("operation", "do_it")
    options.setdefault("method", "GET" if effect is Effect.READ else "POST")
    options.setdefault("url", transport.url("thing"))
    options.setdefault("read", read_json)
    options.setdefault("deadline", transport.deadline())
    if effect is not Effect.READ:
        options.setdefault("body", b'{"a":1}')
    return Request(effect=effect, **options)
