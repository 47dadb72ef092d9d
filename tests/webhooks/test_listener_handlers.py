"""`webhook-listener handlers` and `webhook-listener pending`: what waits, and how to end the waiting."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from rewards_core.operations import OperationRef
from tests.texts import said
from tests.webhooks.command_kit import FORWARD, STRANGE, fill, lines, records, run, screen
from tests.webhooks.store_contract import EPOCH, event, ref, wants
from webhooks.store.records import Priority
from webhooks.store.sqlite import SQLiteStore


async def two_handlers(store: SQLiteStore) -> None:
    """Register two handlers that no process runs afterwards, with jobs."""
    await store.register_handlers(
        [wants(FORWARD), wants("shop.orders.credit", "reward.allocated", "a", service="shop", scope="b")]
    )
    await store.accept(event("1"))
    await store.accept(event("2", scope="b"))
    await store.accept(event("3"))


# handlers list


def test_handlers_are_listed_as_typed_json_lines(folder: Path) -> None:
    fill(folder, two_handlers)
    result = run("handlers", "list")
    assert lines(result) == [
        {
            "service": "default",
            "handler": FORWARD,
            "scope": "default",
            "events": ["*"],
            "served": False,
            "ready": 2,
            "dead": 0,
            "differing": False,
        },
        {
            "service": "shop",
            "handler": "shop.orders.credit",
            "scope": "b",
            "events": ["a", "reward.allocated"],
            "served": False,
            "ready": 1,
            "dead": 0,
            "differing": False,
        },
    ]
    said("handlers list", "\n".join(screen("handlers", "list")))
    assert result.stderr == run("handlers", "list", "--text").stdout.splitlines(keepends=True)[-1]


def test_a_handler_that_runs_is_served_and_nothing_is_said_of_it(folder: Path) -> None:
    async def work() -> None:
        store = SQLiteStore(folder / "inbox.db")
        await two_handlers(store)
        result = await asyncio.to_thread(run, "handlers", "list")
        assert [(row["served"], row["ready"]) for row in lines(result)] == [(True, 2), (True, 1)]
        assert result.stderr == ""
        await store.aclose()

    asyncio.run(work())


def test_processes_that_differ_are_told_of(folder: Path) -> None:
    async def work() -> None:
        older, newer = SQLiteStore(folder / "inbox.db"), SQLiteStore(folder / "inbox.db")
        await older.register_handlers([wants("pay", "a")])
        await newer.register_handlers([wants("pay", "b")])
        result = await asyncio.to_thread(run, "handlers", "list")
        assert [(row["events"], row["differing"]) for row in lines(result)] == [(["b"], True)]
        said("handlers list: running processes differ", result.stderr)
        await older.aclose()
        await newer.aclose()

    asyncio.run(work())


# handlers retire


def test_a_retired_handler_gets_no_more_jobs_and_its_own_can_be_retried(folder: Path) -> None:
    fill(folder, two_handlers)
    assert lines(run("handlers", "retire", FORWARD)) == [{"service": "default", "handler": FORWARD, "dead": 2}]
    assert [(row["handler"], row["ready"], row["dead"]) for row in lines(run("handlers", "list"))] == [
        (FORWARD, 0, 2),
        ("shop.orders.credit", 1, 0),
    ]
    fill(folder, lambda store: store.accept(event("later")))
    assert lines(run("events", "show", "4"))[0]["jobs"] == []
    assert lines(run("dead-letters", "retry", "1")) == [{"retried": 1, "passed_over": []}]


def test_a_person_is_told_how_many_jobs_became_dead_letters(folder: Path) -> None:
    fill(folder, two_handlers)
    told = screen("handlers", "retire", FORWARD) + screen("handlers", "retire", "shop.orders.credit", "--service", "shop")
    said("handlers retire: jobs that wait", "\n".join(told))


def test_a_handler_that_left_only_jobs_can_be_retired(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await two_handlers(store)
        await store.retire_handler("default", FORWARD)
        await store.requeue([1])

    fill(folder, work)
    assert lines(run("handlers", "retire", FORWARD)) == [{"service": "default", "handler": FORWARD, "dead": 1}]


def test_who_retires_a_running_handler_is_told_that_it_comes_back(folder: Path) -> None:
    async def work() -> None:
        store = SQLiteStore(folder / "inbox.db")
        await two_handlers(store)
        result = await asyncio.to_thread(run, "handlers", "retire", FORWARD)
        assert lines(result)[0]["dead"] == 2
        said("handlers retire: a process serves it", result.stderr)
        await store.aclose()

    asyncio.run(work())


def test_an_unknown_handler_is_exit_code_5_and_changes_nothing(folder: Path) -> None:
    fill(folder, two_handlers)
    before = lines(run("handlers", "list"))
    errors = []
    for words in (["shop.orders.credit"], [FORWARD, "--service", "shop"], [STRANGE], [""]):
        result = run("handlers", "retire", *words)
        assert (result.exit_code, result.stdout) == (5, "")
        errors.append(result.stderr)
    said("handlers retire: unknown handlers", "".join(errors))
    assert lines(run("handlers", "list")) == before


# pending list


async def some_pending(store: SQLiteStore) -> None:
    await store.add_pending([ref("3"), ref("1")], poll_in=15)
    await store.add_pending([OperationRef("shop", "claim", "2")], poll_in=15)
    await store.hurry_polls([ref("3")], Priority.WISH)
    await store.accept(event("1", of=ref("4")))


def test_pending_operations_are_listed_as_typed_json_lines(folder: Path) -> None:
    fill(folder, some_pending, clock=lambda: EPOCH)
    first, *others = lines(run("pending", "list"))
    assert first == {
        "scope": "default",
        "kind": "allocation",
        "uid": "1",
        "since": "2025-10-09T08:53:20.000+00:00",
        "polls": 0,
        "due_in": first["due_in"],
        "priority": "abandoned",
    }
    assert isinstance(first["due_in"], float)
    assert [(row["uid"], row["priority"]) for row in others] == [("3", "wish"), ("4", "lookup"), ("2", "abandoned")]
    assert [row["uid"] for row in lines(run("pending", "list", "--scope", "shop"))] == ["2"]
    assert [row["uid"] for row in lines(run("pending", "list", "--limit", "2"))] == ["1", "3"]


def test_a_long_list_of_pending_operations_is_fetched_in_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, some_pending)
    monkeypatch.setattr("webhooks.store.paging.PAGE_SIZE", 1)
    assert [row["uid"] for row in lines(run("pending", "list"))] == ["1", "3", "4", "2"]
    assert [row["uid"] for row in lines(run("pending", "list", "--scope", "default"))] == ["1", "3", "4"]


def test_a_person_sees_pending_operations_in_80_columns(folder: Path) -> None:
    fill(folder, some_pending, clock=lambda: EPOCH)
    said("pending list", re.sub(r"in \d+ s", lambda near: "due".rjust(len(near[0])), "\n".join(screen("pending", "list"))))


# pending forget


def test_forgotten_operations_are_polled_no_longer(folder: Path) -> None:
    fill(folder, some_pending)
    assert lines(run("pending", "forget", "1", "3", "1")) == [{"forgotten": 2}]
    assert screen("pending", "forget", "2", "--kind", "claim", "--scope", "shop") == ["1 of 1 operation forgotten"]
    assert [row["uid"] for row in lines(run("pending", "list"))] == ["4"]


def test_operations_that_are_not_pending_are_exit_code_5(folder: Path) -> None:
    fill(folder, some_pending)
    result = run("pending", "forget", "1", "2", "9")
    assert (result.exit_code, records(result)) == (5, [{"forgotten": 1}])
    said("pending forget: operations that are not pending", result.stderr + run("pending", "forget", "1", "--text").stderr)


@pytest.mark.parametrize("words", [["../1"], [""], ["1", "a b"], ["1", "--scope", ""], ["1", "--kind", "x/y"]])
def test_what_is_no_id_is_exit_code_2_and_changes_nothing(folder: Path, words: list[str]) -> None:
    fill(folder, some_pending)
    result = run("pending", "forget", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(lines(run("pending", "list"))) == 4
