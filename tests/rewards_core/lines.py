"""Small builders for the tests of the call engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from rewards_core.errors import FieldError, UnexpectedResponse
from rewards_core.http.messages import Answer, Effect, Refusal, Request
from rewards_core.http.transport import Transport
from rewards_core.json import loads

SECRET = "canary-3f9a1c-secret"


class Headers:
    """An authorizer whose token can be renewed once, if told so."""

    def __init__(self, *, renewable: bool = False) -> None:
        self.current = {"Authorization": f"Bearer {SECRET}"}
        self.renewable = renewable
        self.renewals = 0

    async def headers(self, timeout: float) -> Mapping[str, str]:
        return self.current

    async def renew(self, refused: Mapping[str, str], timeout: float) -> bool:
        if not self.renewable:
            return False
        self.renewals += 1
        self.current = {"Authorization": f"Bearer {SECRET}-{self.renewals}"}
        return True

    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)


@define
class FakeTime:
    """A clock that only moves when somebody sleeps."""

    at: float = 1000.0
    slept: list[float] = field(factory=list)

    def clock(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds


def refusal(answer: Answer) -> Refusal:
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        return Refusal()
    details = [FieldError(**detail) for detail in body.get("details", ())]
    return Refusal(message=body.get("message", ""), code=body.get("code"), details=details, invalid=bool(body.get("invalid")))


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
