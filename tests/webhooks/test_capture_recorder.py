"""A capture leaves its loop free, whatever strangers let it read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from original_async.signature_readings import SignatureReader
from rewards_core.cli.output import Output
from rewards_core.operations import Event
from tests.webhooks.listener_process import KEYS, SECRETS, delivery, post, signed
from webhooks import MemoryStore, Receiver
from webhooks.cli.capture.files import CaptureFiles
from webhooks.cli.capture.recorder import Recorder
from webhooks.cli.capture.redaction import parse_redaction
from webhooks.cli.capture.report import report_of
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.parsing import LARGE_BODY

LARGE = b"[" + b"{}," * (LARGE_BODY // 3) + b"{}]"


class Watched(ReloadableSource):
    """Notes in which threads it reads."""

    def __init__(self) -> None:
        super().__init__(SourceSpec())
        self.threads: list[int] = []

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        self.threads.append(threading.get_ident())
        return super().parse(body, headers)


async def test_a_large_body_and_what_is_said_of_it_leave_the_loop_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    source, reporting = Watched(), []

    def report(*words: Any) -> dict[str, Any]:
        reporting.append(threading.get_ident())
        return report_of(*words)

    monkeypatch.setattr("webhooks.cli.capture.recorder.report_of", report)
    reader = SignatureReader(SECRETS)
    files = await asyncio.to_thread(CaptureFiles, tmp_path, parse_redaction([]), reader.without_secrets)
    recorder = Recorder(
        source=source,
        reader=reader,
        files=files,
        output=Output(as_json=True),
        refuse_first=False,
        count=0,
        on_enough=lambda: None,
    )
    server = recorder.server({"/hooks": Receiver(source, MemoryStore())})
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hooks"
    try:
        async with aiohttp.ClientSession() as session:
            assert await post(session, url, LARGE, {}) == 401
            assert await post(session, url, LARGE, signed(LARGE)) == 200
            assert threading.get_ident() not in source.threads + reporting
            assert (len(source.threads), len(reporting)) == (3, 2)
            small = delivery("1")
            assert await post(session, url, small, signed(small)) == 200
            assert source.threads[3:] == [threading.get_ident()] * 2
    finally:
        listening.close()
        await server.drain(5)
    assert capsys.readouterr().out.count("\n") == 3
