"""What only a SQLite store does: one writer, many readers, its file, its schema."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from webhooks.store.sqlite_writes import Writer

from rewards_core.errors import StoreClosed, StoreError
from rewards_core.sqlite.batches import BatchThread, Call
from tests.webhooks.store_contract import Clock, Ear, collect, event, made_with, outcome, ref, resource
from webhooks.store import sqlite_file
from webhooks.store.base import Acceptance, EventState, Outcome, Subscriber, Verdict
from webhooks.store.listing import EventQuery
from webhooks.store.outcomes import pack
from webhooks.store.sqlite import SQLiteStore

WRITER_ELSEWHERE = """
import asyncio, sys
from rewards_core.operations import OperationRef, OperationStatus
from webhooks.store.base import Outcome
from webhooks.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1])
    assert not store.read_only
    await store.ping()
    print("open", flush=True)
    for line in sys.stdin:
        ref = OperationRef("default", "allocation", line.strip())
        resource = {"uid": ref.uid, "status": "done"}
        await store.record_outcome(
            Outcome(ref=ref, status=OperationStatus.DONE, resource=resource, via="webhook", settled_at=1.0)
        )
    await store.aclose()

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, **options)
    try:
        yield store
    finally:
        await store.aclose()


class Listening(Subscriber):
    """Wait for outcomes as a waiter would."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Outcome] = asyncio.Queue()

    def settled(self, outcome: Outcome) -> None:
        self.heard.put_nowait(outcome)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


# one writer


async def test_the_first_to_open_a_file_writes_it_and_all_others_read(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        assert (writer.read_only, reader.read_only) == (False, True)
        await writer.accept(event("1", of=ref("1"), complete=resource("1")))
        found = await reader.outcome(ref("1"))
        assert found is not None
        assert [kept.event.body for kept in await reader.list_events()] == [event("1").body]
        assert (await reader.statistics()).events == 1
        await reader.ping()


async def test_a_link_to_the_file_is_the_same_store(path: Path) -> None:
    link = path.with_name("link.db")
    async with opened(path) as writer:
        await writer.ping()
        link.symlink_to(path)
        reader = await asyncio.to_thread(SQLiteStore, link)
        assert (writer.read_only, reader.read_only) == (False, True)
        await reader.aclose()


async def test_the_right_to_write_passes_on_when_its_holder_closes(path: Path) -> None:
    async with opened(path) as first:
        await first.accept(event("1"))
    async with opened(path) as second:
        assert not second.read_only
        assert await second.accept(event("1")) is Acceptance.DUPLICATE


async def test_without_its_lock_file_a_store_goes_on_unless_another_writes(path: Path) -> None:
    async with opened(path) as store:
        for word in "12":
            path.with_name("inbox.db.lock").unlink()
            assert await store.accept(event(word)) is Acceptance.NEW
        async with opened(path) as reader:
            assert reader.read_only
        path.with_name("inbox.db.lock").unlink()
        async with opened(path) as other:
            assert await other.accept(event("3")) is Acceptance.NEW
            for _ in range(2):
                with pytest.raises(StoreError, match="end one of the two"):
                    await store.accept(event("4"))
        assert await store.accept(event("4")) is Acceptance.NEW
        assert len(await store.list_events()) == 4


async def test_a_store_may_be_opened_only_to_read(path: Path) -> None:
    async with opened(path) as store:
        await store.accept(event("1"))
    async with opened(path, read_only=True) as reader, opened(path) as writer:
        assert reader.read_only
        assert not writer.read_only
        assert len(await reader.list_events()) == 1


async def test_a_reader_never_changes_the_file_and_says_who_can(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        await writer.accept(event("1"), handlers=["pay"])
        for refused in (
            lambda: reader.accept(event("2")),
            lambda: reader.amend(1, event("2")),
            lambda: reader.requeue([1]),
            lambda: reader.purge(9e9),
            lambda: reader.purge_outcomes(9e9),
        ):
            with pytest.raises(StoreError, match="another process writes it"):
                await refused()
        assert list(await reader.claim_jobs("pay", limit=5, lease=60)) == []
        assert list(await reader.claim_questions("default", limit=5, lease=60)) == []
        await reader.close_questions([ref("1")])
        assert await reader.retire_jobs([], []) == 0
        (claimed,) = await writer.claim_jobs("pay", limit=5, lease=60)
        assert await reader.finish_job(claimed.job) is False
        assert await reader.fail_job(claimed.job, reason="no", retry_at=None) is False
        assert await writer.finish_job(claimed.job) is True


async def test_what_a_reader_records_stays_in_its_process(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        ear = Ear()
        reader.subscribe(ear)
        await writer.record_outcome(outcome(ref("known"), "failed"))
        await writer.add_pending([ref("theirs")])
        recorded = await reader.record_outcome(outcome(ref("1")))
        assert recorded.verdict is Verdict.FIRST
        heard = [one.ref for one in ear.settlements if one.ref != ref("known")]  # what the writer records may be heard by now
        assert heard == [ref("1")]
        assert await reader.outcome(ref("1")) == outcome(ref("1"))
        assert {one.ref for one in await reader.outcomes([ref("1"), ref("known"), ref("none")])} == {ref("1"), ref("known")}
        assert (await reader.record_outcome(outcome(ref("known"), "failed"))).verdict is Verdict.SAME
        assert (await reader.record_outcome(outcome(ref("known"), "done"))).verdict is Verdict.CONFLICT
        assert [one.status for one in await reader.conflicts(ref("known"))] == ["done"]
        await reader.add_pending([ref("1"), ref("known"), ref("mine"), ref("gone")])
        await reader.remove_pending([ref("gone")])
        assert await collect(reader) == {ref("theirs"), ref("mine")}
        assert await writer.outcome(ref("1")) is None
        assert await collect(writer) == {ref("theirs")}
        reader.unsubscribe(ear)


async def test_a_reader_hears_of_outcomes_that_another_store_records(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        await writer.record_outcome(outcome(ref("before")))
        ear = Listening()
        reader.subscribe(ear)
        await reader.ping()
        await writer.accept(event("settles nothing"))
        await reader.ping()
        await writer.record_outcome(outcome(ref("1")))
        await writer.accept(event("2", of=ref("2"), complete=resource("2")))
        assert [(await ear.heard.get()).ref for _ in range(2)] == [ref("1"), ref("2")]
        reader.unsubscribe(ear)
        await writer.record_outcome(outcome(ref("3")))
        await reader.ping()
        assert ear.heard.empty()


async def test_an_outcome_recorded_before_the_look_up_after_subscribing_is_seen_or_heard(path: Path) -> None:
    async with opened(path) as writer, opened(path) as reader:
        await writer.ping()
        for number in range(30):
            ear = Listening()
            reader.subscribe(ear)
            recording = asyncio.ensure_future(writer.record_outcome(outcome(ref(str(number)))))
            if await reader.outcome(ref(str(number))) is None:
                while (await ear.heard.get()).ref != ref(str(number)):
                    pass  # news of an earlier one may come late
            await recording
            reader.unsubscribe(ear)


async def test_more_outcomes_than_one_look_takes_are_all_heard_in_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_threads._OUTCOMES_AT_ONCE", 3)
    async with opened(path) as writer, opened(path) as reader:
        await writer.ping()
        ear = Listening()
        reader.subscribe(ear)
        await reader.ping()
        await asyncio.gather(*(writer.record_outcome(outcome(ref(str(number)))) for number in range(10)))
        assert [(await ear.heard.get()).ref for _ in range(10)] == [ref(str(number)) for number in range(10)]


async def test_outcomes_of_another_process_are_heard(path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER_ELSEWHERE, str(path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert await child.stdout.readline() == b"open\n"
    async with opened(path) as reader:
        assert reader.read_only
        ear = Listening()
        reader.subscribe(ear)
        await reader.ping()
        child.stdin.write(b"7\n")
        assert (await ear.heard.get()).ref == ref("7")
        child.stdin.close()
        assert await child.wait() == 0
        assert await reader.outcome(ref("7")) is not None


async def test_a_reader_before_its_writer_says_so_and_works_once_the_writer_came(path: Path) -> None:
    async with opened(path, read_only=True) as reader:
        ear = Listening()
        reader.subscribe(ear)
        with pytest.raises(StoreError, match="expected to open"):
            await reader.outcome(ref("1"))
        async with opened(path) as writer:
            await writer.ping()
            await reader.ping()
            await writer.record_outcome(outcome(ref("1")))
            assert (await ear.heard.get()).ref == ref("1")


# the file


async def test_files_are_for_their_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        async with opened(path) as store:
            await store.accept(event("1"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["inbox.db", "inbox.db-wal", "inbox.db-shm", "inbox.db.lock"], 0o600)


async def test_commits_wait_for_the_disk(path: Path) -> None:
    async with opened(path) as store:
        await store.ping()

        def settings(writer: Any) -> list[object]:
            return [writer._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

        assert await store._writing.run(settings) == ["wal", 2]


async def test_on_macos_commits_wait_for_the_platter(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    async with opened(path) as store:
        await store.ping()

        def settings(writer: Any) -> list[object]:
            return [writer._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("fullfsync", "checkpoint_fullfsync")]

        assert await store._writing.run(settings) == [1, 1]


async def test_a_missing_folder_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its folder must exist"):
        SQLiteStore(tmp_path / "missing" / "inbox.db")


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"something else entirely" * 100)
    async with opened(path) as store:
        with pytest.raises(StoreError, match="sound SQLite file"):
            await store.accept(event("1"))
    async with opened(path, read_only=True) as reader:
        with pytest.raises(StoreError, match="sound SQLite file"):
            await reader.outcome(ref("1"))
    assert path.read_bytes() == b"something else entirely" * 100


async def test_a_database_of_another_program_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    for read_only in (False, True):
        async with opened(path, read_only=read_only) as store:
            with pytest.raises(StoreError, match="another program's database"):
                await store.outcome(ref("1"))


async def test_a_folder_in_place_of_the_file_is_said(path: Path) -> None:
    path.mkdir()
    async with opened(path) as store:
        with pytest.raises(StoreError, match="expected to open"):
            await store.ping()


async def test_an_older_schema_is_brought_forward_with_its_contents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(path) as store:
        await store.accept(event("1"))
    monkeypatch.setattr(
        sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, "CREATE TABLE newer (x); CREATE INDEX newer_x ON newer (x)")
    )
    async with opened(path, read_only=True) as reader:
        with pytest.raises(StoreError, match="it brings the schema forward"):
            await reader.list_events()
    async with opened(path) as store:
        assert len(await store.list_events()) == 1
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_schema WHERE name = 'newer_x'").fetchall()
        assert raw.execute("PRAGMA user_version").fetchone() == (len(sqlite_file.MIGRATIONS),)
    raw.close()


async def test_a_file_of_release_0_1_is_brought_forward_with_its_rows(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        for statement in sqlite_file.MIGRATIONS[0].split(";"):
            raw.execute(statement)
        raw.execute(f"PRAGMA application_id={sqlite_file.APPLICATION_ID}")
        raw.execute("PRAGMA user_version=1")
        for table, status in (("outcome", "failed"), ("conflict", "done")):
            words = ("default", "allocation", "1", status, pack(resource("1", status)), "poll", 1.0)
            columns = "scope, kind, uid, status, resource, via, settled_at"
            raw.execute(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", words)
    raw.close()
    async with opened(path, read_only=True) as reader:
        with pytest.raises(StoreError, match="it brings the schema forward"):
            await reader.outcome(ref("1"))
    async with opened(path) as store:
        assert await store.outcome(ref("1")) == outcome(ref("1"), "failed", at=1.0)
        assert list(await store.conflicts(ref("1"))) == [outcome(ref("1"), "done", at=1.0)]
        assert await made_with(store, "k") == []
        assert (await store.record_outcome(outcome(ref("1"), "failed", key="k"))).verdict is Verdict.SAME
        await store.record_outcome(outcome(ref("2"), key="k"))
        assert await made_with(store, "k") == ["1", "2"]


async def test_an_outcome_is_looked_up_by_its_key_through_an_index(path: Path) -> None:
    async with opened(path) as store:
        await store.record_outcome(outcome(ref("1"), key="k"))
    with sqlite3.connect(path) as raw:
        asked = "EXPLAIN QUERY PLAN SELECT 1 FROM outcome WHERE scope = ? AND kind = ? AND key = ?"
        ((*_, plan),) = raw.execute(asked, ("default", "allocation", "k")).fetchall()
    raw.close()
    assert "outcome_key" in plan


async def test_a_reader_finds_by_key_what_the_file_holds_and_what_it_recorded_itself(path: Path) -> None:
    async with opened(path) as store, opened(path, read_only=True) as reader:
        await store.record_outcome(outcome(ref("1"), key="k"))
        await store.record_outcome(outcome(ref("2")))
        await reader.record_outcome(outcome(ref("1"), key="k"))
        await reader.record_outcome(outcome(ref("2"), key="k"))
        await reader.record_outcome(outcome(ref("3"), key="k"))
        assert await made_with(reader, "k") == ["1", "2", "3"]
        assert await made_with(store, "k") == ["1"]


async def test_records_of_one_moment_are_told_with_the_key_that_any_of_them_names(path: Path) -> None:
    async with opened(path) as store:
        ear = Ear()
        store.subscribe(ear)
        await asyncio.gather(store.record_outcome(outcome(ref("1"))), store.record_outcome(outcome(ref("1"), key="k")))
        assert [one.key for one in ear.settlements] == ["k"]


async def test_an_outcome_whose_commit_reached_the_disk_though_it_failed_is_the_same_when_repeated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as store:
        await store.ping()
        commit = Writer.commit

        def commit_and_fail(writer: Writer) -> Any:
            commit(writer)
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(Writer, "commit", commit_and_fail)
            with pytest.raises(StoreError):
                await store.record_outcome(outcome(ref("1"), key="k"))
        assert (await store.record_outcome(outcome(ref("1"), key="k"))).verdict is Verdict.SAME
        assert await made_with(store, "k") == ["1"]


async def test_a_migration_that_fails_leaves_the_old_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(path) as store:
        await store.accept(event("1"))
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "MIGRATIONS", (*sqlite_file.MIGRATIONS, "CREATE TABLE newer (x); CREATE TABLE event (x)"))
        async with opened(path) as store:
            with pytest.raises(StoreError):
                await store.ping()
    async with opened(path) as store:
        assert await store.accept(event("1")) is Acceptance.DUPLICATE


async def test_a_schema_from_the_future_is_refused(path: Path) -> None:
    async with opened(path) as store:
        await store.accept(event("1"))
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    for read_only in (False, True):
        async with opened(path, read_only=read_only) as store:
            with pytest.raises(StoreError, match="newer version"):
                await store.list_events()


# calls


async def test_a_thread_whose_work_breaks_says_so_to_everybody_and_lives_on() -> None:
    faults = [RuntimeError("broken")]

    def work(batch: Sequence[Call[Any]]) -> list[Any]:
        if faults:
            raise faults.pop()
        for call in batch:
            call.result = call.run()
        return []

    thread = BatchThread("test", work, tell=lambda news: None, end=lambda: None)
    with pytest.raises(RuntimeError, match="broken"):
        await thread.submit(Call(lambda: 1))
    assert await thread.submit(Call(lambda: 2)) == 2
    await thread.aclose()


async def test_a_text_that_utf8_cannot_hold_is_kept_as_its_escape(path: Path) -> None:
    async with opened(path) as store:
        await store.accept(event("1", of=ref("u\udc80"), correlation_id="c\udcff", attempt="ü", problem=None))
        (kept,) = await store.list_events()
        assert (kept.event.correlation_id, kept.event.attempt) == ("c\\udcff", "ü")
        assert [one.uid for one in await store.claim_questions("default", limit=5, lease=60)] == ["u\\udc80"]


async def test_a_call_that_cannot_be_done_fails_alone(path: Path) -> None:
    async with opened(path) as store:
        await store.ping()
        answers = await asyncio.gather(
            store.accept(event("1")),
            store.claim_jobs("pay", limit="many", lease=60),  # type: ignore[arg-type]
            store.claim_jobs("pay", limit=2**80, lease=60),
            store.accept(event("2")),
            return_exceptions=True,
        )
        assert [answers[0], answers[3]] == [Acceptance.NEW, Acceptance.NEW]
        assert isinstance(answers[1], StoreError)
        assert isinstance(answers[2], OverflowError)
        assert len(await store.list_events()) == 2


async def test_a_look_up_that_cannot_be_done_fails_alone(path: Path) -> None:
    def unchecked(limit: Any) -> EventQuery:
        query = EventQuery()
        object.__setattr__(query, "limit", limit)
        return query

    async with opened(path) as store:
        await store.accept(event("1"))
        answers = await asyncio.gather(
            store.find_events(unchecked("many")),
            store.find_events(unchecked(2**80)),
            store.list_events(),
            return_exceptions=True,
        )
        assert isinstance(answers[0], StoreError)
        assert isinstance(answers[1], OverflowError)
        assert len(answers[2]) == 1  # type: ignore[arg-type]


async def test_a_caller_that_gave_up_disturbs_nobody(path: Path) -> None:
    async with opened(path) as store:
        await store.ping()
        impatient = asyncio.ensure_future(store.accept(event("1")))
        patient = asyncio.ensure_future(store.accept(event("2")))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient is Acceptance.NEW
        assert len(await store.list_events()) == 2


async def test_closing_answers_what_is_under_way(path: Path) -> None:
    store = SQLiteStore(path)
    under_way = [asyncio.ensure_future(store.accept(event(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*under_way) == [Acceptance.NEW] * 50
    with pytest.raises(StoreClosed):
        await store.ping()


async def test_a_close_that_was_cancelled_lets_go_all_the_same(path: Path) -> None:
    store = SQLiteStore(path)
    await store.accept(event("1"))
    under_way = asyncio.ensure_future(store.accept(event("2")))
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.aclose()
    assert await under_way is Acceptance.NEW
    async with opened(path) as other:
        assert not other.read_only


async def test_a_store_may_be_used_from_one_loop_after_the_other(path: Path) -> None:
    store = SQLiteStore(path)
    await asyncio.to_thread(asyncio.run, store.accept(event("1")))
    assert await store.accept(event("1")) is Acceptance.DUPLICATE
    await store.aclose()


async def test_a_loop_that_ended_in_the_middle_harms_nobody(path: Path) -> None:
    store = SQLiteStore(path)

    async def leave() -> None:
        store._writing.run(lambda writer: None)

    await asyncio.to_thread(asyncio.run, leave())
    assert await store.accept(event("1")) is Acceptance.NEW
    await store.aclose()


FORKED = """
import asyncio, os, sys
from rewards_core.errors import StoreError
from webhooks.store.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
if os.fork() == 0:
    try:
        asyncio.run(store.ping())
    except StoreError as refused:
        print(refused, flush=True)
    os._exit(0)
os.wait()
asyncio.run(store.ping())
asyncio.run(store.aclose())
"""


def test_a_store_from_before_a_fork_is_refused_in_the_child_alone(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(path)], capture_output=True, text=True, check=True)
    assert "before a fork" in done.stdout


async def test_deliveries_are_kept_while_a_purge_is_under_way(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await asyncio.gather(*(store.accept(event(str(number))) for number in range(3_000)))
        clock.now += 10
        purge = asyncio.ensure_future(store.purge(clock.now))
        await asyncio.sleep(0)
        assert await store.accept(event("meanwhile")) is Acceptance.NEW
        assert not purge.done()
        assert await purge == 3_000
        assert [kept.event.body for kept in await store.list_events()] == [event("meanwhile").body]


async def test_dead_letters_are_purged_with_their_jobs(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.accept(event("1"), handlers=["pay"])
        (claimed,) = await store.claim_jobs("pay", limit=1, lease=60)
        await store.fail_job(claimed.job, reason="gave up", retry_at=None)
        clock.now += 10
        assert await store.purge(clock.now, state=EventState.DEAD) == 1
        assert await store._reading.run(lambda reader: reader._count("job")) == 0


async def test_identities_are_forgotten_after_400_days(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.accept(event("old"))
        clock.now += 401 * 86_400
        await store.purge(clock.now)
        assert await store.accept(event("old")) is Acceptance.NEW


async def test_numbers_of_events_are_never_given_twice(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.accept(event("1"))
        (first,) = await store.list_events()
        clock.now += 1
        await store.purge(clock.now)
    async with opened(path, clock=clock) as store:
        await store.accept(event("2"))
        (second,) = await store.list_events()
        assert second.id > first.id


async def test_pending_operations_are_purged_in_slices(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite._SLICE", 2)
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.add_pending([ref(str(number)) for number in range(5)])
        for number in range(5, 10):
            await store.record_outcome(evolve(outcome(ref(str(number))), settled_at=clock.now))
        clock.now += 1
        assert await store.purge_outcomes(clock.now) == 5
        assert await collect(store) == set()


async def test_what_a_clock_that_was_wrong_put_off_is_due_once_it_is_right(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.accept(event("1", of=ref("1")), handlers=["app.pay"])
        clock.now += 3_650 * 86_400
        await store.accept(event("2", of=ref("2")), handlers=["app.pay"])
        (first,) = await store.claim_jobs("app.pay", limit=1, lease=60)
        await store.claim_questions("default", limit=1, lease=60)
        clock.now -= 3_650 * 86_400
        claimed = await store.claim_jobs("app.pay", limit=5, lease=60)
        assert {one.event.ref for one in claimed} == {ref("1"), ref("2")}
        assert await store.finish_job(first.job) is False
        assert set(await store.claim_questions("default", limit=5, lease=60)) == {ref("1"), ref("2")}
        assert await store.claim_jobs("app.pay", limit=5, lease=60) == []
        assert await store.claim_questions("default", limit=5, lease=60) == []


async def test_nothing_is_put_off_longer_than_a_day(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as store:
        await store.accept(event("1"), handlers=["app.pay"])
        (claimed,) = await store.claim_jobs("app.pay", limit=1, lease=60)
        await store.fail_job(claimed.job, reason="later", retry_at=clock.now + 30 * 86_400)
        assert await store.claim_jobs("app.pay", limit=1, lease=60) == []
        clock.now += 86_400
        (claimed,) = await store.claim_jobs("app.pay", limit=1, lease=30 * 86_400)
        assert await store.claim_jobs("app.pay", limit=1, lease=60) == []
        clock.now += 86_400
        assert len(await store.claim_jobs("app.pay", limit=1, lease=60)) == 1
