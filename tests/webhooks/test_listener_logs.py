"""The log of `webhook-listener serve` and its workers: a line for each delivery, as text or JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.webhooks.command_kit import alone
from tests.webhooks.listener_process import KEYS, ListenerProcess, client, delivery, environment, post, running, working

JSON = ("--log-level", "info", "--log-format", "json")
BROKEN = """
import sys, threading, warnings
import webhooks.cli.serve as serve
from webhooks.__main__ import main

class Doomed:
    def __del__(self):
        raise LookupError("a finalizer")

async def broken(*_):
    warnings.warn("careful")
    threading.Thread(target=lambda: 1 / 0).start()
    Doomed()
    raise RuntimeError("a bug\\nof two lines")

serve._serve = broken
main()
"""

NARROW = """
import io, logging, sys
from rewards_core.cli.logs import LogSettings, log_to_stderr

class Narrow(io.StringIO):
    def write(self, text):
        if len(text) > 300:
            raise OSError(28, "No space left on device")
        return super().write(text)

sys.stderr = Narrow()
log_to_stderr(LogSettings(level="info", format=sys.argv[1]))
logging.getLogger("one").info("long" * 100)
logging.getLogger("one").info("short")
print(sys.stderr.getvalue(), end="")
"""


async def log_of(listener: ListenerProcess) -> list[str]:
    """Stop a listener and return every line that it wrote to standard error."""
    assert listener.process.stderr is not None
    await listener.stop()
    return (await listener.process.stderr.read()).decode().splitlines()


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """Parse lines as JSON objects, each with time, level, logger and message."""
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for each in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["time"])
        assert each["level"] in {"debug", "info", "warning", "error", "critical"}
        assert each["logger"]
        assert each["message"]
    return found


async def some_deliveries(url: str, session: aiohttp.ClientSession) -> None:
    """Send a new delivery, its duplicate, a dead letter, and an unsigned one."""
    body = delivery("324167489835", memo="SECRET-WORD")
    assert [await post(session, url, body) for _ in range(2)] == [200, 200]
    assert await post(session, url, b'"SECRET-WORD"') == 200  # signed, and no event
    assert await post(session, url, body, {}) == 401


@pytest.mark.slow
async def test_every_delivery_is_logged_in_one_line(tmp_path: Path) -> None:
    async with running(tmp_path, "--log-level", "info") as listener, aiohttp.ClientSession() as session:
        await some_deliveries(listener.url, session)
        lines = [line for line in await log_of(listener) if "webhooks.deliveries" in line]
    assert [re.sub(r"^.{23} |[\d.]+ ms$", "", line) for line in lines] == [
        "INFO webhooks.deliveries: reward.allocated 324167489835 new ",
        "INFO webhooks.deliveries: reward.allocated 324167489835 duplicate ",
        "INFO webhooks.deliveries: (unnamed) - dead letter ",
        "INFO webhooks.deliveries: - - refused (missing) from 127.0.0.1 ",
    ]
    assert "SECRET-WORD" not in "".join(lines)


@pytest.mark.slow
async def test_in_json_every_line_is_an_object_with_the_facts_as_fields(tmp_path: Path) -> None:
    async with running(tmp_path, *JSON) as listener, aiohttp.ClientSession() as session:
        await some_deliveries(listener.url, session)
        lines = await log_of(listener)
    found = [each for each in objects(lines) if each["logger"] == "webhooks.deliveries"]
    facts = [(each.get("event"), each.get("uid"), each["verdict"], each["peer"]) for each in found]
    assert facts == [
        ("reward.allocated", "324167489835", "new", "127.0.0.1"),
        ("reward.allocated", "324167489835", "duplicate", "127.0.0.1"),
        ("(unnamed)", None, "dead letter", "127.0.0.1"),
        (None, None, "refused", "127.0.0.1"),
    ]
    assert [(each.get("scope"), each.get("reason")) for each in found] == [("default", None)] * 3 + [(None, "missing")]
    assert all(0 <= each["ms"] < 60_000 for each in found[:3])
    (warning,) = [each for each in objects(lines) if each["logger"] == "webhooks.receiver" and "reason" in each]
    assert (warning["level"], warning["reason"], warning["status"], warning["peer"]) == ("warning", "missing", 401, "127.0.0.1")
    assert not [line for line in lines if "SECRET-WORD" in line or KEYS.partition(":")[2] in line]


@pytest.mark.slow
async def test_workers_write_the_same_lines_with_their_number(tmp_path: Path) -> None:
    async with working(tmp_path, "--log-format", "json") as workers, client() as session:
        for number in (0, 1):
            async with workers.only(number):
                assert await post(session, workers.url, delivery(f"{number}")) == 200
        await workers.listener.stop()
        found = objects([line for line in await workers.rest_of_log() if line.strip()])
    assert {(each["uid"], each["worker"]) for each in found if each["logger"] == "webhooks.deliveries"} == {("0", 0), ("1", 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"), [(("--log-level", "error"), 0), ((), 1), (("--log-level", "info"), 3), (("--verbose",), 3)]
)
async def test_lower_levels_are_not_logged(tmp_path: Path, options: tuple[str, ...], told: int) -> None:
    async with running(tmp_path, *options) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1"), {}) == 401
        lines = await log_of(listener)
    assert len([line for line in lines if re.search("WARNING|INFO", line)]) == told, lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "option"),
    [
        (("--tls-min", "9"), "--tls-cert"),
        (("--store", "memory:", "--workers", "2"), "--workers"),
        (("--host", "192.0.2.1", "--admin-port", "-1"), "could not start"),
        (("--keys-file", "no\nwhere"), "keys"),
    ],
)
def test_in_json_a_command_that_cannot_start_says_so_in_an_object(tmp_path: Path, options: tuple[str, ...], option: str) -> None:
    result = alone("serve", "--port", "0", *JSON, *options, cwd=tmp_path)
    (found,) = objects(result.stderr.splitlines())
    assert (found["level"], option in found["message"], result.returncode in {2, 7}) == ("error", True, True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_that_cannot_be_written_is_lost_without_a_traceback(tmp_path: Path, form: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", NARROW, form], capture_output=True, text=True, env=environment(), cwd=tmp_path, check=True
    )
    (line,) = result.stdout.splitlines()
    assert "short" in line


def test_in_json_warnings_and_tracebacks_are_fields_of_objects(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, "serve", *JSON]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path, check=False)
    found = objects(result.stderr.splitlines())
    assert result.returncode == 1
    assert "careful" in next(each["message"] for each in found if each["logger"] == "py.warnings")
    faults = [each for each in found if each["logger"] == "fault"]
    assert sorted(each["exception"].splitlines()[0] for each in faults) == ["Traceback (most recent call last):"] * 3
    for words in ("RuntimeError: a bug\nof two lines", "ZeroDivisionError", "LookupError: a finalizer"):
        assert any(words in each["exception"] for each in faults), words
