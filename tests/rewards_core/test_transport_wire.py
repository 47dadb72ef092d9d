"""Time-outs, pooling and sent-or-not, against real sockets on loopback."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import aiohttp
import pytest
import trustme

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConnectFailed, DeadlineExceeded, OutcomeUnknown, ServerFailed, UnexpectedResponse
from rewards_core.http.messages import MAX_REPLY, Effect
from rewards_core.http.timeouts import Timeouts
from rewards_core.rate import Limits
from tests.rewards_core.call_kit import (
    ONCE,
    Vendor,
    answers_well,
    ends,
    hangs_up_at_once,
    http,
    never_answers,
    read_request,
    reads_then_hangs_up,
    request_to,
    says_nothing,
    stops_half_way,
    talks_nonsense,
    untimed,
    vendor,
)
from tests.rewards_core.conftest import MakeTransport
from tests.stepped_time import SteppedTime
from tests.texts import said


@pytest.mark.parametrize(
    ("peer", "what"),
    [
        (reads_then_hangs_up, "hangs up"),
        (hangs_up_at_once, "hangs up"),
        (stops_half_way, "stops half way"),
        (talks_nonsense, "does not speak HTTP"),
    ],
)
async def test_broken_connection_counts_as_sent(make_transport: MakeTransport, peer: Any, what: str) -> None:
    async with vendor(peer) as v:
        transport = make_transport(v.url, retry=ONCE)
        said(f"calls: a vendor that {what}", untimed(await ends(transport.call(request_to(transport)))))
        assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is OutcomeUnknown
        assert type(await ends(transport.call(request_to(transport, Effect.KEYED)))) is OutcomeUnknown
        assert type(await ends(transport.call(request_to(transport, Effect.READ)))) is ServerFailed


@pytest.mark.parametrize("borrowed", [False, True], ids=["owned", "borrowed"])
async def test_a_write_is_sent_once_in_each_attempt_whatever_its_method(make_transport: MakeTransport, borrowed: bool) -> None:
    passed: list[str] = []

    async def middleware(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        passed.append(request.method)
        return await send(request)

    async with vendor(reads_then_hangs_up) as v, aiohttp.ClientSession(middlewares=[middleware]) as session:
        transport = make_transport(v.url, retry=ONCE, session=session if borrowed else None)
        assert type(await ends(transport.call(request_to(transport, Effect.KEYED, method="PUT")))) is OutcomeUnknown
    assert len(v.requests) == 1
    assert passed == (["PUT"] if borrowed else [])


async def test_silence_counts_as_sent_and_ends_in_time(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, timeouts=Timeouts(total=0.2, read=0.1), retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, Effect.KEYED)))) is OutcomeUnknown
        said("calls: a vendor that is silent", untimed(await ends(transport.call(request_to(transport, Effect.READ)))))


async def test_one_deadline_over_all_attempts(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(
            v.url, timeouts=Timeouts(total=0.4, read=0.01), retry=RetryPolicy(attempts=1_000, first_delay=0.001)
        )
        error = await ends(transport.call(request_to(transport)))
        assert type(error) is DeadlineExceeded
        assert 1 < error.attempts < 1_000


async def test_an_attempt_ends_with_the_call(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, timeouts=Timeouts(read=600.0), retry=ONCE)
        async with asyncio.timeout(30.0):
            error = await ends(transport.call(request_to(transport, Effect.KEYED, deadline=transport.deadline(0.1))))
        assert type(error) is OutcomeUnknown


async def test_refused_connection_never_left(make_transport: MakeTransport) -> None:
    async with vendor(hangs_up_at_once) as v:
        url = v.url
    transport = make_transport(url, retry=ONCE)
    for effect in Effect:
        assert type(await ends(transport.call(request_to(transport, effect)))) is ConnectFailed


async def test_unknown_host_never_left(make_transport: MakeTransport) -> None:
    transport = make_transport("http://nobody.invalid/v1", retry=ONCE)
    error = await ends(transport.call(request_to(transport, Effect.BARE)))
    assert type(error) is ConnectFailed
    said("calls: a host name without an address", untimed(error))


async def test_slow_connect_never_left(make_transport: MakeTransport) -> None:
    async with vendor(says_nothing) as v:
        transport = make_transport(v.url.replace("http:", "https:"), timeouts=Timeouts(total=5.0, connect=0.1), retry=ONCE)
        error = await ends(transport.call(request_to(transport, Effect.BARE)))
        assert type(error) is ConnectFailed
        said("calls: a slow connection", untimed(error))


async def test_connect_that_uses_up_a_short_attempt_still_never_left(make_transport: MakeTransport) -> None:
    async with vendor(says_nothing) as v:
        transport = make_transport(v.url.replace("http:", "https:"), timeouts=Timeouts(total=0.2, connect=5.0), retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is ConnectFailed


@pytest.mark.parametrize("effect", Effect)
async def test_untrusted_certificate_never_left(make_transport: MakeTransport, effect: Effect) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with vendor(answers_well, ssl=context) as v:
        transport = make_transport(v.url, retry=ONCE)
        error = await ends(transport.call(request_to(transport, effect)))
        assert type(error) is ConnectFailed
        said("calls: an untrusted certificate", untimed(error))
        assert not v.requests


async def test_trusted_tls_through_a_borrowed_session(make_transport: MakeTransport) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with (
        vendor(answers_well, ssl=server) as v,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as session,
    ):
        transport = make_transport(v.url, session=session)
        assert await transport.call(request_to(transport, Effect.KEYED)) == {}


async def test_redirect_is_not_followed_and_credentials_stay_home(make_transport: MakeTransport) -> None:
    async with vendor(answers_well) as elsewhere:

        async def redirects(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await v.answer(reader, writer, http(status="307 Temporary Redirect", extra=f"Location: {elsewhere.url}/thing\r\n"))

        async with vendor(redirects) as v:
            transport = make_transport(v.url)
            assert type(await ends(transport.call(request_to(transport, Effect.KEYED)))) is UnexpectedResponse
        assert elsewhere.connections == 0


@pytest.mark.parametrize("declared", [True, False])
async def test_reply_over_ten_mebibytes_is_refused(make_transport: MakeTransport, declared: bool) -> None:
    async def boasts(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        v.requests.append(await read_request(reader))
        if declared:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_REPLY + 1}\r\n\r\n".encode())
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
            for _ in range(12):
                writer.write(piece)
                await writer.drain()
        await v.release.wait()

    async with vendor(boasts) as v:
        transport = make_transport(v.url, retry=ONCE)
        error = await ends(transport.call(request_to(transport)))
        assert type(error) is UnexpectedResponse
        assert str(MAX_REPLY) in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("status", ["101 Switching Protocols", "101 X\r\nUpgrade: websocket\r\nConnection: Upgrade"])
async def test_another_protocol_is_not_taken_up(make_transport: MakeTransport, status: str) -> None:
    async def switches(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, f"HTTP/1.1 {status}\r\n\r\n".encode())
        await reader.read()  # until the other side hangs up
        v.release.set()

    async with vendor(switches) as v:
        transport = make_transport(v.url, timeouts=Timeouts(read=1.0))
        assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is OutcomeUnknown
        await v.release.wait()


async def test_chunked_reply_is_read_whole(make_transport: MakeTransport) -> None:
    async def in_pieces(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n')

    async with vendor(in_pieces) as v:
        transport = make_transport(v.url)
        assert await transport.call(request_to(transport)) == {"a": 1}


async def test_connections_are_kept_and_used_again(make_transport: MakeTransport) -> None:
    async with vendor(answers_well) as v:
        transport = make_transport(v.url)
        for _ in range(5):
            await transport.call(request_to(transport, Effect.KEYED))
        assert v.connections == 1


async def test_bare_writes_ride_on_their_own_pool(make_transport: MakeTransport) -> None:
    async with vendor(answers_well) as v:
        transport = make_transport(v.url)
        for _ in range(3):
            await transport.call(request_to(transport, Effect.READ))
            await transport.call(request_to(transport, Effect.BARE))
        assert v.connections == 2


async def test_no_more_requests_under_way_than_connections_allow(make_transport: MakeTransport) -> None:
    under_way = most = 0

    async def counts(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            await read_request(reader)
            under_way += 1
            most = max(most, under_way)
            for _ in range(5):
                await asyncio.sleep(0)
            under_way -= 1
            writer.write(http())
            await writer.drain()

    async with vendor(counts) as v:
        transport = make_transport(v.url, limits=Limits(connections=3))
        await asyncio.gather(*(transport.call(request_to(transport)) for _ in range(30)))
    assert most == 3


async def test_path_and_query_are_escaped(make_transport: MakeTransport) -> None:
    transport = make_transport("http://127.0.0.1:1/v1/")
    url = transport.url("reward", "a/b?c#d é", query={"user uid": "x&y=z+1"})
    assert str(url) == "http://127.0.0.1:1/v1/reward/a%2Fb%3Fc%23d%20%C3%A9?user%20uid=x%26y%3Dz%2B1"


# --- replies of at most so many bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False])
async def test_a_reply_longer_than_its_request_allows_is_refused(make_transport: MakeTransport, declared: bool) -> None:
    async def answers_ten_bytes(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"a":1234}'
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n%s\r\n0\r\n\r\n" % body
        await v.answer(reader, writer, http(body) if declared else chunked)

    async with vendor(answers_ten_bytes) as v:
        transport = make_transport(v.url, retry=ONCE)
        assert await transport.call(request_to(transport, max_reply=10)) == {"a": 1234}
        error = await ends(transport.call(request_to(transport, max_reply=9)))
        assert type(error) is UnexpectedResponse
        assert "9 bytes" in str(error)


# --- deadlines and links ----------------------------------------------------------------------------------------------


async def test_a_deadline_is_the_calls_own_time_or_the_clients(make_transport: MakeTransport, stepped_time: SteppedTime) -> None:
    transport, now = make_transport(), stepped_time.at
    assert transport.deadline() == now + 30.0
    assert transport.deadline(5) == now + 5.0
    assert transport.deadline(0.5) == now + 0.5


@pytest.mark.parametrize(
    ("header", "at"),
    [
        ("Date: Thu, 10 Aug 2023 14:07:14 GMT\r\n", 1_691_676_434.0),
        ("Date: Thu, 10 Aug 2023 14:07:14\r\n", 1_691_676_434.0),
        ("Date: today\r\n", None),
        ("", None),
    ],
)
async def test_the_vendors_clock_at_a_moment(
    make_transport: MakeTransport, stepped_time: SteppedTime, header: str, at: float | None
) -> None:
    async def answers(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, http(status="503 Busy", extra=header))

    async with vendor(answers) as v:
        transport = make_transport(v.url, retry=ONCE)
        assert transport.vendor_time(stepped_time.at) is None
        before = stepped_time.at
        stepped_time.at += 5.0
        assert type(await ends(transport.call(request_to(transport)))) is ServerFailed
        stepped_time.at += 100.0
        told = [transport.vendor_time(moment) for moment in (before, before + 5.0, before + 6.0)]
        assert told == ([None] * 3 if at is None else [at - 5.0, at, at + 1.0])


@pytest.mark.parametrize(
    ("timeout", "error"), [(0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("5", TypeError)]
)
async def test_a_deadline_of_no_seconds_is_refused(make_transport: MakeTransport, timeout: Any, error: type[Exception]) -> None:
    transport = make_transport()
    with pytest.raises(error, match=r"^timeout: "):
        transport.deadline(timeout)


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("?page=2", "https://api.example.com:8443/v1/list?page=2"),
        ("/v1/list?page=2", "https://api.example.com:8443/v1/list?page=2"),
        ("next/2", "https://api.example.com:8443/v1/next/2"),
        ("https://api.example.com:8443/v1/list?page=2", "https://api.example.com:8443/v1/list?page=2"),
        ("http://api.example.com/v1/list?page=2", "https://api.example.com:8443/v1/list?page=2"),
        ("http://API.example.com:8000/a%2Fb?c=%2B+d", "https://api.example.com:8443/a%2Fb?c=%2B+d"),
        ("https://somebody:secret@api.example.com/v1", "https://api.example.com:8443/v1"),
        ("http://api.example.com//evil.example/v1", "https://api.example.com:8443//evil.example/v1"),
        ("https://evil.example/v1/list?page=2", None),
        ("//evil.example/v1", None),
        ("https://api.example.com.evil.example/", None),
        ("https://api.example.com@evil.example/", None),
        ("mailto:somebody@api.example.com", None),
        ("javascript:alert(1)", None),
        ("http:///v1", None),
        ("http://[", None),
        ("http://api.example.com:99999/", None),
    ],
)
async def test_links_are_followed_at_the_origin_that_was_asked_alone(
    make_transport: MakeTransport, link: str, leads_to: str | None
) -> None:
    transport = make_transport("https://api.example.com:8443/v1")
    found = transport.same_origin(link, transport.url("list", query={"page": "1"}))
    assert (found if found is None else str(found)) == leads_to
