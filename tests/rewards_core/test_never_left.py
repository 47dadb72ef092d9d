"""What never left, told by real proxies and handshakes, and what a session's own settings make impossible."""

from __future__ import annotations

import asyncio
import copy
import pickle
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import trustme
from aioresponses import aioresponses

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConfigurationError, ConnectFailed, OutcomeUnknown, ServerFailed, VendorError
from rewards_core.http.messages import Effect
from rewards_core.http.timeouts import Timeouts
from rewards_core.observe import CallRetried
from tests.rewards_core.call_kit import (
    ONCE,
    SECRET,
    Vendor,
    answers_well,
    ends,
    hangs_up_at_once,
    http,
    read_request,
    reads_then_hangs_up,
    request_to,
    says_nothing,
    untimed,
    vendor,
)
from tests.rewards_core.conftest import MakeTransport
from tests.stepped_time import SteppedTime
from tests.texts import said

WRITES = (Effect.KEYED, Effect.BARE)
BEHIND = "https://vendor.example/v1"
THRICE = RetryPolicy(attempts=3)


def answering(status: str) -> Callable[[Vendor, asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Return a peer that answers every request with a status."""

    async def answer(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await v.answer(reader, writer, http(b"", status))

    return answer


@asynccontextmanager
async def session_through(proxy: Vendor, way: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that goes through a proxy, told by an argument or by the environment."""
    address = proxy.url.removesuffix("/v1")
    if way == "argument":
        settings: dict[str, Any] = {"proxy": address}
    else:
        settings = {"trust_env": True}
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, address)
    async with aiohttp.ClientSession(**settings) as session:
        yield session


# --- a proxy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway", "503 Busy"])
@pytest.mark.parametrize("way", ["argument", "environment"])
async def test_a_proxy_that_refuses_connect_means_the_vendor_heard_nothing(
    make_transport: MakeTransport,
    monkeypatch: pytest.MonkeyPatch,
    effect: Effect,
    status: str,
    way: str,
    stepped_time: SteppedTime,
) -> None:
    async with vendor(answering(status)) as proxy, session_through(proxy, way, monkeypatch) as session:
        transport = make_transport(BEHIND, session=session, retry=THRICE)
        error = await ends(transport.call(request_to(transport, effect)))
        assert type(error) is ConnectFailed
        assert error.attempts == len(stepped_time.slept) + 1 == len(proxy.requests) == 3
        said(f"calls: a proxy that answers {status[:3]}", untimed(error))
        for heard in proxy.requests:
            assert heard.startswith(b"CONNECT vendor.example:443 ")
            assert SECRET.encode() not in heard


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.usefixtures("stepped_time")
async def test_407_of_a_plain_proxy_means_the_vendor_heard_nothing(
    make_transport: MakeTransport, monkeypatch: pytest.MonkeyPatch, effect: Effect
) -> None:
    async with vendor(answering("407 Proxy Authentication Required")) as proxy:
        async with session_through(proxy, "argument", monkeypatch) as session:
            transport = make_transport("http://vendor.example/v1", session=session, retry=THRICE)
            error = await ends(transport.call(request_to(transport, effect)))
        assert type(error) is ConnectFailed
        assert (error.attempts, error.status) == (3, 407)


@pytest.mark.usefixtures("stepped_time")
async def test_a_refusing_proxy_after_a_lost_reply_leaves_the_outcome_unknown(make_transport: MakeTransport) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("vendor.example").configure_cert(server)
    authority.configure_trust(client)

    async def lets_the_first_through(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        v.requests.append(await read_request(reader))
        if v.connections > 1:
            writer.write(http(b"", "502 Bad Gateway"))
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        await writer.start_tls(server)
        v.requests.append(await read_request(reader))
        writer.transport.abort()

    async with (
        vendor(lets_the_first_through) as proxy,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client), proxy=proxy.url.removesuffix("/v1")) as session,
    ):
        transport = make_transport(BEHIND, session=session, retry=THRICE)
        error = await ends(transport.call(request_to(transport, Effect.KEYED, key="nonce-1", asked="what was asked for")))
    assert [heard.split(b" ")[0] for heard in proxy.requests] == [b"CONNECT", b"POST", b"CONNECT", b"CONNECT"]
    assert type(error) is OutcomeUnknown
    assert (error.attempts, error.idempotency_key, error.request) == (3, "nonce-1", "what was asked for")


# --- connections that never stood -------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", Effect)
async def test_a_connection_closed_during_its_handshake_never_left(make_transport: MakeTransport, effect: Effect) -> None:
    async def reads_the_greeting_and_hangs_up(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with vendor(reads_the_greeting_and_hangs_up) as v:
        transport = make_transport(v.url.replace("http:", "https:"), retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, effect)))) is ConnectFailed


@pytest.mark.parametrize("effect", Effect)
async def test_whatever_ends_an_attempt_before_it_has_a_connection_never_left(
    make_transport: MakeTransport, monkeypatch: pytest.MonkeyPatch, effect: Effect
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise aiohttp.ServerDisconnectedError

    monkeypatch.setattr("aiohappyeyeballs.start_connection", fails)
    transport = make_transport(retry=ONCE)
    assert type(await ends(transport.call(request_to(transport, effect)))) is ConnectFailed


async def test_a_call_that_got_no_connection_says_nothing_of_the_next_one(make_transport: MakeTransport) -> None:
    async with vendor(hangs_up_at_once) as v:
        port = v.url
    transport = make_transport(port, retry=ONCE)
    assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is ConnectFailed
    with aioresponses() as mocked:
        mocked.post(f"{port}/thing", exception=aiohttp.ServerDisconnectedError())
        assert type(await ends(transport.call(request_to(transport, Effect.BARE)))) is OutcomeUnknown


@pytest.mark.parametrize("problem", [OSError("broken"), RuntimeError("odd"), ValueError("odd"), TypeError("odd")])
async def test_a_test_double_that_raises_proves_nothing(make_transport: MakeTransport, problem: Exception) -> None:
    transport = make_transport(retry=ONCE)
    for effect, kind in zip((*WRITES, Effect.READ), (OutcomeUnknown, OutcomeUnknown, ServerFailed), strict=True):
        with aioresponses() as mocked:
            mocked.post("http://127.0.0.1:1/v1/thing", exception=problem)
            mocked.get("http://127.0.0.1:1/v1/thing", exception=problem)
            assert type(await ends(transport.call(request_to(transport, effect)))) is kind


NO_CONNECTION = (
    aiohttp.ClientConnectorError(cast("Any", None), OSError("refused")),
    aiohttp.ConnectionTimeoutError(),
    aiohttp.ClientHttpProxyError(cast("Any", None), (), status=403),
)


@pytest.mark.parametrize("problem", NO_CONNECTION, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("effect", Effect)
async def test_a_test_double_can_play_an_attempt_without_a_connection(
    make_transport: MakeTransport, effect: Effect, problem: Exception
) -> None:
    transport = make_transport(retry=ONCE)
    with aioresponses() as mocked:
        mocked.post("http://127.0.0.1:1/v1/thing", exception=problem)
        mocked.get("http://127.0.0.1:1/v1/thing", exception=problem)
        assert type(await ends(transport.call(request_to(transport, effect)))) is ConnectFailed


@pytest.mark.parametrize("problem", [ValueError, TypeError, RuntimeError])
@pytest.mark.parametrize("effect", WRITES)
async def test_a_hook_of_a_borrowed_session_that_fails_after_the_answer_leaves_the_outcome_unknown(
    make_transport: MakeTransport, effect: Effect, problem: type[Exception]
) -> None:
    async def fails(*_: Any) -> None:
        raise problem("odd")

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(fails)
    async with vendor(answers_well) as v, aiohttp.ClientSession(trace_configs=[hooks]) as session:
        transport = make_transport(v.url, session=session, retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, effect)))) is OutcomeUnknown
        assert len(v.requests) == 1


@pytest.mark.parametrize("effect", WRITES)
async def test_a_hook_that_fails_to_connect_elsewhere_after_the_answer_proves_nothing(
    make_transport: MakeTransport, effect: Effect
) -> None:
    async def tells_somebody_who_is_away(*_: Any) -> None:
        async with vendor(hangs_up_at_once) as gone:
            address = gone.url
        async with aiohttp.ClientSession() as other, other.post(address):
            pass

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(tells_somebody_who_is_away)
    async with vendor(answers_well) as v, aiohttp.ClientSession(trace_configs=[hooks]) as session:
        transport = make_transport(v.url, session=session, retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, effect)))) is OutcomeUnknown
        assert len(v.requests) == 1


@pytest.mark.parametrize("effect", Effect)
async def test_a_hook_that_fails_before_the_request_is_a_local_mistake(make_transport: MakeTransport, effect: Effect) -> None:
    async def fails(*_: Any) -> None:
        raise RuntimeError("odd")

    hooks = aiohttp.TraceConfig()
    hooks.on_request_start.append(fails)
    async with vendor(answers_well) as v, aiohttp.ClientSession(trace_configs=[hooks]) as session:
        transport = make_transport(v.url, session=session)
        assert type(await ends(transport.call(request_to(transport, effect)))) is ConfigurationError
        assert v.connections == 0


@pytest.mark.parametrize("effect", Effect)
async def test_an_attempt_that_is_cut_short_while_it_connects_never_left(
    make_transport: MakeTransport, monkeypatch: pytest.MonkeyPatch, effect: Effect
) -> None:
    """A loop that was busy sees both timers at once, and the attempt's may come first."""
    no_limit = aiohttp.ClientTimeout(total=None)
    monkeypatch.setattr(aiohttp, "ClientTimeout", lambda **_: no_limit)
    async with vendor(says_nothing) as v:  # the handshake never ends
        transport = make_transport(v.url.replace("http:", "https:"), retry=ONCE, timeouts=Timeouts(read=0.05))
        assert type(await ends(transport.call(request_to(transport, effect)))) is ConnectFailed


@pytest.mark.parametrize("effect", WRITES)
async def test_a_middleware_that_tries_again_proves_nothing(make_transport: MakeTransport, effect: Effect) -> None:
    async def tries_again_where_nobody_is(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
        try:
            return await handler(request)
        except aiohttp.ClientError as problem:
            raise aiohttp.ClientConnectorError(request.connection_key, OSError("refused")) from problem

    async with vendor(reads_then_hangs_up) as v, aiohttp.ClientSession(middlewares=(tries_again_where_nobody_is,)) as session:
        transport = make_transport(v.url, session=session, retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, effect)))) is OutcomeUnknown
        assert len(v.requests) == 1


@pytest.mark.parametrize("effect", WRITES)
async def test_a_write_that_left_through_a_borrowed_session_is_no_failed_connection(
    make_transport: MakeTransport, effect: Effect
) -> None:
    async with vendor(reads_then_hangs_up) as v, aiohttp.ClientSession() as session:
        transport = make_transport(v.url, session=session, retry=ONCE)
        assert type(await ends(transport.call(request_to(transport, effect)))) is OutcomeUnknown


# --- local mistakes ---------------------------------------------------------------------------------------------------


def session_with_auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> aiohttp.ClientSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return aiohttp.ClientSession(auth=aiohttp.BasicAuth("somebody", "pa55-canary"))


def session_with_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> aiohttp.ClientSession:
    monkeypatch.setenv("NETRC", str(written_netrc(tmp_path)))
    return aiohttp.ClientSession(trust_env=True)


def written_netrc(tmp_path: Path) -> Path:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password pa55-canary\n")
    netrc.chmod(0o600)
    return netrc


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("make_session", [session_with_auth, session_with_netrc])
async def test_a_borrowed_session_with_credentials_of_its_own_is_a_configuration_error_at_once(
    make_transport: MakeTransport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_session: Any,
    effect: Effect,
    stepped_time: SteppedTime,
) -> None:
    async with vendor(answers_well) as v, make_session(tmp_path, monkeypatch) as session:
        transport = make_transport(v.url, session=session)
        error = await ends(transport.call(request_to(transport, effect)))
        assert v.connections == 0
    assert type(error) is ConfigurationError
    assert isinstance(error, ValueError)
    assert not isinstance(error, VendorError)
    assert not stepped_time.slept
    said("calls: a borrowed session with credentials", untimed(error))
    assert "canary" not in f"{error!r} {error.__dict__}"
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (type(twin), str(twin)) == (ConfigurationError, str(error))


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize(
    ("base_url", "what"),
    [
        ("ftp://vendor.example/v1", "another scheme"),
        ("http:///v1", "no host"),
        ("http://somebody:pa55-canary@127.0.0.1:1", "credentials"),
    ],
)
async def test_an_address_that_cannot_be_used_is_a_configuration_error_at_once(
    make_transport: MakeTransport, base_url: str, what: str, effect: Effect, stepped_time: SteppedTime
) -> None:
    transport = make_transport(base_url)
    error = await ends(transport.call(request_to(transport, effect)))
    assert type(error) is ConfigurationError
    said(f"calls: a base URL with {what}", untimed(error))
    assert "canary" not in str(error)
    assert not stepped_time.slept


@pytest.mark.usefixtures("stepped_time")
async def test_a_local_mistake_after_a_lost_reply_leaves_the_outcome_unknown(
    make_transport: MakeTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = written_netrc(tmp_path)
    (tmp_path / "empty").touch()

    class Spoils:
        def on_retry(self, record: CallRetried) -> None:
            monkeypatch.setenv("NETRC", str(netrc))

    monkeypatch.setenv("NETRC", str(tmp_path / "empty"))
    async with vendor(reads_then_hangs_up) as v, aiohttp.ClientSession(trust_env=True) as session:
        transport = make_transport(v.url, session=session, observers=[Spoils()])
        error = await ends(transport.call(request_to(transport, Effect.KEYED, key="nonce-1")))
        assert type(error) is OutcomeUnknown
        assert (error.attempts, error.idempotency_key, len(v.requests)) == (2, "nonce-1", 1)
