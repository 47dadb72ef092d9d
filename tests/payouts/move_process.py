"""Run `payouts move` in a process that is killed at one moment: `python -m tests.payouts.move_process MOMENT ARGUMENT...`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from payouts.cli import app
from payouts.ledger import postgres_transfer as transfer
from payouts.ledger.generation import GenerationNote
from payouts.ledger.place import DatabasePlace
from rewards_core.postgres.engine import Engine
from rewards_core.postgres.statements import Statements
from tests.payouts.process_kit import ROOT, environment

MOMENTS = (
    "tables made",
    "first note",
    "file marked",
    "second note",
    "before the first copy",
    "after the second copy",
    "before the commit",
    "after the commit",
    "file marked as moved",
)


def killed(moment: str, url: str, folder: Path) -> None:
    """Begin a move of a folder's ledger in a process that is killed."""
    command = [sys.executable, "-m", "tests.payouts.move_process", moment, f"--ledger={folder / 'payouts.db'}", f"--to={url}"]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def main(moment: str, arguments: list[str]) -> None:
    left = 0

    def kill_at(name: str, count: int = 1) -> None:
        nonlocal left
        if moment == name:
            left += 1
            if left == count:
                os.kill(os.getpid(), signal.SIGKILL)

    def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        setattr(owner, name, make(getattr(owner, name)))

    marks: list[int] = []
    copies: list[int] = []

    def marking(transaction: Any) -> Any:
        @contextmanager
        def marked(connection: Any) -> Iterator[None]:
            with transaction(connection):
                yield
            marks.append(1)
            kill_at("file marked" if len(marks) == 1 else "file marked as moved")

        return marked

    def noting(write: Any) -> Any:
        def noted(*values: Any) -> None:
            write(*values)
            kill_at("second note" if marks else "first note")

        return noted

    def copying(copy: Any) -> Any:
        def copied(*values: Any) -> None:
            kill_at("before the first copy")
            copies.append(1)
            copy(*values)
            kill_at("after the second copy", 2)

        return copied

    def locking(lock: Any) -> Any:
        @contextmanager
        def locked(place: Any) -> Iterator[Any]:
            with lock(place) as held:
                kill_at("tables made")
                yield held

        return locked

    def transacting(transact: Any) -> Any:
        async def transacted(engine: Any, work: Any) -> Any:
            async def last(connection: Any) -> Any:
                result = await work(connection)
                if copies:
                    kill_at("before the commit")
                return result

            result = await transact(engine, last)
            if copies:
                kill_at("after the commit")
            return result

        return transacted

    patch(transfer, "transaction", marking)
    patch(GenerationNote, "write", noting)
    patch(Statements, "copy", copying)
    patch(DatabasePlace, "lock", locking)
    patch(Engine, "transact", transacting)
    app(["move", *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
