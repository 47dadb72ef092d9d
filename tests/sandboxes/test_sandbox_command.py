"""`python -m vendor_sandboxes` says where it listens, takes every switch and ends on a signal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from vendor_sandboxes import EnkashSandbox, OriginalSandbox
from vendor_sandboxes.__main__ import build
from vendor_sandboxes.original import WEBHOOK_KEYS

pytestmark = pytest.mark.processes_are_measured

if TYPE_CHECKING:
    import aiohttp

ORIGINAL_LINE = """
    original --port 0 --host 127.0.0.1 --api-key k --api-secret s --app-uid APP --reward r1 --reward r2 --seed 7
    --webhook-url http://h/ --webhook-key a:b --webhook-key c:d:e --webhook-attempts 3 --webhook-backoff 0.5
    --confirm 0.1:0.2 --fail-rate 0.1 --fail-then-done 0.5
    --p503 0.02 --p503-after-commit 0.03 --p429 0.04 --retry-after 3 --drop-before-commit 0.05 --drop-after-commit 0.06
    --slow-after-commit 0.07 --slow-seconds 8 --latency 0:0.1 --only-path /reward --list-lag 2 --read-lag 1
    --webhook-loss 0.1 --webhook-duplicate 0.2 --webhook-reorder 0.3 --webhook-hold 2 --webhook-before-reply
    --webhook-body full,uid --webhook-shape flat,reward --attempt-in-body
    --duplicate-nonce replay --known-nonce-text Known --known-nonce-status 409 --commit-late 9
    --page-size 50 --page-shape inside --read-path allocation --amounts string --strict
"""
ENKASH_LINE = """
    enkash --client-id CEKABCDEFG --client-secret s --username u --password p --funds 9
    --duplicate-request conflict --token-answer redirect --fail-rate 0.1
    --token-life 5 --expires-in 86399 --token-hang 2 --token-keys camel
    --rejection envelope --envelope code --code-as string --encrypted --p503
"""


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    command = (sys.executable, "-m", "vendor_sandboxes", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = json.loads(await process.stdout.readline())
    assert line.pop("ready") is True
    try:
        yield process, line["url"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_line_says_where_and_a_signal_ends_it(session: aiohttp.ClientSession, number: signal.Signals) -> None:
    async with running("original", "--port", "0") as (process, url):
        assert url.endswith("/v1")
        async with session.get(url.removesuffix("/v1") + "/_sandbox/books") as reply:
            assert (await reply.json())["allocations"] == []
        process.send_signal(number)
        assert await process.wait() == 0


async def test_enkash_is_started_alike(session: aiohttp.ClientSession) -> None:
    async with running("enkash", "--port", "0", "--funds", "5") as (_, url), session.get(url + "/_sandbox/books") as reply:
        assert (await reply.json())["funds"] == 5


async def test_port_in_use_is_said_in_one_line() -> None:
    async with OriginalSandbox() as sandbox:
        command = (sys.executable, "-m", "vendor_sandboxes", "original", "--port", sandbox.origin.rpartition(":")[2])
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().startswith("Cannot listen: ")
    assert len(said.decode().splitlines()) == 1


def test_every_switch_of_original_reaches_it() -> None:
    sandbox = build(ORIGINAL_LINE.split())
    assert isinstance(sandbox, OriginalSandbox)
    switches = sandbox.switches
    assert (switches.confirm, switches.latency) == ((0.1, 0.2), (0.0, 0.1))
    assert (switches.p503, switches.p503_after_commit, switches.p429, switches.retry_after) == (0.02, 0.03, 0.04, 3)
    assert (switches.drop_before_commit, switches.drop_after_commit) == (0.05, 0.06)
    assert (switches.slow_after_commit, switches.slow_seconds, switches.only_path) == (0.07, 8, "/reward")
    assert (switches.list_lag, switches.read_lag, switches.fail_rate, switches.fail_then_done) == (2, 1, 0.1, 0.5)
    assert (switches.webhook_loss, switches.webhook_duplicate, switches.webhook_reorder) == (0.1, 0.2, 0.3)
    assert (switches.webhook_hold, switches.webhook_before_reply, switches.webhook_body) == (2, 1, ("full", "uid"))
    assert (switches.duplicate_nonce, switches.read_path, switches.amounts, switches.strict) == (
        "replay",
        "allocation",
        "string",
        True,
    )
    assert (switches.webhook_shape, switches.attempt_in_body, switches.commit_late) == (("flat", "reward"), True, 9)
    assert (switches.known_nonce_text, switches.known_nonce_status) == ("Known", 409)
    assert (switches.page_size, switches.page_shape) == (50, "inside")
    assert (sandbox.api_key, sandbox.api_secret, sandbox.app_uid, sandbox.webhook_url) == ("k", "s", "APP", "http://h/")
    assert sandbox.deliveries.keys == {"a": "b", "c": "d:e"}
    assert list(sandbox.state.rewards) == ["r1", "r2"]


def test_every_switch_of_enkash_reaches_it() -> None:
    sandbox = build(ENKASH_LINE.split())
    assert isinstance(sandbox, EnkashSandbox)
    switches = sandbox.switches
    assert (sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password, sandbox.funds) == (
        "CEKABCDEFG",
        "s",
        "u",
        "p",
        9,
    )
    assert (switches.duplicate_request, switches.fail_rate, switches.p503, switches.encrypted) == ("conflict", 0.1, 1.0, True)
    assert (switches.token_life, switches.expires_in, switches.token_hang, switches.token_keys) == (5, 86399, 2, "camel")
    assert switches.token_answer == "redirect"
    assert (switches.rejection, switches.envelope, switches.code_as) == ("envelope", "code", "string")


def test_without_switches_nothing_goes_wrong() -> None:
    sandbox = build(["original"])
    assert isinstance(sandbox, OriginalSandbox)
    assert sandbox.deliveries.keys == WEBHOOK_KEYS
    assert sandbox.switches == OriginalSandbox().switches
    enkash = build(["enkash"])
    assert isinstance(enkash, EnkashSandbox)
    assert enkash.switches == EnkashSandbox().switches


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "the following arguments are required: vendor"),
        ("original --p503 2", "2 is no probability: give a number from 0 to 1"),
        ("original --p503 nan", "nan is no probability: give a number from 0 to 1"),
        ("original --list-lag -1", "-1 is no duration: give seconds, 0 or more"),
        ("original --confirm 3:1", "'3:1' is no range of seconds: give LOW:HIGH"),
        ("original --webhook-key id", "a webhook key is given as ID:SECRET"),
        ("original --webhook-body half", "webhook_body cannot be 'half': choose among full, uid, opaque"),
        ("original --page-size -1", "page_size cannot be -1: give a whole number, 0 or more"),
        ("original --read-path any", "invalid choice: 'any'"),
    ],
)
def test_impossible_lines_are_refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build(line.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_options_are_explained_within_eighty_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for vendor in ("original", "enkash"):
        with pytest.raises(SystemExit):
            build([vendor, "--help"])
        _, _, options = capsys.readouterr().out.partition("\noptions:\n")
        assert options
        assert max(map(len, options.splitlines())) <= 80


def test_missing_cryptography_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    arguments: Sequence[str] = ["enkash", "--encrypted"]
    with pytest.raises(SystemExit) as ended:
        build(arguments)
    assert ended.value.code == 2
    assert "pip install 'rewards-async[encryption]'" in capsys.readouterr().err
