"""Another process that has a SQLite file open: it does what each line on its standard input says, and answers with a line.

lock | unlock           hold SQLite's lock to write, on a connection of its own
look | look-away        hold a transaction that reads
sql STATEMENT           run it on that connection; answer with the rows
write TEXT              write a line through an engine, open from then on
older-write TEXT        the same with the first layout
race NAME               write lines through an engine, one commit each, until the process is ended
flock                   hold the lock of a version that shares its file with nobody
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rewards_core.sqlite.connection import Connection, connect
from rewards_core.sqlite.engine import Engine
from tests.rewards_core.sqlite_kit import OLDER, SCHEMA, Notebook


class Program:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection: Connection | None = None
        self.engine: Engine[Notebook] | None = None

    def sql(self, statement: str) -> list[Any]:
        if self.connection is None:
            self.connection = connect(self.path)
        return self.connection.execute(statement).fetchall()

    async def write(self, text: str, schema: Any = SCHEMA) -> None:
        if self.engine is None:
            self.engine = Engine(self.path, schema, session=Notebook, notify=lambda notifications: None, busy_timeout=5.0)
        await self.engine.write(lambda notebook: notebook.write(text))

    async def race(self, name: str) -> None:
        while True:
            await self.write(name)

    def flock(self) -> None:
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)

    async def do(self, word: str, rest: str) -> Any:
        match word:
            case "lock":
                return self.sql("BEGIN IMMEDIATE")
            case "unlock" | "look-away":
                return self.sql("ROLLBACK")
            case "look":
                return self.sql("BEGIN") + self.sql("SELECT count(*) FROM sqlite_schema")
            case "sql":
                return self.sql(rest)
            case "write":
                return await self.write(rest)
            case "older-write":
                return await self.write(rest, OLDER)
            case "race":
                return await self.race(rest)
            case "flock":
                return self.flock()
        raise AssertionError(word)


async def obey(do: Callable[[str, str], Awaitable[Any]]) -> None:
    """Do what each line says, and answer each with a line, until there are no more."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word, _, rest = line.rstrip("\n").partition(" ")
        try:
            answer = {"result": await do(word, rest)}
        except Exception as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(obey(Program(Path(sys.argv[1])).do))
