"""Token requests that are refused, stores that fail, loops and clients that end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Any

import pytest

from enkash_async import BreakerState, CredentialsRejected, MemoryBreakerStore, TokenUnavailable
from enkash_async.tokens import PasswordTokens
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectFailed,
    DeadlineExceeded,
    RateLimited,
    RequestRejected,
    ValidationFailed,
    VendorError,
)
from tests.enkash_async.enkash_kit import TokenEndpoint, Tokens, outcome, settle
from tests.enkash_async.token_kit import New, refused
from tests.stepped_time import SteppedTime


@pytest.mark.parametrize(
    "refusal",
    [
        refused(),
        ValidationFailed("EnKash token: HTTP 422: unsupported", status=422),
        RequestRejected("EnKash token: HTTP 200: invalid response", status=200),
    ],
    ids=["4xx", "422", "200"],
)
async def test_one_refusal_fails_a_thousand_callers_and_everybody_after_them(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, refusal: VendorError
) -> None:
    tokens = new_tokens()
    endpoint.script.append(refusal)

    problems = await asyncio.gather(*(outcome(tokens.token()) for _ in range(1000)))

    assert {type(problem) for problem in problems} == {CredentialsRejected}
    assert len({id(problem) for problem in problems}) == 1000
    assert {problem.status for problem in problems} == {refusal.status}
    assert str(refusal) in str(problems[0])
    time.at += 1e6
    with pytest.raises(CredentialsRejected):
        await tokens.token()
    assert endpoint.calls == 1


async def test_after_a_refused_refresh_the_old_token_is_used_to_its_end_and_no_other_asked_for(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    endpoint.script.append(refused())
    time.at += 200
    for _ in range(50):
        assert tokens.ready() == "token-1"
        await settle()
        time.at += 1

    time.at += 10
    with pytest.raises(CredentialsRejected):
        await tokens.token()
    assert endpoint.calls == 2


async def test_a_refusal_holds_for_every_client_on_the_same_store(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused())
    await outcome(new_tokens(store).token())

    with pytest.raises(CredentialsRejected, match="Bad credentials") as caught:
        await new_tokens(store).token()

    assert caught.value.status == 400
    assert endpoint.calls == 1


async def test_other_credentials_on_the_same_store_are_tried(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused())
    await outcome(new_tokens(store).token())

    assert await new_tokens(store, account=lambda: "account-2").token() == "token-2"


async def test_what_the_vendor_says_is_kept_without_secrets(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused("EnKash token: HTTP 400: no user 9000000000 with pass-word-1"))

    problem = await outcome(new_tokens(store, secrets=lambda: ("pass-word-1", "9000000000")).token())

    kept = await store.load("account-1")
    assert kept.message == "EnKash token: HTTP 400: no user [hidden] with [hidden]"
    assert "pass-word-1" not in str(problem)
    assert problem.__cause__ is None


@pytest.mark.parametrize(
    "problem",
    [
        ConnectFailed("EnKash token: never left"),
        RateLimited("EnKash token: 429", retry_after=90.0),
        DeadlineExceeded("EnKash token: no slot"),
        ClientClosed("EnKash token: closed"),
        ConfigurationError("EnKash token: the borrowed session has an auth of its own. Nothing was sent."),
    ],
    ids=lambda problem: type(problem).__name__,
)
async def test_what_cannot_have_counted_fails_those_who_wait_and_leaves_no_mark(
    new_tokens: New, endpoint: TokenEndpoint, problem: Exception
) -> None:
    store = MemoryBreakerStore()
    tokens = new_tokens(store)
    endpoint.script.append(problem)

    problems = await asyncio.gather(*(outcome(tokens.token()) for _ in range(3)))

    assert [(type(one), str(one)) for one in problems] == [(type(problem), str(problem))] * 3
    assert await store.load("account-1") == BreakerState()
    assert await tokens.token() == "token-2"


class BrokenStore(MemoryBreakerStore):
    """Fails after a number of saves."""

    def __init__(self, saves: int) -> None:
        super().__init__()
        self.saves = saves

    async def save(self, account: str, state: BreakerState) -> None:
        self.saves -= 1
        if self.saves < 0:
            raise OSError(30, "Read-only file system")
        await super().save(account, state)


async def test_without_a_working_store_no_token_is_asked_for(new_tokens: New, endpoint: TokenEndpoint) -> None:
    with pytest.raises(TokenUnavailable, match=r"MemoryBreakerStore\(\).*Read-only file system"):
        await new_tokens(BrokenStore(0)).token()

    assert endpoint.calls == 0


async def test_a_token_counts_even_if_its_note_cannot_be_kept(
    new_tokens: New, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore(1)

    assert await new_tokens(store).token() == "token-1"

    assert (await store.load("account-1")).unanswered == 1
    assert [record.args for record in caplog.records] == [(store, "OSError")]


async def test_a_store_nobody_can_enter_fails_the_callers_only(new_tokens: New, endpoint: TokenEndpoint) -> None:
    class Taken(MemoryBreakerStore):
        @asynccontextmanager
        async def exclusive(self) -> Any:
            raise TimeoutError("another process holds it")
            yield

    with pytest.raises(TokenUnavailable, match="another process holds it"):
        await new_tokens(Taken()).token()


async def test_a_fetch_of_another_loop_is_not_waited_for(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    here = asyncio.ensure_future(tokens.token())
    await endpoint.asked.wait()

    async def elsewhere() -> object:
        async with asyncio.timeout(120):
            return await outcome(tokens.token())

    error = await asyncio.to_thread(asyncio.run, elsewhere())
    assert type(error) is ClientClosed
    endpoint.open.set()
    assert await here == "token-1"


async def test_closing_ends_those_who_wait(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    waiting = [asyncio.create_task(outcome(tokens.token())) for _ in range(3)]
    await endpoint.asked.wait()

    await tokens.aclose()
    await tokens.aclose()

    assert {type(problem) for problem in await asyncio.gather(*waiting)} == {ClientClosed}
    with pytest.raises(ClientClosed):
        await tokens.token()


async def test_closing_before_the_fetch_took_its_first_step_ends_those_who_wait(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    waiting = asyncio.create_task(outcome(tokens.token()))
    await asyncio.sleep(0)

    await tokens.aclose()

    assert isinstance(await waiting, ClientClosed)
    assert endpoint.calls == 0


def test_closing_in_another_loop_leaves_the_request_to_the_loop_it_belongs_to() -> None:
    async def start() -> tuple[Tokens, TokenEndpoint, asyncio.Task[str]]:
        endpoint = TokenEndpoint()
        endpoint.open.clear()
        tokens = Tokens(PasswordTokens(ask=endpoint, account=lambda: "account-1", store=MemoryBreakerStore()))
        waiting = asyncio.create_task(tokens.token())
        await endpoint.asked.wait()
        return tokens, endpoint, waiting

    async def finish(endpoint: TokenEndpoint, waiting: asyncio.Task[str]) -> str:
        endpoint.open.set()
        return await waiting

    with asyncio.Runner() as here, asyncio.Runner() as there:
        tokens, endpoint, waiting = here.run(start())
        there.run(tokens.aclose())

        assert here.run(finish(endpoint, waiting)) == "token-1"


async def test_closing_leaves_a_valid_token_alone_and_renews_it_no_more(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    await tokens.aclose()
    time.at += 200

    assert tokens.ready() == "token-1"
    await settle()
    assert endpoint.calls == 1


async def test_a_failed_fetch_is_logged_on_one_line(
    new_tokens: New, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.script.append(refused("EnKash token: HTTP 400: Bad\ncredentials"))
    with caplog.at_level(logging.WARNING):
        await outcome(new_tokens().token())

    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
