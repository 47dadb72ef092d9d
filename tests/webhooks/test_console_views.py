"""What the console says of a store: lists, the story of one operation, and the command for each action."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tests.texts import said
from tests.webhooks.command_kit import alone
from tests.webhooks.console_kit import FakeWatched
from tests.webhooks.store_contract import PAY, Ear, claim, event, outcome, ref, resource, wants
from webhooks.console.commands import Commands
from webhooks.console.views import Views
from webhooks.delivery_watch import DeliveryFilter
from webhooks.store.base import Store
from webhooks.store.memory import MemoryStore
from webhooks.store.readings import Wake
from webhooks.store.records import Priority, StoredEvent
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.urls import StoreUrl

NOW = 1_760_000_000.0
FILE = StoreUrl("sqlite:////var/lib/rewards/inbox.db")


def memory() -> MemoryStore:
    return MemoryStore(clock=lambda: NOW)


def views_of(store: Store, url: StoreUrl = FILE) -> Views:
    return Views(store, FakeWatched(), Commands(url), lambda: NOW)


# one operation


async def story(store: Store, uid: str = "1") -> dict[str, Any]:
    (found,) = await views_of(store).stories(uid)
    return found


def told(found: dict[str, Any]) -> list[tuple[str, float]]:
    return [(step["name"], step["at"] - NOW) for step in found["steps"]]


def labels(found: dict[str, Any]) -> str:
    return "\n".join(f"{one['label']}: {one['command']}" for one in found["commands"])


async def test_a_pending_operation_says_when_it_is_polled_next_and_why() -> None:
    store = memory()
    await store.add_pending([ref()], poll_in=60)
    found = await story(store)
    assert (found["status"], told(found)) == ("pending", [("asked", 0.0)])
    said("console: commands of a pending operation", labels(found))
    polls = [found["next"]]
    await store.watch([ref()], poll_in=60)
    polls.append((await story(store))["next"])
    await store.hurry_polls([ref()], Priority.LOOKUP)
    said("console: when a pending operation is polled", "\n".join([*polls, (await story(store))["next"]]))


async def test_a_settled_operation_says_who_told_and_whom_it_woke() -> None:
    store = memory()
    await store.accept(event(of=ref(), complete=resource(), occurred_at="2025-10-09T08:53:16+00:00"))
    store.woken(Wake(ref=ref(), via="webhook", asked_at=NOW - 30, settled_at=NOW, woken_at=NOW + 0.005))
    store.woken(Wake(ref=ref("2"), via="webhook", asked_at=NOW - 30, settled_at=NOW, woken_at=NOW + 0.005))
    found = await story(store)
    assert [(name, round(at, 3)) for name, at in told(found)] == [
        ("asked", -30.0),
        ("chain", -4.0),
        ("delivered", 0.0),
        ("settled", 0.0),
        ("awake", 0.005),
    ]
    steps = {step["name"]: step for step in found["steps"]}
    assert (steps["delivered"]["after"], steps["delivered"]["since"], steps["delivered"]["event_id"]) == (4.0, "chain", 1)
    assert (steps["awake"]["after"], steps["awake"]["since"]) == (pytest.approx(0.005, abs=1e-6), "delivered")
    said("console: settled by a delivery", steps["settled"]["words"])
    assert (found["status"], found["next"]) == ("done", "")


async def test_an_outcome_by_a_poll_and_its_conflicts_are_told() -> None:
    store = memory()
    await store.record_outcome(outcome(ref(), "done", at=NOW, confirmed=True))
    await store.record_outcome(outcome(ref(), "failed", at=NOW + 9))
    found = await story(store)
    assert told(found)[:2] == [("delivered", 0.0), ("settled", 0.0)]
    assert told(found)[-1] == ("conflict", 9.0)
    assert found["conflicts"] == 1
    settled = next(step for step in found["steps"] if step["name"] == "settled")
    said("console: settled by a poll, with a conflict", f"{settled['words']}\n{found['next']}")
    assert [one["command"] for one in found["commands"]][1] == (
        "webhook-listener outcomes list --uid=1 --store sqlite:////var/lib/rewards/inbox.db"
    )


async def test_a_caller_that_a_poll_woke_is_told_from_the_outcome_on() -> None:
    store = memory()
    await store.accept(event(of=ref()))
    await store.record_outcome(outcome(ref(), "done", at=NOW + 3, confirmed=True))
    store.woken(Wake(ref=ref(), via="poll", settled_at=NOW + 3, woken_at=NOW + 3.5))
    step = next(step for step in (await story(store))["steps"] if step["name"] == "awake")
    assert (step["after"], step["since"]) == (0.5, "settled")


async def test_what_happens_at_nearly_the_same_time_is_told_in_its_order() -> None:
    store = memory()
    await store.accept(event(of=ref(), complete=resource()))
    store.woken(Wake(ref=ref(), via="webhook", settled_at=NOW - 0.02, woken_at=NOW - 0.01))  # a clock that is late
    assert [name for name, _ in told(await story(store))] == ["delivered", "settled", "awake"]


async def test_conflicts_are_listed_with_what_was_said() -> None:
    store = memory()
    await store.record_outcome(outcome(ref("1"), "done", at=NOW))
    await store.record_outcome(outcome(ref("2"), "done", at=NOW))
    await store.record_outcome(outcome(ref("2"), "failed", at=NOW + 1))
    found = await views_of(store).conflicts(None)
    assert [(row["uid"], row["status"], row["others"]) for row in found["rows"]] == [("2", "done", ["failed"])]
    assert found["rows"][0]["command"].startswith("webhook-listener outcomes list --uid=2")


async def test_operations_of_several_kinds_and_scopes_may_share_a_uid() -> None:
    store = memory()
    await store.add_pending([ref(kind="claim"), ref(scope="other")], poll_in=60)
    await store.accept(event(of=ref()))
    found = await views_of(store).stories("1")
    assert sorted((one["scope"], one["kind"]) for one in found) == [
        ("default", "allocation"),
        ("default", "claim"),
        ("other", "allocation"),
    ]
    assert await views_of(store).stories("77") == []


@pytest.mark.parametrize("text", ["yesterday", "", "2025-13-01", "9" * 400, "12:00"])
async def test_a_vendors_time_that_is_none_is_left_out(text: str) -> None:
    store = memory()
    await store.accept(event(of=ref(), occurred_at=text))
    assert [name for name, _ in told(await story(store)) if name == "chain"] == []


async def test_an_operation_that_is_only_mentioned_is_told_as_unknown() -> None:
    store = memory()
    await store.accept(event(of=ref("2"), also=(ref(),), complete=resource("2")))
    await store.remove_pending([ref()])
    found = await story(store)
    assert found["status"] == "unknown"
    said("console: an operation that is only mentioned", found["next"])


# lists


async def test_dead_letters_say_why_and_how_to_process_them_again_page_by_page() -> None:
    store = memory()
    for number in range(60):
        await store.accept(event(str(number), problem="unreadable"))
    await store.register_handlers([wants()])
    await store.accept(event("failed", of=ref()))
    (claimed,) = await claim(store, PAY)
    await store.fail_job(claimed.job, reason="no such user", retry_in=None)
    views = views_of(store)
    first = await views.dead_letters(None)
    assert (len(first["rows"]), first["note"]) == (50, "")
    assert (first["rows"][0]["reason"], first["rows"][0]["command"]) == (
        "app.pay: no such user",
        "webhook-listener dead-letters retry --store sqlite:////var/lib/rewards/inbox.db 61",
    )
    assert first["rows"][1]["command"] == "webhook-listener events replay --store sqlite:////var/lib/rewards/inbox.db 60"
    second = await views.dead_letters(first["more"])
    assert [row["id"] for row in first["rows"] + second["rows"]] == list(range(61, 0, -1))
    assert second["more"] is None


async def test_pending_operations_are_listed_page_by_page() -> None:
    store = memory()
    await store.add_pending([ref(f"{number:03}") for number in range(60)], poll_in=60)
    views = views_of(store)
    first = await views.pending(None)
    second = await views.pending(ref(first["more"]["uid"]))
    assert [row["uid"] for row in first["rows"] + second["rows"]] == [f"{number:03}" for number in range(60)]
    assert (first["rows"][0]["why"], first["rows"][0]["due_in"], second["more"]) == (
        "nobody waits",
        pytest.approx(60, abs=5),
        None,
    )
    assert first["rows"][0]["command"] == (
        "webhook-listener pending forget --kind=allocation --scope=default --store sqlite:////var/lib/rewards/inbox.db 000"
    )


async def test_handlers_that_nobody_serves_come_first_with_their_end() -> None:
    store = memory()
    await store.register_handlers([wants("app.served"), wants("app.gone")])
    await store.release_handlers([wants("app.gone")])
    await store.accept(event("1"))
    found = (await views_of(store).handlers())["rows"]
    assert [(row["handler"], row["served"], row["ready"], row["command"]) for row in found] == [
        ("app.gone", False, 1, "webhook-listener handlers retire --store sqlite:////var/lib/rewards/inbox.db app.gone"),
        ("app.served", True, 1, None),
    ]


async def test_an_event_is_found_by_its_identity_among_those_of_its_uid() -> None:
    store = memory()
    for number in range(120):
        await store.accept(event(str(number), of=ref("1" if number == 3 else "2")))
    (wanted,) = await store.list_events(uid="1")
    views = views_of(store)
    found = await views.event(None, wanted.event.identity.hex(), "1")
    assert found is not None
    assert (found["id"], found["operations"][0]["status"]) == (4, "pending")
    found = await views.event(None, wanted.event.identity.hex(), None)
    assert found is not None
    assert found["id"] == 4
    assert await views.event(None, wanted.event.identity.hex(), "2") is None
    assert await views.event(None, "00", None) is None


async def test_an_event_says_what_its_handlers_do() -> None:
    store = memory()
    await store.register_handlers([wants()])
    await store.accept(event("1", of=ref(), correlation_id="c-1", attempt="2"))
    views = views_of(store)
    found = await views.event(1, None, None)
    assert found is not None
    assert (found["state"], found["jobs"][0]["attempts"], found["correlation_id"], found["attempt"]) == ("ready", 0, "c-1", "2")
    (claimed,) = await claim(store, PAY)
    found = await views.event(1, None, None)
    assert found is not None
    assert found["jobs"][0]["running"] is True
    await store.fail_job(claimed.job, reason="busy", retry_in=60)
    found = await views.event(1, None, None)
    assert found is not None
    job = found["jobs"][0]
    assert (job["running"], job["attempts"], job["why"], job["due_in"]) == (False, 1, "busy", pytest.approx(60, abs=5))
    said("console: commands of an event", labels(found))


DEEP = b"[" * 60 + b"1" + b"]" * 60
LONG = b"[" + b"1," * 40_000 + b"1]"
"""Indented, they would be many times as long."""


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a":1.50}', '{\n  "a": 1.50\n}'),
        (b"\xff\x00<b>", "\\xff\x00<b>"),
        (b"[" * 5_000, "[" * 5_000),
        (b"", None),
        (DEEP, DEEP.decode()),
        (LONG, LONG.decode()),
    ],
)
async def test_a_body_is_shown_on_demand_as_it_came(body: bytes, shown: str | None) -> None:
    class Held(MemoryStore):
        async def get_event(self, event_id: int) -> StoredEvent | None:
            stored = await super().get_event(event_id)
            return None if stored is None else evolve(stored, event=evolve(stored.event, body=body))

    store = Held()
    await store.accept(event("1"))
    assert await views_of(store).body(1) == {"id": 1, "text": shown, "bytes": len(body)}
    assert await views_of(store).body(2) is None


async def test_no_list_holds_a_body() -> None:
    store = memory()
    await store.accept(event("confidential", problem="unreadable"))
    views = views_of(store)
    everything = [
        await views.recent(DeliveryFilter()),
        await views.dead_letters(None),
        await views.event(1, None, None),
        await views.status(),
    ]
    assert "confidential" not in str(everything)
    assert "confidential" in str(await views.body(1))


async def test_recent_deliveries_match_the_filter() -> None:
    store = memory()
    await store.accept(event("1", of=ref("1")))
    await store.accept(event("2", of=ref("2"), name="reward.claimed"))
    await store.accept(event("3", problem="unreadable"))
    views = views_of(store)

    async def found(**which: str) -> list[str]:
        return [row["uid"] or row["verdict"] for row in await views.recent(DeliveryFilter(**which))]

    assert sorted(await found()) == ["1", "2", "dead letter", "refused"]
    assert await found(uid="1") == ["1"]
    assert await found(event="reward.claimed") == ["2"]
    assert await found(verdict="dead letter") == ["dead letter"]
    assert sorted(await found(verdict="new")) == ["1", "2"]
    assert await found(verdict="refused") == ["refused"]
    assert await found(verdict="duplicate") == []


async def test_the_strip_counts_what_all_processes_say() -> None:
    store = memory()
    await store.subscribe(Ear())
    await store.watch([ref("1")], poll_in=0)
    while not (await store.claim_polls("default", limit=1, lease=60, max_per_second=20)).claims:
        await asyncio.sleep(0)
    await store.pause_polls("default", 30)
    store.woken(Wake(ref=ref("9"), via="poll", settled_at=NOW, woken_at=NOW + 2))
    held = (await views_of(store).status())[0]["store"]
    assert (held["waiting"], held["polls"], held["processes"], held["pending"]) == (1, 1, 1, 1)
    assert held["budgets"] == [{"scope": "default", "per_second": 20.0, "paused_for": pytest.approx(30, abs=5), "refused": False}]
    assert [(wake["uid"], wake["via"], wake["seconds"]) for wake in held["wakes"]] == [("9", "poll", 2.0)]


# commands


def test_commands_of_a_store_that_none_reaches_are_left_out() -> None:
    commands = Commands(StoreUrl("memory:"))
    assert commands.show(1) is None
    said("console: a store that no command reaches", commands.note)


def test_a_command_shows_no_password() -> None:
    secret = StoreUrl("postgresql://rewards:hunter2@db.example.com/rewards")
    assert Commands(secret).show(7) == 'webhook-listener events show --store "$WEBHOOK_LISTENER_STORE" 7'
    plain = StoreUrl("postgresql://rewards@db.example.com/rewards")
    assert Commands(plain).show(7) == "webhook-listener events show --store postgresql://rewards@db.example.com/rewards 7"


HOSTILE = ["$(touch gone)", "'; touch gone; '", "-rf", "--all", "a b", "*", "`touch gone`", "\\", '"', "दिवाली"]


@pytest.mark.parametrize("uid", HOSTILE)
def test_a_hostile_uid_stays_one_word_of_its_command(folder: Path, uid: str) -> None:
    commands = Commands(StoreUrl("sqlite:///in box.db"))
    commands.locate()
    store = f"sqlite:///{folder / 'in box.db'}"
    forget = commands.forget(ref(uid))
    assert forget is not None
    words = shlex.split(forget)
    assert [word for word in words if word != "--"] == [
        "webhook-listener", "pending", "forget", "--kind=allocation", "--scope=default", "--store", store, uid,
    ]  # fmt: skip
    listed = commands.events_about(ref(uid))
    assert listed is not None
    assert shlex.split(listed) == ["webhook-listener", "events", "list", f"--uid={uid}", "--store", store]


async def fill(path: Path) -> None:
    store = SQLiteStore(path)
    await store.add_pending([ref("-7")], poll_in=60)
    await store.register_handlers([wants("app.gone")])
    await store.accept(event("1", of=ref("-7"), complete=resource("-7")))
    await store.add_pending([ref("-8")], poll_in=60)
    await store.aclose()


@pytest.mark.slow
async def test_the_commands_do_what_the_page_says(folder: Path) -> None:
    await fill(folder / "inbox.db")
    store = SQLiteStore(folder / "inbox.db")
    views = views_of(store, StoreUrl("sqlite:///inbox.db"))
    (pending,) = (await views.pending(None))["rows"]
    (handler,) = (await views.handlers())["rows"]
    (found,) = await views.stories("-7")
    shown = await views.event(1, None, None)
    assert shown is not None
    commands = [pending["command"], handler["command"], *(one["command"] for one in (*found["commands"], *shown["commands"]))]
    for command in commands:
        program, *words = shlex.split(command)
        result = await asyncio.to_thread(alone, *words)
        assert (program, command, result.returncode) == ("webhook-listener", command, 0), result.stderr
    dead = (await views.dead_letters(None))["rows"]
    assert len(dead) == 1
    await store.register_handlers([wants("app.gone")])
    result = await asyncio.to_thread(alone, *shlex.split(dead[0]["command"])[1:])
    assert result.returncode == 0, result.stderr
    assert (await views.dead_letters(None))["rows"] == []
    await store.aclose()
