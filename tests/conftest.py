"""What every test has: a bridge for aioresponses, no blocking calls, no task or socket left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from types import FrameType
from typing import Any
from unittest.mock import Mock

import aiohttp
import aioresponses.core
import pytest
import pytest_asyncio
from blockbuster import BlockBuster
from coverage import Coverage
from hypothesis import HealthCheck, settings

from tests.postgres_server import Server, postgres_server
from tests.stepped_time import SteppedTime

pytest.register_assert_rewrite("tests.webhooks.store_contract")
pytest_plugins = ["pytester"]

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("project", UNHURRIED, derandomize=True, max_examples=30)
settings.register_profile("soak", UNHURRIED, print_blob=True, max_examples=1000)
settings.load_profile("project")

_MEASURED_CASES = 8
"""The cases of each test whose coverage is measured: most lines are reached by the first, and measuring doubles the time."""
_NOT_MEASURED = pytest.StashKey[bool]()
_COVERAGE_OF_PROCESSES: dict[str, str] = {}
PACKAGES = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long versions of the tests that have one")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    cases = Counter[str]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        item.stash[_NOT_MEASURED] = cases[test] > _MEASURED_CASES or item.get_closest_marker("repeats_itself") is not None
    items[:] = _slow_ones_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _slow_ones_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Begin each worker's share with slow tests, so that no worker is left alone with one at the end."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        mine = slow[worker::workers]
        end = len(items) * (worker + 1) // workers - len(ordered) - len(mine)
        ordered += mine + others[:end]
        del others[:end]
    return ordered + others


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    coverage = Coverage.current() if item.stash[_NOT_MEASURED] else None
    if coverage is not None:
        coverage.stop()
    try:
        return (yield)
    finally:
        if coverage is not None:
            coverage.start()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Measure the coverage of processes only where a test asks for it: it takes each of them half a second to start."""
    measured = item.get_closest_marker("processes_are_measured") is not None
    for name, value in _COVERAGE_OF_PROCESSES.items():
        if measured:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)


def pytest_collection_finish() -> None:
    _COVERAGE_OF_PROCESSES.update({name: value for name, value in os.environ.items() if name.startswith("COVERAGE_PROCESS_")})
    _leave_out_of_later_collections()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is None or nextitem.path != item.path:
        _leave_out_of_later_collections()


def _leave_out_of_later_collections() -> None:
    """Leave what lives now out of every later garbage collection; one follows each test and is ten times as fast so."""
    gc.collect()
    gc.freeze()


def _ignore(number: int, frame: FrameType | None) -> None:
    """Ignore a signal in this process only: unlike `SIG_IGN`, a handler is not handed on to programs that it starts."""


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # `nohup` and `&` in a script have them ignored
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)
    state = tempfile.mkdtemp(prefix="state-")  # what is remembered beside ledgers must not reach the user's own folder
    os.environ["XDG_STATE_HOME"] = state
    config.add_cleanup(lambda: shutil.rmtree(state, ignore_errors=True))
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # hundreds of processes would each compile what they import
        os.environ["PYTHONPYCACHEPREFIX"] = f"{state}/bytecode"
    if config.getoption("--soak"):
        settings.load_profile("soak")  # new examples each time, and more of them


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long version was asked for."""
    return bool(request.config.getoption("--soak"))


if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:

    class _BridgedResponse(aiohttp.ClientResponse):
        """aioresponses does not yet give the argument that aiohttp 3.14 made mandatory (aioresponses#289)."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **kwargs)

    aioresponses.core.ClientResponse = _BridgedResponse  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def _blocking_calls() -> BlockBuster:
    """What blocks a loop; it is looked up once, as that takes longer than a small test."""
    buster = BlockBuster(list(PACKAGES))
    # the coverage tracer locks its data for a moment where it enters a file that another thread runs too
    buster.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
    for function in buster.functions.values():  # it looks for ~/.pgpass and certificates when it connects
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
    return buster


@pytest.fixture
def blocking_calls_fail(_blocking_calls: BlockBuster) -> Iterator[BlockBuster]:
    """Make a blocking call on the loop raise, if one of our modules made it."""
    _blocking_calls.activate()
    yield _blocking_calls
    _blocking_calls.deactivate()


@pytest_asyncio.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task running; sockets are reported as ResourceWarning, which is an error here."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
    gc.collect()
    assert not left, f"tasks left behind: {left}"


@pytest_asyncio.fixture
async def stepped_time(monkeypatch: pytest.MonkeyPatch) -> SteppedTime:
    """Time for this test that moves only when somebody sleeps or the test moves it."""
    stepped = SteppedTime()
    stepped.rule(asyncio.get_running_loop(), monkeypatch)
    return stepped


@pytest.fixture(autouse=True)
def _async_hygiene(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("blocking_calls_fail")
        request.getfixturevalue("no_task_left")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server that all tests of this process share, each in a schema of its own. It loses everything in a power cut."""
    with postgres_server() as server:
        yield server
