"""A listener that cannot start, alone and with workers: its exit code, and the last line of its log."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.texts import said
from tests.webhooks.command_kit import command
from tests.webhooks.listener_process import environment
from webhooks.cli import app


def refused(monkeypatch: pytest.MonkeyPatch, *options: str, **env: str) -> tuple[int, str]:
    """Return the exit code and the error of a listener that does not start."""
    with monkeypatch.context() as patch:
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        for name, value in environment(**env).items():
            patch.setenv(name, value)
        ended = CliRunner().invoke(app, ["serve", "--port", "0", "--admin-port", "0", *options], catch_exceptions=False)
    assert ended.stdout == ""
    text = " ".join(re.sub("[╭╮╰╯│─]", " ", ended.stderr).split())
    return ended.exit_code, text.rpartition("Invalid value: ")[2]


@pytest.mark.slow
def test_invalid_settings_are_reported_with_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table: list[tuple[int, tuple[str, ...], dict[str, str]]] = [
        (2, (), {"ORIGINAL_WEBHOOK_KEYS": ""}),
        (2, ("--keys-file", "missing"), {}),
        (2, ("--store", "mysql://x"), {}),
        (7, ("--store", "sqlite:///missing/inbox.db"), {}),
        (2, ("--admin-host", "0.0.0.0"), {}),
        (2, ("--admin-token-file", os.devnull), {}),
        (2, ("--admin-token-file", "missing"), {}),
        (2, ("--tls-cert", "missing"), {}),
        (2, ("--tls-cert", "missing", "--tls-min", "1.1"), {}),
        (2, ("--tls-key", "key.pem"), {}),
        (2, ("--tls-min", "1.3"), {}),
        (7, ("--host", "no..host"), {}),
        (2, ("--source", "nonsense"), {}),
        (2, ("--source", "/x?y=1"), {}),
        (2, ("--source", "/x\x07y"), {}),
        (2, ("--source", "/a", "--source", "/b"), {}),
        (2, ("--allow", "everybody"), {}),
        (2, ("--forward-to", "http://user:pw@127.0.0.1/"), {}),
        (2, ("--poll",), {}),
        (2, ("--poll", "--poll-scope", "b"), {}),
        (2, ("--source", "/a,scope=a", "--source", "/b,scope=b"), {"ORIGINAL_API_KEY": "k"}),
        (2, ("--unix-mode", "0666"), {}),
        (2, ("--unix-group", "daemon"), {}),
        (2, ("--unix", "in.sock", "--unix-mode", "0640"), {}),
        (2, ("--unix", "@in.sock"), {}),
        (2, ("--unix", ""), {}),
        (7, ("--unix", "none/in.sock"), {}),
        (7, ("--unix", "in.sock", "--unix-group", "nobody at all"), {}),
        (2, ("--workers", "2", "--store", "memory:"), {}),
    ]
    found = []
    for code, options, env in table:
        ended = refused(monkeypatch, *options, **env)
        assert ended[0] == code, (options, ended)
        found.append(f"serve {' '.join(map(ascii, options))}\n    {ended[0]}: {ended[1]}")
    said("serve: invalid settings", "\n".join(found))
    for code, option, value in ((7, "--host", "no host"), (7, "--host", "203.0.113.1"), (2, "--unix", f"{'x' * 110}.sock")):
        assert refused(monkeypatch, option, value)[0] == code


@pytest.mark.slow
async def test_a_process_that_cannot_start_logs_one_line(tmp_path: Path) -> None:
    code, rows, log = await command(tmp_path, "serve", "--store", "sqlite:///missing/inbox.db")
    assert (code, rows, log.splitlines()[-1].startswith("could not start: "), "Traceback" in log) == (7, [], True, False)


async def not_started(folder: Path, *options: str, **env: str) -> tuple[int, str]:
    """Return the exit code of a listener with workers that cannot start, and the last line of its log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "serve", "--port", "0", "--admin-port", "0", "--workers", "2", *options),
        cwd=folder,
        env=environment(**env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, log = await process.communicate()
    assert out == b""
    assert process.returncode is not None
    return process.returncode, log.decode().splitlines()[-1]


def in_workers(folder: Path, *lines: str) -> str:
    """Return a PYTHONPATH with which workers, but not their supervisor, run these lines at start-up."""
    body = "".join(f"    {line}\n" for line in lines)
    (folder / "sitecustomize.py").write_text(f"import sys\nif 'webhooks.cli.worker' in sys.orig_argv:\n{body}")
    return f"{folder}{os.pathsep}{environment()['PYTHONPATH']}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "options"),
    [
        (7, ("--store", "sqlite:///missing/inbox.db")),
        (2, ("--keys-file", "missing")),
        (7, ("--unix", "taken")),
    ],
)
async def test_a_listener_that_cannot_start_says_why_in_its_last_line(tmp_path: Path, code: int, options: Sequence[str]) -> None:
    (tmp_path / "taken").write_text("")
    ended = await not_started(tmp_path, *options)
    assert ended[0] == code
    assert ended[1].startswith("could not start: ") == (code == 7)


@pytest.mark.processes_are_measured
@pytest.mark.slow
async def test_if_one_worker_cannot_start_the_others_exit_too(tmp_path: Path) -> None:
    path = in_workers(
        tmp_path, "import os", "try: os.close(os.open('first', os.O_CREAT | os.O_EXCL))", "except FileExistsError: os._exit(9)"
    )
    code, line = await not_started(tmp_path, PYTHONPATH=path)
    assert code == 7
    assert re.fullmatch(r"could not start worker [01]: process \d+ ended with exit code 9", line)


@pytest.mark.slow
async def test_a_shutdown_does_not_wait_for_a_worker_that_never_starts(tmp_path: Path) -> None:
    path = in_workers(tmp_path, "open('starting', 'w').close()", "import time; time.sleep(1_000)")
    options = ("--port", "0", "--admin-port", "0", "--workers", "2", "--drain", "0.1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "serve", *options),
        cwd=tmp_path,
        env=environment(PYTHONPATH=path),
        stdout=asyncio.subprocess.PIPE,
    )
    while not (tmp_path / "starting").exists():
        await asyncio.sleep(0)
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (4, b"")
