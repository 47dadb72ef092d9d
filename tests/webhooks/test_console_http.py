"""The console over HTTP: who is served what, and what a browser is told to forbid."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from rewards_core.secrets import Secret
from tests.texts import said
from tests.webhooks.console_kit import FakeWatched, heard, split_link, watching
from tests.webhooks.store_contract import event
from webhooks.cli.admin import open_admin
from webhooks.cli.settings import AdminSettings
from webhooks.console.console import Console
from webhooks.console.feed import MAX_VIEWERS
from webhooks.refusals import Refusals
from webhooks.store.memory import MemoryStore
from webhooks.store.urls import StoreUrl

ADMIN_TOKEN = "a-token-of-some-length"
FILES = ["", "main.js", "api.js", "arrivals.js", "lists.js", "pane.js", "strip.js", "dom.js", "style.css", "icon.svg"]
ASKED = ["feed", "pending", "dead-letters", "conflicts", "refused", "handlers", "event?id=1", "body?id=1", "operation?uid=1"]


class Watched(FakeWatched):
    async def metrics(self) -> bytes | None:
        return b"some metrics\n"


class Served:
    """A console on an admin port of this process."""

    def __init__(self, link: str, session: aiohttp.ClientSession, refusals: Refusals, store: MemoryStore) -> None:
        self.link = link
        self.url, self.token = split_link(link)
        self.session = session
        self.refusals = refusals
        self.store = store

    async def get(self, path: str, *, token: bool = True, method: str = "GET", **headers: str) -> aiohttp.ClientResponse:
        given = (self.token if token else {}) | {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.session.request(method, self.url + path, headers=given, allow_redirects=False)
        if not (path.startswith("feed") and reply.status == 200 and method == "GET"):
            await reply.read()
        return reply

    async def status(self, path: str, *, token: bool = True, method: str = "GET", **headers: str) -> int:
        reply = await self.get(path, token=token, method=method, **headers)
        reply.close()
        return reply.status


@asynccontextmanager
async def serving(watched: Any = None, *, admin_token: str | None = None, allowed: tuple[str, ...] = ()) -> AsyncIterator[Served]:
    store, watched = MemoryStore(), watched or Watched()
    await store.accept(event("first"))
    refusals = Refusals(logging.getLogger("console-test"))
    console = Console(watched, store, StoreUrl("memory:"))
    async with AsyncExitStack() as stack:
        token = None if admin_token is None else Secret(admin_token, "admin token")
        settings = AdminSettings(port=0, allowed_hosts=allowed)
        where = await open_admin(stack, watched, settings, token, refusals, console)
        async with aiohttp.ClientSession() as session:
            yield Served(where["console"], session, refusals, store)


@pytest.mark.parametrize("path", FILES)
async def test_a_file_of_the_page_forbids_all_that_the_page_does_not_need(path: str) -> None:
    async with serving() as served:
        reply = await served.get(path, token=False)
        assert reply.status == 200
        policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self'",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize("path", ASKED)
async def test_what_the_page_asks_for_needs_the_token_and_is_not_kept(path: str) -> None:
    async with serving() as served:
        assert await served.status(path, token=False) == 401
        for wrong in ("Bearer ", "Bearer x", f"Basic {served.token['Authorization']}", served.token["Authorization"] + "x"):
            assert await served.status(path, token=False, Authorization=wrong) == 401
        assert (
            await served.status(f"{path}{'&' if '?' in path else '?'}token={served.link.partition('#')[2]}", token=False) == 401
        )
        assert {each.reason for each in served.refusals.newest_first()} == {"console_token"}
        reply = await served.get(path)
        assert reply.status == 200
        assert reply.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "Set-Cookie" not in reply.headers
        reply.close()


@pytest.mark.parametrize("path", [*FILES, *ASKED])
async def test_another_host_or_another_site_is_served_nothing_even_with_the_token(path: str) -> None:
    async with serving() as served:
        for host in ("evil.example", "10.0.0.1:80", "localhost:1", ""):
            assert await served.status(path, Host=host) in {400, 421}
        for site in ("cross-site", "same-site"):
            assert await served.status(path, sec_fetch_site=site) == 403
        assert await served.status(path, sec_fetch_site="same-origin") == 200


async def test_an_allowed_host_is_served() -> None:
    async with serving(allowed=("console.internal",)) as served:
        assert await served.status("", Host="console.internal") == 200
        assert await served.status("pending", Host="console.internal") == 200


@pytest.mark.parametrize("path", ["", "pending", "feed"])
async def test_nothing_can_be_sent(path: str) -> None:
    async with serving() as served:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert await served.status(path, method=method) == 405
        reply = await served.get(path, method="HEAD")
        assert (reply.status, await reply.read()) == (200, b"")


async def test_the_admin_token_opens_the_console_and_the_token_of_the_console_nothing_else() -> None:
    async with serving(admin_token=ADMIN_TOKEN) as served:
        assert await served.status("pending", token=False, Authorization=f"Bearer {ADMIN_TOKEN}") == 200
        assert await served.status("pending", token=False) == 401
        root = "../"
        assert await served.status(f"{root}metrics") == 401
        assert await served.status(f"{root}metrics", token=False, Authorization=f"Bearer {ADMIN_TOKEN}") == 200


async def test_the_short_address_leads_to_the_page_and_other_paths_to_nothing() -> None:
    async with serving() as served:
        reply = await served.session.get(served.url.rstrip("/"), allow_redirects=False)
        assert (reply.status, reply.headers["Location"]) == (308, "/console/")
        for path in ("nothing", "static/main.js", "../console/../refused/x", "console.py", "%2e%2e/main.js"):
            assert await served.status(path) == 404
            assert await served.status(path, token=False) in {401, 404}


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("event?id=x", 400, "id: this is not an id."),
        ("event?id=-1", 400, "id: this is not an id."),
        ("event?id=99999999999999999999", 400, "id: this is not an id."),
        ("body?id=²", 400, "id: this is not an id."),
        ("dead-letters?before=1e3", 400, "before: this is not an id."),
        ("event?id=77", 404, "The store has no such event. It may have been purged."),
        ("body?id=77", 404, "The store has no such event. It may have been purged."),
        ("pending?scope=%00&kind=a&uid=b", 400, "This is not an operation."),
        ("event?identity=00", 404, "The store has no such event. It may have been purged."),
        ("operation?" + "&".join(f"a{number}=1" for number in range(20)), 400, "Max number of fields exceeded"),
    ],
)
async def test_a_wrong_question_gets_a_sentence(path: str, status: int, problem: str) -> None:
    async with serving() as served:
        reply = await served.get(path)
        assert (reply.status, (await reply.json())["problem"]) == (status, problem)


async def test_a_closed_store_is_said() -> None:
    async with serving() as served:
        await served.store.aclose()
        reply = await served.get("pending")
        assert reply.status == 503
        said("console: a closed store", (await reply.json())["problem"])


async def test_the_ninth_viewer_is_told_and_a_viewer_that_leaves_makes_room() -> None:
    async with serving() as served, AsyncExitStack() as stack:
        for _ in range(MAX_VIEWERS - 1):
            await heard(await stack.enter_async_context(watching(served.link)), "hello")
        async with watching(served.link) as eighth:
            await heard(eighth, "hello")
            async with watching(served.link) as ninth:
                assert (await heard(ninth, "full"))["reason"].startswith("Eight viewers")
        while True:  # until the server has noticed that the eighth has left
            async with watching(served.link) as again:
                if (await anext(again)).startswith(b"event: hello"):
                    break


async def test_a_feed_ends_when_the_port_closes() -> None:
    async with AsyncExitStack() as outside:
        async with serving() as served:
            session = await outside.enter_async_context(aiohttp.ClientSession())
            reply = await outside.enter_async_context(session.get(f"{served.url}feed", headers=served.token))
            assert await reply.content.readline() == b"event: hello\n"
        rest = await reply.content.read()
        assert b"event: hello" not in rest


@pytest.mark.slow
async def test_a_viewer_that_reads_nothing_is_disconnected() -> None:
    class Flooded(Watched):
        interval = 0.0

        async def deliveries(self, filters: Any) -> Any:
            wide = {"at": 1.0, "verdict": "new", "uid": "1", "event": "x" * 200_000, "identity": None, "reason": None}
            return {"shown": [{"rows": [wide] * 40, "left_out": 0} for _ in filters], "counts": {"new": 40}}

    async with serving(Flooded()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served.url.split(":")[2].split("/")[0]))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        host = served.url.split("/")[2]
        head = f"GET /console/feed HTTP/1.1\r\nHost: {host}\r\nAuthorization: {served.token['Authorization']}\r\n\r\n"
        writer.write(head.encode())
        while not any(each.reason == "console_slow" for each in served.refusals.newest_first()):
            await asyncio.sleep(0.05)  # a look, until it is there
        async with watching(served.link) as other:
            await heard(other, "hello")
        writer.transport.abort()
        del reader


def test_the_token_is_in_no_text_of_a_console() -> None:
    console = Console(FakeWatched(), MemoryStore(), StoreUrl("memory:"))
    token = console.token.reveal()
    assert len(token) > 40
    assert token not in repr(console) + repr(vars(console)) + json.dumps(list(map(repr, vars(console).values())))
    assert Console(FakeWatched(), MemoryStore(), StoreUrl("memory:")).token.reveal() != token
