"""Files of secrets that every user may read are named once at start-up and once at each reload."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import trustme

from tests.webhooks.listener_process import KEYS, ListenerProcess, running
from webhooks.cli.secret_files import open_to_all

WORDS = "every user of this machine may read"


@pytest.fixture
def options(tmp_path: Path) -> Sequence[str]:
    (tmp_path / "the keys").write_text(KEYS)
    (tmp_path / "token").write_text("a-token-of-the-admin")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for name in ("the keys", "token", "key.pem"):
        (tmp_path / name).chmod(0o640)
    return ("--keys-file", "the keys", "--admin-token-file", "token", "--tls-cert", "cert.pem", "--tls-key", "key.pem")


async def log_of(listener: ListenerProcess) -> list[str]:
    """Stop it, and return the unread lines of its log about files."""
    assert listener.process.stderr is not None
    listener.send_signal(signal.SIGTERM)
    return [line for line in (await listener.process.stderr.read()).decode().splitlines() if WORDS in line]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_open_secret_files_are_named_once_at_start_up_and_at_each_reload(
    tmp_path: Path, options: Sequence[str], workers: tuple[str, ...]
) -> None:
    for name in ("the keys", "key.pem"):
        (tmp_path / name).chmod(0o644)
    async with running(tmp_path, *options, *workers, "--verbose") as listener:
        said = await listener.log_until(WORDS)
        assert f"{WORDS} the keys, key.pem, which" in said
        assert said.rstrip().endswith("Run chmod 600 'the keys' key.pem")
        (tmp_path / "token").chmod(0o604)
        listener.process.send_signal(signal.SIGHUP)
        assert f"{WORDS} the keys, key.pem, token, which" in await listener.log_until(WORDS)
        assert await log_of(listener) == []


async def test_group_readable_files_are_fine(tmp_path: Path, options: Sequence[str]) -> None:
    async with running(tmp_path, *options) as listener:
        assert await log_of(listener) == []


def test_only_regular_files_count(tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.write_text("")
    loose.chmod(0o602)
    tmp_path.chmod(0o755)
    assert open_to_all([tmp_path, tmp_path / "missing", loose, loose]) == [loose]
