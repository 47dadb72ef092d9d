"""`webhook-listener events`: list, show, replay, forget."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from typer.testing import Result

from tests.texts import said
from tests.webhooks.command_kit import (
    CONTROL,
    FORWARD,
    STRANGE,
    a_dead_job,
    alone,
    fill,
    lines,
    records,
    run,
    screen,
    some_events,
)
from tests.webhooks.listener_process import KEYS, SOURCE, delivery
from tests.webhooks.store_contract import EPOCH, claim, event, outcome, ref, resource, wants
from webhooks.store.sqlite import SQLiteStore

USER = "754566475542"


# list


def test_events_are_listed_newest_first_as_typed_json_lines(folder: Path) -> None:
    fill(folder, some_events, clock=lambda: EPOCH)
    newest, other, oldest = lines(run("events", "list"))
    assert newest == {
        "id": 3,
        "received_at": "2025-10-09T08:53:20.000+00:00",
        "state": "dead",
        "handlers": "dead",
        "operation": None,
        "operations": [],
        "scope": "default",
        "name": "reward.allocated",
        "kind": None,
        "uid": None,
        "occurred_at": None,
        "correlation_id": None,
        "attempt": None,
        "why": "The body names the app A, not this source's app B.",
    }
    assert (other["id"], other["scope"], other["name"], other["why"]) == (2, "other", "reward.claimed", None)
    assert (oldest["id"], oldest["state"], oldest["kind"], oldest["uid"]) == (1, "done", "allocation", "324167489835")
    assert oldest["correlation_id"] == STRANGE


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--scope", "other"], [2]),
        (["--state", "dead"], [3]),
        (["--state", "ready"], []),
        (["--event", "reward.allocated", "--before", "3"], [1]),
        (["--name", "reward.claimed"], [2]),
        (["--uid", "324167489835"], [1]),
        (["--uid", "324167489835", "--state", "dead"], []),
        (["--before", "0"], []),
        (["--limit", "2"], [3, 2]),
    ],
)
def test_events_are_chosen_by_options(folder: Path, options: list[str], ids: list[int]) -> None:
    fill(folder, some_events)
    assert [row["id"] for row in lines(run("events", "list", *options))] == ids


def test_a_long_list_is_fetched_in_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: SQLiteStore) -> None:
        await asyncio.gather(*(store.accept(event(str(number))) for number in range(7)))

    fill(folder, work)
    monkeypatch.setattr("webhooks.store.paging.PAGE_SIZE", 3)
    assert [row["id"] for row in lines(run("events", "list"))] == [7, 6, 5, 4, 3, 2, 1]
    assert [row["id"] for row in lines(run("events", "list", "--limit", "5"))] == [7, 6, 5, 4, 3]
    assert [row["id"] for row in lines(run("events", "list", "--limit", "3", "--before", "5"))] == [4, 3, 2]


def test_a_person_sees_whole_ids_and_times_in_80_columns(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await a_dead_job(store)
        await some_events(store)

    fill(folder, work, clock=lambda: EPOCH)
    said("events list", "\n".join(screen("events", "list")))


def test_a_column_that_says_nothing_is_left_out(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(event("1", name="asset.minted"))

    fill(folder, work, clock=lambda: EPOCH)
    said("events list: an event without handlers", "\n".join(screen("events", "list")))
    said("events list: those in one state", "\n".join(screen("events", "list", "--state", "done")))


# show


def test_an_event_is_shown_to_a_program_with_its_body_and_jobs(folder: Path) -> None:
    fill(folder, a_dead_job)
    (row,) = lines(run("events", "show", "1"))
    assert json.loads(row["body"]) == {"event": "reward.allocated", "word": "dead"}
    reason = "http://127.0.0.1:9000/hooks answered 500"
    assert row["jobs"] == [{"handler": FORWARD, "state": "dead", "attempts": 1, "running": False, "due_in": 0.0, "why": reason}]


def test_an_event_is_shown_to_a_person_with_what_is_known_of_it(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await a_dead_job(store)
        await store.accept(event("2", correlation_id=STRANGE, problem="Unreadable."))

    fill(folder, work, clock=lambda: EPOCH)
    said("events show", "\n".join(screen("events", "show", "1") + screen("events", "show", "2")))


def test_jobs_are_shown_as_far_as_they_have_come(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.register_handlers([wants(name) for name in ("fails", "runs", "waits")])
        await store.accept(event("1"))
        (claimed,) = await claim(store, "fails")
        await store.fail_job(claimed.job, reason="no route", retry_in=3_600)
        assert await claim(store, "runs")

    fill(folder, work)
    shown = [line for line in screen("events", "show", "1") if line.startswith("job")]
    said("events show: jobs", re.sub(r"\d+ s:", "N s:", "\n".join(shown)))
    fails, runs, waits = lines(run("events", "show", "1"))[0]["jobs"]
    assert 0 < fails["due_in"] <= 3_600
    assert [job["running"] for job in (fails, runs, waits)] == [False, True, False]


def test_an_event_is_shown_with_every_digit_of_its_numbers(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(evolve(event("1"), body=b'{"amount":1.10,"more":[0.1234567890123456789],"word":"\\u00fc"}'))

    fill(folder, work)
    text = "\n".join(screen("events", "show", "1"))
    assert '{\n  "amount": 1.10,\n  "more": [\n    0.1234567890123456789\n  ],\n  "word": "ü"\n}' in text


def test_a_body_that_is_no_text_is_shown_all_the_same(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(evolve(event("1"), body=b"\xff\x00\x1b[2J\nsecond line"))

    fill(folder, work)
    (row,) = lines(run("events", "show", "1"))
    assert row["body_base64"] == "/wAbWzJKCnNlY29uZCBsaW5l"
    assert screen("events", "show", "1")[-2:] == ["\\xff [2J", "second line"]


def test_an_unknown_event_is_exit_code_5(folder: Path) -> None:
    fill(folder, some_events)
    result = run("events", "show", "99")
    assert (result.exit_code, result.stdout) == (5, "")
    said("events show: no such event", result.stderr)


@pytest.mark.parametrize(
    "verb",
    ["events show", "events replay", "events list --before", "events list --limit", "dead-letters retry", "tail --last"],
)
@pytest.mark.parametrize("number", [str(2**63), "-1", "x", "1.5"])
def test_a_number_that_no_id_can_have_is_exit_code_2(folder: Path, verb: str, number: str) -> None:
    fill(folder, some_events)
    assert run(*verb.split(), number).exit_code == 2


# replay


async def for_a_handler(store: SQLiteStore) -> None:
    await store.register_handlers([wants(FORWARD, "reward.allocated")])
    await store.accept(event("1"))
    await store.accept(event("2", name="reward.claimed"))
    for claimed in await claim(store, FORWARD):
        await store.finish_job(claimed.job)


def states(folder: Path) -> dict[int, str]:
    return {row["id"]: row["state"] for row in lines(run("events", "list"))}


def test_events_that_could_be_read_are_replayed_without_keys(folder: Path) -> None:
    fill(folder, for_a_handler)
    assert lines(run("events", "replay", "1", "1")) == [{"replayed": 1, "passed_over": []}]
    assert states(folder) == {1: "ready", 2: "done"}
    said("events replay", "\n".join(screen("events", "replay", "1")))


def test_events_that_cannot_be_replayed_are_named_with_the_reason(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await for_a_handler(store)
        await store.accept(event("3", said=USER))
        await store.forget_user(USER)

    fill(folder, work)
    result = run("events", "replay", "2", "3", "1", "99")
    assert (result.exit_code, records(result)[0]["replayed"]) == (5, 1)
    assert [each["id"] for each in records(result)[0]["passed_over"]] == [2, 3, 99]
    shown = run("events", "replay", "2", "3", "1", "99", "--text")
    said("events replay: events that cannot be replayed", shown.stdout + shown.stderr)


def test_of_many_events_that_cannot_be_replayed_twenty_are_named(folder: Path) -> None:
    fill(folder, some_events)
    result = run("events", "replay", *map(str, range(100, 125)))
    assert len(records(result)[0]["passed_over"]) == 25
    said("events replay: many events that cannot be replayed", result.stderr)


def test_many_events_are_replayed_some_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.register_handlers([wants(FORWARD)])
        await asyncio.gather(*(store.accept(event(str(number))) for number in range(5)))

    fill(folder, work)
    monkeypatch.setattr("webhooks.cli.requeue.BATCH_SIZE", 2)
    assert lines(run("events", "replay", *"12345")) == [{"replayed": 5, "passed_over": []}]


def unreadable(name: str = "another app", scope: str = "default") -> Any:
    async def work(store: SQLiteStore) -> None:
        await for_a_handler(store)
        kept = SOURCE.parse(delivery("324167489835"))
        await store.accept(evolve(kept, ref=None, resource=None, scope=scope, problem=f"It names {name}."))

    return work


def test_an_event_that_could_not_be_read_needs_keys_and_nothing_is_replayed_without(folder: Path) -> None:
    fill(folder, unreadable())
    result = run("events", "replay", "1", "3")
    assert (result.exit_code, result.stdout) == (2, "")
    said("events replay: keys are missing", result.stderr)
    assert states(folder) == {1: "done", 2: "done", 3: "dead"}


def test_sources_that_share_a_scope_replay_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, unreadable())
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    result = run("events", "replay", "1", "3", "--source", "/a", "--source", "/b")
    assert (result.exit_code, result.stdout) == (2, "")
    said("events replay: two sources share a scope", result.stderr)
    assert states(folder) == {1: "done", 2: "done", 3: "dead"}


def test_an_event_that_could_not_be_read_is_read_again_and_settles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, unreadable())
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    assert lines(run("events", "replay", "3", "1")) == [{"replayed": 2, "passed_over": []}]
    assert states(folder) == {1: "ready", 2: "done", 3: "ready"}
    assert lines(run("events", "show", "3"))[0]["uid"] == "324167489835"
    assert lines(run("wait", "324167489835"))[0]["status"] == "done"


def test_what_still_cannot_be_read_stays_a_dead_letter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, unreadable(), clock=lambda: EPOCH)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    result = run("events", "replay", "3", "--source", "/in,app=OTHERAPP0000")
    assert result.exit_code == 5
    said("events replay: still unreadable", result.stderr)
    assert states(folder)[3] == "dead"


def test_an_event_of_a_scope_without_a_source_says_which_source_to_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, unreadable(scope="shop"))
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    result = run("events", "replay", "3")
    assert result.exit_code == 5
    said("events replay: no source of the scope", result.stderr)
    assert lines(run("events", "replay", "3", "--source", "/in,scope=shop")) == [{"replayed": 1, "passed_over": []}]


# forget


async def of_a_user(store: SQLiteStore) -> None:
    await store.register_handlers([wants(FORWARD, "reward.claimed")])
    done = resource("1", to_user_uid=USER)
    await store.accept(event("1", of=ref("1"), complete=done, said=USER))
    await store.accept(event("2", name="reward.claimed", said={"user": USER}))
    await store.accept(event("3", said="987654321000"))
    await store.record_outcome(outcome(ref("9"), to_user_uid="987654321000"))


def test_forgetting_a_user_erases_what_mentions_it_and_nothing_else(folder: Path) -> None:
    fill(folder, of_a_user)
    assert lines(run("events", "forget", "--user", USER, "--yes")) == [{"erased": 3, "backups": []}]
    assert [lines(run("events", "show", number))[0]["body"] is None for number in "123"] == [True, True, False]
    assert [lines(run("wait", uid))[0]["resource"] == {} for uid in "19"] == [True, False]
    assert USER.encode() not in b"".join(path.read_bytes() for path in folder.iterdir())
    said("events show: erased", "\n".join(screen("events", "show", "2")[-2:]))


def test_a_person_is_told_how_much_was_erased_and_which_backups_there_are(folder: Path) -> None:
    fill(folder, of_a_user)
    forget = ("events", "forget", "--user", USER, "--yes")
    first = screen(*forget)
    (folder / "inbox.db.layout-2.backup").touch()
    said("events forget: once, and again beside a backup", "\n".join(first + screen(*forget)))
    assert lines(run(*forget)) == [{"erased": 0, "backups": ["inbox.db.layout-2.backup"]}]


@pytest.mark.slow
def test_without_a_terminal_nothing_is_forgotten_unless_it_is_approved(folder: Path) -> None:
    fill(folder, of_a_user)
    closed = alone("events", "forget", "--user", USER, cwd=folder)
    assert (closed.returncode, closed.stdout) == (2, "")
    said("events forget <&-", closed.stderr)
    assert all(lines(run("events", "show", number))[0]["body"] for number in "123")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "code", "out"),
    [
        ("n\n", 6, ""),
        ("\n", 6, ""),
        ("sure\n", 6, ""),
        ("\x04", 6, ""),
        ("y\n", 0, '{"erased":3,"backups":[]}\n'),
        ("YES\n", 0, '{"erased":3,"backups":[]}\n'),
    ],
)
def test_only_a_yes_at_the_terminal_forgets_a_user(folder: Path, keys: str, code: int, out: str) -> None:
    fill(folder, of_a_user)
    ours, theirs = os.openpty()
    os.write(ours, keys.encode())
    try:
        done = alone("events", "forget", "--user", USER, stdin=theirs, cwd=folder)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stdout) == (code, out)
    said(f"events forget: {'not ' if code else ''}confirmed", done.stderr)
    assert all(lines(run("events", "show", number))[0]["body"] for number in "12") == bool(code)


@pytest.mark.parametrize("user", ["", "a b", "../1", STRANGE])
def test_what_is_no_uid_is_not_looked_for(folder: Path, user: str) -> None:
    fill(folder, of_a_user)
    result: Result = run("events", "forget", "--user", user)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("--user: ")
    assert not CONTROL.intersection(result.stderr)
