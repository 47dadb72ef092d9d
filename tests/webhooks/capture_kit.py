"""A real capture in its own process, and the deliveries that it is shown."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.webhooks.listener_process import (
    KEY_ID,
    ListenerProcess,
    post,
    running,
    signed,
)
from webhooks.store.sqlite import SQLiteStore

BODY = (
    '{"data": {"app": {"uid": "UB2DG8MW5KBQ", "name": "दिवाली Rewards", "environment": "Development"},\n'
    ' "allocation": {"uid": "213134081289", "status": "done", "reward_uid": "112144981245", "to_user_uid": "223144788242",\n'
    '  "amount": "1.50", "nonce": "diwali_2024_0001", "created_at": "2023-08-10T14:07:14.494142Z"},\n'
    ' "user": {"uid": "223144788242", "email": "janelisabeth.doe@mail.getoriginal.com", "wallets":\n'
    '  [{"address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",\n'
    '   "url": "https:\\/\\/amoy.polygonscan.com\\/address\\/0xd8dA6BF2"}]},\n'
    ' "transaction_log": {"type": "mint", "chain_id": 80002, "block": 8812345.5}},\n'
    ' "event": "reward.allocated", "event_time": "2024-08-01T11:24:36.531141+00:00", "sent_at": "%s"}'
)
CORRELATION = "6f1d0a4e-9a55-4b0e-8b5f-2f6f3c1d9a10"
ORIGINALS = (
    "UB2DG8MW5KBQ",
    "213134081289",
    "112144981245",
    "223144788242",
    "diwali",
    "janelisabeth",
    "getoriginal",
    "d8dA6BF2",
    "polygonscan",
    "8812345",
    CORRELATION,
    KEY_ID,
    "दिवाली",
    "2024-08-01",
    "1.50",
)


def body_of(sent_at: str = "2024-08-01T11:24:37.000001+00:00") -> bytes:
    return (BODY % sent_at).encode()


def headers_of(body: bytes, attempt: int = 1, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**signed(body), "x-webhook-attempt": str(attempt), "x-webhook-correlation-id": CORRELATION, **(more or {})}


class CaptureProcess:
    """A running `capture`.

    Attributes:
        listener: The process and where it listens.
        folder: Where it writes.
    """

    def __init__(self, listener: ListenerProcess) -> None:
        self.listener = listener
        self.url = listener.url
        self.folder = listener.folder / "captured"

    async def told(self) -> dict[str, Any]:
        """Return the next line of its output."""
        assert self.listener.process.stdout is not None
        return json.loads(await self.listener.process.stdout.readline())

    async def ended(self) -> int:
        """Return its exit code once it has ended by itself."""
        return await self.listener.process.wait()

    async def shown(self) -> str:
        """Return what it still writes to standard output until it has ended."""
        return (await self.listener.process.communicate())[0].decode()

    async def rest(self) -> str:
        """Return what it still tells, on both streams, until it has ended."""
        out, err = await self.listener.process.communicate()
        return (out + err).decode()

    def written(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["file"]).read_text("utf-8"))

    def sample(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["sample"]).read_text("utf-8"))


@asynccontextmanager
async def capturing(folder: Path, *options: str, **more: Any) -> AsyncIterator[CaptureProcess]:
    where = _listening_at if "--text" in options else json.loads
    async with running(folder, *options, command=["capture"], where=where, **more) as listener:
        yield CaptureProcess(listener)


def _listening_at(line: bytes) -> dict[str, str]:
    """Return where a listener listens by its line for people."""
    found = re.match(r"listening on (\S+) for /webhooks/original; ", line.decode())
    assert found is not None
    return {"url": found[1]}


async def send(url: str, body: Any, headers: Mapping[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session:
        return await post(session, url, body, headers)


async def kept(folder: Path) -> list[bytes]:
    """Return the bodies in the store of a folder."""
    store = SQLiteStore(folder / "inbox.db")
    try:
        return [stored.event.body for stored in await store.list_events(limit=100)]
    finally:
        await store.aclose()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:3]
    yield body[3:]
