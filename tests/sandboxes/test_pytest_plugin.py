"""The pytest plugin, in suites of its users: each test here runs one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sandboxes.suite_kit import LOOPS, run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.processes_are_measured


TESTS_OF_EVERY_KIND = """
async def test_waits(rewards, rewards_books):
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    assert (await rewards.completions.wait(allocation, timeout=60)).status == "done"
    assert rewards_books.paid("110985463782", "1.230", once=True)

@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.rewards(fail_rate=1)
async def test_a_chain_failure_settles_by_a_fast_poll_whatever_the_policy(rewards):
    unhurried = PollPolicy(first_after=3600, max_interval=3600)
    async with Completions(rewards.client, rewards.store, polling=unhurried) as completions:
        allocation = await rewards.client.create_allocation(**ALLOCATION)
        async with asyncio.timeout(60):  # a timeout of the wait would poll before its end
            with pytest.raises(AllocationFailed):
                await completions.wait(allocation)

def test_synchronous(rewards, rewards_books):
    allocation = rewards.run(rewards.client.create_allocation(**ALLOCATION))
    rewards.run(rewards.completions.wait(allocation, timeout=60))
    assert rewards_books.paid("110985463782", "1.23")

async def test_run_is_for_synchronous_tests(rewards):
    with pytest.raises(RuntimeError, match="await the coroutine"):
        rewards.run(rewards.client.create_allocation(**ALLOCATION))

def test_code_with_a_loop_of_its_own(original_sandbox, rewards_books):
    async def pay():
        async with OriginalClient.from_env() as client, Completions(client, MemoryStore()) as completions:
            await completions.wait(await client.create_allocation(**ALLOCATION), timeout=60)
    asyncio.run(pay())
    assert str(rewards_books.total("110985463782")) == "1.23"

async def test_coins(enkash_sandbox, rewards_books):
    enkash_sandbox.funds = 10
    async with EnkashClient.from_env(company_id="C1") as client:
        event = await client.create_event(event="MEAL", amount=6)
        await client.allocate_coins(event="MEAL", user_id="EK1", request_id="r-1")
        with pytest.raises(RewardsError):
            await client.allocate_coins(event="MEAL", user_id="EK1", request_id="r-2")
    assert rewards_books.paid("EK1", 6, once=True)
    assert rewards_books.total("EK1") == 6

async def test_one_lost_reply(rewards, original_sandbox):
    original_sandbox.script("drop_after_commit")
    assert (await rewards.client.create_allocation(**ALLOCATION)).recovered

async def test_handlers(rewards):
    handled = asyncio.Queue()
    @rewards.receiver.on("reward.allocated")
    async def handle(event):
        await handled.put(event.ref.uid)
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    assert await handled.get() == allocation.ref.uid

@pytest.mark.rewards(confirm="never")
async def test_settling_by_hand(rewards, original_sandbox):
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    original_sandbox.settle(allocation.ref.uid)
    await original_sandbox.quiet()
    assert rewards.receiver.statistics.accepted == 1
    assert original_sandbox.options.confirm is None
    assert [each.method for each in original_sandbox.requests] == ["POST"]

def test_settling_by_hand_without_a_loop(rewards, original_sandbox):
    allocation = rewards.run(rewards.client.create_allocation(**ALLOCATION))
    original_sandbox.wait_until_quiet()
    assert rewards.receiver.statistics.accepted == 1
"""


@pytest.mark.slow
def test_suites_of_every_kind_are_served(pytester: pytest.Pytester) -> None:
    run(pytester, TESTS_OF_EVERY_KIND).assert_outcomes(passed=10)
    run(pytester, TESTS_OF_EVERY_KIND, "-n", "2").assert_outcomes(passed=10)


OF_MARKS = """
pytestmark = pytest.mark.rewards(fail_rate=1, retry_after=7)

@pytest.mark.rewards(fail_rate=0, funds=3)
def test_the_closest_mark_wins(original_sandbox, enkash_sandbox):
    assert original_sandbox.options.fail_rate == enkash_sandbox.options.fail_rate == 0
    assert original_sandbox.options.retry_after == 7
    assert enkash_sandbox.funds == 3

@pytest.mark.rewards(webhok_loss=1)
def test_misspelled(original_sandbox): ...

@pytest.mark.rewards(funds=1)
def test_option_of_another_sandbox(original_sandbox): ...

@pytest.mark.rewards(2)
def test_without_a_name(original_sandbox): ...

@pytest.mark.rewards(fail_rate=2)
def test_out_of_range(original_sandbox): ...

@pytest.mark.rewards("a mark of somebody else's", because=1)
def test_without_a_sandbox(): ...
"""


@pytest.mark.slow
def test_marks_set_options_and_their_mistakes_are_told(pytester: pytest.Pytester) -> None:
    result = run(pytester, OF_MARKS)
    result.assert_outcomes(passed=2, errors=4)
    result.stdout.fnmatch_lines_random(
        [
            "*no sandbox of this test has an option webhok_loss. Did you mean webhook_loss?",
            "*no sandbox of this test has an option funds.",
            "*takes options by name, such as fail_rate=1, not 2.",
            "*ValueError: fail_rate cannot be 2.0: give a probability from 0 to 1",
        ]
    )


LEAVING_WORK = """
async def test_fault_without_a_request(rewards):
    rewards.sandbox.script("drop_after_commit")

@pytest.mark.rewards(confirm=3600)
async def test_pending(rewards):
    await rewards.client.create_allocation(**ALLOCATION)

@pytest.mark.rewards(confirm="never")
async def test_open_wait(rewards):
    allocation = await rewards.client.create_allocation(**ALLOCATION)
    test_open_wait.task = asyncio.ensure_future(rewards.completions.wait(allocation))
    while not rewards.completions.statistics.waiting:
        await asyncio.sleep(0)

async def test_failing_handler(rewards):
    @rewards.receiver.on("reward.allocated")
    async def fail(event):
        raise ValueError("no such order")
    await rewards.client.create_allocation(**ALLOCATION)

async def test_refused_webhook(rewards, monkeypatch):
    app = web.Application()
    app.router.add_post("/", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    rewards.sandbox.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await rewards.client.create_allocation(**ALLOCATION)
    await refused.wait()
    await runner.cleanup()

refused = asyncio.Event()

async def refuse(request):
    refused.set()
    return web.Response(status=401)

@pytest.mark.rewards(allow_left_over=True)
async def test_allowed(rewards):
    rewards.sandbox.script("drop_after_commit")

async def test_failed(rewards):
    rewards.sandbox.script("drop_after_commit")
    assert False, "told once"

async def test_skipped(rewards):
    rewards.sandbox.script("drop_after_commit")
    pytest.skip("not today")

async def test_expected_to_fail(rewards):
    rewards.sandbox.script("drop_after_commit")
    pytest.xfail("known")

async def test_nothing_left(rewards):
    await rewards.client.create_allocation(**ALLOCATION)
"""


@pytest.mark.slow
def test_work_left_over_fails_its_test_at_teardown(pytester: pytest.Pytester) -> None:
    result = run(pytester, LEAVING_WORK)
    result.assert_outcomes(passed=7, failed=1, errors=5, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines_random(
        [
            '*script("drop_after_commit") hit no request*',
            "*Allocation * of 1.23 to 110985463782 is still pending*",
            "*A wait for default/allocation/* is still open*",
            "*1 event still waiting for a handler, which failed and runs again later.*",
            "*http://127.0.0.1:*/ answered a webhook with HTTP 401 and never accepted it.",
        ]
    )


OF_CONTRACTS = """
def test_contracts(original_sandbox):
    original_sandbox.deploy_collection("c", editable=False)
    original_sandbox.deploy_reward("r")
    original_sandbox.settle("c", kind="collection")
    original_sandbox.settle("r", kind="reward")
    books = original_sandbox.books()
    collection, reward = books["collections"][-1], books["rewards"][-1]
    assert (collection["uid"], collection["status"], collection["editable"]) == ("c", "deployed", False)
    assert (reward["uid"], reward["status"]) == ("r", "deployed")
    with pytest.raises(KeyError):
        original_sandbox.deposit("000", "somebody")
    with pytest.raises(ValueError, match="cannot end as 'failed'"):
        original_sandbox.settle("c", "failed", kind="collection")

@pytest.mark.rewards(confirm=3600)
def test_pending(original_sandbox):
    original_sandbox.deploy_collection("c")
"""


@pytest.mark.slow
def test_contracts_are_deployed_settled_and_not_left_pending(pytester: pytest.Pytester) -> None:
    result = run(pytester, OF_CONTRACTS)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines_random(["*Collection c is still pending: wait for it, settle it, or use confirm=*never*"])


OF_ROUTES = """
async def test_route(signed_delivery, aiohttp_route):
    accept, store = aiohttp_route
    delivery = signed_delivery("reward.allocated", uid="636154847295", amount="9.5", nonce="order-7")
    assert await accept(delivery.headers, delivery.body) == 200
    assert await accept(delivery.headers, delivery.body + b" ") == 401
    outcome = await store.outcome(OperationRef("default", "allocation", "636154847295"))
    assert (outcome.resource["amount"], outcome.key) == ("9.5", "order-7")
    claim = signed_delivery("reward.claimed", uid="636154847296")
    assert await accept(claim.headers, claim.body) == 200
    assert (await store.outcome(OperationRef("default", "claim", "636154847296"))).status == "done"
    other = signed_delivery("asset.minted", uid="1")
    assert await accept(other.headers, other.body) == 200

@pytest.fixture
async def aiohttp_route(signed_delivery):
    import aiohttp
    store = MemoryStore()
    app = web.Application()
    Receiver(OriginalWebhooks.from_env(), store).register(app, "/hook")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        async def accept(headers, body):
            async with session.post(f"http://127.0.0.1:{runner.addresses[0][1]}/hook", headers=headers, data=body) as reply:
                return reply.status
        yield accept, store
    await runner.cleanup()

def test_books_explain(original_sandbox, enkash_sandbox, rewards_books):
    async def pay():
        async with OriginalClient.from_env() as client:
            await client.create_allocation(**ALLOCATION)
            await client.create_allocation(**ALLOCATION | {"nonce": "order-2"})
    asyncio.run(pay())
    original_sandbox.wait_until_quiet()
    with pytest.raises(AssertionError, match="110985463782 was paid 1.23 2 times") as twice:
        rewards_books.paid("110985463782", "1.23", once=True)
    assert "1.23 done under the key order-1" in str(twice.value)
    with pytest.raises(AssertionError, match="was not paid 2. The books show for"):
        rewards_books.paid("110985463782", 2)
    with pytest.raises(AssertionError, match="The books show no payment to nobody."):
        rewards_books.paid("nobody", "1.23")

@pytest.mark.rewards(fail_rate=1)
def test_a_failed_payment_is_no_payment(original_sandbox, rewards_books):
    async def pay():
        async with OriginalClient.from_env() as client:
            await client.create_allocation(**ALLOCATION)
    asyncio.run(pay())
    original_sandbox.wait_until_quiet()
    with pytest.raises(AssertionError, match="1.23 failed under the key order-1"):
        rewards_books.paid("110985463782", "1.23")

def test_variables_are_restored():
    assert not [name for name in os.environ if name.startswith(("ORIGINAL_", "ENKASH_"))]
"""


@pytest.mark.slow
def test_routes_and_books(pytester: pytest.Pytester) -> None:
    run(pytester, OF_ROUTES).assert_outcomes(passed=4)


@pytest.mark.slow
def test_the_example_runs_with_the_settings_of_the_page(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "how-to" / "testing.md").read_text("utf-8")
    pytester.makepyprojecttoml(page.partition("```text\n")[2].partition("```")[0])
    examples = pytester.mkdir("examples")
    for name in ("test_service.py", "aiohttp_service.py"):
        shutil.copy(ROOT / "examples" / name, examples)
    pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider").assert_outcomes(passed=4)


INERT = """
import sys

def test_nothing_is_imported():
    loaded = [name for name in sys.modules if name.startswith(("vendor_sandboxes", "webhooks", "original_async", "aiohttp"))]
    assert sorted(loaded) == ["vendor_sandboxes", "vendor_sandboxes.pytest_plugin"]
"""


def test_a_suite_that_does_not_use_it_does_not_load_it(pytester: pytest.Pytester) -> None:
    pytester.makeini(f"[pytest]\n{LOOPS}")
    pytester.makepyfile(INERT)
    pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider").assert_outcomes(passed=1)
