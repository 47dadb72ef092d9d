"""Disk space: how much a store uses, and when the disk will be full."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from rewards_core.errors import StoreError
from rewards_core.operations import Event, OperationRef
from tests.texts import said
from tests.virtual_time import virtual_time
from webhooks.cli import disk_space
from webhooks.cli.disk_space import MIN_FREE, DiskSpace, days_until_full, measure, watch_space
from webhooks.store.memory import MemoryStore
from webhooks.store.sqlite import SQLiteStore

NOW = 1_760_000_000.0
DAY = 86_400.0


def arrival(number: int, *, padding: int = 300) -> Event:
    """Return an event of typical size that settles its operation."""
    uid = str(110_985_463_782 + number)
    resource = {"uid": uid, "status": "done", "amount": "1.5", "created_at": "2023-08-10T14:07:14.494142Z", "pad": "x" * padding}
    body = json.dumps({"event": "reward.allocated", "data": {"allocation": resource}}).encode()
    ref = OperationRef("default", "allocation", uid)
    identity = sha256(body).digest()[:16]
    return Event(scope="default", name="reward.allocated", identity=identity, body=body, ref=ref, resource=resource)


async def filled(path: Path, events: int, *, days: int = 1, padding: int = 300) -> None:
    """Make a store with this many events on each of the last days before `NOW`."""
    at = NOW
    store = SQLiteStore(path, clock=lambda: at)
    await store.ping()  # its calendar begins at NOW
    for day in range(days, 0, -1):
        at = NOW - day * DAY + 1.0
        numbers = range(day * events, (day + 1) * events)
        await asyncio.gather(*(store.accept(arrival(number, padding=padding)) for number in numbers))
    await store.aclose()


async def purged(path: Path) -> None:
    """Delete the events of all days but the last four."""
    store = SQLiteStore(path, clock=lambda: NOW)
    assert await store.purge(4 * DAY) > 0
    await store.aclose()


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let every disk have this many free bytes."""
    real = os.statvfs

    def statvfs(folder: Any) -> Any:
        real(folder)
        return SimpleNamespace(f_bavail=free, f_frsize=1)

    monkeypatch.setattr(os, "statvfs", statvfs)


@pytest.mark.parametrize(
    ("room", "rate", "ages", "keep_days", "days"),
    [
        (100, 10, {}, 400, 10.0),  # nothing goes yet
        (105, 10, {}, 400, 10.5),
        (0, 10, {}, 400, 0.0),
        (0, 0, {}, 400, math.inf),
        (100, 10, {}, 10, math.inf),  # it holds ten days of events, and there is room for ten
        (99, 10, {}, 10, 9.9),
        (1, 10, dict.fromkeys(range(10), 10), 10, math.inf),  # as many go as come
        (1, 11, dict.fromkeys(range(10), 10), 10, 1.0),
        (50, 10, dict.fromkeys(range(5), 10), 10, math.inf),  # half of what it will hold is there, and there is room for the rest
        (49, 10, dict.fromkeys(range(5), 10), 10, 4.9),
        (25, 10, {6: 1_000}, 10, 2.5),  # the many go a day too late
        (30, 10, {6: 1_000}, 10, math.inf),
        (10, 10, {400: 1_000}, 10, 1.0),  # dead letters stay
        (4_010, 10, {}, 1_000, math.inf),  # beyond the horizon
        (3_990, 10, {}, 1_000, 399.0),
        (10, 10, {0: 5}, 0.5, math.inf),
    ],
)
def test_days_until_the_disk_is_full(room: float, rate: float, ages: dict[int, int], keep_days: float, days: float) -> None:
    assert days_until_full(room, rate, ages, keep_days) == pytest.approx(days)


@pytest.mark.parametrize(
    ("free", "days", "critical", "low"),
    [
        (MIN_FREE, math.inf, False, False),
        (MIN_FREE - 1, math.inf, True, True),
        (MIN_FREE, 14.0, False, False),
        (MIN_FREE, 13.9, False, True),
        (MIN_FREE, 3.0, False, True),
        (MIN_FREE, 2.9, True, True),
    ],
)
def test_when_disk_space_is_low(tmp_path: Path, free: int, days: float, critical: bool, low: bool) -> None:
    found = DiskSpace(folder=tmp_path, free=free, days=days)
    assert (found.critical, found.low) == (critical, low)


def test_disk_space_as_text() -> None:
    empty = DiskSpace(folder=Path("/var/lib"), free=5 * 1024**3)
    busy = [attrs.evolve(empty, used=1024**3, per_day=3.5 * 1024**2, days=days) for days in (math.inf, 20.4, 1.2, 0.9)]
    said("disk space: with and without a forecast", "\n".join(map(str, [empty, *busy])))


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("padding", [100, 1_000, 10_000])
def test_the_measured_daily_growth_matches_the_file(tmp_path: Path, padding: int) -> None:
    path = tmp_path / "inbox.db"
    asyncio.run(filled(path, 200, days=9, padding=padding))
    found = measure(path, keep_days=30.0, now=NOW)
    assert found.used == path.stat().st_size
    assert found.per_day == pytest.approx(found.used / 9, rel=0.4)


@pytest.mark.parametrize(("days", "keep_days", "full"), [(9, 30.0, True), (2, 30.0, True), (9, 10.0, False)])
def test_a_store_that_grows_fills_the_disk_and_one_that_keeps_its_size_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, keep_days: float, full: bool
) -> None:
    path = tmp_path / "inbox.db"
    asyncio.run(filled(path, 100, days=days))
    set_free(monkeypatch, 1024**4)
    per_day = measure(path, keep_days=keep_days, now=NOW).per_day
    set_free(monkeypatch, round(per_day * 5))
    found = measure(path, keep_days=keep_days, now=NOW)
    assert found.days == pytest.approx(5.0, rel=0.1) if full else found.days == math.inf


@pytest.mark.slow
def test_free_pages_of_the_file_count_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inbox.db"
    asyncio.run(filled(path, 300, days=8))
    set_free(monkeypatch, 0)
    whole = measure(path, keep_days=400.0, now=NOW)
    asyncio.run(purged(path))
    found = measure(path, keep_days=400.0, now=NOW)
    assert found.used < whole.used
    assert whole.days == 0.0 < found.days


def test_a_store_without_events_has_no_daily_growth(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    asyncio.run(filled(path, 0))
    found = measure(path, keep_days=30.0, now=NOW)
    assert (found.per_day, found.days) == (0.0, math.inf)
    assert found.used > 0


def test_a_file_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "inbox.db").write_bytes(b"no store" * 1_000)
    with pytest.raises(StoreError, match=r"inbox\.db is damaged"):
        measure(tmp_path / "inbox.db", keep_days=30.0, now=NOW)
    (tmp_path / "empty.db").touch()
    assert measure(tmp_path / "empty.db", keep_days=30.0, now=NOW).used == 0


def hourly(monkeypatch: pytest.MonkeyPatch, *found: DiskSpace | Exception) -> None:
    """Let each measurement return the next of these, and end the watch after the last."""
    left = list(found)

    def look(*_: Any, **__: Any) -> DiskSpace:
        if not left:
            raise asyncio.CancelledError
        now = left.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    monkeypatch.setattr(disk_space, "measure", look)


@virtual_time
async def test_low_disk_space_is_logged_once_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = DiskSpace(folder=tmp_path, free=1024**3)
    little = DiskSpace(folder=tmp_path, free=1024**3, used=1024**2, days=2.2)
    hourly(monkeypatch, good, little, OSError(5, "Input/output error"), StoreError("it is locked"), little, good)
    store = SQLiteStore(tmp_path / "inbox.db")
    with pytest.raises(asyncio.CancelledError):
        await watch_space(store, keep_days=30.0)
    await store.aclose()
    assert asyncio.get_running_loop().time() == 6 * 3_600.0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4
    said("serve: warnings about disk space", "\n".join(warnings).replace(str(tmp_path), "/var/lib"))
    assert {record.name for record in caplog.records} == {"webhooks.listener"}


@virtual_time
async def test_a_store_in_memory_is_not_watched() -> None:
    store = MemoryStore()
    await watch_space(store, keep_days=30.0)
    await store.aclose()
