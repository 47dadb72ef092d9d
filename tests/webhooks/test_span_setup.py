"""Processes with the SDK, without it, and with wrong settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from opentelemetry import trace

from rewards_core import tracing
from tests.span_kit import Spans, spans
from tests.texts import said
from tests.webhooks.fakes import FakeSource, a_ref
from tests.webhooks.listener_process import ROOT, delivery, environment, post, running, signed
from tests.webhooks.receiver_kit import DONE, PARENT, REMOTE, TRACE, listening, send
from webhooks import MemoryStore, Receiver
from webhooks.spans import links_of

__all__ = ["spans"]


async def test_without_an_sdk_nothing_is_recorded_or_kept(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    source, store = FakeSource(), MemoryStore()
    async with listening(Receiver(source, store)) as url:
        assert await send(f"{url}/webhooks/original", DONE, {**source.sign(DONE), **REMOTE}) == 200
    assert (len(spans), tracing.recording()) == (0, False)
    assert links_of(store).of_operation(a_ref("1")) is None


ALONE = """
import asyncio, sys
if sys.argv[1:]:
    sys.modules["opentelemetry"] = None
from tests.webhooks.fakes import FakeSource, body_of, words_of
from webhooks import Completions, MemoryStore, Receiver
from tests.webhooks.fakes import FakeVendor

async def main():
    source, store, body = FakeSource(), MemoryStore(), body_of(resource=words_of("1", "done"))
    receiver = Receiver(source, store)
    ran = asyncio.Event()
    @receiver.on("*")
    async def handle(event):
        ran.set()
    async with receiver, Completions(FakeVendor(), store) as completions:
        statuses = [(await receiver.receive(headers, body)).status for headers in (source.sign(body), {})]
        await ran.wait()
        print(statuses, (await completions.wait("1", timeout=5)).status)
    print([name for name in sys.modules if name.startswith("opentelemetry.")])

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("missing", [[], ["missing"]])
def test_a_program_that_does_not_use_opentelemetry_does_not_import_it_and_one_without_it_works_alike(missing: list[str]) -> None:
    command = [sys.executable, "-c", ALONE, *missing]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout == "[200, 401] done\n[]\n"


WRONGLY = """
import asyncio, logging
import opentelemetry.sdk.trace
from opentelemetry import trace
from tests.webhooks.receiver_kit import DONE, FakeSource, MemoryStore, Receiver, listening, send

async def main():
    source = FakeSource()
    async with listening(Receiver(source, MemoryStore())) as url:
        print([await send(f"{url}/webhooks/original", DONE, source.sign(DONE)) for _ in range(2)])

if "OTEL_PROPAGATORS" in __import__("os").environ:
    trace.set_tracer_provider(opentelemetry.sdk.trace.TracerProvider())
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["OTEL_PROPAGATORS", "OTEL_PYTHON_TRACER_PROVIDER"])
def test_a_wrong_setting_of_opentelemetry_refuses_no_delivery(setting: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), setting: "nonsense"}
    done = subprocess.run([sys.executable, "-c", WRONGLY], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[200, 200]\n"), done.stderr
    said(f"spans: {setting} is wrong", "\n".join(line for line in done.stderr.splitlines() if line.startswith("no ")))


EXPORTER = """
import os
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

def exporter():
    return ConsoleSpanExporter(out=open(os.environ["SPANS"], "a"), formatter=lambda span: span.to_json(indent=None) + chr(10))
"""


def install_exporter(folder: Path) -> None:
    """Make a package of an exporter that writes to a file, as the SDK finds those of others."""
    (folder / "span_file.py").write_text(EXPORTER)
    facts = folder / "span_file-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: span-file\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[opentelemetry_traces_exporter]\nfile = span_file:exporter\n")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_listener_started_with_the_sdk_records_its_requests(tmp_path: Path, workers: int) -> None:
    install_exporter(tmp_path)
    folders = (str(ROOT / "deploy"), str(tmp_path), environment()["PYTHONPATH"])
    env = {"PYTHONPATH": os.pathsep.join(folders), "OTEL_TRACES_EXPORTER": "file", "SPANS": str(tmp_path / "spans")}
    body = delivery("1")
    async with running(tmp_path, "--workers", str(workers), env=env) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, body, {**signed(body), **REMOTE}) == 200
        assert await post(session, listener.url, body, {}) == 401
        async with session.get(f"{listener.where['admin']}/healthz") as answer:
            assert answer.status == 200
    found = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert sorted(each["name"] for each in found) == ["POST /webhooks/original", "POST /webhooks/original", "rewards.delivery"]
    (request,) = [each for each in found if each["parent_id"] == f"0x{PARENT:016x}"]
    (stored,) = [each for each in found if each["name"] == "rewards.delivery"]
    assert request["context"]["trace_id"] == stored["context"]["trace_id"] == f"0x{TRACE:032x}"
    assert stored["attributes"]["rewards.operation.uid"] == "1"
