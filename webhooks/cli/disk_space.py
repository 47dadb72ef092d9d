"""Disk space: how much a store uses, and when the disk will be full at the rate of the last days."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Mapping
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

MIN_FREE = 256 * 1024 * 1024
"""Free bytes below which space is critical whatever the forecast."""

_CRITICAL_DAYS = 3.0
_LOW_DAYS = 14.0

_RATE_DAYS = 7
_HORIZON_DAYS = 400
_SAMPLE = 1_000
_EVENT_OVERHEAD = 600
"""Bytes of an event besides its body and its outcome's resource: columns, indexes, identity, half-empty pages."""


@frozen(kw_only=True)
class DiskSpace:
    """The disk space of a store.

    Attributes:
        folder: The folder of the store.
        free: Bytes available to this user.
        used: Bytes used by the store.
        per_day: Bytes of a day's events, averaged over the last seven days.
        days: Days until the disk is full; infinite beyond 400.
    """

    folder: Path
    free: int
    used: int = 0
    per_day: float = 0.0
    days: float = math.inf

    @property
    def critical(self) -> bool:
        """Whether action is needed now."""
        return self.free < MIN_FREE or self.days < _CRITICAL_DAYS

    @property
    def low(self) -> bool:
        """Whether action is needed within days."""
        return self.critical or self.days < _LOW_DAYS

    def __str__(self) -> str:
        text = f"{_mib(self.free)} free at {self.folder}"
        if self.used:
            text += f"; the store uses {_mib(self.used)}, a day of events {_mib(self.per_day)}"
        if self.days < 1.0:
            text += "; less than a day until the disk is full"
        elif self.days < _HORIZON_DAYS:
            text += f"; about {counted(round(self.days), 'day')} until the disk is full"
        return text


def measure(path: Path | None, *, keep_days: float, now: float) -> DiskSpace:
    """Measure the disk space of a store, whose file may be missing; None is a store in memory. Reads every event's time.

    Raises:
        OSError: the folder is missing.
        StoreError: the file is not a store, or cannot be read.
    """
    folder = Path.cwd() if path is None else path.absolute().parent
    figures = os.statvfs(folder)
    free = figures.f_bavail * figures.f_frsize
    if path is None or not path.exists():
        return DiskSpace(folder=folder, free=free)
    try:
        with closing(connect(path, read_only=True)) as connection:
            if layout_of(connection, path, SCHEMA) == 0:
                return DiskSpace(folder=folder, free=free)
            page, unused = connection.pragma("page_size"), connection.pragma("freelist_count")
            used = (connection.pragma("page_count") - unused) * page
            size, ages = _size_of_event(connection), _ages(connection, now)
    except SQLiteError as problem:
        raise as_store_error(problem, path) from None
    rate = sum(count for age, count in ages.items() if age < _RATE_DAYS) / min(_RATE_DAYS, max(ages, default=0) + 1)
    days = days_until_full((free + unused * page) / size, rate, ages, keep_days)
    return DiskSpace(folder=folder, free=free, used=used, per_day=rate * size, days=days)


def days_until_full(room: float, rate: float, ages: Mapping[int, int], keep_days: float) -> float:
    """Return the days until the disk is full; infinite beyond 400.

    Args:
        room: How many more events fit.
        rate: New events per day.
        ages: Stored events by age in whole days.
        keep_days: Days after which an event is deleted.
    """
    last_day = math.ceil(keep_days) - 1
    for day in range(_HORIZON_DAYS):
        deleted = ages.get(last_day - day, 0) if day <= last_day else rate
        growth = rate - deleted
        if growth > room:
            return day + room / growth
        room -= growth
    return math.inf


async def free_bytes(store: Store) -> int | None:
    """Return the free space on the disk of a store; None if it has no file, or its folder cannot be read."""
    if not isinstance(store, SQLiteStore):
        return None
    try:
        figures = await asyncio.to_thread(os.statvfs, store.path.absolute().parent)
    except OSError:
        return None
    return figures.f_bavail * figures.f_frsize


async def watch_space(store: Store, *, keep_days: float) -> None:
    """Measure the disk space of a store once an hour, and warn while it is critical; return if the store has no file."""
    while isinstance(store, SQLiteStore):
        try:
            space = await asyncio.to_thread(measure, store.path, keep_days=keep_days, now=time.time())
        except (OSError, StoreError) as problem:
            logger.warning("could not measure the disk space of the store: %s", problem)
        else:
            if space.critical:
                logger.warning(
                    "disk space is low: %s. Free some space, or keep events for fewer days (--keep-days); when the disk is full, "
                    "deliveries are answered 503",
                    space,
                )
        await asyncio.sleep(HOUR)


def _size_of_event(connection: Connection) -> float:
    """Return the average bytes per event, measured on the newest events."""
    queries = (
        "SELECT avg(length(body)) FROM (SELECT body FROM event ORDER BY id DESC LIMIT ?)",
        "SELECT avg(length(resource)) FROM (SELECT resource FROM outcome ORDER BY seq DESC LIMIT ?)",
    )
    return _EVENT_OVERHEAD + sum(connection.execute(query, (_SAMPLE,)).get or 0.0 for query in queries)


def _ages(connection: Connection, now: float) -> dict[int, int]:
    """Return the number of events by age in whole days; an event with a future time counts as new."""
    query = "SELECT max(0, CAST((? - received_at) / ? AS INTEGER)) AS age, count(*) FROM event GROUP BY age"
    return dict(connection.execute(query, (now, DAY)))


def _mib(size: float) -> str:
    return f"{size / 1024**2:,.0f} MiB"
