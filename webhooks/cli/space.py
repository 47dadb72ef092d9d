"""How much room a store takes, and when its disk will be full at the pace of the last days."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from rewards_core.clock import DAY, HOUR
from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import Connection, SQLiteError, as_store_error, connect
from rewards_core.sqlite.migrations import layout_of
from rewards_core.text import counted
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_schema import SCHEMA

if TYPE_CHECKING:
    from webhooks.store.base import Store

logger = logging.getLogger("webhooks.listener")

LEAST_FREE = 256 * 1024 * 1024
"""Bytes below which a disk is too full whatever its forecast says."""
SHORT_DAYS = 3.0
LOW_DAYS = 14.0

_PACE_DAYS = 7
_HORIZON_DAYS = 400
_SAMPLE = 1_000
_BESIDE_BODY = 600
"""Bytes that an event takes beside its body and its outcome's resource: columns, indexes, identity, half-empty pages."""


@frozen(kw_only=True)
class Space:
    """How much room there is.

    Attributes:
        folder: Where the store lies.
        free: Bytes that the disk has left for this user.
        used: Bytes that the store takes.
        per_day: Bytes that the events of a day take, by the last seven days.
        days: Days until the disk is full, infinite if it will not be within 400.
    """

    folder: Path
    free: int
    used: int = 0
    per_day: float = 0.0
    days: float = math.inf

    @property
    def short(self) -> bool:
        """Whether something must be done now."""
        return self.free < LEAST_FREE or self.days < SHORT_DAYS

    @property
    def low(self) -> bool:
        """Whether something should be done in the next days."""
        return self.short or self.days < LOW_DAYS

    def __str__(self) -> str:
        said = f"{_mib(self.free)} free at {self.folder}"
        if self.used:
            said += f"; the store takes {_mib(self.used)}, a day of events {_mib(self.per_day)}"
        if self.days < 1.0:
            said += "; less than a day until the disk is full"
        elif self.days < _HORIZON_DAYS:
            said += f"; about {counted(round(self.days), 'day')} until the disk is full"
        return said


def measure(path: Path | None, *, keep_days: float, now: float) -> Space:
    """Look how much room a store takes and has; reads each event's time once.

    Args:
        path: The store's file, which may be missing; None for a store in memory.
        keep_days: How long events are kept, above 0.
        now: Unix time in seconds.

    Raises:
        OSError: there is no such folder.
        StoreError: the file is no store, or cannot be read.
    """
    folder = Path.cwd() if path is None else path.absolute().parent
    figures = os.statvfs(folder)
    free = figures.f_bavail * figures.f_frsize
    if path is None or not path.exists():
        return Space(folder=folder, free=free)
    try:
        with closing(connect(path, read_only=True)) as connection:
            if layout_of(connection, path, SCHEMA) == 0:
                return Space(folder=folder, free=free)
            page, unused = connection.pragma("page_size"), connection.pragma("freelist_count")
            used = (connection.pragma("page_count") - unused) * page
            size, ages = _size_of_event(connection), _ages(connection, now)
    except SQLiteError as problem:
        raise as_store_error(problem, path) from None
    pace = sum(count for age, count in ages.items() if age < _PACE_DAYS) / min(_PACE_DAYS, max(ages, default=0) + 1)
    days = days_until_full((free + unused * page) / size, pace, ages, keep_days)
    return Space(folder=folder, free=free, used=used, per_day=pace * size, days=days)


def days_until_full(room: float, pace: float, ages: Mapping[int, int], keep_days: float) -> float:
    """Return after how many days the disk is full, infinite if it will not be within 400.

    Args:
        room: How many more events fit.
        pace: How many come in a day.
        ages: How many of the present events are so many whole days old.
        keep_days: After how many days an event goes.
    """
    last_day = math.ceil(keep_days) - 1
    for day in range(_HORIZON_DAYS):
        going = ages.get(last_day - day, 0) if day <= last_day else pace
        growth = pace - going
        if growth > room:
            return day + room / growth
        room -= growth
    return math.inf


def warning_of(space: Space) -> str | None:
    """Return what to log about the room there is, None if there is enough."""
    if not space.short:
        return None
    return f"little room: {space}. Free some, keep events for fewer days, or deliveries will be answered 503."


async def watch_space(store: Store, *, keep_days: float, clock: Callable[[], float] = time.time) -> None:
    """Look at the room of a store once an hour, and log a warning each time there is little; returns for one without a file.

    Args:
        store: The store.
        keep_days: How long events are kept, above 0.
        clock: Unix time in seconds.
    """
    while isinstance(store, SQLiteStore):
        try:
            said = warning_of(await asyncio.to_thread(measure, store.path, keep_days=keep_days, now=clock()))
        except (OSError, StoreError) as problem:
            said = f"how much room the store has is not known: {problem}"
        if said is not None:
            logger.warning("%s", said)
        await asyncio.sleep(HOUR)


def _size_of_event(connection: Connection) -> float:
    """Return the bytes that an event takes, by the newest ones."""
    looks = (
        "SELECT avg(length(body)) FROM (SELECT body FROM event ORDER BY id DESC LIMIT ?)",
        "SELECT avg(length(resource)) FROM (SELECT resource FROM outcome ORDER BY seq DESC LIMIT ?)",
    )
    return _BESIDE_BODY + sum(connection.execute(look, (_SAMPLE,)).get or 0.0 for look in looks)


def _ages(connection: Connection, now: float) -> dict[int, int]:
    """Return how many events are so many whole days old; one of a time to come counts as new."""
    look = "SELECT max(0, CAST((? - received_at) / ? AS INTEGER)) AS age, count(*) FROM event GROUP BY age"
    return dict(connection.execute(look, (now, DAY)))


def _mib(size: float) -> str:
    return f"{size / 1024**2:,.0f} MiB"
