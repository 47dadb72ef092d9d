"""A notebook of lines in a SQLite file, engines on it, and other processes that have it open.

A process that has a file open must read it only through its engine, so everything else runs in other processes.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import Connection, fetch
from rewards_core.sqlite.engine import Engine
from rewards_core.sqlite.migrations import Schema
from tests.texts import raises

ROOT = Path(__file__).parents[2]
LINES = "CREATE TABLE line (number INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL)"
MARKS = "CREATE TABLE mark (text TEXT NOT NULL); CREATE INDEX mark_text ON mark (text)"
OLDER = Schema(kind="notebook", application_id=0x6E6F7465, migrations=(LINES,))
SCHEMA = Schema(kind="notebook", application_id=0x6E6F7465, migrations=(LINES, MARKS))


class Notebook:
    """A session that writes lines, and counts the calls of the engine."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.told: list[str] = []
        self.commits = 0
        self.ticks = 0

    def begin(self) -> None:
        self.told = []

    def end(self) -> list[Any]:
        return list(self.told)

    def committed(self) -> None:
        self.commits += 1

    def tick(self) -> list[Any]:
        self.ticks += 1
        return []

    def write(self, text: str | None) -> str | None:
        self.db.execute("INSERT INTO line (text) VALUES (?)", (text,))
        self.told.append(str(text))
        return text


def session_of(notebook: Notebook) -> Notebook:
    return notebook


def write_all(notebook: Notebook, texts: Sequence[str | None]) -> list[str | None]:
    """Write many lines at once."""
    return [notebook.write(text) for text in texts]


def break_down(db: Connection) -> None:
    """Use a connection that is closed."""
    db.close(True)
    db.execute("SELECT 1")


def texts_in(db: Connection) -> list[str]:
    return [row[0] for row in fetch(db, "SELECT text FROM line ORDER BY number")]


NEVER = 3_600.0
OFTEN = 0.005


class Engines:
    """Engines on one file, closed at the end; nothing happens in them between two commits unless `tick_every` is given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []
        self.all: list[Engine[Notebook]] = []

    def make(self, schema: Schema = SCHEMA, **options: Any) -> Engine[Notebook]:
        settings: dict[str, Any] = {
            "session": Notebook, "notify": self.told.extend, "busy_timeout": 5.0, "tick_every": NEVER, **options
        }  # fmt: skip
        engine: Engine[Notebook] = Engine(settings.pop("path", self.path), schema, **settings)
        self.all.append(engine)
        return engine

    async def close(self) -> None:
        for engine in self.all:
            await engine.aclose()


async def write(engine: Engine[Notebook], *texts: str) -> None:
    await asyncio.gather(*(engine.write(lambda notebook, text=text: notebook.write(text)) for text in texts))  # type: ignore[misc]


async def texts(engine: Engine[Notebook]) -> list[str]:
    return await engine.read(texts_in)


class Other:
    """Another process that runs commands line by line; see `sqlite_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def do(self, words: str) -> Any:
        """Run a command and return its result; a failed one raises `RuntimeError`."""
        self.tell(words)
        assert self.process.stdout is not None
        answer = json.loads(await self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def tell(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n".encode())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def other_process(path: Path, module: str = "tests.rewards_core.sqlite_process") -> AsyncIterator[Other]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, str(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    other = Other(process)
    try:
        yield other
    finally:
        await other.kill()


async def run_elsewhere(code: str, *arguments: object) -> str:
    """Return the output of a Python program in another process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return out.decode()


_AFTER_A_KILL = """
import json, shutil, sys, tempfile
from pathlib import Path
from rewards_core.sqlite.connection import connect

path, there = Path(sys.argv[1]), Path(tempfile.mkdtemp())
for suffix in ("", "-wal"):
    if (file := path.with_name(path.name + suffix)).exists():
        shutil.copyfile(file, there / file.name)
db = connect(there / path.name)
assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(json.dumps(db.execute(sys.argv[2]).fetchall()))
db.close()
shutil.rmtree(there)
"""


async def after_a_kill(path: Path, look: str = "SELECT text FROM line ORDER BY number") -> list[Any]:
    """Return the content of a file if every process that has it open were killed now."""
    return [row[0] if len(row) == 1 else tuple(row) for row in json.loads(await run_elsewhere(_AFTER_A_KILL, path, look))]


async def pragma(engine: Engine[Notebook], words: str) -> Any:
    """Run a pragma on the writing connection."""
    return await engine.write(lambda notebook: notebook.db.execute(f"PRAGMA {words}").fetchall())


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def refused(what: str, kind: type[StoreError] = StoreError) -> AbstractContextManager[None]:
    """Expect an error of a store, and compare its text with the one of that name in `texts.md`."""
    return raises(kind, f"sqlite: {what}")


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, which another thread or process makes true."""
    while not condition():
        await asyncio.sleep(0.001)
