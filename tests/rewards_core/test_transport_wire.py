"""Time-outs, pooling and sent-or-not, against real sockets on loopback."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import ssl
from typing import Any

import aiohttp
import pytest
import trustme

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ClientClosed,
    ConnectFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    ServerFailed,
    UnexpectedResponse,
)
from rewards_core.http.messages import MAX_REPLY, Effect
from rewards_core.http.timeouts import Timeouts
from rewards_core.http.transport import Transport
from rewards_core.rate import Limits
from tests.rewards_core.call_kit import (
    ONCE,
    PATIENT,
    Credentials,
    Pausing,
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
            v.url, timeouts=Timeouts(total=0.3, read=0.1), retry=RetryPolicy(attempts=50, first_delay=0.01)
        )
        error = await ends(transport.call(request_to(transport)))
        assert type(error) is DeadlineExceeded
        assert error.elapsed <= 0.35
        assert error.attempts > 1


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


# --- the life of a session --------------------------------------------------------------------------------------------


async def test_close_twice_and_use_after_close(make_transport: MakeTransport) -> None:
    async with vendor(answers_well) as v:
        transport = make_transport(v.url)
        await transport.call(request_to(transport))
        await transport.aclose()
        await transport.aclose()
        error = await ends(transport.call(request_to(transport)))
        assert type(error) is ClientClosed
        said("calls: a closed client", error)
        assert len(v.requests) == 1


async def test_borrowed_session_is_never_closed_and_its_end_is_a_clear_error(make_transport: MakeTransport) -> None:
    async with vendor(answers_well) as v, aiohttp.ClientSession() as session:
        transport = make_transport(v.url, session=session)
        await transport.call(request_to(transport))
        await transport.aclose()
        assert not session.closed
        other = make_transport(v.url, session=session)
        await session.close()
        error = await ends(other.call(request_to(other)))
        assert type(error) is ClientClosed
        said("calls: a closed session", error)


@pytest.mark.parametrize(
    ("effect", "kind"), [(Effect.READ, ClientClosed), (Effect.KEYED, OutcomeUnknown), (Effect.BARE, OutcomeUnknown)]
)
async def test_close_under_a_running_call(make_transport: MakeTransport, effect: Effect, kind: type) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url)
        call = asyncio.ensure_future(ends(transport.call(request_to(transport, effect))))
        await v.arrived.wait()
        await transport.aclose()
        assert type(await call) is kind


async def test_close_while_waiting_for_credentials_sends_nothing(make_transport: MakeTransport) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Credentials):
        async def headers(self, timeout: float) -> Any:
            asked.set()
            await go_on.wait()
            return self.current

    async with vendor(answers_well) as v:
        transport = make_transport(v.url, authorizer=Slow())
        call = asyncio.ensure_future(ends(transport.call(request_to(transport, Effect.BARE))))
        await asked.wait()
        await transport.aclose()
        go_on.set()
        assert type(await call) is ClientClosed
        assert v.connections == 0


def test_use_from_another_loop_is_a_clear_error() -> None:
    made: list[Transport] = []

    async def first() -> None:
        async with vendor(answers_well) as v:
            transport = Transport(vendor="Acme", base_url=v.url, authorizer=Credentials(), refusal=lambda _: None)  # type: ignore[arg-type, return-value]
            await transport.call(request_to(transport))
            made.append(transport)
            await transport.aclose()
            made.append(Transport(vendor="Acme", base_url=v.url, authorizer=Credentials(), refusal=lambda _: None))  # type: ignore[arg-type, return-value]
            await made[1].call(request_to(made[1]))
            for session in made[1]._owned.values():
                await session.close()

    async def second() -> None:
        error = await ends(made[1].call(request_to(made[1])))
        assert type(error) is ClientClosed
        said("calls: another event loop", error)
        with pytest.raises(ClientClosed) as caught:
            await made[1].aclose()
        said("calls: closed in another event loop", caught.value)
        await made[0].aclose()

    asyncio.run(first())
    asyncio.run(second())


async def test_another_loop_does_not_wait_for_a_slot_of_this_one(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, limits=Limits(connections=1))
        holder = asyncio.ensure_future(transport.call(request_to(transport)))
        await v.arrived.wait()

        async def elsewhere() -> Any:
            return await ends(transport.call(request_to(transport, deadline=transport.deadline(1.0))))

        error = await asyncio.to_thread(asyncio.run, elsewhere())
        assert type(error) is ClientClosed
        v.release.set()
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        assert transport.limiter.take()


def _in_child(queue: Any, transport: Transport) -> None:
    async def use() -> str:
        error = await ends(transport.call(request_to(transport)))
        await transport.aclose()
        return str(error)

    queue.put(asyncio.run(use()))
    queue.close()
    queue.join_thread()
    os._exit(0)


def test_use_after_fork_is_a_clear_error() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    transport = Transport(vendor="Acme", base_url="http://127.0.0.1:1", authorizer=Credentials(), refusal=lambda _: None)  # type: ignore[arg-type, return-value]
    child = context.Process(target=_in_child, args=(queue, transport))
    child.start()
    said("calls: after a fork", queue.get(timeout=600))
    child.join()
    queue.close()
    queue.join_thread()


async def test_fork_leaves_the_parents_connections_alone(make_transport: MakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with vendor(answers_well) as v:
        transport = make_transport(v.url)
        await transport.call(request_to(transport))
        session = transport._owned[False]
        with monkeypatch.context() as child:
            child.setattr("rewards_core.http.transport.os.getpid", lambda: -1)
            assert type(await ends(transport.call(request_to(transport)))) is ClientClosed
            await transport.aclose()
        assert not session.closed
        await session.close()


async def test_time_that_ran_out_while_waiting_for_credentials_sends_nothing(
    make_transport: MakeTransport, stepped_time: SteppedTime
) -> None:

    class Slow(Credentials):
        async def headers(self, timeout: float) -> Any:
            stepped_time.at += 60.0
            return self.current

    async with vendor(answers_well) as v:
        transport = make_transport(v.url, authorizer=Slow(), retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is ConnectFailed
        assert v.connections == 0


async def test_no_slot_in_time_means_nothing_was_sent(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, limits=Limits(connections=1), retry=ONCE)
        holder = asyncio.ensure_future(transport.call(request_to(transport)))
        await v.arrived.wait()
        late = request_to(transport, Effect.BARE, deadline=transport.deadline(0.01))
        error = await ends(transport.call(late))
        assert type(error) is ConnectFailed
        said("calls: no free slot", untimed(error))
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)


@pytest.mark.parametrize("value", [0, 7, "", {}, Timeouts, aiohttp.ClientTimeout()])
@pytest.mark.parametrize("name", ["timeouts", "retry", "limits", "session"])
def test_settings_of_another_type_are_refused_before_any_call(make_transport: MakeTransport, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: "):
        make_transport(**{name: value})


def test_repr_names_vendor_and_address_alone() -> None:
    transport = Transport(vendor="Acme", base_url="https://a.example/v1", authorizer=Credentials(), refusal=lambda _: None)  # type: ignore[arg-type, return-value]
    assert repr(transport) == "<Transport to Acme at https://a.example/v1>"


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelled_while_waiting_for_the_answer_gives_the_slot_back(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, limits=Limits(connections=1))
        for _ in range(3):
            v.arrived.clear()
            call = asyncio.ensure_future(transport.call(request_to(transport)))
            await v.arrived.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert v.connections == 3


async def test_cancelled_while_waiting_for_a_slot_gives_nothing_away(make_transport: MakeTransport) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, limits=Limits(connections=1))
        holder = asyncio.ensure_future(transport.call(request_to(transport)))
        await v.arrived.wait()
        queued = [asyncio.ensure_future(transport.call(request_to(transport))) for _ in range(3)]
        await asyncio.sleep(0)
        for call in [*queued, holder]:
            call.cancel()
        results = await asyncio.gather(*queued, holder, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert transport.limiter.take()
        transport.limiter.release()


async def test_cancelled_while_pausing_ends_at_once(make_transport: MakeTransport) -> None:
    pausing = Pausing()

    async with vendor(reads_then_hangs_up) as v:
        transport = make_transport(v.url, observers=[pausing], retry=PATIENT)
        call = asyncio.ensure_future(transport.call(request_to(transport, Effect.KEYED)))
        await pausing.begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(v.requests) == 1


@pytest.mark.parametrize("phase", ["credentials", "connecting", "waiting", "reading"])
async def test_cancelled_in_any_phase_leaves_neither_slot_nor_connection_taken(make_transport: MakeTransport, phase: str) -> None:
    reached = asyncio.Event()

    class Slow(Credentials):
        async def headers(self, timeout: float) -> Any:
            if phase == "credentials":
                reached.set()
                await asyncio.Event().wait()
            return self.current

    async def stops_in_this_phase(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if phase != "connecting":
            await read_request(reader)
        if phase == "reading":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            await writer.drain()
        reached.set()
        await reader.read()  # until the other side hangs up
        v.release.set()

    async with vendor(stops_in_this_phase) as v:
        url = v.url.replace("http:", "https:") if phase == "connecting" else v.url
        transport = make_transport(url, authorizer=Slow(), limits=Limits(connections=1))
        call = asyncio.ensure_future(transport.call(request_to(transport, Effect.KEYED)))
        await reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert transport.limiter.take()
        transport.limiter.release()
        if phase != "credentials":
            await v.release.wait()


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
