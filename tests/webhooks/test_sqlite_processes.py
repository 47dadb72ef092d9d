"""Several processes on one store, killed at any moment and robbed of their files: what they acknowledged is there.

A killed process leaves the system's cache behind, so this shows nothing of fsync; `test_listener_durability.py` does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.rewards_core.sqlite_kit import ROOT, beside, run_elsewhere
from tests.webhooks.store_process import SUBSCRIPTION, event
from webhooks.store.sqlite import SQLiteStore

KILLS, KILLS_IN_A_SOAK = 12, 300
REMOVALS, REMOVALS_IN_A_SOAK = 8, 100
WRITERS = 4
BETWEEN = (5, 300)
"""Acknowledgements from one blow to the next."""

pytestmark = pytest.mark.timeout(1_800)


class Process:
    """A process that shares the store, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process, crowd: Crowd) -> None:
        self.process = process
        self.said = 0
        self._reading = asyncio.create_task(self._read(crowd))

    async def _read(self, crowd: Crowd) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.endswith(b"\n"):
                tag, number = map(int, line.split())
                crowd.said.append((tag, number))
                self.said += 1
                async with crowd.changed:
                    crowd.changed.notify_all()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


class Crowd:
    """All the processes on one store, and everything they said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[tuple[int, int]] = []
        self.changed = asyncio.Condition()
        self.processes: list[Process] = []
        self._tags = itertools.count(1)

    async def start(self, mode: str) -> Process:
        command = [sys.executable, "-m", "tests.webhooks.store_process", str(self.path), mode, str(next(self._tags))]
        process = Process(await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT), self)
        self.processes.append(process)
        return process

    async def hear(self, count: int, *some: Process) -> None:
        """Return once each of these, or all together if none is given, have said so much more."""
        wanted = [(process, process.said + count) for process in some]
        total = len(self.said) + count
        async with self.changed:
            if some:
                await self.changed.wait_for(lambda: all(process.said >= said for process, said in wanted))
            else:
                await self.changed.wait_for(lambda: len(self.said) >= total)

    async def kill(self) -> None:
        await asyncio.gather(*(process.kill() for process in self.processes))


@pytest_asyncio.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Crowd]:
    crowd = Crowd(tmp_path / "inbox.db")
    yield crowd
    await crowd.kill()


LOOK = """
import json, sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
db = connect(Path(sys.argv[1]))
sound = db.execute("PRAGMA integrity_check").fetchall()
print(json.dumps([sound, [identity.hex() for (identity,) in db.execute("SELECT identity FROM event")]]))
"""


async def everything_acknowledged_is_kept(crowd: Crowd) -> None:
    sound, identities = json.loads(await run_elsewhere(LOOK, crowd.path))
    assert sound == [["ok"]]
    assert len(set(identities)) == len(identities)
    acknowledged = {event(tag, number).identity.hex() for tag, number in crowd.said}
    assert len(acknowledged - set(identities)) == 0


async def test_what_any_of_several_writers_acknowledged_survives_kills_at_any_moment(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    writers = [await crowd.start("write") for _ in range(WRITERS)]
    await crowd.hear(1, *writers)
    for _ in range(KILLS_IN_A_SOAK if soak else KILLS):
        await crowd.hear(chance.randint(*BETWEEN))
        place = chance.randrange(WRITERS)
        await writers[place].kill()
        writers[place] = await crowd.start("write")
    await crowd.hear(1, *writers)
    await crowd.kill()
    await everything_acknowledged_is_kept(crowd)


SOME = [some for count in (1, 2, 3) for some in itertools.combinations(("-wal", "-shm", ".lock"), count)]


async def test_files_removed_beneath_several_writers_take_nothing_acknowledged_with_them(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    writers = [await crowd.start("write") for _ in range(WRITERS)]
    await crowd.hear(1, *writers)
    for number in range(REMOVALS_IN_A_SOAK if soak else REMOVALS):
        for suffix in SOME[number % len(SOME)]:
            beside(crowd.path, suffix).unlink(missing_ok=True)
        if number % 3 == 2:  # one that starts, and one that dies, while the others have not noticed
            place = chance.randrange(WRITERS)
            await writers[place].kill()
            writers[place] = await crowd.start("write")
        await crowd.hear(chance.randint(5, 50), *writers)
    await crowd.kill()
    await everything_acknowledged_is_kept(crowd)


async def test_jobs_run_at_least_once_though_processes_die_with_their_leases(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    setting_up = SQLiteStore(crowd.path)
    await setting_up.register_handlers([SUBSCRIPTION])
    await setting_up.aclose()
    writer, *runners = [await crowd.start(mode) for mode in ("write", "run", "run")]
    for _ in range(KILLS_IN_A_SOAK // 10 if soak else 5):
        await crowd.hear(chance.randint(5, 50), *runners)
        place = chance.randrange(len(runners))
        await runners[place].kill()
        runners[place] = await crowd.start("run")
    await crowd.hear(1, *runners)
    await writer.kill()
    while int(await run_elsewhere(READY, crowd.path)):
        pass  # looking takes a while
    await crowd.kill()
    ids = json.loads(await run_elsewhere(IDS, crowd.path))
    ran = {number for tag, number in crowd.said if tag != 1}
    assert set(ids) == ran


READY = """
import sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
print(connect(Path(sys.argv[1]), read_only=True).execute("SELECT count(*) FROM job").get)
"""
IDS = """
import json, sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
print(json.dumps([id for (id,) in connect(Path(sys.argv[1])).execute("SELECT id FROM event")]))
"""
