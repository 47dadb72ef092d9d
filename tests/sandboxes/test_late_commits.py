"""A request whose answer was lost may be committed after that answer, and never beside another of its nonce."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.sandboxes.conftest import HOUR
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller, Inbox

CallerOf = Callable[[OriginalSandbox], "Caller"]
USER = "110985463782"


async def unanswered(caller: Caller, fault: str, **changes: Any) -> None:
    """Allocate and get no answer that tells what became of it."""
    if fault == "drop_after_commit":
        with pytest.raises(aiohttp.ClientError):
            await caller.allocate(**changes)
    else:
        assert (await caller.allocate(**changes)).status == 503


@pytest.mark.parametrize("fault", ["p503_after_commit", "drop_after_commit"])
async def test_late_commit_is_unknown_at_first_and_known_later(
    caller_of: CallerOf, pass_an_hour: Callable[[], None], fault: str
) -> None:
    async with OriginalSandbox(confirm=None, commit_late=HOUR) as sandbox:
        caller = caller_of(sandbox)
        sandbox.script(fault)
        await unanswered(caller, fault)
        assert (await caller.call("GET", f"/reward/allocate?user_uid={USER}")).data == []
        books = sandbox.books()
        assert (books["allocations"], books["created"], books["asked"]) == ([], {}, {"nonce_1": 1})
        assert books["faults"] == {fault: 1, "commit_late": 1}
        pass_an_hour()
        await sandbox.quiet()
        (listed,) = (await caller.call("GET", f"/reward/allocate?user_uid={USER}")).data
        books = sandbox.books()
        assert [(entry["uid"], entry["nonce"]) for entry in books["allocations"]] == [(listed["uid"], "nonce_1")]
        assert (await caller.allocate()).error["detail"]["message"] == "nonce already used"


async def test_late_commit_finds_the_nonce_of_a_repetition_and_does_nothing(
    caller_of: CallerOf, pass_an_hour: Callable[[], None]
) -> None:
    async with OriginalSandbox(confirm=None, commit_late=HOUR, duplicate_nonce="replay") as sandbox:
        caller = caller_of(sandbox)
        sandbox.script("p503_after_commit", "drop_after_commit")
        await unanswered(caller, "p503_after_commit")
        await unanswered(caller, "drop_after_commit")
        repeated = await caller.allocate()
        assert repeated.status == 201
        pass_an_hour()
        await sandbox.quiet()
        books = sandbox.books()
        assert (books["created"], books["asked"]) == ({"nonce_1": 1}, {"nonce_1": 3})
        assert [entry["uid"] for entry in books["allocations"]] == [repeated.data["uid"]]
        assert (books["faults"]["commit_late"], books["faults"]["late_commit_refused"]) == (2, 2)


async def test_sandbox_is_not_quiet_while_a_commit_is_still_to_come(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, p503_after_commit=1, commit_late=HOUR) as sandbox:
        await unanswered(caller_of(sandbox), "p503_after_commit")
        await sandbox.until(lambda: not sandbox.under_way)
        assert sandbox.scheduler.pending == 1
        with pytest.raises(TimeoutError):
            await sandbox.quiet(timeout=0.001)


async def test_late_commit_is_confirmed_and_sends_its_webhook(
    caller_of: CallerOf, inbox: Inbox, pass_an_hour: Callable[[], None]
) -> None:
    async with OriginalSandbox(confirm=(0, 0), webhook_url=inbox.url, p503_after_commit=1, commit_late=HOUR) as sandbox:
        await unanswered(caller_of(sandbox), "p503_after_commit")
        pass_an_hour()
        await sandbox.quiet()
        (entry,) = sandbox.books()["allocations"]
        assert (entry["history"], entry["deliveries"]) == (["pending", "done"], 1)
    assert inbox.arrivals[0].body["data"]["allocation"]["uid"] == entry["uid"]


async def test_late_commit_may_send_its_webhook_at_once(
    caller_of: CallerOf, inbox: Inbox, pass_an_hour: Callable[[], None]
) -> None:
    options: dict[str, Any] = {"webhook_before_reply": 1, "p503_after_commit": 1, "commit_late": HOUR}
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, **options) as sandbox:
        await unanswered(caller_of(sandbox), "p503_after_commit")
        assert inbox.arrivals == []
        pass_an_hour()
        await sandbox.quiet()
    assert len(inbox.arrivals) == 1


async def test_second_late_claim_finds_the_first_pending(caller_of: CallerOf, pass_an_hour: Callable[[], None]) -> None:
    async with OriginalSandbox(confirm=None, strict=True, commit_late=HOUR) as sandbox:
        caller = caller_of(sandbox)
        user = (await caller.call("POST", "/user", {})).data["uid"]
        await sandbox.settle((await caller.allocate(to_user_uid=user)).data["uid"])
        sandbox.script("p503_after_commit", "p503_after_commit")
        assert [(await caller.claim(from_user_uid=user)).status for _ in range(2)] == [503, 503]
        assert sandbox.books()["claims"] == []
        pass_an_hour()
        await sandbox.quiet()
        assert [entry["from_user_uid"] for entry in sandbox.books()["claims"]] == [user]


async def test_user_too_may_be_created_late(caller_of: CallerOf, pass_an_hour: Callable[[], None]) -> None:
    async with OriginalSandbox(p503_after_commit=1, commit_late=HOUR) as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.call("POST", "/user", {"user_external_id": "x"})).status == 503
        assert (await caller.call("GET", "/user?user_external_id=x")).data is None
        pass_an_hour()
        await sandbox.quiet()
        assert (await caller.call("GET", "/user?user_external_id=x")).data["user_external_id"] == "x"


async def test_request_that_is_answered_is_committed_before_its_answer(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, commit_late=HOUR, slow_seconds=0, slow_after_commit=1) as sandbox:
        assert (await caller_of(sandbox).allocate()).status == 201
        books = sandbox.books()
        assert (books["created"], books["faults"]) == ({"nonce_1": 1}, {"slow_after_commit": 1})
