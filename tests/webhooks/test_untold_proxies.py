"""A proxy that the listener was not told of is named, with the option, before its clients are refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import attrs
import pytest

from tests.webhooks.listener_process import delivery, post, running, signed
from tests.webhooks.test_armour_server import HEALTHY, SLOWEST, close, read_answer, serving
from webhooks.ingress.peers import Networks
from webhooks.ingress.proxies import UntoldProxies

FORWARDED = {"X-Forwarded-For": "198.51.100.7"}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.1.2.3", "fd00::7"])
def test_a_near_peer_that_writes_what_proxies_write_is_named_at_once_and_once(
    peer: str, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = UntoldProxies(100)
    for _ in range(3):
        proxies.look(ip_address(peer), 1, {header: "x"})
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
def test_a_peer_is_named_when_it_holds_half_of_its_share_if_it_may_be_a_proxy(
    peer: str, headers: Mapping[str, str], held: int, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    UntoldProxies(100).look(ip_address(peer), held, headers)
    assert [f"--trusted-proxy {peer} if" in line for line in caplog.messages] == [True] * named


@pytest.mark.parametrize(("peer", "certain"), [("127.0.0.1", True), ("::1", True), ("10.1.2.3", False), ("fd00::7", False)])
def test_nobody_is_told_to_trust_a_neighbour_that_may_be_no_proxy(
    peer: str, certain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    UntoldProxies(100).look(ip_address(peer), 1, FORWARDED)
    (said,) = caplog.messages
    assert ("so it is a proxy" in said) is certain
    assert ("if it is your proxy, not otherwise" in said) is not certain


@pytest.mark.parametrize(
    ("peer", "headers"), [("127.0.0.1", FORWARDED), ("127.0.0.1", {}), ("10.1.2.3", FORWARDED), ("203.0.114.9", FORWARDED)]
)
def test_it_says_what_becomes_of_further_connections(
    peer: str, headers: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    UntoldProxies(100).look(ip_address(peer), 50, headers)
    (said,) = caplog.messages
    assert "; beyond that, each new connection cuts off another of this address. " in said
    assert "429" not in said


def test_over_a_unix_socket_the_word_for_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    proxies = UntoldProxies(100)
    proxies.look(None, 0)
    assert caplog.messages == []
    proxies.look(None, 0, FORWARDED)
    assert "--trusted-proxy unix " in caplog.messages[0]


def test_no_crowd_of_peers_fills_the_log(caplog: pytest.LogCaptureFixture) -> None:
    proxies = UntoldProxies(100)
    for number in range(200):
        proxies.look(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    assert len(caplog.messages) == 8


@pytest.mark.parametrize(("peer", "headers", "held"), [("127.0.0.1", FORWARDED, 1), ("10.9.9.9", FORWARDED, 50), ("::1", {}, 50)])
def test_neighbours_that_forward_keep_no_likelier_proxy_from_being_named(
    peer: str, headers: Mapping[str, str], held: int, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = UntoldProxies(100)
    for number in range(20):
        proxies.look(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    before = len(caplog.messages)
    for _ in range(3):
        proxies.look(ip_address(peer), held, headers)
    (said,) = caplog.messages[before:]
    assert f"--trusted-proxy {peer} " in said


def test_a_proxy_over_a_unix_socket_is_named_after_any_number_of_neighbours(caplog: pytest.LogCaptureFixture) -> None:
    proxies = UntoldProxies(100)
    for number in range(20):
        proxies.look(ip_address(f"10.0.0.{number}"), 1, FORWARDED)
    proxies.look(None, 0, FORWARDED)
    assert "--trusted-proxy unix " in caplog.messages[-1]


def test_no_crowd_of_peers_that_hold_much_fills_the_log_or_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    proxies = UntoldProxies(100)
    for number in range(200):
        proxies.look(ip_address(f"10.0.0.{number}"), 50, FORWARDED)
    assert len(caplog.messages) == 64


async def test_it_is_said_before_the_limit_of_one_address_refuses_anybody(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_it_is_said_at_the_first_forwarded_request(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        assert await running.healthy() == 200
        assert caplog.messages == []
        await running.until_closed(HEALTHY.replace(b"Host: here", b"Host: here\r\nConnection: close\r\nForwarded: for=x"))
    assert "--trusted-proxy 127.0.0.1 " in caplog.messages[0]


async def test_of_a_trusted_proxy_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(trusted=Networks(["127.0.0.1"])) as running:
        reader, writer = await running.connect()
        writer.write(HEALTHY.replace(b"Host: here", b"Host: here\r\nX-Forwarded-For: 198.51.100.7"))
        assert await read_answer(reader) == 200
        await close(writer)
    assert caplog.messages == []


async def test_a_listener_says_it_at_the_first_forwarded_request(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        body = delivery("324167489835")
        assert await post(session, listener.url, body, {**signed(body), **FORWARDED}) == 200
        assert "--trusted-proxy 127.0.0.1 " in await listener.log_until("X-Forwarded-For")
