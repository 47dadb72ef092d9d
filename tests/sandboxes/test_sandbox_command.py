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

from tests.texts import said
from vendor_sandboxes import EnkashSandbox, OriginalSandbox
from vendor_sandboxes.__main__ import build
from vendor_sandboxes.original import WEBHOOK_KEYS

pytestmark = pytest.mark.processes_are_measured

if TYPE_CHECKING:
    import aiohttp

ORIGINAL_LINE = """
    original --port 0 --host 127.0.0.1 --api-key k --api-secret s --app-uid APP --reward r1 --reward r2 --seed 7
    --collection c1 --collection c2
    --webhook-url http://h/ --webhook-key a:b --webhook-key c:d:e --webhook-attempts 3 --webhook-backoff 0.5
    --confirm 0.1:0.2 --fail-rate 0.1 --fail-then-done 0.5 --cancel-rate 0.2 --burn-lag 4
    --p503 0.02 --p503-after-commit 0.03 --p429 0.04 --retry-after 3 --drop-before-commit 0.05 --drop-after-commit 0.06
    --slow-after-commit 0.07 --slow-seconds 8 --latency 0:0.1 --only-path /reward --list-lag 2 --read-lag 1
    --webhook-loss 0.1 --webhook-duplicate 0.2 --webhook-reorder 0.3 --webhook-hold 2 --webhook-before-reply
    --webhook-body full,uid --webhook-shape flat,reward --asset-webhook-shape flat,sample --attempt-in-body
    --duplicate-nonce replay --known-nonce-text Known --known-nonce-status 409 --commit-late 9
    --page-size 50 --page-shape inside --read-path allocation --amounts string --strict
    --duplicate-external-id replay --token-ids text --user-shape wallet_address --from-user-key from_app_user_uid
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_line_says_where_and_a_signal_ends_it(session: aiohttp.ClientSession, number: signal.Signals) -> None:
    async with running("original", "--port", "0") as (process, url):
        assert url.endswith("/v1")
        async with session.get(url.removesuffix("/v1") + "/_sandbox/books") as reply:
            assert (await reply.json())["allocations"] == []
        process.send_signal(number)
        assert await process.wait() == 0


@pytest.mark.slow
async def test_enkash_is_started_alike(session: aiohttp.ClientSession) -> None:
    async with running("enkash", "--port", "0", "--funds", "5") as (_, url), session.get(url + "/_sandbox/books") as reply:
        assert (await reply.json())["funds"] == 5


@pytest.mark.slow
async def test_port_in_use_is_an_error_in_one_line() -> None:
    async with OriginalSandbox() as sandbox:
        command = (sys.executable, "-m", "vendor_sandboxes", "original", "--port", sandbox.origin.rpartition(":")[2])
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert len(errors.decode().splitlines()) == 1


def test_every_option_of_original_reaches_it() -> None:
    sandbox = build(ORIGINAL_LINE.split())
    assert isinstance(sandbox, OriginalSandbox)
    options = sandbox.options
    assert (options.confirm, options.latency) == ((0.1, 0.2), (0.0, 0.1))
    assert (options.p503, options.p503_after_commit, options.p429, options.retry_after) == (0.02, 0.03, 0.04, 3)
    assert (options.drop_before_commit, options.drop_after_commit) == (0.05, 0.06)
    assert (options.slow_after_commit, options.slow_seconds, options.only_path) == (0.07, 8, "/reward")
    assert (options.list_lag, options.read_lag, options.fail_rate, options.fail_then_done) == (2, 1, 0.1, 0.5)
    assert (options.webhook_loss, options.webhook_duplicate, options.webhook_reorder) == (0.1, 0.2, 0.3)
    assert (options.webhook_hold, options.webhook_before_reply, options.webhook_body) == (2, 1, ("full", "uid"))
    assert (options.duplicate_nonce, options.read_path, options.amounts, options.strict) == (
        "replay",
        "allocation",
        "string",
        True,
    )
    assert (options.webhook_shape, options.attempt_in_body, options.commit_late) == (("flat", "reward"), True, 9)
    assert (options.known_nonce_text, options.known_nonce_status) == ("Known", 409)
    assert (options.page_size, options.page_shape) == (50, "inside")
    assert (sandbox.api_key, sandbox.api_secret, sandbox.app_uid, sandbox.webhook_url) == ("k", "s", "APP", "http://h/")
    assert sandbox.webhooks.keys == {"a": "b", "c": "d:e"}
    assert (list(sandbox.state.rewards), list(sandbox.state.assets.collections)) == (["r1", "r2"], ["c1", "c2"])
    assert (options.cancel_rate, options.burn_lag, options.asset_webhook_shape) == (0.2, 4, ("flat", "sample"))
    assert (options.duplicate_external_id, options.token_ids) == ("replay", "text")
    assert (options.user_shape, options.from_user_key) == ("wallet_address", "from_app_user_uid")


def test_every_option_of_enkash_reaches_it() -> None:
    sandbox = build(ENKASH_LINE.split())
    assert isinstance(sandbox, EnkashSandbox)
    options = sandbox.options
    assert (sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password, sandbox.funds) == (
        "CEKABCDEFG",
        "s",
        "u",
        "p",
        9,
    )
    assert (options.duplicate_request, options.fail_rate, options.p503, options.encrypted) == ("conflict", 0.1, 1.0, True)
    assert (options.token_life, options.expires_in, options.token_hang, options.token_keys) == (5, 86399, 2, "camel")
    assert options.token_answer == "redirect"
    assert (options.rejection, options.envelope, options.code_as) == ("envelope", "code", "string")


def test_without_options_nothing_goes_wrong() -> None:
    sandbox = build(["original"])
    assert isinstance(sandbox, OriginalSandbox)
    assert sandbox.webhooks.keys == WEBHOOK_KEYS
    assert sandbox.options == OriginalSandbox().options
    enkash = build(["enkash"])
    assert isinstance(enkash, EnkashSandbox)
    assert enkash.options == EnkashSandbox().options


def test_impossible_lines_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    errors = []
    for line in (
        "",
        "original --p503 2",
        "original --p503 nan",
        "original --p503 often",
        "original --list-lag -1",
        "original --confirm 3:1",
        "original --webhook-key id",
        "original --webhook-body half",
        "original --webhook-backoff -1",
        "original --page-size -1",
    ):
        with pytest.raises(SystemExit) as ended:
            build(line.split())
        assert ended.value.code == 2
        errors.append(f"{line}\n    {capsys.readouterr().err.splitlines()[-1]}")
    said("command: impossible lines", "\n".join(errors))
    with pytest.raises(SystemExit) as ended:  # each version of Python words this in its own way
        build(["original", "--read-path", "any"])
    assert ended.value.code == 2


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
