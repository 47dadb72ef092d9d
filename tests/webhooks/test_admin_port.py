"""The admin port: access by host name, origin and token."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from rewards_core.secrets import Secret
from webhooks.cli.admin import AdminServer
from webhooks.cli.hosts import AllowedHosts
from webhooks.console.watched import Readiness
from webhooks.refusals import Refusal, Refusals

TOKEN = "a-token-of-some-length"


class FakeListener:
    """A listener that is ready."""

    async def readiness(self) -> Readiness:
        return Readiness(ready=True)

    async def metrics(self) -> bytes | None:
        return b"some metrics\n"

    async def refused(self) -> Sequence[Refusal]:
        return [Refusal(reason="unknown_key", advice="Look.", first_at=1.0, last_at=2.5, count=3, key_ids=["k"])]


class Admin:
    """An admin port of this process."""

    def __init__(self, health: AdminServer, port: int) -> None:
        self.refusals = health.refusals
        self.port = port

    async def raw(self, head: str) -> tuple[int, str]:
        """Send headers, and return the status and body of the response."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        return int(answer.split(" ", 2)[1]), answer.partition("\r\n\r\n")[2]

    async def ask(self, path: str, host: str | None = None, *headers: str, method: str = "GET") -> int:
        """Send a request with a Host header, in which PORT stands for the port, and return the status."""
        own = f"127.0.0.1:{self.port}" if host is None else host.replace("PORT", str(self.port))
        lines = "".join(f"{each}\r\n" for each in (f"Host: {own}", *headers))
        return (await self.raw(f"{method} {path} HTTP/1.1\r\n{lines}"))[0]


@asynccontextmanager
async def serving(bound: str = "127.0.0.1", *, token: str | None = None, allowed: Sequence[str] = ()) -> AsyncIterator[Admin]:
    secret = None if token is None else Secret(token, "admin token")
    refusals = Refusals(logging.getLogger("admin-test"))
    health = AdminServer(FakeListener(), secret, AllowedHosts(bound, allowed), refusals)
    listening = await asyncio.get_running_loop().create_server(health, "127.0.0.1", 0)
    try:
        yield Admin(health, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        await health.drain(5)


OWN = ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST.:PORT", "[::1]:PORT"]
ALLOWED = ["admin.internal", "Admin.Internal:9", "admin.internal:PORT", "other.internal:99"]
REBOUND = [
    "evil.example:PORT",
    "evil.example",
    "localhost.evil.example:PORT",
    "127.0.0.1.evil.example:PORT",
    "localhost:PORT@evil.example",
]
STRANGE = [
    "localhost",
    "localhost:1",
    "127.0.0.1",
    "10.0.0.1:PORT",
    "[::1",
    "a b",
    "user@localhost:PORT",
    "",
    "x" * 300,
    "ü:PORT",
]


@pytest.mark.parametrize("host", OWN + ALLOWED)
@pytest.mark.parametrize("path", ["/metrics", "/refused", "/readyz"])
async def test_own_host_names_are_answered(path: str, host: str) -> None:
    async with serving(allowed=["admin.internal", "other.internal:99"]) as admin:
        assert await admin.ask(path, host) == 200


@pytest.mark.parametrize("host", [*REBOUND, *STRANGE, "other.internal:98", "other.internal"])
async def test_other_host_names_are_misdirected(host: str) -> None:
    async with serving(allowed=["admin.internal", "other.internal:99"]) as admin:
        assert [await admin.ask(path, host) for path in ("/metrics", "/refused")] == [421, 421]
        assert admin.refusals.total == {"admin_host": 2}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_probes_may_use_any_address_or_none_but_no_other_name(path: str) -> None:
    async with serving("0.0.0.0", token=TOKEN) as admin:
        for host in ("10.0.0.1:8481", "10.0.0.1", "[2001:db8::1]:80"):
            assert await admin.ask(path, host) == 200
        assert (await admin.raw(f"GET {path} HTTP/1.0\r\n"))[0] == 200
        assert await admin.ask(path, "evil.example:PORT") == 421


@pytest.mark.parametrize("host", [*OWN, *REBOUND, "10.0.0.1:8481", "listener.default.svc:8481"])
async def test_the_token_allows_any_host_name_and_without_it_only_health_is_shown(host: str) -> None:
    async with serving("0.0.0.0", token=TOKEN) as admin:
        for path in ("/metrics", "/refused"):
            assert await admin.ask(path, host, f"Authorization: Bearer {TOKEN}") == 200
            assert await admin.ask(path, host, f"Authorization: Bearer {TOKEN}x") == (401 if host in OWN else 421)
            assert await admin.ask(path, host) == (401 if host in OWN else 421)


@pytest.mark.parametrize("bound", ["listener.internal", "127.0.0.1"])
async def test_the_bound_host_is_allowed(bound: str) -> None:
    async with serving(bound) as admin:
        assert await admin.ask("/metrics", "listener.internal:PORT") == (200 if bound == "listener.internal" else 421)


async def test_a_request_must_have_one_host_header() -> None:
    async with serving() as admin:
        host = f"Host: 127.0.0.1:{admin.port}\r\n"
        assert (await admin.raw("GET /metrics HTTP/1.1\r\n"))[0] == 400
        assert (await admin.raw("GET /metrics HTTP/1.0\r\n"))[0] == 421
        assert (await admin.raw(f"GET /metrics HTTP/1.1\r\n{host}Host: evil.example\r\n"))[0] == 400
        assert (await admin.raw(f"GET /metrics HTTP/1.1\r\n{host}"))[0] == 200


@pytest.mark.parametrize(
    ("site", "status"),
    [("none", 200), ("same-origin", 200), ("cross-site", 403), ("same-site", 403), ("Cross-Site", 403), ("x", 403)],
)
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/refused"])
async def test_pages_of_other_sites_are_refused(path: str, site: str, status: int) -> None:
    async with serving(token=TOKEN) as admin:
        assert await admin.ask(path, None, f"Sec-Fetch-Site: {site}", f"Authorization: Bearer {TOKEN}") == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/metrics", "/replay", "/refused?limit=NaN"])
async def test_only_get_and_head_are_allowed(method: str, path: str) -> None:
    async with serving() as admin:
        assert await admin.ask(path, None, method=method) == 405


async def test_refusals_are_shown_as_json_whatever_the_query_and_to_head_without_a_body() -> None:
    async with serving() as admin:
        status, text = await admin.raw(f"GET /refused?limit=NaN HTTP/1.1\r\nHost: 127.0.0.1:{admin.port}\r\n")
        assert (status, json.loads(text)["refused"][0]["key_ids"]) == (200, ["k"])
        assert (await admin.raw(f"HEAD /refused HTTP/1.1\r\nHost: 127.0.0.1:{admin.port}\r\n")) == (200, "")


async def test_its_refusals_are_recorded() -> None:
    async with serving(token=TOKEN) as admin:
        await admin.ask("/metrics", "evil.example")
        await admin.ask("/metrics?token=SECRET-WORD")
        await admin.ask("/metrics", None, "Sec-Fetch-Site: cross-site")
        await admin.ask("/metrics", method="POST")
        await admin.ask("/webhooks/original", None, f"Authorization: Bearer {TOKEN}")
        found = {each.reason: each for each in admin.refusals.newest_first()}
    assert {reason: each.status for reason, each in found.items()} == {
        "admin_host": 421,
        "admin_token": 401,
        "admin_site": 403,
        "admin_method": 405,
        "admin_path": 404,
    }
    assert all(each.advice and each.peer == "127.0.0.1" for each in found.values())
    assert "SECRET-WORD" not in repr(found)


@pytest.mark.parametrize("name", ["", "http://admin", "a b", "a/b", "[::1", "user@admin", "admin:port", "x" * 300])
def test_an_invalid_host_name_is_refused_at_start_up(name: str) -> None:
    with pytest.raises(ValueError, match=r"^--admin-allow-host: "):
        AllowedHosts("127.0.0.1", [name])


@pytest.mark.parametrize("local", [None, "/run/listener.sock"])
def test_a_socket_without_an_address_has_only_its_allowed_names(local: Any) -> None:
    assert not AllowedHosts("127.0.0.1").allow("127.0.0.1:8481", local)
    assert AllowedHosts("127.0.0.1", ["admin"]).allow("admin", local)
