"""A headless Chromium that says what it shows, what it asks for and what it complains of."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of a headless Chromium, spoken to over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json(message | ({"sessionId": self.session} if self.session else {}))
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

    async def open(self, to: Path | str, scheme: str, width: int = 1200) -> None:
        """Show a file or a URL in a new tab, in a colour scheme, and wait until it is loaded."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        await self.look(scheme, width)
        await self.go(to)

    async def look(self, scheme: str, width: int) -> None:
        """Change the colour scheme and the width of the page that is shown."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    async def go(self, to: Path | str) -> None:
        """Show another file or URL in the same tab and wait until it is loaded."""
        self.requests.clear()
        self.heard = None
        await self.call("Page.navigate", url=to if isinstance(to, str) else to.as_uri())
        while self.heard != "Page.loadEventFired":
            await self._hear()

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited if it is a promise."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")


@asynccontextmanager
async def chromium(profile: Path) -> AsyncIterator[Browser]:
    """Start a browser with an empty profile."""
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
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
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
            page.session = None
            await page.call("Browser.close")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
