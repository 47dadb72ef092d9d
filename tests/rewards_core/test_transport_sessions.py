"""Sessions over real sockets on loopback: loops, forks, closing and cancelled calls."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from typing import Any

import aiohttp
import pytest

from rewards_core.errors import ClientClosed, ConnectFailed, OutcomeUnknown
from rewards_core.http.messages import Effect
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
    never_answers,
    read_request,
    reads_then_hangs_up,
    request_to,
    untimed,
    vendor,
)
from tests.rewards_core.conftest import MakeTransport
from tests.stepped_time import SteppedTime
from tests.texts import said

# --- the life of a session --------------------------------------------------------------------------------------------


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[aiohttp.ClientSession]:
    """The sessions that transports have made."""
    made: list[aiohttp.ClientSession] = []
    make = aiohttp.ClientSession

    def note(**options: Any) -> aiohttp.ClientSession:
        made.append(make(**options))
        return made[-1]

    monkeypatch.setattr(aiohttp, "ClientSession", note)
    return made


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


def test_use_from_another_loop_is_a_clear_error(sessions: list[aiohttp.ClientSession]) -> None:
    made: list[Transport] = []

    async def first() -> None:
        async with vendor(answers_well) as v:
            transport = Transport(vendor="Acme", base_url=v.url, authorizer=Credentials(), refusal=lambda _: None)  # type: ignore[arg-type, return-value]
            await transport.call(request_to(transport))
            made.append(transport)
            await transport.aclose()
            made.append(Transport(vendor="Acme", base_url=v.url, authorizer=Credentials(), refusal=lambda _: None))  # type: ignore[arg-type, return-value]
            await made[1].call(request_to(made[1]))
            for session in sessions:
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


async def test_fork_leaves_the_parents_connections_alone(
    make_transport: MakeTransport, sessions: list[aiohttp.ClientSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vendor(answers_well) as v:
        transport = make_transport(v.url)
        await transport.call(request_to(transport))
        (session,) = sessions
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
        transport = make_transport(v.url, observers=[pausing], **PATIENT)
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
