"""A proxy that is not configured as trusted is named in a warning before its clients are refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import attrs
import pytest

from tests.texts import said
from tests.webhooks.ingress_kit import HEALTHY, SLOWEST, close, read_answer, serving
from tests.webhooks.listener_process import delivery, post, running, signed
from webhooks.ingress.peers import Networks
from webhooks.ingress.proxies import ProxyDetector
from webhooks.refusals import Refusals

FORWARDED = {"X-Forwarded-For": "198.51.100.7"}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.1.2.3", "fd00::7"])
def test_a_local_peer_that_sends_proxy_headers_is_named_once(peer: str, header: str, caplog: pytest.LogCaptureFixture) -> None:
    proxies = ProxyDetector(100)
    for _ in range(3):
        proxies.check(ip_address(peer), 1, {header: "x"})
    (said,) = caplog.messages
    assert f"--trusted-proxy {peer} " in said
    assert header in said


@pytest.mark.parametrize(
    ("peer", "headers", "held", "named"),
    [
        ("127.0.0.1", {}, 49, False),
        ("127.0.0.1", {}, 50, True),
        ("203.0.114.9", FORWARDED, 49, False),
        ("203.0.114.9", FORWARDED, 50, True),
        ("203.0.114.9", {}, 100, False),
    ],
)
def test_a_likely_proxy_is_named_when_it_holds_half_of_its_quota(
    peer: str, headers: Mapping[str, str], held: int, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ProxyDetector(100).check(ip_address(peer), held, headers)
    assert [f"--trusted-proxy {peer} if" in line for line in caplog.messages] == [True] * named


def test_each_kind_of_proxy_is_named_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    for peer, headers in (
        ("127.0.0.1", FORWARDED),
        ("::1", FORWARDED),
        ("127.0.0.1", {}),
        ("10.1.2.3", FORWARDED),
        ("fd00::7", FORWARDED),
        ("203.0.114.9", FORWARDED),
    ):
        ProxyDetector(100).check(ip_address(peer), 50, headers)
    proxies = ProxyDetector(100)
    proxies.check(None, 0)
    assert len(caplog.messages) == 6
    proxies.check(None, 0, FORWARDED)
    said("serve: warnings about proxies that are not trusted", "\n".join(caplog.messages))


async def test_where_there_are_no_options_none_are_named(caplog: pytest.LogCaptureFixture) -> None:
    ProxyDetector(100, "Do something else.").check(ip_address("127.0.0.1"), 50)
    refusals = Refusals(logging.getLogger("webhooks.listener"), instead="Do something else.")
    for reason in ("connections_per_peer", "evicted", "method"):
        refusals.note(reason)
    assert ["--" in line for line in caplog.messages] == [False] * 4
    assert [line.endswith("Do something else.") for line in caplog.messages] == [True, True, True, False]


def test_many_peers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    proxies = ProxyDetector(100)
    for number in range(200):
        proxies.check(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    assert len(caplog.messages) == 8


@pytest.mark.parametrize(("peer", "headers", "held"), [("127.0.0.1", FORWARDED, 1), ("10.9.9.9", FORWARDED, 50), ("::1", {}, 50)])
def test_a_likely_proxy_is_named_after_many_unlikely_ones(
    peer: str, headers: Mapping[str, str], held: int, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = ProxyDetector(100)
    for number in range(20):
        proxies.check(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    before = len(caplog.messages)
    for _ in range(3):
        proxies.check(ip_address(peer), held, headers)
    (warning,) = caplog.messages[before:]
    assert f"--trusted-proxy {peer} " in warning


def test_a_proxy_over_a_unix_socket_is_named_after_any_number_of_neighbours(caplog: pytest.LogCaptureFixture) -> None:
    proxies = ProxyDetector(100)
    for number in range(20):
        proxies.check(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    proxies.check(None, 0, FORWARDED)
    assert "--trusted-proxy unix " in caplog.messages[-1]


def test_many_likely_proxies_do_not_fill_the_log_or_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    proxies = ProxyDetector(100)
    for number in range(200):
        proxies.check(ip_address(f"10.0.0.{number}"), 50, FORWARDED)
    assert len(caplog.messages) == 64


async def test_the_warning_precedes_the_first_eviction(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=8)) as running:
        pairs = []
        for number in range(1, 9):
            reader, writer = await running.connect()
            pairs.append(writer)
            writer.write(HEALTHY)
            assert await read_answer(reader) == 200
            assert len(caplog.messages) == (number >= 4)
        assert "--trusted-proxy 127.0.0.1 " in caplog.messages[0]
        for writer in pairs:
            await close(writer)


async def test_the_warning_comes_with_the_first_forwarded_request(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        assert await running.healthy() == 200
        assert caplog.messages == []
        await running.until_closed(HEALTHY.replace(b"Host: here", b"Host: here\r\nConnection: close\r\nForwarded: for=x"))
    assert "--trusted-proxy 127.0.0.1 " in caplog.messages[0]


async def test_a_trusted_proxy_causes_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(trusted=Networks(["127.0.0.1"])) as running:
        reader, writer = await running.connect()
        writer.write(HEALTHY.replace(b"Host: here", b"Host: here\r\nX-Forwarded-For: 198.51.100.7"))
        assert await read_answer(reader) == 200
        await close(writer)
    assert caplog.messages == []


@pytest.mark.slow
async def test_a_listener_warns_at_the_first_forwarded_request(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        body = delivery("324167489835")
        assert await post(session, listener.url, body, {**signed(body), **FORWARDED}) == 200
        assert "--trusted-proxy 127.0.0.1 " in await listener.log_until("X-Forwarded-For")
