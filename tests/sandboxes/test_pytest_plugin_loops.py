"""The pytest plugin in the event loops that its users' suites run in."""

from __future__ import annotations

import pytest

from tests.sandboxes.suite_kit import AUTO, LOOPS, run

pytestmark = [pytest.mark.slow, pytest.mark.processes_are_measured]


IN_ANYIO = """
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

async def test_waits(rewards):
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    assert (await rewards.completions.wait(allocation, timeout=60)).status == "done"

def test_synchronous(rewards):
    rewards.run(rewards.client.create_allocation(**ALLOCATION))
"""


def test_anyio_runs_the_fixtures_with_and_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    run(pytester, IN_ANYIO, ini=LOOPS).assert_outcomes(passed=2)
    pytester.makepyfile(pytest_asyncio="raise ModuleNotFoundError")
    run(pytester, IN_ANYIO, "-p", "no:asyncio", ini="pythonpath = .").assert_outcomes(passed=2)


IN_OTHER_LOOPS = """
import unittest

@pytest.fixture
def anyio_backend():
    return "trio"

@pytest.mark.anyio
async def test_trio(rewards): ...

class TestCase(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def wired(self, rewards): ...
    async def test_isolated(self): ...
"""


def test_loops_that_the_fixture_cannot_reach_are_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, IN_OTHER_LOOPS, ini=LOOPS)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines_random(
        ["*the fixture anyio_backend return it.", "*of an IsolatedAsyncioTestCase: use a function."]
    )


OF_AN_OLD_VERSION = """
def fixture(function=None):
    return function
"""
WITHOUT_A_FITTING_VERSION = """
def test_plain(): ...

def test_synchronous(rewards):
    rewards.run(rewards.client.create_allocation(**ALLOCATION))
"""


def test_an_old_version_of_pytest_asyncio_disturbs_nobody(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(pytest_asyncio=OF_AN_OLD_VERSION)
    run(pytester, WITHOUT_A_FITTING_VERSION, "-p", "no:asyncio", ini="pythonpath = .").assert_outcomes(passed=2)


IN_A_LOOP_OF_THE_SESSION = """
async def test_waits(rewards):
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    assert (await rewards.completions.wait(allocation, timeout=60)).status == "done"

async def test_waits_again(rewards):
    await test_waits(rewards)
"""


def test_the_fixtures_run_in_the_loop_of_the_test(pytester: pytest.Pytester) -> None:
    ini = f"{AUTO}asyncio_default_test_loop_scope = session"
    run(pytester, IN_A_LOOP_OF_THE_SESSION, ini=ini).assert_outcomes(passed=2)
