"""A receiver in every place of FastAPI and Starlette, behind their middlewares, under uvicorn as a process."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.webhooks.fakes import FakeSource, body_of
from tests.webhooks.framework_app import PATH

ROOT = Path(__file__).resolve().parents[2]
BODY = body_of(uid="1", filler="x" * 100_000)
SIGNED = FakeSource().sign(BODY)


@frozen
class Served:
    """An application in another process."""

    port: int

    def send(self, target: str, headers: dict[str, str], *parts: bytes) -> tuple[int, socket.socket]:
        """Send a request part by part, as far as the server reads it; return the status and the connection."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with suppress(ConnectionError):  # it may answer and close before it has everything
            for part in (f"POST {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode(), *parts):
                connection.sendall(part)
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = connection.recv(1)
            assert more, answer
            answer += more
        return int(answer.split()[1]), connection

    def deliver(self, target: str, *parts: bytes, chunked: bool = False, body: bytes = BODY) -> int:
        parts = parts or (body[:10], body[10:])
        if chunked:
            parts = (*(b"%x\r\n%b\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n")
        framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
        status, connection = self.send(target, {**FakeSource().sign(body), **framing}, *parts)
        connection.close()
        return status

    def kept(self, place: str) -> Any:
        """Return what the receiver at a place has accepted and refused, once its handler has run."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", f"/kept/{place}")
        try:
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@pytest.fixture(scope="module", params=["h11", "httptools"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "uvicorn", "tests.webhooks.framework_app:app", "--fd", str(listening.fileno())]
        process = subprocess.Popen(
            [*command, "--http", request.param, "--log-level", "warning"],
            cwd=ROOT,
            pass_fds=[listening.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Served(listening.getsockname()[1])
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("place", "end"),
    [
        ("route", ""),
        ("router", ""),
        ("sub-application", ""),
        ("mount", "/"),
        ("middleware", ""),
        ("body", ""),
        ("gzip", ""),
        ("several", ""),
    ],
)
def test_deliveries_are_stored_and_handled_wherever_the_receiver_is_mounted(
    served: Served, place: str, end: str, chunked: bool
) -> None:
    before = served.kept(place)["kept"]
    body = body_of(uid=f"{place} {chunked}", filler="x" * 100_000)
    assert served.deliver(f"/{place}{PATH}{end}", body=body, chunked=chunked) == 200
    assert served.kept(place) == {"kept": before + 1, "handled": before + 1, "rejected": {}}


def test_a_mount_redirects_a_path_without_a_slash(served: Served) -> None:
    assert served.deliver(f"/mount{PATH}") == 307


def test_a_compressed_body_is_refused_behind_a_middleware_that_compresses_answers(served: Served) -> None:
    headers = {**SIGNED, "Content-Encoding": "gzip", "Accept-Encoding": "gzip", "Content-Length": str(len(BODY))}
    status, connection = served.send(f"/gzip{PATH}", headers, BODY)
    connection.close()
    assert status == 415


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_streamed_by_a_middleware_is_refused_for_that_reason(served: Served, chunked: bool) -> None:
    before = served.kept("stream")["rejected"].get("read_before", 0)
    assert served.deliver(f"/stream{PATH}", chunked=chunked) == 500
    assert served.kept("stream") == {"kept": 0, "handled": 0, "rejected": {"read_before": before + 1}}


def test_a_body_withheld_by_a_middleware_does_not_hang(served: Served) -> None:
    assert served.deliver(f"/taken{PATH}") == 408
    assert served.kept("taken") == {"kept": 0, "handled": 0, "rejected": {"absent": 1}}


@pytest.mark.parametrize("size", [1_000_000, 8_000_000])
@pytest.mark.parametrize("whole", [True, False], ids=["sent whole", "begun"])
def test_an_unknown_key_is_refused_before_the_body_and_its_connection_closed(served: Served, size: int, whole: bool) -> None:
    status, connection = served.send("/keyed", {"Content-Length": str(size)}, b"x" * (size if whole else 1))
    assert status == 401
    with connection, suppress(ConnectionError):
        while connection.recv(65_536):
            pass
