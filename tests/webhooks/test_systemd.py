"""What a listener tells systemd, which is played by a datagram socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from original_async import OriginalWebhooks
from tests.test_documents import free_port
from tests.webhooks.listener_process import delivery, environment, killed_at_the_end, post
from webhooks.cli.systemd import Notifier

URL = "http://listener/webhooks/original"
OLD, NEW = (OriginalWebhooks({"id": f"{word}_secret_of_this_length"}) for word in ("old", "new"))


class Systemd(asyncio.DatagramProtocol):
    """Receives what a service tells it."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[list[str]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.told.put_nowait(data.decode().split("\n"))

    async def hears(self) -> list[str]:
        """Return the next states, but for signs of life."""
        async with asyncio.timeout(120):
            while (states := await self.told.get()) == ["WATCHDOG=1"]:
                pass
        return states


@asynccontextmanager
async def systemd(address: str) -> AsyncIterator[Systemd]:
    receiving = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiving.bind(address.replace("@", "\0"))
    transport, played = await asyncio.get_running_loop().create_datagram_endpoint(Systemd, sock=receiving)
    try:
        yield played
    finally:
        transport.close()


@asynccontextmanager
async def service(folder: Path, address: str, *options: str, **variables: str) -> AsyncIterator[Process]:
    """Run a listener on the socket `in.sock` of a folder, as a service does, and kill what is left of it."""
    (folder / "keys").write_text("id:old_secret_of_this_length")
    (folder / "keys").chmod(0o600)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "serve", "--unix", "in.sock", "--keys-file", "keys", *options),
        cwd=folder,
        env=environment(NOTIFY_SOCKET=address, **variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=PIPE,
        start_new_session=True,
    )
    async with killed_at_the_end(process):
        yield process


def client(folder: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(folder / "in.sock"), force_close=True))


async def delivers(folder: Path, signer: OriginalWebhooks, uid: str) -> int:
    body = delivery(uid)
    async with client(folder) as session:
        return await post(session, URL, body, {"x-webhook-signature": signer.sign(body)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "abstract"])
async def test_a_listener_is_ready_when_it_takes_deliveries_and_stopping_when_it_drains(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@{uuid4()}"
    async with systemd(address) as heard, service(tmp_path, address, "--admin-port", "-1") as process:
        assert await heard.hears() == ["READY=1"]
        assert await delivers(tmp_path, OLD, "1") == 200
        process.send_signal(signal.SIGTERM)
        assert await heard.hears() == ["STOPPING=1"]
        assert await process.wait() == 0
        assert heard.told.empty()


@pytest.mark.slow
async def test_a_supervisor_is_ready_when_all_workers_are(tmp_path: Path) -> None:
    address, port = str(tmp_path / "notify"), free_port()
    async with systemd(address) as heard, service(tmp_path, address, "--workers", "3", "--admin-port", port) as process:
        assert await heard.hears() == ["READY=1"]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ready\n")
        process.send_signal(signal.SIGTERM)
        assert await heard.hears() == ["STOPPING=1"]
        assert await process.wait() == 0
        assert heard.told.empty()


async def test_a_reload_ends_when_the_new_keys_are_in_use(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    async with systemd(address) as heard, service(tmp_path, address, "--admin-port", "-1") as process:
        await heard.hears()
        (tmp_path / "keys").write_text("id:new_secret_of_this_length")
        process.send_signal(signal.SIGHUP)
        first, since = await heard.hears()
        assert first == "RELOADING=1"
        assert int(since.removeprefix("MONOTONIC_USEC=")) > 0
        assert await heard.hears() == ["READY=1"]
        assert [await delivers(tmp_path, signer, "1") for signer in (OLD, NEW)] == [401, 200]


@pytest.mark.slow
async def test_a_reload_of_workers_ends_when_each_has_reloaded(tmp_path: Path) -> None:
    address, port = str(tmp_path / "notify"), free_port()
    options = ("--workers", "2", "--admin-port", port, "--log-level", "info")
    async with systemd(address) as heard, service(tmp_path, address, *options) as process, aiohttp.ClientSession() as session:
        await heard.hears()
        assert process.stderr is not None
        pids = [int((await process.stderr.readuntil(b"\n")).split()[-1]) for _ in range(2)]
        (tmp_path / "keys").write_text("id:new_secret_of_this_length")
        os.kill(pids[0], signal.SIGSTOP)
        process.send_signal(signal.SIGHUP)
        assert (await heard.hears())[0] == "RELOADING=1"
        async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:  # the supervisor has done what it can
            assert answer.status == 200
        assert heard.told.empty()
        os.kill(pids[0], signal.SIGCONT)
        assert await heard.hears() == ["READY=1"]
        for signer, status in ((OLD, 401), (NEW, 200)):
            assert {await delivers(tmp_path, signer, "1") for _ in range(10)} == {status}


async def test_a_reload_is_told_only_between_ready_and_stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address := str(tmp_path / "notify"))
    async with systemd(address) as heard:
        notifier = Notifier()
        with notifier.reloading():
            pass
        notifier.ready()
        with notifier.reloading():
            notifier.stopping()
        with notifier.reloading():
            pass
        notifier.ready()
        Notifier().stopping()
        assert [(await heard.hears())[0] for _ in range(4)] == ["READY=1", "RELOADING=1", "STOPPING=1", "STOPPING=1"]


@pytest.mark.slow
async def test_a_listener_shows_the_watchdog_that_it_lives(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    async with systemd(address) as heard, service(tmp_path, address, "--admin-port", "-1", WATCHDOG_USEC="200000"):
        seen = [await heard.told.get() for _ in range(4)]
    assert seen.count(["WATCHDOG=1"]) >= 3


@pytest.mark.slow
async def test_the_watchdog_of_another_process_is_left_alone(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    variables = {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    async with systemd(address) as heard, service(tmp_path, address, "--admin-port", "-1", **variables) as process:
        assert await heard.told.get() == ["READY=1"]
        process.send_signal(signal.SIGTERM)
        assert await heard.told.get() == ["STOPPING=1"]
        assert await process.wait() == 0


@pytest.mark.slow
async def test_a_listener_serves_although_systemd_cannot_be_told(tmp_path: Path) -> None:
    async with service(tmp_path, str(tmp_path / "nobody"), "--admin-port", "-1") as process:
        assert process.stderr is not None
        assert b"could not tell systemd READY=1: No such file or directory" in await process.stderr.readline()
        assert await delivers(tmp_path, OLD, "1") == 200
