"""With few open files allowed, a listener accepts fewer connections, warns once, and neither stalls nor floods its log."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.texts import said
from tests.webhooks.listener_process import ListenerProcess, delivery, environment, post, running

FITTED = """
import json, logging, resource, sys
from pathlib import Path
logging.basicConfig(stream=sys.stdout, format="%(message)s")
soft, hard, more = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from webhooks.cli.process_tuning import fit_connections
from webhooks.cli.settings import ForwardSettings, ListenerSettings, PollSettings, TlsSettings
from webhooks.cli.sources import SourceSpec
kinds = {"tls": TlsSettings(certificate=Path("x")), "forward": ForwardSettings(url="x"), "poll": PollSettings()}
settings = ListenerSettings(sources=[SourceSpec()], store="memory:", **{name: kinds[name] for name in more})
fitted = fit_connections(settings)
print(fitted.limits.connections, fitted == settings)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def fitted(soft: int, hard: int, *more: str) -> list[str]:
    words = [sys.executable, "-c", FITTED, json.dumps([soft, hard, more])]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, check=True).stdout.splitlines()


def few_files(count: int) -> dict[str, Any]:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count}))"
    return {"program": ("-c", f"{limited}; from webhooks.__main__ import main; main()")}


def port_of(listener: ListenerProcess, name: str) -> int:
    return int(listener.where[name].rpartition(":")[2])


@contextmanager
def connected(port: int, count: int) -> Iterator[None]:
    """Hold silent connections, accepted or only in the backlog."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield
    finally:
        for one in held:
            one.close()


async def end(listener: ListenerProcess) -> tuple[int, list[str]]:
    """Stop it; return its exit code and the rest of its log."""
    listener.process.send_signal(signal.SIGTERM)
    assert listener.process.stderr is not None
    log = (await listener.process.stderr.read()).decode().splitlines()
    return await listener.process.wait(), log


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_more_connections_than_files_delay_no_delivery_and_no_shutdown(tmp_path: Path, workers: tuple[str, ...]) -> None:
    options = ("--max-per-peer", "2000", *workers)
    async with running(tmp_path, *options, **few_files(160)) as listener, aiohttp.ClientSession() as session:
        with connected(port_of(listener, "url"), 600):
            for number in range(5):
                assert await post(session, listener.url, delivery(str(number))) == 200
            async with session.get(f"{listener.where['admin']}/readyz") as answer:
                assert answer.status == 200
            code, log = await end(listener)
    (warning,) = [line for line in log if " accepts only " in line]
    assert code == 0
    said(f"serve: too few files for all connections, {'workers' if workers else 'alone'}", warning.partition("WARNING")[2])
    assert not any(" ERROR " in line for line in log)
    assert len(log) < 10
    assert "Traceback" not in "".join(log)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "crowded"), [((), "url"), ((), "admin"), (("--workers", "2"), "admin")])
async def test_out_of_files_is_logged_in_one_line_and_the_shutdown_works(
    tmp_path: Path, workers: tuple[str, ...], crowded: str
) -> None:
    async with running(tmp_path, *workers) as listener:
        if sys.platform == "linux":
            resource.prlimit(listener.process.pid, resource.RLIMIT_NOFILE, (30, 30))
            port = port_of(listener, crowded)
            with connected(port, 100):
                await listener.log_until(f"cannot accept connections on port {port}: Too many open files")
                code, log = await end(listener)
        else:
            code, log = await end(listener)
    assert code == 0
    assert len(log) < 10
    assert "Traceback" not in "".join(log)


@pytest.mark.slow
def test_with_too_few_files_it_does_not_start(tmp_path: Path) -> None:
    words = [sys.executable, *few_files(40)["program"], "serve"]
    ended = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 7
    said("serve: too few files to listen", last)


def test_the_limit_is_raised_as_needed_without_a_warning() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert fitted(64, hard) == ["1000 True", f"1096 {hard}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "more", "connections"),
    [(596, (), 500), (596, ("tls",), 250), (596, ("forward",), 490), (596, ("poll",), 400), (100, (), 50)],
)
def test_files_for_other_purposes_are_reserved(files: int, more: tuple[str, ...], connections: int) -> None:
    warned, count, limit = fitted(files, files, *more)
    assert f" {connections} connections" in warned
    assert (count, limit) == (f"{connections} False", f"{files} {files}")
