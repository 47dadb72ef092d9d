"""A call whose attempts end as a script says."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from attrs import define, field

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConfigurationError, RequestRejected, UnexpectedResponse, VendorError
from rewards_core.http.calls import Call
from rewards_core.http.failures import Failure, FailureKind
from rewards_core.http.messages import Answer, Effect, Headers, Refusal, Request
from rewards_core.http.refusals import affirms_existence
from rewards_core.json import loads
from rewards_core.observe import Observers
from rewards_core.rate import Limiter, Limits
from tests.rewards_core.call_kit import Credentials, refusal
from tests.stepped_time import SteppedTime

READ, KEYED, BARE = Effect.READ, Effect.KEYED, Effect.BARE
WRITES = (KEYED, BARE)
EVERY = (READ, KEYED, BARE)
Step = Answer | Failure


def answer(status: int, body: bytes = b'{"ok":true}', **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


OK = answer(200)
LOST = Failure(FailureKind.UNANSWERED, "the connection was lost")
REFUSED_TO_CONNECT = Failure(FailureKind.NOT_SENT, "no connection")
TOO_LATE = Failure(FailureKind.TOO_LATE, "no time left to send it")
MISTAKE = Failure(FailureKind.MISCONFIGURED, "the borrowed session does not accept the client's headers")
OVERSIZE = Failure(FailureKind.UNREADABLE, "the answer is longer than 10485760 bytes", 200)


@define
class Script:
    """A transport that answers attempt by attempt, the last answer for ever."""

    time: ClassVar[SteppedTime]

    steps: list[Step]
    authorizer: Any = field(factory=Credentials)
    retry: RetryPolicy = field(factory=RetryPolicy)
    observers: Observers = field(factory=lambda: Observers(()))
    vendor: str = "Acme"
    closed_after: int | None = None
    took: float = 0.0
    sent: list[Headers] = field(factory=list)
    limiter: Limiter = field(factory=lambda: Limiter(Limits(), random=lambda: 0.0))

    def random(self) -> float:
        return 0.0

    def refusal(self, answer: Answer) -> Refusal:
        return refusal(answer)

    def unusable(self) -> str | None:
        return None

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        if self.closed_after is not None and len(self.sent) >= self.closed_after:
            return Failure(FailureKind.UNUSABLE, "the client was closed")
        self.sent.append(headers)
        self.time.at += self.took
        return self.steps[min(len(self.sent), len(self.steps)) - 1]


def read(answer: Answer) -> Any:
    body = loads(answer.body)
    if "ok" not in body:
        raise UnexpectedResponse("ok is missing", path="ok")
    if body["ok"] is False:
        raise RequestRejected("the vendor says no", code="1")
    return body


async def outcome(script: Script, effect: Effect, *, total: float = 30.0, key: str | None = "key-1", **options: Any) -> Any:
    """Return what the call returned or raised."""
    deadline = asyncio.get_running_loop().time() + total
    options.setdefault("read", read)
    request: Request[Any] = Request(
        operation="do_it", method="POST", url=None, effect=effect, deadline=deadline, key=key, **options
    )
    try:
        return await Call(script, request).run()  # type: ignore[arg-type]
    except (VendorError, ConfigurationError) as error:
        return error


class NoOther(Credentials):
    """An authorizer that fails when it is asked for other credentials."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def renew(self, refused: Headers, timeout: float) -> bool:
        raise self.failure


DETAILS = b'{"details":[{"field":"nonce","message":"too long","code":"max_length"},{"field":"","message":"no","code":null}]}'


def about_the_nonce(error: RequestRejected) -> bool:
    return affirms_existence(error, about={"nonce", "allocat"})


ALREADY_USED = b'{"message":"no","details":[{"field":"","message":"Nonce already used."}]}'
