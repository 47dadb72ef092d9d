"""A browser that says what it shows and where it turns to; a command line in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from payouts.cli import app
from tests.payouts.command_kit import Call
from tests.payouts.postgres_ledger_kit import LedgerDatabase, database_of_its_own, ledger_database
from tests.payouts.process_kit import original_at, sandbox
from tests.postgres_server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of a headless Chromium, spoken to over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": self._session} if self._session else {}))
        while (reply := await self._hear()).get("id") != self._number:
            pass
        assert "error" not in reply, reply
        return reply["result"]

    async def _hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self._socket.receive_str(timeout=60))
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"}:
            self.complaints.append(json.dumps(message["params"]))
        self.heard = message.get("method")
        return message

    async def open(self, path: Path, scheme: str, width: int = 1200) -> None:
        """Show a file in a colour scheme and wait until it is loaded."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.requests.clear()
        await self.call("Page.navigate", url=path.as_uri())
        while self.heard != "Page.loadEventFired":
            await self._hear()

    async def evaluate(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("this machine has no Chromium; tests/install_system_parts.sh installs it")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path / 'profile'}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"DevTools listening on " in line:
                break
        address = line.decode().partition("listening on ")[2].strip()
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            page = Browser(socket)
            yield page
            page._session = None
            await page.call("Browser.close")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and an environment without credentials."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ORIGINAL_", "ENKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def call(folder: Path) -> Call:
    def invoke(*arguments: str, text: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text, env=env)

    return invoke


@pytest.fixture
def url(postgres: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database, and a state folder of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    with database_of_its_own(postgres) as url:
        yield url


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Original, played; the environment has its credentials."""
    with sandbox("original", "--confirm=0:0.01") as base:
        for name, value in original_at(base).items():
            if name.startswith("ORIGINAL_"):
                monkeypatch.setenv(name, value)
        yield base


@pytest_asyncio.fixture
async def database(postgres: Server, tmp_path: Path) -> AsyncIterator[LedgerDatabase]:
    """A schema for ledgers whose clock the test moves."""
    async with ledger_database(postgres, tmp_path) as database:
        yield database
