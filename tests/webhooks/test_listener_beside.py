"""Commands beside a process that has the store open: each works, and no delivery is refused or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rewards_core.sqlite_kit import Other
from tests.webhooks.command_kit import FORWARD, a_dead_job, beside, fill, lines, neighbour, some_events
from tests.webhooks.listener_process import delivery, post, running
from tests.webhooks.store_contract import event, ref, wants
from webhooks.store.sqlite import SQLiteStore

USER = "754566475542"


async def everything(store: SQLiteStore) -> None:
    """Store something for every command."""
    await a_dead_job(store)
    await some_events(store)
    await store.register_handlers([wants("gone")])
    await store.accept(event("of a user", said=USER))
    await store.add_pending([ref("7"), ref("8")], poll_in=60)


async def all_kept(folder: Path, told: dict[str, Any]) -> None:
    """Check that a neighbour refused nothing, and that everything it accepted is stored."""
    assert told["refused"] == 0
    store = SQLiteStore(folder / "inbox.db")
    kept = {stored.event.identity.hex() for stored in await store.list_events(limit=1_000_000)}
    await store.aclose()
    assert set(told["kept"]) <= kept


COMMANDS: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "events list --state dead --limit 2": lambda rows: [row["id"] for row in rows] == [4, 1],
    "events list --limit 2000": lambda rows: len(rows) == len({row["id"] for row in rows}) > 100,
    "events show 1": lambda rows: rows[0]["jobs"][0]["handler"] == FORWARD,
    "dead-letters list": lambda rows: [row["id"] for row in rows] == [4, 1],
    "handlers list": lambda rows: {row["handler"] for row in rows} == {FORWARD, "gone"},
    "pending list": lambda rows: [row["uid"] for row in rows] == ["7", "8"],
    "tail --last 5 --count 300": lambda rows: len({row["id"] for row in rows}) == 300,
    "backup copy.db": lambda rows: rows[0]["bytes"] > 0,
    "dead-letters retry 1": lambda rows: rows == [{"retried": 1, "passed_over": []}],
    "events replay 1 2": lambda rows: rows == [{"replayed": 2, "passed_over": []}],
    "pending forget 7": lambda rows: rows == [{"forgotten": 1}],
    "wait 324167489835": lambda rows: rows[0]["status"] == "done",
    f"events forget --user {USER} --yes": lambda rows: rows[0]["erased"] == 1,
    "handlers retire gone": lambda rows: rows[0]["dead"] >= 100,
    "dead-letters purge --older-than-days 365": lambda rows: rows == [{"purged": 0}],
}


@pytest.mark.slow
@pytest.mark.repeats_itself
def test_every_command_works_while_another_process_accepts_events(folder: Path) -> None:
    fill(folder, everything)

    async def work() -> None:
        async with neighbour(folder) as other:
            await other.do("accept")
            await other.do("more 100")
            for command, holds in COMMANDS.items():
                found = lines(await beside(*command.split()))
                assert holds(found), (command, found[:10])
                await other.do("more 10")
            await all_kept(folder, await other.do("stop"))

    asyncio.run(work())


@pytest.mark.slow
def test_a_backup_of_a_busy_store_holds_all_earlier_events(folder: Path) -> None:
    fill(folder, some_events)

    async def work() -> None:
        async with neighbour(folder) as other:
            await other.do("accept")
            await other.do("more 300")
            before = {row["id"] for row in lines(await beside("events", "list", "--limit", "100000"))}
            lines(await beside("backup", "copy.db"))
            await other.do("more 10")
            copied = {
                row["id"] for row in lines(await beside("events", "list", "--limit", "100000", "--store", "sqlite:///copy.db"))
            }
            assert before <= copied
            await all_kept(folder, await other.do("stop"))

    asyncio.run(work())


@pytest.mark.parametrize("command", ["events replay 1", "dead-letters retry 1", "dead-letters retry --all"])
def test_handlers_run_at_once_in_their_process(folder: Path, command: str) -> None:
    fill(folder, a_dead_job)

    async def work() -> None:
        async with neighbour(folder) as other:
            await other.do(f"serve {FORWARD}")
            result = await beside(*command.split())
            assert lines(result)[0]["passed_over"] == []
            assert result.stderr == ""
            await other.do("ran 1")
            assert lines(await beside("dead-letters", "list")) == []

    asyncio.run(work())


@pytest.mark.slow
def test_a_handler_that_another_process_runs_is_served_until_that_process_ends(folder: Path) -> None:
    fill(folder, a_dead_job)

    async def served(other: Other | None) -> list[bool]:
        return [row["served"] for row in lines(await beside("handlers", "list"))]

    async def work() -> None:
        async with neighbour(folder) as other:
            await other.do(f"serve {FORWARD}")
            assert await served(other) == [True]
            await other.do("stop")
            assert await served(other) == [False]

    asyncio.run(work())


@pytest.mark.slow
@pytest.mark.repeats_itself
def test_a_listener_answers_200_to_every_delivery_while_commands_run(folder: Path) -> None:
    fill(folder, everything)

    async def work() -> None:
        async with running(folder, "--no-poll") as listener, aiohttp.ClientSession() as session:
            answers: list[int] = []
            over = asyncio.Event()

            async def deliver(tag: int) -> None:
                number = 0
                while not over.is_set():
                    answers.append(await post(session, listener.url, delivery(f"{tag}{number:06d}")))
                    number += 1

            async with asyncio.TaskGroup() as group:
                for tag in range(1, 5):
                    group.create_task(deliver(tag))
                for command in COMMANDS:
                    lines(await beside(*command.split()))
                over.set()
            assert set(answers) == {200}
            kept = lines(await beside("events", "list", "--limit", "1000000"))
            assert len([row for row in kept if row["uid"] and len(row["uid"]) == 7]) == len(answers)

    asyncio.run(work())
