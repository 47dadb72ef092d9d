"""Real proxies in front of a listener, with default settings except for addresses and files."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
from attrs import frozen

from tests.system_parts import system_program
from tests.webhooks.listener_process import delivery, signed

URL = "http://listener/webhooks/original"
TAKEN_LATER = {429, 500, 502, 503, 504}
"""Statuses after which a sender retries."""


@frozen
class Proxy:
    """The configuration and command of a proxy, and the log line that reports it ready."""

    config: str
    command: Sequence[str]
    ready: str
    unix: str

    def to(self, where: Mapping[str, str]) -> str:
        """Return how its configuration names a listener."""
        return where["url"].removeprefix("http://") if "url" in where else self.unix + where["unix"]


NGINX = Proxy(
    """
    daemon off;
    pid nginx.pid;
    error_log stderr notice;
    events {{}}
    http {{
        access_log off;
        client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
        server {{
            listen unix:{front};
            location / {{ proxy_pass http://{to}; }}
        }}
    }}
    """,
    ("nginx", "-e", "stderr", "-p", "{folder}", "-c", "{config}"),
    "start worker process ",
    "unix:",
)
HAPROXY = Proxy(
    """
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend front
    bind {front}
    default_backend back
backend back
    server listener {to}
""",
    ("haproxy", "-W", "-db", "-f", "{config}"),
    "Loading success",
    "unix@",
)
CADDY = Proxy(
    """
{{
    admin off
    auto_https off
}}
:80 {{
    bind unix/{front}
    reverse_proxy {to}
}}
""",
    ("caddy", "run", "--adapter", "caddyfile", "--config", "{config}"),
    "serving initial configuration",
    "unix/",
)


class Front:
    """A running proxy.

    Attributes:
        process: The proxy.
        path: The unix socket on which it listens.
    """

    def __init__(self, process: Process, path: Path) -> None:
        self.process = process
        self.path = path
        self._log: list[str] = []
        self._changed = asyncio.Condition()
        self._seen = 0
        self._over = False
        self._reading = asyncio.create_task(self._read())

    def client(self) -> aiohttp.ClientSession:
        """Return an HTTP client of the proxy."""
        return aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.path), limit=0))

    async def log_until(self, words: str) -> None:
        """Wait until a new line of its log contains these words."""
        while True:
            while self._seen < len(self._log):
                self._seen += 1
                if words in self._log[self._seen - 1]:
                    return
            assert not self._over, f"the log ended without {words!r}: {''.join(self._log)}"
            async with self._changed:
                await self._changed.wait_for(lambda: self._seen < len(self._log) or self._over)

    async def end(self) -> None:
        """Kill it and all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await self._reading

    async def _read(self) -> None:
        """Read its log as long as it runs: a full pipe would block it."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            async with self._changed:
                self._log.append(line)
                self._changed.notify_all()
        async with self._changed:
            self._over = True
            self._changed.notify_all()


@asynccontextmanager
async def in_front(kind: Proxy, folder: Path, where: Mapping[str, str]) -> AsyncIterator[Front]:
    """Run a proxy in front of a listener."""
    front, config = folder / "front.sock", folder / "proxy.conf"
    config.write_text(kind.config.format(front=front, to=kind.to(where)))
    words = [word.format(folder=folder, config=config) for word in kind.command]
    program = system_program(words[0])
    environment = {**os.environ, "HOME": str(folder)}
    process = await asyncio.create_subprocess_exec(
        program, *words[1:], cwd=folder, env=environment, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True
    )
    made = Front(process, front)
    try:
        await made.log_until(kind.ready)
        yield made
    finally:
        await made.end()


class Sender:
    """Deliveries that are retried until accepted, as the vendor does.

    Attributes:
        taken: The uids of those that were.
        wrong: Answers that no sender repeats after.
        repeats: How often one had to be sent again.
    """

    def __init__(self, front: Front) -> None:
        self.taken: set[str] = set()
        self.wrong: list[int] = []
        self.repeats = 0
        self._front = front
        self._changed = asyncio.Condition()

    async def send(self, client: aiohttp.ClientSession, uid: str) -> None:
        """Send a delivery until it is accepted."""
        body = delivery(uid)
        while True:
            try:
                async with client.post(URL, data=body, headers=signed(body)) as answer:
                    status = answer.status
            except aiohttp.ClientError:
                status = 502
            if status not in TAKEN_LATER:
                break
            self.repeats += 1
            await asyncio.sleep(0.05)  # a sender's own pause
        if status == 200:
            self.taken.add(uid)
        else:
            self.wrong.append(status)
        async with self._changed:
            self._changed.notify_all()

    async def more(self, count: int) -> None:
        """Wait until this many more are accepted."""
        wanted = len(self.taken) + count
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.taken) >= wanted or bool(self.wrong))

    @asynccontextmanager
    async def load(self, senders: int = 8) -> AsyncIterator[None]:
        """Send continuously while the context is open."""
        over = asyncio.Event()

        async def sending(client: aiohttp.ClientSession, number: int) -> None:
            turn = 0
            while not over.is_set() and not self.wrong:
                turn += 1
                await self.send(client, f"{number}-{turn}")

        async with self._front.client() as client, asyncio.TaskGroup() as group:
            for number in range(senders):
                group.create_task(sending(client, number))
            try:
                yield
            finally:
                over.set()
