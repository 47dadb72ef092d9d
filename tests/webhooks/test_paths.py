"""Paths of deliveries, in every form of request target."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhooks.fakes import FakeSource
from tests.webhooks.listener_process import delivery, running, signed
from webhooks.cli.sources import by_path, parse_source
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.paths import normal_path, path_of
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore


async def answer_to(port: int, target: str, body: bytes, headers: dict[str, str], method: str = "POST") -> int:
    """Send a delivery to a literal request target, and return the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body)
    try:
        return int((await reader.readuntil(b"\r\n")).split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/webhooks/original", 200),
        ("/webhooks/original?attempt=2", 200),
        ("/webhooks/original?", 200),
        ("http://example.com/webhooks/original", 200),
        ("HTTPS://example.com:8443/webhooks/original?x=/y", 200),
        ("/%77ebhooks/origina%6c", 200),
        ("http://example.com/%77ebhooks/original", 200),
        ("/webhooks%2Foriginal", 404),
        ("/webhooks%2foriginal", 404),
        ("/webhooks//original", 404),
        ("/webhooks/original/", 404),
        ("/webhooks/x/../original", 404),
        ("/Webhooks/original", 404),
        ("/webhooks/original%3Fx", 404),
        ("http://example.com", 404),
        ("http://example.com?/webhooks/original", 404),
        ("ftp://example.com/webhooks/original", 404),
        ("*", 404),
    ],
)
async def test_a_path_is_matched_in_every_form_of_request_target(target: str, status: int) -> None:
    store = MemoryStore()
    hardened = HardenedServer({"/webhooks/original": Receiver(FakeSource(), store)})
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0)
    body = b'{"event": "thing.done"}'
    try:
        port = listening.sockets[0].getsockname()[1]
        method = "OPTIONS" if target == "*" else "POST"
        assert await answer_to(port, target, body, FakeSource().sign(body), method) == status
    finally:
        listening.close()
        await hardened.drain(5)
    assert (await store.statistics()).events == (status == 200)
    assert hardened.refusals.total == ({} if status == 200 else {"path": 1})


@pytest.mark.parametrize("target", ["example.com:443", "webhooks/original"])
async def test_a_target_without_a_path_is_refused(target: str) -> None:
    hardened = HardenedServer({"/webhooks/original": Receiver(FakeSource(), MemoryStore())})
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        assert await answer_to(port, target, b"", {}) in {400, 404}
    finally:
        listening.close()
        await hardened.drain(5)


@pytest.mark.parametrize(
    ("given_path", "targets", "others"),
    [
        ("/a b", ["/a%20b"], ["/a+b", "/ab"]),
        ("/a%20b", ["/a%20b"], []),
        (
            "/दिवाली",
            [
                "/%E0%A4%A6%E0%A4%BF%E0%A4%B5%E0%A4%BE%E0%A4%B2%E0%A5%80",
                "/%e0%a4%a6%e0%a4%bf%e0%a4%b5%e0%a4%be%e0%a4%b2%e0%a5%80",
            ],
            [],
        ),
        ("/100%", ["/100%25"], []),
        ("/%7euser", ["/~user", "/%7Euser"], []),
        ("/a%2fb", ["/a%2Fb", "/a%2fb"], ["/a/b"]),
        ("/a|b", ["/a%7Cb", "/a%7cb"], []),
        ("/hook;v=1:@!$&'()*+", ["/hook;v=1:@!$&'()*+", "/hook;%76=1:@!$&'()*+"], ["/hook%3Bv=1:@!$&'()*+"]),
        ("/", ["/", "http://example.com", "http://example.com/"], ["//"]),
    ],
)
def test_a_source_matches_every_spelling_of_its_path(given_path: str, targets: list[str], others: list[str]) -> None:
    path = parse_source(given_path).path
    assert [path_of(target) for target in targets] == [path] * len(targets)
    assert path not in {path_of(target) for target in others}


def test_two_spellings_of_one_path_are_one_path() -> None:
    class Source:
        def __init__(self, text: str) -> None:
            self.spec = parse_source(text)
            self.scope = self.spec.scope

    grouped = by_path([Source("/a b,scope=one"), Source("/%61%20b,scope=two"), Source("/c,scope=three")])  # type: ignore[list-item]
    assert {path: len(sources) for path, sources in grouped.items()} == {"/a%20b": 2, "/c": 1}


@pytest.mark.parametrize("text", ["/x?y=1", "/x#y", "/x\x07y", "x", "http://example.com/x"])
def test_a_source_path_that_no_request_can_have_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--source: "):
        parse_source(text)


@given(st.text().map(lambda text: f"/{text}".encode("utf-8", "replace").decode()))
def test_a_normal_path_is_ascii_and_stays_as_it_is(path: str) -> None:
    once = normal_path(path)
    assert once.isascii()
    assert normal_path(once) == once


@pytest.mark.slow
async def test_the_listener_takes_deliveries_on_a_percent_encoded_path(tmp_path: Path) -> None:
    async with running(tmp_path, "--source", "/my hook") as listener:
        assert listener.where["paths"] == ["/my%20hook"]
        port = int(listener.url.rpartition(":")[2].partition("/")[0])
        body = delivery("1")
        assert await answer_to(port, "/my%20hook", body, signed(body)) == 200
        assert await answer_to(port, "http://example.com/my%20hook?x", body, signed(body)) == 200
