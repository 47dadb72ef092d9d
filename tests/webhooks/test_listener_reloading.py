"""SIGHUP reloads everything or nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trustme

from original_async import OriginalWebhooks
from rewards_core.errors import SignatureError
from tests.webhooks.listener_process import delivery, signed
from webhooks.cli.reloading import Reloadable
from webhooks.cli.settings import ListenerSettings, TlsSettings
from webhooks.cli.sources import ReloadableSource, SourceSpec

OLD, NEW = (OriginalWebhooks({"id": f"{word}_secret_of_this_length"}) for word in ("old", "new"))


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
