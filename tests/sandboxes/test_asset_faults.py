"""Writes of assets meet the faults of requests, late commits among them, and their reads lag behind and come in pages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.sandboxes.conftest import COLLECTION, HOUR, LOOK, USER, refusal
from tests.sandboxes.test_original_lists import follow
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
KINDS = {"edit": "edits", "transfer": "transfers", "burn": "burns"}


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        ("p429", 0),
        ("p503", 0),
        ("drop_before_commit", 0),
        ("p503_after_commit", 1),
        ("drop_after_commit", 1),
        ("slow_after_commit", 1),
    ],
)
async def test_faults_hit_every_write_before_or_after_its_commit(caller_of: CallerOf, fault: str, done: int) -> None:
    async with OriginalSandbox(confirm=None, slow_seconds=0) as sandbox:
        caller = caller_of(sandbox)
        sandbox.script(fault)
        with suppress(aiohttp.ClientConnectionError):
            await caller.mint()
        assert sandbox.books()["assets_created"] == ({"asset_1": 1} if done else {})
        for kind, member in KINDS.items():
            uid = await caller.minted(sandbox, kind)
            # aiohttp repeats a PUT by itself if the connection is dropped.
            sandbox.script(fault, fault, method="PUT" if kind == "edit" else "POST")
            with suppress(aiohttp.ClientConnectionError):
                await caller.act(kind, uid)
            sandbox.plan.steps.clear()
            assert len(sandbox.books()[member]) == done


async def test_asset_whose_answer_was_lost_may_be_created_later(caller_of: CallerOf, pass_an_hour: Callable[[], None]) -> None:
    async with OriginalSandbox(confirm=None, p503_after_commit=1, commit_late=HOUR) as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.mint()).status == 503
        books = sandbox.books()
        assert (books["assets"], books["assets_created"], books["assets_asked"]) == ([], {}, {"asset_1": 1})
        assert (await caller.call("GET", f"/asset?user_uid={USER}")).data == []
        pass_an_hour()
        await sandbox.quiet()
        (listed,) = (await caller.call("GET", f"/asset?user_uid={USER}")).data
        assert (listed["asset_external_id"], sandbox.books()["assets_created"]) == ("asset_1", {"asset_1": 1})


@pytest.mark.parametrize(("duplicate", "created"), [("mint", 2), ("reject", 1), ("replay", 1)])
async def test_repetition_of_a_late_mint_is_a_second_asset_unless_external_ids_are_unique(
    caller_of: CallerOf, pass_an_hour: Callable[[], None], duplicate: str, created: int
) -> None:
    async with OriginalSandbox(confirm=None, commit_late=HOUR, duplicate_external_id=duplicate) as sandbox:
        caller = caller_of(sandbox)
        sandbox.script("p503_after_commit")
        assert (await caller.mint()).status == 503
        assert (await caller.mint()).status == 201
        pass_an_hour()
        await sandbox.quiet()
        books = sandbox.books()
        assert (books["assets_created"], books["assets_asked"]) == ({"asset_1": created}, {"asset_1": 2})
        assert books["faults"].get("late_commit_refused", 0) == 2 - created


@pytest.mark.parametrize("kind", KINDS)
async def test_rules_hold_when_a_late_write_is_committed(
    caller_of: CallerOf, pass_an_hour: Callable[[], None], kind: str
) -> None:
    async with OriginalSandbox(confirm=None, commit_late=HOUR) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        for _ in range(2):
            sandbox.script("p503_after_commit", method="PUT" if kind == "edit" else "POST")
            assert (await caller.act(kind, uid)).status == 503
        assert sandbox.books()[KINDS[kind]] == []
        pass_an_hour()
        await sandbox.quiet()
        books = sandbox.books()
        assert (len(books[KINDS[kind]]), books["faults"]["late_commit_refused"]) == (1, 1)


async def test_assets_transfers_and_burns_lag_behind_in_lists_and_reads(caller_of: CallerOf) -> None:
    now = 1_700_000_000.0
    async with OriginalSandbox(confirm=None, clock=lambda: now) as sandbox:
        caller = caller_of(sandbox)
        moved, burned = await caller.minted(sandbox, "asset_1"), await caller.minted(sandbox, "asset_2")
        now += 9
        sandbox.options.list_lag = sandbox.options.read_lag = 5
        uids = {
            "asset": (await caller.mint("asset_3")).data["uid"],
            "transfer": (await caller.transfer(moved)).data["uid"],
            "burn": (await caller.burn(burned)).data["uid"],
        }
        for kind, uid in uids.items():
            assert refusal(await caller.call("GET", f"/{kind}/{uid}")) == (404, "not_found", f"{kind.capitalize()} not found.")
            listed = (await caller.call("GET", f"/{kind}?user_uid={USER}")).data
            assert uid not in {each["uid"] for each in listed}
        assert (await caller.asset(moved))["is_transferring"]
        now += 5
        for kind, uid in uids.items():
            assert (await caller.call("GET", f"/{kind}/{uid}")).data["uid"] == uid
            assert uid in {each["uid"] for each in (await caller.call("GET", f"/{kind}?user_uid={USER}")).data}


async def test_contracts_can_be_read_at_once(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, read_lag=HOUR) as sandbox:
        for path in (f"/collection/{COLLECTION}", "/reward/764893807463"):
            assert (await caller_of(sandbox).call("GET", path)).status == 200


@pytest.mark.parametrize("shape", ["beside", "inside"])
@pytest.mark.parametrize("kind", ["asset", "transfer", "burn"])
async def test_lists_of_assets_transfers_and_burns_come_in_pages(caller_of: CallerOf, kind: str, shape: str) -> None:
    async with OriginalSandbox(confirm=None, page_size=2, page_shape=shape) as sandbox:
        caller = caller_of(sandbox)
        uids = [await caller.minted(sandbox, f"asset_{number}") for number in range(3)]
        if kind != "asset":
            uids = [(await caller.act(kind, uid)).data["uid"] for uid in uids]
        assert await follow(caller, f"/{kind}?user_uid={USER}", shape) == [uids[:2], uids[2:]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/asset/1"),
        ("PUT", "/asset"),
        ("POST", "/asset/1"),
        ("PATCH", "/transfer"),
        ("POST", "/deposit"),
        ("PUT", "/collection/1"),
    ],
)
async def test_wrong_method_of_an_asset_is_refused(caller_of: CallerOf, method: str, path: str) -> None:
    async with OriginalSandbox() as sandbox:
        assert refusal(await caller_of(sandbox).call(method, path))[:2] == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/asset"),
        ("PUT", "/asset/1"),
        ("POST", "/transfer"),
        ("POST", "/burn"),
        *(("GET", path) for path in ("/asset/1", "/asset?user_uid=1", "/transfer/1", "/burn/1", "/deposit", "/collection/1")),
    ],
)
async def test_every_route_of_assets_needs_credentials(caller_of: CallerOf, method: str, path: str) -> None:
    async with OriginalSandbox() as sandbox:
        answer = await caller_of(sandbox).call(method, path, {"data": LOOK}, headers={"Authorization": ""})
        assert refusal(answer)[:2] == (401, "not_authenticated")


async def test_assets_confirm_by_themselves_and_books_stay_plain(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0.01)) as sandbox:
        caller = caller_of(sandbox)
        uids = [(await caller.mint(f"asset_{number}")).data["uid"] for number in range(20)]
        await sandbox.quiet()
        for uid in uids[:10]:
            await caller.transfer(uid)
        for uid in uids[10:15]:
            await caller.burn(uid)
        await sandbox.quiet()
        books: dict[str, Any] = sandbox.books()
        holders = [holder["user_uid"] for holder in books["owners"].values()]
        assert (holders.count(None), holders.count(USER)) == (10, 5)
        assert {entry["status"] for member in ("assets", "transfers", "burns") for entry in books[member]} == {"done"}
        assert sorted(entry["token_id"] for entry in books["assets"]) == list(range(1, 21))
        caller.url = sandbox.origin
        assert (await caller.call("GET", "/_sandbox/books")).body["owners"] == books["owners"]
