"""Several processes on one store, killed at any moment and robbed of their files: what they acknowledged is there.

A killed process leaves the system's cache behind, so this shows nothing of fsync; `test_listener_durability.py` does.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.rewards_core.sqlite_kit import beside
from tests.webhooks.sqlite_kit import LOG_FILES, Crowd, event_ids, lost, until_no_job_is_left
from tests.webhooks.store_process import SUBSCRIPTION
from webhooks.store.sqlite import SQLiteStore

KILLS, KILLS_IN_A_SOAK = 12, 300
REMOVALS, REMOVALS_IN_A_SOAK = 8, 100
WRITERS = 4
BETWEEN = (5, 300)
"""Acknowledgements from one blow to the next."""

pytestmark = pytest.mark.timeout(1_800)


@pytest_asyncio.fixture
async def crowd(tmp_path: Path) -> AsyncIterator[Crowd]:
    crowd = Crowd(tmp_path / "inbox.db")
    yield crowd
    await crowd.kill()


async def test_what_any_of_several_writers_acknowledged_survives_kills_at_any_moment(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    writers = [await crowd.start("write") for _ in range(WRITERS)]
    await crowd.hear(1, *writers)
    for _ in range(KILLS_IN_A_SOAK if soak else KILLS):
        await crowd.hear(chance.randint(*BETWEEN))
        place = chance.randrange(WRITERS)
        await writers[place].kill()
        writers[place] = await crowd.start("write")
    await crowd.hear(1, *writers)
    await crowd.kill()
    assert await lost(crowd.path, crowd.acknowledged()) == set()


@pytest.mark.slow
async def test_files_removed_beneath_several_writers_take_nothing_acknowledged_with_them(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    writers = [await crowd.start("write") for _ in range(WRITERS)]
    await crowd.hear(1, *writers)
    for number in range(REMOVALS_IN_A_SOAK if soak else REMOVALS):
        for suffix in LOG_FILES[number % len(LOG_FILES)]:
            beside(crowd.path, suffix).unlink(missing_ok=True)
        if number % 3 == 2:  # one that starts, and one that dies, while the others have not noticed
            place = chance.randrange(WRITERS)
            await writers[place].kill()
            writers[place] = await crowd.start("write")
        await crowd.hear(chance.randint(5, 50), *writers)
    await crowd.kill()
    assert await lost(crowd.path, crowd.acknowledged()) == set()


@pytest.mark.slow
async def test_jobs_run_at_least_once_though_processes_die_with_their_leases(crowd: Crowd, soak: bool) -> None:
    chance = random.Random(20240229)
    setting_up = SQLiteStore(crowd.path)
    await setting_up.register_handlers([SUBSCRIPTION])
    await setting_up.aclose()
    writer, *runners = [await crowd.start(mode) for mode in ("write", "run", "run")]
    for _ in range(KILLS_IN_A_SOAK // 10 if soak else 5):
        await crowd.hear(chance.randint(5, 50), *runners)
        place = chance.randrange(len(runners))
        await runners[place].kill()
        runners[place] = await crowd.start("run")
    await crowd.hear(1, *runners)
    await writer.kill()
    await until_no_job_is_left(crowd.path)
    await crowd.kill()
    assert await event_ids(crowd.path) == {number for _, number in crowd.said_in("run")}
