"""Moving a whole store: nothing is lost and nothing comes twice, whatever interrupts it, and no process uses a half of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from tests.webhooks.store_contract import claim, event, outcome, ref, resource, wants
from webhooks.cli.move import mover_of
from webhooks.store import StoreUrl, transfer
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import Acceptance, PollResult, Priority
from webhooks.store.transfer import Move, Mover, undo

NOTHING = {"subscription": 0, "identity": 0, "event": 0, "also": 0, "job": 0, "outcome": 0, "conflict": 0, "pending": 0}


@pytest.fixture(params=["file to database", "database to file", "file to file"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[StoreUrl, StoreUrl]:
    """Where a store is, and where it is to be."""
    source, target = (
        request.getfixturevalue("database") if kind == "database" else f"sqlite:///{tmp_path / name}"
        for kind, name in zip(request.param.split(" to "), ("inbox.db", "new.db"), strict=True)
    )
    return StoreUrl(source), StoreUrl(target)


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slices hold two rows, or a few bytes."""
    for module in ("sqlite_transfer", "postgres_transfer"):
        monkeypatch.setattr(f"webhooks.store.{module}.MAX_ROWS", 2)


@asynccontextmanager
async def opened(url: StoreUrl) -> AsyncIterator[Store]:
    store = url.open()
    try:
        yield store
    finally:
        await store.aclose()


async def move(urls: tuple[StoreUrl, StoreUrl], wrap: Callable[[Mover, int], Any] = lambda mover, _: mover) -> Mapping[str, int]:
    """Move a store; `wrap` may stand between the move and each of its ends."""
    async with AsyncExitStack() as stack:
        movers = [mover_of(url) for url in urls]
        for mover in movers:
            stack.push_async_callback(mover.aclose)
        source, target = (wrap(mover, number) for number, mover in enumerate(movers))
        return await Move(source=source, target=target, names=(str(urls[0]), str(urls[1]))).run(lambda *_: None)


async def fill(store: Store) -> None:
    """Keep one of everything, in every state."""
    await store.register_handlers([wants("app.pay", "reward.allocated", "reward.claimed"), wants("app.count", service="shop")])
    await store.accept(event("settles", of=ref("1"), complete=resource("1"), signature="t=1,v1=a", attempt="2"))
    await store.accept(event("asks", of=ref("2"), also=(ref("3"), ref("4", "transfer")), correlation_id="c"))
    await store.accept(event("unread", problem="The body is not JSON."))
    await store.accept(event("odd", name="odd", said="\udcff\0", occurred_at="yesterday\0"))
    await store.accept(event("large", said="x" * 100_000))
    done, failed, leased = await claim(store, limit=3)
    await store.finish_job(done.job)
    await store.fail_job(failed.job, reason="answered 500", retry_in=None)
    await store.fail_job(leased.job, reason="busy", retry_in=3_600)
    (held,) = await claim(store, "shop/app.count", limit=1, lease=1_800)
    assert held.event.ref == ref("1")
    await store.record_outcome(outcome(ref("1"), "failed", via="webhook"))
    await store.record_outcome(outcome(ref("5"), "done", key="nonce", confirmed=True))
    await store.record_outcome(outcome(ref("5"), "failed", key="nonce", confirmed=True))
    await store.add_pending([ref(str(number)) for number in range(10, 17)], poll_in=900)
    await store.add_pending([OperationRef("default", "transfer", "17", "asset/odd\0")], poll_in=900)
    claims = await store.claim_polls("default", limit=1, lease=60, max_per_second=100)
    await store.settle_polls([PollResult(claim=claims.claims[0], retry_in=700, priority=Priority.LOOKUP, known=False)])
    await store.accept(event("purged"))
    await store.release_handlers([wants("app.pay", "reward.allocated", "reward.claimed"), wants("app.count", service="shop")])


async def everything(store: Store) -> dict[str, Any]:
    """Return all that a store keeps; times from now are in tenths of an hour."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: round(one / 360) if name in {"due_in", "age"} else None if name == "fence" else rounded(one)
                for name, one in value.items()
            }
        if isinstance(value, str):
            return value.replace("\0", "\\x00")  # as a database keeps it
        return tuple(map(rounded, value)) if isinstance(value, list | tuple) else value

    listed: dict[str, Any] = {
        "events": await store.list_events(limit=1_000),
        "outcomes": await store.list_outcomes(limit=1_000),
        "keyed": await store.outcomes_by_key("default", "allocation", "nonce"),
        "pending": await store.list_pending(limit=1_000),
        "handlers": await store.list_handlers(),
    }
    return {name: [rounded(asdict(one)) for one in found] for name, found in listed.items()}


@pytest.mark.slow
async def test_everything_arrives_and_goes_on_there(urls: tuple[StoreUrl, StoreUrl], small_slices: None) -> None:
    async with opened(urls[0]) as store:
        await fill(store)
        before = await everything(store)
    counts = await move(urls)
    assert (counts["event"], counts["pending"]) == (len(before["events"]), len(before["pending"]))
    async with opened(urls[1]) as store:
        assert await everything(store) == before
        assert await store.accept(event("settles", of=ref("1"))) is Acceptance.DUPLICATE
        (dead,) = [one["id"] for one in before["events"] if "dead" in {job["state"] for job in one["jobs"]}]
        assert await store.requeue([dead]) == 1
        await store.accept(event("afterwards"))
        assert (await store.list_events(limit=1))[0].id > before["events"][0]["id"]
        newest = before["outcomes"][0]["id"]
        await store.record_outcome(outcome(ref("99"), "done"))
        assert (await store.list_outcomes(limit=1))[0].id > newest
        await store.record_outcome(outcome(ref("99"), "failed"))


async def test_an_empty_store_can_be_moved(urls: tuple[StoreUrl, StoreUrl]) -> None:
    async with opened(urls[0]) as store:
        await store.ping()
    assert await move(urls) == NOTHING
    async with opened(urls[1]) as store:
        await store.accept(event())


async def test_a_slice_is_bounded_in_bytes(urls: tuple[StoreUrl, StoreUrl], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 150_000)
    sizes = []

    class Watching(Between):
        async def write(self, part: Any, *rest: Any) -> None:
            sizes.append(sum(len(row[-1]) for row in part.rows.get("event", ())))
            await self.mover.write(part, *rest)

    async with opened(urls[0]) as store:
        for number in range(4):
            await store.accept(event(f"{number}", said="x" * 70_000))
        await store.accept(event("huge", said="x" * 300_000))
    await move(urls, lambda mover, number: Watching(mover) if number else mover)
    assert [round(size, -4) for size in sizes if size] == [140_000, 140_000, 300_000]
    async with opened(urls[1]) as store:
        assert len(await store.list_events()) == 5


class Interrupted(Exception):
    """The process ends here."""


class Between:
    """Passes every call on to a mover."""

    def __init__(self, mover: Mover) -> None:
        self.mover = mover

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mover, name)


class Interrupting:
    """Ends the process at one call of a move, before or after it has had its effect."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def wrap(self, mover: Mover, _: int) -> Any:
        steps = self

        class Ending(Between):
            def __getattr__(self, name: str) -> Any:
                async def call(*args: Any, **kwargs: Any) -> Any:
                    steps.calls += 1
                    if steps.calls * 2 == steps.at:
                        raise Interrupted
                    result = await getattr(self.mover, name)(*args, **kwargs)
                    if steps.calls * 2 + 1 == steps.at:
                        raise Interrupted
                    return result

                return call

        return Ending(mover)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
async def test_a_move_interrupted_anywhere_ends_when_it_is_run_again(
    part: int, tmp_path: Path, database: str, small_slices: None
) -> None:
    filled = StoreUrl(f"sqlite:///{tmp_path / 'filled.db'}")
    async with opened(filled) as store:
        await fill(store)
        before = await everything(store)
    counting = Interrupting(0)
    assert filled.file is not None
    await move((filled, StoreUrl(f"sqlite:///{tmp_path / 'counted.db'}")), counting.wrap)
    await _undo(filled)
    for at in range(2 + part, 2 * counting.calls + 2, 4):
        source, target = (StoreUrl(f"sqlite:///{tmp_path / f'{name}{at}.db'}") for name in ("from", "to"))
        assert source.file is not None
        await asyncio.to_thread(source.file.write_bytes, await asyncio.to_thread(filled.file.read_bytes))
        target = StoreUrl(database) if at == counting.calls else target  # a database once, as files are quicker
        with pytest.raises(Interrupted):
            await move((source, target), Interrupting(at).wrap)
        await move((source, target))
        async with opened(target) as store:
            assert await everything(store) == before


async def _undo(url: StoreUrl) -> Any:
    mover = mover_of(url)
    try:
        return await undo(mover)
    finally:
        await mover.aclose()


@pytest.mark.slow
async def test_neither_store_can_be_used_until_the_move_ends(urls: tuple[StoreUrl, StoreUrl], small_slices: None) -> None:
    async with opened(urls[0]) as store:
        await fill(store)
        before = await everything(store)
    refused = []

    class Trying(Between):
        async def write(self, *args: Any) -> None:
            for url in urls:
                async with opened(url) as store:
                    with pytest.raises(StoreError, match="being moved") as error:
                        await store.accept(event("meanwhile"))
                    with pytest.raises(StoreError, match="being moved"):
                        await store.ping()
                    refused.append(str(error.value))
            await self.mover.write(*args)

    await move(urls, lambda mover, number: Trying(mover) if number else mover)
    assert len(set(refused)) == 2
    async with opened(urls[0]) as store:
        with pytest.raises(StoreError, match="moved to"):
            await store.accept(event("by mistake"))
        assert await everything(store) == before
    async with opened(urls[1]) as store:
        await store.accept(event("afterwards"))


async def test_a_store_in_use_is_not_moved(urls: tuple[StoreUrl, StoreUrl]) -> None:
    async with opened(urls[0]) as store:
        await store.subscribe(Subscriber())
        with pytest.raises(StoreError, match="another process"):
            await move(urls)
        assert await store.accept(event()) is Acceptance.NEW
    async with opened(urls[1]) as store:
        await store.subscribe(Subscriber())
        with pytest.raises(StoreError, match="another process"):
            await move(urls)
    async with opened(urls[0]) as store:
        assert await store.accept(event("later")) is Acceptance.NEW


async def test_a_store_that_holds_something_else_is_no_target(urls: tuple[StoreUrl, StoreUrl]) -> None:
    for url in urls:
        async with opened(url) as store:
            await store.accept(event())
    with pytest.raises(StoreError, match="not empty"):
        await move(urls)
    for url in urls:
        async with opened(url) as store:
            await store.accept(event("it can still be used"))


@pytest.mark.slow
async def test_a_second_run_changes_nothing_and_undo_opens_the_source_again(urls: tuple[StoreUrl, StoreUrl]) -> None:
    async with opened(urls[0]) as store:
        await store.accept(event())
    await move(urls)
    async with opened(urls[1]) as store:
        await store.accept(event("new there"))
    await move(urls)
    async with opened(urls[1]) as store:
        assert len(await store.list_events()) == 2
    assert (await _undo(urls[0])).done
    assert await _undo(urls[0]) is None
    async with opened(urls[0]) as store:
        await store.accept(event("new here"))
        await store.subscribe(Subscriber())
    with pytest.raises(StoreError, match="not empty"):
        await move(urls)


@pytest.mark.slow
async def test_a_source_moves_to_one_target_only(urls: tuple[StoreUrl, StoreUrl], tmp_path: Path) -> None:
    async with opened(urls[0]) as store:
        await store.accept(event())
    await move(urls)
    with pytest.raises(StoreError, match="moved to"):
        await move((urls[0], StoreUrl(f"sqlite:///{tmp_path / 'third.db'}")))
    await move((urls[1], StoreUrl(f"sqlite:///{tmp_path / 'third.db'}")))


@pytest.mark.slow
async def test_of_two_moves_at_a_time_one_ends_and_nothing_comes_twice(
    urls: tuple[StoreUrl, StoreUrl], small_slices: None
) -> None:
    async with opened(urls[0]) as store:
        await fill(store)
        before = await everything(store)

    class Overtaken(Between):
        written = 0

        async def write(self, *args: Any) -> None:
            if self.written == 2:
                await move(urls)
            self.written += 1
            await self.mover.write(*args)

    with pytest.raises(StoreError, match="another move"):
        await move(urls, lambda mover, number: Overtaken(mover) if number else mover)
    async with opened(urls[1]) as store:
        assert await everything(store) == before


@pytest.mark.slow
async def test_a_move_that_lost_rows_does_not_end(urls: tuple[StoreUrl, StoreUrl]) -> None:
    async with opened(urls[0]) as store:
        await fill(store)

    class Losing(Between):
        async def write(self, part: Any, *rest: Any) -> None:
            rows = {name: [] if name == "job" else rows for name, rows in part.rows.items()}
            await self.mover.write(type(part)(rows=rows, last=part.last), *rest)

    with pytest.raises(StoreError, match=r"\(job: "):
        await move(urls, lambda mover, number: Losing(mover) if number else mover)
    async with opened(urls[1]) as store:
        with pytest.raises(StoreError, match="moved here"):
            await store.accept(event("too early"))


@pytest.mark.slow
async def test_a_move_that_was_undone_before_its_end_does_not_close_the_source(urls: tuple[StoreUrl, StoreUrl]) -> None:
    async with opened(urls[0]) as store:
        await store.accept(event("1"))

    class Undone(Between):
        async def set_numbers(self, *args: Any) -> None:
            await self.mover.set_numbers(*args)
            assert await _undo(urls[0]) is not None

    with pytest.raises(StoreError, match="another move"):
        await move(urls, lambda mover, number: Undone(mover) if number else mover)
    async with opened(urls[0]) as store:
        assert await store.accept(event("2")) is Acceptance.NEW
