"""A listener behind real proxies with default settings: nginx always, haproxy and caddy in the soak."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.webhooks.listener_process import ListenerProcess, delivery, kept_uids, post, running, signed, start
from tests.webhooks.proxy_kit import CADDY, HAPROXY, NGINX, URL, Front, Proxy, Sender, in_front

SIZES = [0, 1, 600, 8_192, 16_385, 65_536, 262_144]
AT_ONCE = 150
"""More than one address may have, and not more than an nginx process accepts."""
PROXIES = {"nginx": NGINX, "haproxy": HAPROXY, "caddy": CADDY}
OPEN_TO_ALL = ("--unix-mode", "0666", "--trusted-proxy", "unix")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the proxy's user may enter; those of pytest are private."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest, soak: bool) -> list[Proxy]:
    """The proxy under test; only nginx without --soak."""
    return [PROXIES[request.param]] if soak or request.param == "nginx" else []


def of_size(size: int, uid: str) -> bytes:
    body = delivery(uid, note="")
    return body.replace(b'"note": ""', b'"note": "%s"' % (b"x" * (size - len(body)))) if size > len(body) else b"x" * size


@asynccontextmanager
async def served(proxy: Proxy, folder: Path, way: str, *options: str) -> AsyncIterator[tuple[ListenerProcess, Front]]:
    """Run a listener, on TCP or a unix socket, with a proxy in front."""
    path = str(folder / "in.sock")
    told = ("--unix", path, *OPEN_TO_ALL) if way == "unix" else ("--trusted-proxy", "127.0.0.1")
    async with running(folder, *told, *options) as listener, in_front(proxy, folder, listener.where) as front:
        yield listener, front


@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_deliveries_of_any_size_pass_through_the_proxy(folder: Path, proxy: list[Proxy], way: str) -> None:
    for kind in proxy:
        async with served(kind, folder, way) as (_, front), front.client() as client:
            for size in SIZES:
                assert await post(client, URL, of_size(size, f"of-{size}")) == 200
            assert await post(client, URL, of_size(262_145, "too large")) == 413
            assert await post(client, URL, delivery("1"), {}) == 401
            assert await post(client, "http://listener/elsewhere", delivery("1")) == 404
            async with client.get(URL) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert {f"of-{size}" for size in SIZES if size > 600} <= await kept_uids(folder)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["tcp", "unix"])
async def test_many_concurrent_deliveries_are_accepted_at_the_first_attempt(folder: Path, proxy: list[Proxy], way: str) -> None:
    for kind in proxy:
        async with served(kind, folder, way, "--max-per-peer", "5") as (_, front), front.client() as client:
            statuses = await asyncio.gather(*(post(client, URL, delivery(str(number))) for number in range(AT_ONCE)))
        assert Counter(statuses) == {200: AT_ONCE}
        assert await kept_uids(folder) == set(map(str, range(AT_ONCE)))


@pytest.mark.slow
async def test_nothing_is_lost_while_the_proxy_is_reloaded_and_the_listener_restarted(folder: Path, proxy: list[Proxy]) -> None:
    for kind in proxy:
        async with served(kind, folder, "tcp") as (listener, front):
            port = listener.where["url"].rpartition(":")[2]
            sender = Sender(front)
            try:
                async with sender.load():
                    for _ in range(3):
                        await sender.more(20)
                        if kind is NGINX:
                            front.process.send_signal(signal.SIGHUP)
                            await front.log_until("start worker process ")
                        await sender.more(20)
                        assert await listener.stop() == 0
                        listener = await start(folder, "--port", port, "--trusted-proxy", "127.0.0.1")
                    await sender.more(20)
                assert await listener.stop() == 0
            finally:
                await listener.stop()
        assert sender.wrong == []
        assert sender.taken == await kept_uids(folder)


@pytest.mark.slow
async def test_a_socket_that_the_proxy_cannot_open_is_502_until_its_mode_allows_it(folder: Path) -> None:
    path = str(folder / "in.sock")
    async with in_front(NGINX, folder, {"unix": path}) as front, front.client() as client:
        async with running(folder, "--unix", path):
            kept_out = await post(client, URL, delivery("1"))
            assert kept_out == (502 if os.getuid() == 0 else 200)  # nginx started by root works as nobody
        async with running(folder, "--unix", path, "--unix-mode", "0666"):
            assert await post(client, URL, delivery("1")) == 200


@pytest.mark.slow
async def test_a_body_that_a_client_never_ends_costs_the_listener_nothing(folder: Path) -> None:
    async with served(NGINX, folder, "tcp") as (_, front):
        reader, writer = await asyncio.open_unix_connection(str(front.path))
        head = "".join(f"{name}: {value}\r\n" for name, value in signed(b"xx").items())
        writer.write(f"POST /webhooks/original HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 2\r\n\r\nx".encode())
        async with front.client() as client:
            assert await post(client, URL, delivery("1")) == 200
        writer.write(b"x")
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
