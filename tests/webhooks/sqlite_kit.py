"""SQLite stores that share a file: on a host whose clocks move only when a test moves them, and in many processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import pytest

from rewards_core.sqlite.engine import Engine
from tests.rewards_core.sqlite_kit import ROOT, run_elsewhere
from tests.webhooks.store_contract import EPOCH, Ear, ref
from tests.webhooks.store_process import event
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

NEVER, OFTEN = 3_600.0, 0.005


class OpenStore(SQLiteStore):
    """A store whose engine a test may use too.

    Attributes:
        engine: The engine of its file.
        notify: What the engine calls with what others wrote.
    """

    engine: Engine[Session]
    notify: Callable[[list[Any]], None]

    def __init__(self, path: Path, *, tick_every: float, **options: Any) -> None:
        def make(*args: Any, notify: Callable[[list[Any]], None], **more: Any) -> Engine[Session]:
            self.notify = notify
            self.engine = Engine(*args, notify=notify, tick_every=tick_every, **more)
            return self.engine

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("webhooks.store.sqlite_life.Engine", make)
            super().__init__(path, **options)


class Host:
    """Clocks, which boot this is, and the stores of one file.

    Attributes:
        wall: Unix time.
        passed: Seconds since the boot.
        boot: Which boot it is.
        stores: The stores that were opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall = EPOCH
        self.passed = 1_000.0
        self.boot = "first"
        self.stores: list[SQLiteStore] = []

    def open(self, *, ticks: bool = True, **options: Any) -> SQLiteStore:
        """Return another store object on the file; without ticks it learns of others only by hints."""
        settings: dict[str, Any] = {"clock": lambda: self.wall, "uptime": lambda: self.passed, "boot": self.boot, **options}
        store = OpenStore(settings.pop("path", self.path), tick_every=OFTEN if ticks else NEVER, **settings)
        self.stores.append(store)
        return store

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    async def reboot(self, boot: str = "second") -> None:
        """Close every store and reboot the host, so that the file is of an earlier boot."""
        for store in self.stores:
            await store.aclose()
        self.stores = []
        self.boot, self.passed = boot, 10.0
        self.wall += 60.0


async def on_file(store: SQLiteStore, run: Callable[[Session], Any]) -> Any:
    """Run a function in a transaction of the store and return its result."""
    assert isinstance(store, OpenStore)
    return await store.engine.write(run)


async def rows(store: SQLiteStore, statement: str, *values: Any) -> list[Any]:
    """Return the rows of a statement."""
    return await on_file(store, lambda session: session.db.execute(statement, values).fetchall())


async def id_of(store: SQLiteStore) -> str:
    """Return the name of a store object in its file."""
    return str(await on_file(store, lambda session: session.member.id))


async def cut_power(store: SQLiteStore) -> None:
    """Let a store object say no farewell."""
    await on_file(store, lambda session: setattr(session.member, "registered", False))


async def ear_of(store: SQLiteStore, *uids: str) -> Ear:
    """Return a subscriber of the store that waits for these operations."""
    ear = Ear(*map(ref, uids))
    await store.subscribe(ear)
    return ear


LOG_FILES = [some for count in (1, 2, 3) for some in itertools.combinations(("-wal", "-shm", ".lock"), count)]
"""What may be removed beside a store at one moment."""


class Process:
    """A process that shares the store, and its output so far."""

    def __init__(self, process: asyncio.subprocess.Process, crowd: Crowd, tag: int) -> None:
        self.process = process
        self.tag = tag
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
    """All processes on one store, and their output; ended by `kill`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[tuple[int, int]] = []
        self.changed = asyncio.Condition()
        self.processes: list[Process] = []
        self._modes: list[str] = []

    async def start(self, mode: str) -> Process:
        self._modes.append(mode)
        tag = len(self._modes)
        command = [sys.executable, "-m", "tests.webhooks.store_process", str(self.path), mode, str(tag)]
        process = Process(await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT), self, tag)
        self.processes.append(process)
        return process

    async def hear(self, count: int, *some: Process) -> None:
        """Wait until each of these, or all together if none is given, have printed this much more."""
        wanted = [(process, process.said + count) for process in some]
        total = len(self.said) + count
        async with self.changed:
            if some:
                await self.changed.wait_for(lambda: all(process.said >= said for process, said in wanted))
            else:
                await self.changed.wait_for(lambda: len(self.said) >= total)

    def mode_of(self, process: Process) -> str:
        """Return how a process was started."""
        return self._modes[process.tag - 1]

    def said_in(self, mode: str) -> list[tuple[int, int]]:
        """Return the output of processes whose mode begins like this."""
        return [(tag, number) for tag, number in self.said if self._modes[tag - 1].startswith(mode)]

    def acknowledged(self) -> set[str]:
        """Return the identities of the events acknowledged to the writers."""
        return {event(tag, number).identity.hex() for tag, number in self.said_in("write")}

    async def kill(self) -> None:
        await asyncio.gather(*(process.kill() for process in self.processes))


LOOK = """
import json, sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
db = connect(Path(sys.argv[1]))
sound = db.execute("PRAGMA integrity_check").fetchall()
print(json.dumps([sound, [identity.hex() for (identity,) in db.execute("SELECT identity FROM event")]]))
"""
JOBS = """
import sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
print(connect(Path(sys.argv[1]), read_only=True).execute("SELECT count(*) FROM job").get)
"""
IDS = """
import json, sys
from pathlib import Path
from rewards_core.sqlite.connection import connect
print(json.dumps([id for (id,) in connect(Path(sys.argv[1])).execute("SELECT id FROM event WHERE scope = 'default'")]))
"""


async def lost(path: Path, acknowledged: Set[str]) -> Set[str]:
    """Return the identities that an intact store, which no process has open, does not hold."""
    sound, identities = json.loads(await run_elsewhere(LOOK, path))
    assert sound == [["ok"]]
    assert len(set(identities)) == len(identities)
    return acknowledged - set(identities)


async def until_no_job_is_left(path: Path) -> None:
    """Wait until every job is finished."""
    while int(await run_elsewhere(JOBS, path)):
        pass  # looking takes a while


async def event_ids(path: Path) -> set[int]:
    """Return the ids of the stored events; no process has the store open."""
    return set(json.loads(await run_elsewhere(IDS, path)))
