"""A cancelled write: the caller gets no error that says what may have happened, so the log and a record say it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rewards_core.errors import OutcomeUnknown
from rewards_core.http.calls import MAX_INLINE_PARSE
from rewards_core.http.messages import Answer, Effect
from rewards_core.http.transport import Transport
from rewards_core.observe import CallEnded
from rewards_core.rate import Limits
from tests.rewards_core.call_kit import (
    PATIENT,
    SECRET,
    Credentials,
    Pausing,
    Vendor,
    Watcher,
    http,
    never_answers,
    reads_then_hangs_up,
    request_to,
    says_nothing,
    vendor,
)
from tests.rewards_core.conftest import MakeTransport
from tests.texts import said

WRITES = (Effect.KEYED, Effect.BARE)
WATCHED = (True, False)
BODY = b'{"a":"body-canary"}'


class Cancelled:
    """The log lines and the record of a cancelled call."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *, watched: bool) -> None:
        caplog.set_level(logging.DEBUG, logger="rewards_core")
        self._caplog = caplog
        self._watcher = Watcher()
        self.observers = [self._watcher] if watched else []

    async def cancel(self, transport: Transport, effect: Effect, reached: Callable[[], Awaitable[Any]], **options: Any) -> None:
        if effect is not Effect.READ:
            options |= {"body": BODY, "key": "nonce-1"}
        call = asyncio.ensure_future(transport.call(request_to(transport, effect, **options)))
        await reached()
        call.cancel("from outside")
        with pytest.raises(asyncio.CancelledError, match="from outside"):
            await call
        assert call.cancelled()

    def check(self, *, unknown: bool, key: str | None = "nonce-1") -> None:
        lines = [record for record in self._caplog.records if record.name.startswith("rewards_core")]
        if unknown:
            (line,) = lines
            assert line.levelno == logging.WARNING
            assert line.exc_info is None
            said("calls: a cancelled write with a key", line.getMessage())
            assert "canary" not in self._caplog.text
            assert SECRET not in self._caplog.text
        else:
            assert not lines
        if self.observers:
            end = self._watcher.records[-1]
            assert isinstance(end, CallEnded)
            assert (end.error, end.outcome_unknown, end.idempotency_key) == ("CancelledError", unknown, key)
            assert sum(isinstance(record, CallEnded) for record in self._watcher.records) == 1
            assert "canary" not in repr(self._watcher.records)


@pytest.fixture(params=WATCHED, ids=["watched", "unwatched"])
def cancelled(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Cancelled:
    return Cancelled(caplog, watched=request.param)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_after_the_body_was_read_may_have_happened(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, observers=cancelled.observers)
        await cancelled.cancel(transport, effect, v.arrived.wait)
        assert v.requests[0].endswith(BODY)
    cancelled.check(unknown=True)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_while_the_answer_arrives_may_have_happened(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    async def stops_in_the_answer(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await v.release.wait()

    async with vendor(stops_in_the_answer) as v:
        transport = make_transport(v.url, observers=cancelled.observers)
        await cancelled.cancel(transport, effect, v.arrived.wait)
    cancelled.check(unknown=True)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_while_a_large_answer_is_parsed_has_happened(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    loop, parsing, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def read(answer: Answer) -> None:
        loop.call_soon_threadsafe(parsing.set)
        go_on.wait(60)

    async def answers_at_length(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, http(b" " * (MAX_INLINE_PARSE + 1)))

    async with vendor(answers_at_length) as v:
        transport = make_transport(v.url, observers=cancelled.observers)
        try:
            await cancelled.cancel(transport, effect, parsing.wait, read=read)
        finally:
            go_on.set()
    cancelled.check(unknown=True)


async def test_a_large_answer_is_read_where_no_thread_is_to_be_had(make_transport: MakeTransport) -> None:
    async def answers_at_length(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, http(b'{"a":1}' + b" " * MAX_INLINE_PARSE))

    async with vendor(answers_at_length) as v:
        transport = make_transport(v.url)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await transport.call(request_to(transport, Effect.KEYED)) == {"a": 1}


async def test_cancelled_in_the_pause_after_a_lost_reply_may_have_happened(
    make_transport: MakeTransport, cancelled: Cancelled
) -> None:
    pausing = Pausing()

    async with vendor(reads_then_hangs_up) as v:
        transport = make_transport(v.url, observers=[*cancelled.observers, pausing], **PATIENT)
        await cancelled.cancel(transport, Effect.KEYED, pausing.begun.wait)
    cancelled.check(unknown=True)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_in_the_pause_after_a_429_did_nothing(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    pausing = Pausing()

    async def throttles(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await v.answer(reader, writer, http(status="429 Too Many Requests"))

    async with vendor(throttles) as v:
        transport = make_transport(v.url, observers=[*cancelled.observers, pausing], **PATIENT)
        await cancelled.cancel(transport, effect, pausing.begun.wait)
    cancelled.check(unknown=False)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_while_connecting_did_nothing(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    async with vendor(says_nothing) as v:  # the handshake never ends
        transport = make_transport(v.url.replace("http:", "https:"), observers=cancelled.observers)
        await cancelled.cancel(transport, effect, v.arrived.wait)
    cancelled.check(unknown=False)


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_while_waiting_for_a_slot_did_nothing(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, observers=cancelled.observers, limits=Limits(connections=1))
        holder = asyncio.ensure_future(transport.call(request_to(transport)))
        await v.arrived.wait()

        async def queued() -> None:
            for _ in range(20):  # far more turns of the loop than it takes to queue
                await asyncio.sleep(0)

        await cancelled.cancel(transport, effect, queued)
        cancelled.check(unknown=False)
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        assert v.connections == 1


@pytest.mark.parametrize("effect", WRITES)
async def test_cancelled_while_waiting_for_credentials_did_nothing(
    make_transport: MakeTransport, cancelled: Cancelled, effect: Effect
) -> None:
    asked = asyncio.Event()

    class Slow(Credentials):
        async def headers(self, timeout: float) -> Any:
            asked.set()
            await asyncio.Event().wait()

    transport = make_transport(authorizer=Slow(), observers=cancelled.observers)
    await cancelled.cancel(transport, effect, asked.wait)
    cancelled.check(unknown=False)


async def test_cancelled_read_did_nothing(make_transport: MakeTransport, cancelled: Cancelled) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url, observers=cancelled.observers)
        await cancelled.cancel(transport, Effect.READ, v.arrived.wait)
    cancelled.check(unknown=False, key=None)


async def test_cancelled_write_without_a_key_says_to_look_for_what_it_made(
    make_transport: MakeTransport, caplog: pytest.LogCaptureFixture
) -> None:
    async with vendor(never_answers) as v:
        transport = make_transport(v.url)
        call = asyncio.ensure_future(transport.call(request_to(transport, Effect.BARE, asked="a claim")))
        await v.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    said("calls: a cancelled write without a key", caplog.records[-1].getMessage())


async def test_the_record_of_an_unknown_outcome_says_so(make_transport: MakeTransport) -> None:
    watcher = Watcher()
    async with vendor(reads_then_hangs_up) as v:
        transport = make_transport(v.url, observers=[watcher])
        with pytest.raises(OutcomeUnknown):
            await transport.call(request_to(transport, Effect.BARE, key="nonce-1"))
    end = watcher.records[-1]
    assert (end.error, end.outcome_unknown, end.idempotency_key) == ("OutcomeUnknown", True, "nonce-1")
