"""`webhook-listener serve` as a process: deliveries, sources, sockets, TLS and stores."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from pathlib import Path

import aiohttp
import pytest
import trustme

from original_async import OriginalWebhooks
from rewards_core.operations import OperationRef
from tests.webhooks.listener_process import delivery, kept, post, running, signed


@pytest.mark.slow
async def test_a_200_is_in_the_store_and_a_stop_is_clean(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("2"), {}) == 401
        assert await post(session, listener.url.replace("original", "other"), delivery("2")) == 404
        assert [one.event.body for one in await kept(tmp_path)] == [delivery("1")]
        assert await listener.stop() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox.db", "inbox.db.lock"]


@pytest.mark.slow
async def test_several_sources_use_several_paths(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.keys").write_text(json.dumps({name: f"{name}_secret_of_this_length"}))
    a, b = (OriginalWebhooks({name: f"{name}_secret_of_this_length"}) for name in "ab")
    options = ["--source", "/a,scope=a,keys=a.keys", "--source", "/b,scope=b,keys=b.keys,app=OTHERAPP0000"]
    async with running(tmp_path, *options) as listener, aiohttp.ClientSession() as session:
        url = listener.where["url"]
        assert listener.where["paths"] == ["/a", "/b"]
        assert await post(session, f"{url}/a", delivery("1"), signed(delivery("1"), a)) == 200
        assert await post(session, f"{url}/a", delivery("2"), signed(delivery("2"), b)) == 401
        assert await post(session, f"{url}/b", delivery("2"), signed(delivery("2"), b)) == 200
        found = {one.event.scope: one for one in await kept(tmp_path)}
        assert found["a"].event.ref == OperationRef("a", "allocation", "1")
        assert "OTHERAPP0000" in (found["b"].event.problem or "")


@pytest.mark.slow
async def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    async with running(tmp_path, "--unix", str(path)) as listener:
        assert listener.where["unix"] == str(path)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert await post(session, listener.url, delivery("1")) == 200
        assert await listener.stop() == 0
    assert not path.exists()


@pytest.mark.slow
async def test_only_allowed_tls_versions_are_accepted(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    options = ["--tls-cert", "cert.pem", "--tls-min", "1.3", "--log-level", "info"]
    async with running(tmp_path, *options) as listener:
        assert listener.where["url"].startswith("https://")
        for newest, works in [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)]:
            context = ssl.create_default_context()
            context.maximum_version = newest
            authority.configure_trust(context)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                if works:
                    assert await post(session, listener.url, delivery("1")) == 200
                else:
                    with pytest.raises(aiohttp.ClientConnectorError):
                        await post(session, listener.url, delivery("2"))
        authority.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))  # its key is not there yet
        listener.send_signal(signal.SIGHUP)
        await listener.log_until("could not reload")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            assert await post(session, listener.url, delivery("3")) == 200


@pytest.mark.slow
async def test_two_listeners_share_a_store(tmp_path: Path) -> None:
    async with running(tmp_path) as one, running(tmp_path) as other, aiohttp.ClientSession() as session:
        assert await post(session, one.url, delivery("1")) == 200
        assert await post(session, other.url, delivery("1")) == 200
        assert await post(session, other.url, delivery("2")) == 200
        assert {each.event.ref.uid for each in await kept(tmp_path)} == {"1", "2"}


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_events_may_be_stored_in_memory(tmp_path: Path) -> None:
    async with running(tmp_path, "--store", "memory:") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await listener.stop() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_a_full_disk_is_answered_503_until_space_is_free(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY)); "
            "import signal; signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, "
            "(resource.RLIM_INFINITY, resource.RLIM_INFINITY))); from webhooks.__main__ import main; main()"
        ),
    )
    async with running(tmp_path, program=program) as listener, aiohttp.ClientSession() as session:
        statuses: list[int] = []
        while 503 not in statuses:
            body = delivery(str(len(statuses)), note="x" * 20_000)
            async with session.post(listener.url, data=body, headers=signed(body)) as answer:
                statuses.append(answer.status)
                retry_after = answer.headers.get("Retry-After")
        assert retry_after == "5"
        assert set(statuses[:-1]) == {200}
        assert len(await kept(tmp_path)) == len(statuses) - 1
        listener.send_signal(signal.SIGUSR1)
        while await post(session, listener.url, body) != 200:
            pass
        assert len(await kept(tmp_path)) == len(statuses)


@pytest.mark.slow
async def test_it_raises_the_limit_of_open_files_for_its_connections(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
            "from webhooks.__main__ import main; main()"
        ),
    )
    options = ["--max-connections", "300", "--max-per-peer", "300"]
    async with running(tmp_path, *options, program=program) as listener:
        port = int(listener.where["url"].rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        async with aiohttp.ClientSession() as session:
            assert await post(session, listener.url, delivery("1")) == 200
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
