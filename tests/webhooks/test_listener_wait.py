"""`webhook-listener wait`: with API credentials and without, settled here, elsewhere, or not in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from attrs import evolve
from typer.testing import Result

from original_async import OriginalClient
from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import NotFound, OperationFailed, ServerFailed, StoreError
from rewards_core.operations import OperationRef
from tests.payouts.process_kit import playing
from tests.texts import said
from tests.virtual_time import wall
from tests.webhooks.command_kit import beside, fill, lines, neighbour, records, run, screen, some_events
from tests.webhooks.fakes import a_thing
from tests.webhooks.store_contract import event, outcome, ref, resource
from tests.webhooks.world import settle
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox
from webhooks.cli.wait import wait_for_outcome, wait_with_polls
from webhooks.errors import CompletionsFailed, CompletionTimeout
from webhooks.store.base import Subscriber
from webhooks.store.memory import MemoryStore
from webhooks.store.records import Outcome, Priority
from webhooks.store.sqlite import SQLiteStore


async def some_outcomes(store: SQLiteStore) -> None:
    await store.record_outcome(outcome(ref("1")))
    await store.record_outcome(outcome(ref("2"), "failed"))
    await store.record_outcome(outcome(ref("3", kind="claim"), "failed"))


# without credentials


def test_how_an_operation_ended_is_the_exit_code(folder: Path) -> None:
    fill(folder, some_outcomes)
    done, failed, late = run("wait", "1"), run("wait", "2"), run("wait", "4", "--timeout", "0")
    facts = {"scope": "default", "kind": "allocation", "uid": "1", "status": "done", "resource": resource("1")}
    assert lines(done) == [facts]
    assert (failed.exit_code, records(failed)[0]["status"]) == (3, "failed")
    said("wait: an allocation failed", failed.stderr)
    assert (late.exit_code, late.stdout) == (4, "")
    said("wait: not in time", late.stderr)


def test_a_person_is_told_how_it_ended(folder: Path) -> None:
    fill(folder, some_outcomes)
    assert screen("wait", "1") == ["default/allocation/1: done"]
    failed = run("wait", "3", "--kind", "claim", "--text")
    assert (failed.exit_code, failed.stdout) == (3, "default/claim/3: failed\n")
    said("wait: a claim failed", failed.stderr)


def test_a_program_reads_every_digit_of_the_resource_as_a_number(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        body = b'{"word": 1}'
        amount = {"uid": "1", "status": "done", "amount": Decimal("123456789.123456789012345678")}
        await store.accept(evolve(event("1", of=ref("1"), complete=amount), body=body))

    fill(folder, work)
    assert '"amount":123456789.123456789012345678}' in run("wait", "1").stdout


@pytest.mark.parametrize(
    "words",
    [
        *("1 --kind nonsense", "../1", "%", "1 --scope a/b", "1 --timeout -1", "1 --timeout nan", "1 --timeout inf"),
        *(f"{uid} --kind edit --timeout 0" for uid in ("1", "1:", ":x", "1:zz", "a:b:c", f"1:{'A' * 24}")),
    ],
)
def test_what_cannot_be_waited_for_is_exit_code_2_and_leaves_nothing_pending(folder: Path, words: str) -> None:
    fill(folder, some_events)
    result = run("wait", *words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert lines(run("pending", "list")) == []


def test_it_hears_of_what_another_store_object_records_and_has_it_polled(folder: Path) -> None:
    wanted = OperationRef("b", "claim", "7")

    async def work() -> Result:
        store = SQLiteStore(folder / "inbox.db")
        await store.ping()
        waiting = asyncio.create_task(beside("wait", "7", "--kind", "claim", "--scope", "b"))
        while [(one.ref, one.priority) for one in await store.list_pending()] != [(wanted, Priority.WISH)]:
            await asyncio.sleep(0.001)
        await store.record_outcome(outcome(OperationRef("b", "claim", "other")))
        await store.record_outcome(outcome(wanted))
        result = await waiting
        await store.aclose()
        return result

    assert lines(asyncio.run(work()))[0]["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [("done", 0), ("failed", 3)])
def test_it_hears_of_what_another_process_records(folder: Path, status: str, code: int) -> None:
    fill(folder, some_events)

    async def work() -> Result:
        async with neighbour(folder) as other:
            result, _ = await asyncio.gather(beside("wait", "7"), other.do(f"settle allocation 7 {status}"))
            return result

    assert asyncio.run(work()).exit_code == code


def test_after_a_wait_the_operation_is_waited_for_no_longer(folder: Path) -> None:
    fill(folder, some_events)
    assert run("wait", "7", "--timeout", "0").exit_code == 4
    assert [(row["uid"], row["priority"]) for row in lines(run("pending", "list"))] == [("7", "abandoned")]
    fill(folder, lambda store: store.accept(event("8", of=ref("7"), complete=resource("7"))))
    assert lines(run("wait", "7", "--timeout", "0"))[0]["status"] == "done"


class Deaf(MemoryStore):
    """Tells its subscribers of nothing but, when told to, that something was missed."""

    def __init__(self) -> None:
        super().__init__(clock=wall)
        self.ears: list[Subscriber] = []

    async def subscribe(self, subscriber: Subscriber) -> None:
        self.ears.append(subscriber)


async def test_who_waits_asks_the_listener_to_poll() -> None:
    store = MemoryStore(clock=wall)
    waiting = asyncio.create_task(wait_for_outcome(store, ref("1"), 3_600))
    await settle()
    assert [(row.ref, row.priority) for row in await store.list_pending()] == [(ref("1"), Priority.WISH)]
    await store.record_outcome(outcome(ref("1")))
    await waiting


async def test_what_was_missed_is_looked_up() -> None:
    store = Deaf()
    waiting = asyncio.create_task(wait_for_outcome(store, ref("1"), 3_600))
    while not await store.list_pending():
        await asyncio.sleep(0)
    for word, about in (("other", ref("2")), ("wanted", ref("1"))):
        await store.record_outcome(outcome(about))
        store.ears[0].missed()
        for _ in range(10):
            await asyncio.sleep(0)
        assert waiting.done() == (word == "wanted")
    assert (await waiting).ref == ref("1")


async def test_an_operation_that_the_store_released_meanwhile_is_watched_again() -> None:
    store = Deaf()
    waiting = asyncio.create_task(wait_for_outcome(store, ref("1"), 3_600))
    while not await store.list_pending():
        await asyncio.sleep(0)
    store.unwatch([ref("1")])  # as other processes do after a long suspend of this one
    (one,) = await store.list_pending()
    assert one.priority is Priority.ABANDONED
    store.ears[0].missed()
    for _ in range(10):
        await asyncio.sleep(0)
    (one,) = await store.list_pending()
    assert one.priority is Priority.ROUTINE
    await store.record_outcome(outcome(ref("1")))
    store.ears[0].settled(outcome(ref("1")))
    assert (await waiting).ref == ref("1")


async def test_an_outcome_at_the_very_end_is_not_missed() -> None:
    class Late(Deaf):
        async def outcome(self, ref: OperationRef) -> Outcome | None:
            return outcome(ref)

    assert (await wait_for_outcome(Late(), ref("1"), 0.0)).ref == ref("1")


async def test_hints_about_other_operations_cost_no_look_up() -> None:
    store = Deaf()
    waiting = asyncio.create_task(wait_for_outcome(store, ref("1"), 3_600))
    while not await store.list_pending():
        await asyncio.sleep(0)
    (waiter,) = store.ears
    assert (waiter.waits_for(ref("1")), waiter.waits_for(ref("2"))) == (True, False)
    await store.record_outcome(outcome(ref("1")))
    waiter.settled(outcome(ref("2")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiter.settled(outcome(ref("1")))
    assert (await waiting).ref == ref("1")


# with credentials


@pytest.fixture
def vendor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OriginalSandbox]:
    """A vendor whose chain is done at once, and the credentials for it."""
    fill(folder, some_events)
    with playing(OriginalSandbox(confirm=(0.0, 0.0))) as sandbox:
        monkeypatch.setenv("ORIGINAL_API_KEY", API_KEY)
        monkeypatch.setenv("ORIGINAL_API_SECRET", API_SECRET)
        monkeypatch.setenv("ORIGINAL_BASE_URL", sandbox.url)
        yield sandbox


def allocate() -> str:
    async def work() -> str:
        async with OriginalClient.from_env() as client:
            made = await client.create_allocation(reward_uid=REWARDS[0], to_user_uid="754566475542", amount="1.5", nonce="n")
            return made.uid

    return asyncio.run(work())


def test_with_credentials_the_vendor_is_asked_at_once(vendor: OriginalSandbox) -> None:
    uid = allocate()
    (row,) = lines(run("wait", uid))
    assert (row["uid"], row["status"], row["resource"]["nonce"]) == (uid, "done", "n")
    assert lines(run("wait", uid, "--no-poll"))[0]["status"] == "done"


def test_what_failed_on_the_chain_is_exit_code_3(vendor: OriginalSandbox) -> None:
    vendor.options.fail_rate = 1.0
    uid = allocate()
    result = run("wait", uid)
    assert (result.exit_code, records(result)[0]["status"]) == (3, "failed")


@pytest.mark.slow
def test_what_does_not_settle_in_time_says_what_the_last_poll_saw(vendor: OriginalSandbox) -> None:
    vendor.options.confirm = (3_600.0, 3_600.0)
    result = run("wait", allocate(), "--timeout", "0.5")
    assert (result.exit_code, result.stdout) == (4, "")


def test_without_polling_nothing_is_asked(vendor: OriginalSandbox) -> None:
    uid = allocate()
    assert run("wait", uid, "--no-poll", "--timeout", "0").exit_code == 4


@pytest.mark.parametrize("given", ["", "ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"])
def test_credentials_that_are_missing_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    fill(folder, some_events)
    if given:
        monkeypatch.setenv(given, "some-words")
    result = run("wait", "1", "--poll")
    assert (result.exit_code, result.stdout) == (2, "")
    assert set(re.findall(r"ORIGINAL_API_\w+", result.stderr)) == {"ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"} - {given}


def test_an_api_on_plain_http_elsewhere_must_be_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, some_events)
    for name in ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"):
        monkeypatch.setenv(name, "some-words-that-are-long-enough-for-a-secret")
    monkeypatch.setenv("ORIGINAL_BASE_URL", "http://api.example/v1")
    assert run("wait", "1", "--timeout", "0").exit_code == 2
    assert run("wait", "1", "--timeout", "0", "--api-insecure").exit_code == 4


class Endings:
    """Stand where `Completions` stands, and end every wait with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def wait(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CompletionTimeout("late", ref=ref("1"), timeout=1.0), Exit.NOT_YET),
        (NotFound("unknown"), Exit.NOT_FOUND),
        (ServerFailed("broken"), Exit.UNAVAILABLE),
        (CompletionsFailed("kept dying"), Exit.UNAVAILABLE),
    ],
)
async def test_how_a_wait_ended_is_the_exit_code(error: Exception, code: Exit, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        await wait_with_polls(Endings(error), ref("1"), 1.0)  # type: ignore[arg-type]
    assert ended.value.exit_code is code
    assert capsys.readouterr().err == f"{error}\n"


async def test_a_store_in_trouble_is_told_as_with_every_command() -> None:
    with pytest.raises(StoreError):
        await wait_with_polls(Endings(StoreError("the disk is full")), ref("1"), 1.0)  # type: ignore[arg-type]


async def test_an_operation_that_failed_is_told_like_any_other() -> None:
    thing = a_thing("1", "failed")
    assert await wait_with_polls(Endings(OperationFailed("failed", operation=thing)), thing.ref, 1.0) is thing  # type: ignore[arg-type]
