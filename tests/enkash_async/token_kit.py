"""Token requests that are refused or stay unanswered."""

from __future__ import annotations

from collections.abc import Callable

from enkash_async import BreakerStore
from rewards_core.errors import OutcomeUnknown, Unauthorized
from tests.enkash_async.enkash_kit import TokenEndpoint, Tokens, outcome
from tests.stepped_time import SteppedTime

New = Callable[..., Tokens]


def refused(text: str = "EnKash token: HTTP 400: Bad credentials") -> Unauthorized:
    return Unauthorized(text, status=400)


def unanswered() -> OutcomeUnknown:
    return OutcomeUnknown("EnKash token: the connection broke before an answer came")


async def proven(tokens: Tokens, endpoint: TokenEndpoint, time: SteppedTime) -> Tokens:
    """Return a manager whose credentials brought a token that has expired since."""
    await tokens.token()
    time.at += 300
    endpoint.calls = 0
    return tokens


async def silence(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, store: BreakerStore) -> None:
    """Leave a pause of sixty seconds in a store."""
    tokens = await proven(new_tokens(store), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered()])
    await outcome(tokens.token())
    assert endpoint.calls == 2
