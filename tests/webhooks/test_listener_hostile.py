"""Millions of hostile bodies to a running listener: no 5xx, only signed ones are stored, and memory stays bounded."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rewards_core.sqlite_kit import run_elsewhere
from tests.webhooks.ingress_kit import Delivery, deliveries
from tests.webhooks.listener_process import SOURCE, ListenerProcess, running

BODIES = 2_000
BODIES_IN_A_SOAK = 1_000_000
CONNECTIONS = 64
PIPELINED = 16
SEED = 20240229
MEGABYTE = 1 << 20
MAX_MEMORY = 400 * MEGABYTE
PATH = "/webhooks/original"
EVENTS = """
import json, sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
db = connect(Path(sys.argv[1]))
sound = db.execute("PRAGMA integrity_check").fetchall()
rows = db.execute("SELECT identity, problem IS NOT NULL FROM event WHERE name != 'outcome.conflict' OR signature IS NOT NULL")
print(json.dumps([sound, {identity.hex(): dead for identity, dead in rows}]))
"""

pytestmark = pytest.mark.timeout(7_200)

logger = logging.getLogger(__name__)

_answer = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(?:[^\r]+\r\n)*?Content-Length: (\d+)\r\n(?:[^\r]+\r\n)*?\r\n").match


class Attack:
    """Send deliveries over connections that stay open, several at a time on each, and judge each answer.

    Attributes:
        statuses: How often each status came.
        wrong: Answers that were none of those a delivery may get.
        acknowledged: Identities of the events that were answered 200.
        connections: How many connections were made.
    """

    def __init__(self, listener: ListenerProcess, todo: Iterator[Delivery]) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[tuple[int, Delivery]] = []
        self.acknowledged: set[str] = set()
        self.connections = 0
        self._host, port = listener.url.removeprefix("http://").removesuffix(PATH).split(":")
        self._port = int(port)
        self._todo = todo

    async def run(self) -> None:
        """Send all deliveries and read all responses."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send())

    async def _send(self) -> None:
        unanswered: deque[Delivery] = deque()
        while unanswered := await self._over_one_connection(unanswered):
            pass

    async def _over_one_connection(self, unanswered: deque[Delivery]) -> deque[Delivery]:
        """Continue until everything is sent, or the listener closes; return what it has not answered."""
        self.connections += 1
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=MEGABYTE)
        try:
            writer.write(b"".join(each.wire for each in unanswered))
            while True:
                more = list(itertools.islice(self._todo, PIPELINED - len(unanswered)))
                writer.write(b"".join(each.wire for each in more))
                unanswered += more
                if not unanswered or not await self._hear_some(reader, unanswered):
                    return unanswered
        except ConnectionError:
            return unanswered
        finally:
            writer.close()

    async def _hear_some(self, reader: asyncio.StreamReader, unanswered: deque[Delivery]) -> bool:
        """Check responses until half of what was sent is answered; return False if the connection has closed."""
        wanted = len(unanswered) // 2
        while len(unanswered) > wanted:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                found = _answer(head)
                assert found is not None, head
                await reader.readexactly(int(found[2]))
            except (asyncio.IncompleteReadError, ConnectionError):
                return False
            self._check_answer(int(found[1]), unanswered.popleft())
            if b"Connection: close" in head:
                return False
        return True

    def _check_answer(self, status: int, delivery: Delivery) -> None:
        self.statuses[status] += 1
        if status != (200 if delivery.signed else 401):
            self.wrong.append((status, delivery))
        elif delivery.signed:
            self.acknowledged.add(SOURCE.parse(delivery.body).identity.hex())


def memory_of(pid: int) -> tuple[int, int]:
    """Return the memory that a process holds, and the most it ever held, in bytes."""
    words = Path(f"/proc/{pid}/status").read_text("ascii")
    now, peak = (re.search(rf"{name}:\s+(\d+) kB", words) for name in ("VmRSS", "VmHWM"))
    assert now is not None
    assert peak is not None
    return int(now[1]) << 10, int(peak[1]) << 10


async def log_of(listener: ListenerProcess) -> list[str]:
    """Read a log to its end, and return the lines about faults."""
    assert listener.process.stderr is not None
    faults = []
    async for line in listener.process.stderr:
        if re.search(rb"Traceback|ERROR|CRITICAL|fault of the listener", line):
            faults.append(line.decode("utf-8", "replace"))
    return faults


async def test_hostile_bodies_are_answered_and_only_signed_ones_are_stored(tmp_path: Path, soak: bool) -> None:
    count = BODIES_IN_A_SOAK if soak else BODIES
    async with running(tmp_path, "--max-per-peer", str(2 * CONNECTIONS)) as listener:
        log = asyncio.create_task(log_of(listener))
        attack = Attack(listener, itertools.islice(deliveries(SEED, SOURCE, PATH), count))
        started = time.monotonic()
        await attack.run()
        seconds = time.monotonic() - started
        now, peak = await asyncio.to_thread(memory_of, listener.process.pid)
        assert await listener.stop() == 0
        assert await log == []
    logger.info(
        "%d bodies in %.0f s (%.0f a second) over %d connections: %s; memory %d MiB, at most %d MiB",
        count,
        seconds,
        count / seconds,
        attack.connections,
        dict(attack.statuses),
        now // MEGABYTE,
        peak // MEGABYTE,
    )
    assert attack.wrong == []
    assert attack.statuses.total() == count
    assert peak < MAX_MEMORY
    sound, kept = json.loads(await run_elsewhere(EVENTS, tmp_path / "inbox.db"))
    assert sound == [["ok"]]
    assert kept.keys() == attack.acknowledged
    assert 0 < sum(kept.values()) < len(kept)
