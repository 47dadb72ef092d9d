"""SIGHUP reloads everything or nothing, in all processes of a listener."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import aiohttp
import pytest
import trustme

from original_async import OriginalWebhooks
from rewards_core.errors import SignatureError
from tests.webhooks.listener_process import client, delivery, post, running, signed, tls_options, trusting, working
from webhooks.cli.reloading import Reloadable
from webhooks.cli.settings import ListenerSettings, TlsSettings
from webhooks.cli.sources import ReloadableSource, SourceSpec

OLD, NEW = (OriginalWebhooks({"id": f"{word}_secret_of_this_length"}) for word in ("old", "new"))
FIRST, SECOND = (
    OriginalWebhooks({name: f"{word}_secret_of_this_length"}) for name, word in [("first", "one"), ("second", "two")]
)


@pytest.fixture
def listener(tmp_path: Path) -> Reloadable:
    for name in ("a", "b"):
        (tmp_path / name).write_text("id:old_secret_of_this_length")
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    return Reloadable(
        ListenerSettings(
            sources=[SourceSpec(scope=name, keys_file=tmp_path / name) for name in ("a", "b")],
            store="memory:",
            tls=TlsSettings(certificate=tmp_path / "cert.pem"),
        )
    )


def verifies(source: ReloadableSource, signer: OriginalWebhooks) -> bool:
    body = delivery("1")
    try:
        source.verify(signed(body, signer), body)
    except SignatureError:
        return False
    return True


def test_keys_and_certificate_are_reloaded(tmp_path: Path, listener: Reloadable) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("id:new_secret_of_this_length")
    assert listener.reload()
    assert [(verifies(source, OLD), verifies(source, NEW)) for source in listener.sources] == [(False, True)] * 2


def test_unreadable_keys_leave_all_keys_unchanged(tmp_path: Path, listener: Reloadable, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("id:new_secret_of_this_length")
    (tmp_path / "b").write_text("nonsense with a new_secret_of_this_length")
    with caplog.at_level(logging.INFO):
        assert not listener.reload()
    assert [(verifies(source, OLD), verifies(source, NEW)) for source in listener.sources] == [(True, False)] * 2
    (line,) = caplog.messages
    assert str(tmp_path / "b") in line
    assert "new_secret" not in line


def test_an_invalid_certificate_leaves_the_keys_unchanged(tmp_path: Path, listener: Reloadable) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("id:new_secret_of_this_length")
    (tmp_path / "cert.pem").write_text("nonsense")
    assert not listener.reload()
    assert [verifies(source, OLD) for source in listener.sources] == [True, True]


@pytest.mark.slow
async def test_sighup_reloads_keys_and_keeps_the_old_ones_if_they_are_invalid(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    async with running(tmp_path, "--keys-file", str(keys), "--log-level", "info") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1"), signed(delivery("1"), FIRST)) == 200
        assert await post(session, listener.url, delivery("2"), signed(delivery("2"), SECOND)) == 401
        keys.write_text("# rotated\nsecond:two_secret_of_this_length\n")
        listener.send_signal(signal.SIGHUP)
        await listener.log_until("reloaded keys and certificate")
        assert await post(session, listener.url, delivery("2"), signed(delivery("2"), SECOND)) == 200
        assert await post(session, listener.url, delivery("3"), signed(delivery("3"), FIRST)) == 401
        keys.write_text("nonsense with a one_secret_of_this_length")
        listener.send_signal(signal.SIGHUP)
        line = await listener.log_until("could not reload")
        assert "one_secret" not in line
        assert await post(session, listener.url, delivery("4"), signed(delivery("4"), SECOND)) == 200


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_keys_are_reloaded_by_all_workers_or_by_none(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")

    async def verify(source: OriginalWebhooks) -> list[int]:
        statuses = []
        for number in (0, 1):
            async with workers.only(number):
                body = delivery(f"{number}")
                statuses.append(await post(session, workers.url, body, signed(body, source)))
        return statuses

    async with working(tmp_path, "--keys-file", str(keys)) as workers, client() as session:
        keys.write_text("nonsense with a two_secret_of_this_length")
        workers.listener.send_signal(signal.SIGHUP)
        assert "two_secret" not in await workers.log_until("could not reload")
        assert await verify(FIRST) == [200, 200]
        keys.write_text("second:two_secret_of_this_length\n")
        workers.listener.send_signal(signal.SIGHUP)
        reloaded = {
            (await workers.log_until("reloaded keys and certificate")).partition("webhooks.listener: ")[2] for _ in range(3)
        }
        assert reloaded == {f"{who}reloaded keys and certificate\n" for who in ("", "worker 0: ", "worker 1: ")}
        assert await verify(SECOND) == [200, 200]
        assert await verify(FIRST) == [401, 401]
        assert len([line for line in workers.lines if " ERROR " in line]) == 1


@pytest.mark.slow
async def test_a_certificate_is_reloaded_by_all_workers_or_by_none(tmp_path: Path, authority: trustme.CA) -> None:
    other = trustme.CA()

    async def works_with(trusted: trustme.CA) -> bool:
        try:
            for number in (0, 1):
                async with workers.only(number), client(ssl=trusting(trusted)) as session:
                    assert await post(session, workers.url, delivery(f"{number}")) == 200
        except aiohttp.ClientConnectorError:
            return False
        return True

    async with working(tmp_path, *tls_options(authority, tmp_path)) as workers:
        assert await works_with(authority)
        other.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))  # its key is not there yet
        workers.listener.send_signal(signal.SIGHUP)
        await workers.log_until("could not reload")
        assert await works_with(authority)
        tls_options(other, tmp_path)
        workers.listener.send_signal(signal.SIGHUP)
        for _ in range(3):
            await workers.log_until("reloaded keys and certificate")
        assert await works_with(other)
        assert not await works_with(authority)
