"""A wrong password never locks the account, however many callers use it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from enkash_async import BreakerStore, CredentialsRejected, EnkashClient, FileBreakerStore, PasswordCredentials, TokenUnavailable
from tests.enkash_async.enkash_kit import outcome
from tests.stepped_time import DAY, SteppedTime
from vendor_sandboxes import EnkashSandbox

pytestmark = pytest.mark.repeats_itself

TOKEN_PATH = "/oauth/token"
New = Callable[..., EnkashClient]

WORKER = """
import asyncio, collections, json, sys, time
from enkash_async import EnkashClient, FileBreakerStore, PasswordCredentials, tokens

tokens.BEFORE_REPEAT = 0.0
uptime = tokens.uptime

async def main(url, path, later, ahead, *parts):
    settings = {
        "credentials": PasswordCredentials(*parts),
        "breaker_store": FileBreakerStore(path),
        "clock": lambda: time.time() + float(ahead),
    }
    tokens.uptime = lambda: uptime() + float(later)
    print("ready", flush=True)
    sys.stdin.readline()
    async with EnkashClient(coins_base_url=url, auth_base_url=url, **settings) as client:
        ended = await asyncio.gather(*(client.get_balance("EK1") for _ in range(50)), return_exceptions=True)
    print(json.dumps(collections.Counter(type(one).__name__ for one in ended)), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[EnkashSandbox]:
    async with EnkashSandbox() as sandbox:
        yield sandbox
        assert not sandbox.locked


def wrong(sandbox: EnkashSandbox, **parts: str) -> PasswordCredentials:
    right = {
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "username": sandbox.username,
        "password": sandbox.password,
    }
    return PasswordCredentials(**{**right, **(parts or {"password": "wrong"})})


@pytest.fixture
def new_client(time: SteppedTime) -> Callable[..., EnkashClient]:
    def new(sandbox: EnkashSandbox, credentials: PasswordCredentials, store: BreakerStore | None = None) -> EnkashClient:
        return EnkashClient(
            coins_base_url=sandbox.url,
            auth_base_url=sandbox.url,
            credentials=credentials,
            breaker_store=store,
            clock=time.wall,
        )

    return new


async def kinds(client: EnkashClient, callers: int = 1000) -> Counter[str]:
    problems = await asyncio.gather(*(outcome(client.get_balance("EK1")) for _ in range(callers)))
    return Counter(type(problem).__name__ for problem in problems)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["client_id", "client_secret", "username", "password"])
async def test_a_thousand_callers_with_a_wrong_part_make_one_rejected_request(
    sandbox: EnkashSandbox, new_client: New, part: str
) -> None:
    async with new_client(sandbox, wrong(sandbox, **{part: "wrong"})) as client:
        assert await kinds(client) == {"CredentialsRejected": 1000}
        assert await kinds(client) == {"CredentialsRejected": 1000}

    assert sandbox.token_rejections == 1


async def test_a_refusal_written_as_a_200_is_one_as_well(sandbox: EnkashSandbox, new_client: New) -> None:
    sandbox.options.rejection = "envelope"
    async with new_client(sandbox, wrong(sandbox)) as client:
        assert await kinds(client) == {"CredentialsRejected": 1000}

    assert sandbox.token_rejections == 1


@pytest.mark.slow
async def test_a_password_that_was_changed_meanwhile_makes_one_rejected_request(sandbox: EnkashSandbox, new_client: New) -> None:
    async with new_client(sandbox, wrong(sandbox, password=sandbox.password)) as client:
        await client.get_balance("EK1")
        sandbox.password = "another"
        sandbox.expire_tokens()

        assert await kinds(client) == {"CredentialsRejected": 1000}

    assert sandbox.token_rejections == 1


@pytest.mark.slow
async def test_a_wrong_password_with_lost_replies_makes_two_rejected_requests_at_most(
    sandbox: EnkashSandbox, new_client: New
) -> None:
    sandbox.options.drop_after_commit = 1.0
    async with new_client(sandbox, wrong(sandbox)) as client:
        assert await kinds(client) == {"TokenUnavailable": 1000}
        assert await kinds(client) == {"TokenUnavailable": 1000}

    assert sandbox.token_rejections == 2


@pytest.mark.slow
async def test_a_wrong_password_with_lost_replies_locks_nothing_while_another_client_works(
    sandbox: EnkashSandbox, new_client: New, time: SteppedTime
) -> None:
    async with (
        new_client(sandbox, wrong(sandbox)) as mistaken,
        new_client(sandbox, wrong(sandbox, password=sandbox.password)) as right,
    ):
        for second in range(7200):
            sandbox.options.drop_after_commit = 1.0
            assert isinstance(await outcome(mistaken.get_balance("EK1")), TokenUnavailable)
            sandbox.options.drop_after_commit = 0.0
            if second % 5 == 0:
                assert await right.get_balance("EK1") == 0
            time.at += 1

    assert not sandbox.locked
    assert 2 + 10 <= sandbox.token_rejections <= 2 + 12  # one in ten minutes


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "status"), [("redirect", 302), ("empty", 204), ("page", 200)])
async def test_a_client_that_met_no_token_endpoint_gets_tokens_once_there_is_one(
    sandbox: EnkashSandbox, new_client: New, time: SteppedTime, answer: str, status: int
) -> None:
    async with new_client(sandbox, wrong(sandbox, password=sandbox.password)) as client:
        assert await client.get_balance("EK1") == 0
        sandbox.expire_tokens()
        sandbox.options.token_answer = answer
        assert await kinds(client) == {"TokenUnavailable": 1000}
        with pytest.raises(TokenUnavailable, match=rf"\(HTTP {status}\)") as caught:
            await client.get_balance("EK1")
        assert sandbox.url not in str(caught.value)
        sandbox.options.token_answer = "normal"
        assert await kinds(client) == {"TokenUnavailable": 1000}
        assert sandbox.token_requests == 1 + 2

        time.at += 60
        assert await client.get_balance("EK1") == 0


async def test_a_wrong_password_with_one_lost_reply_is_found_out_by_the_second(sandbox: EnkashSandbox, new_client: New) -> None:
    sandbox.script("drop_after_commit", path=TOKEN_PATH)
    async with new_client(sandbox, wrong(sandbox)) as client:
        assert await kinds(client) == {"CredentialsRejected": 1000}

    assert sandbox.token_rejections == 2


@pytest.mark.slow
async def test_three_restarts_with_a_wrong_password_make_one_rejected_request(
    sandbox: EnkashSandbox, new_client: New, tmp_path: Path
) -> None:
    for _ in range(4):
        async with new_client(sandbox, wrong(sandbox), FileBreakerStore(tmp_path / "breaker.json")) as client:
            with pytest.raises(CredentialsRejected, match="Bad credentials"):
                await client.get_balance("EK1")

    assert sandbox.token_rejections == 1


@pytest.mark.slow
async def test_three_restarts_with_lost_replies_make_two_rejected_requests(
    sandbox: EnkashSandbox, new_client: New, tmp_path: Path
) -> None:
    sandbox.options.drop_after_commit = 1.0
    for _ in range(4):
        async with new_client(sandbox, wrong(sandbox), FileBreakerStore(tmp_path / "breaker.json")) as client:
            with pytest.raises(TokenUnavailable):
                await client.get_balance("EK1")

    assert sandbox.token_rejections == 2


async def test_the_right_password_works_on_the_file_that_holds_a_refusal(
    sandbox: EnkashSandbox, new_client: New, tmp_path: Path
) -> None:
    store = FileBreakerStore(tmp_path / "breaker.json")
    async with new_client(sandbox, wrong(sandbox), store) as client:
        await outcome(client.get_balance("EK1"))

    async with new_client(sandbox, wrong(sandbox, password=sandbox.password), store) as client:
        assert await client.get_balance("EK1") == 0


async def start(
    sandbox: EnkashSandbox, path: Path, *, later: float = 0.0, ahead: float = 0.0, password: str = "wrong"
) -> Process:
    """Start a process that makes fifty calls on command, some seconds later and with a wall clock that is ahead."""
    parts = (sandbox.client_id, sandbox.client_secret, sandbox.username, password)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, sandbox.url, str(path), str(later), str(ahead), *parts),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.slow
async def test_four_processes_with_a_wrong_password_make_one_rejected_request(sandbox: EnkashSandbox, tmp_path: Path) -> None:
    sandbox.options.token_hang = 0.5  # so that all are in progress before the first is answered
    workers = await asyncio.gather(*(start(sandbox, tmp_path / "breaker.json") for _ in range(4)))

    ended: list[tuple[bytes, Any]] = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))

    assert [json.loads(out) for out, _ in ended] == [{"CredentialsRejected": 50}] * 4
    assert sandbox.token_rejections == 1


@pytest.mark.slow
async def test_processes_killed_during_their_token_request_make_two_rejected_requests(
    sandbox: EnkashSandbox, tmp_path: Path
) -> None:
    sandbox.options.token_hang = 60.0
    for number in (1, 2):
        worker = await start(sandbox, tmp_path / "breaker.json")
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
        await sandbox.until(lambda expected=number: sandbox.token_requests == expected)  # type: ignore[misc]
        worker.kill()
        await worker.communicate()

    for ahead in (0.0, 40 * DAY, -1_800.0):
        worker = await start(sandbox, tmp_path / "breaker.json", ahead=ahead)
        out, _ = await worker.communicate(b"go\n")
        assert json.loads(out) == {"TokenUnavailable": 50}

    assert sandbox.token_rejections == 2


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["redirect", "empty", "page"])
async def test_processes_that_met_no_token_endpoint_get_tokens_once_there_is_one(
    sandbox: EnkashSandbox, tmp_path: Path, answer: str
) -> None:
    path = tmp_path / "breaker.json"
    sandbox.options.token_answer = answer
    workers = await asyncio.gather(*(start(sandbox, path, password=sandbox.password) for _ in range(2)))
    ended: list[tuple[bytes, Any]] = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
    assert [json.loads(out) for out, _ in ended] == [{"TokenUnavailable": 50}] * 2
    assert sandbox.token_requests == 2
    (kept,) = json.loads(path.read_text())["accounts"].values()
    assert (kept["rejected_at"], kept["unanswered"]) == (None, 2)

    sandbox.options.token_answer = "normal"
    worker = await start(sandbox, path, later=600.0, ahead=-1_800.0, password=sandbox.password)
    out, _ = await worker.communicate(b"go\n")

    assert json.loads(out) == {"int": 50}
    assert sandbox.token_requests == 3
