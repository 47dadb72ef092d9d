"""Lists of the sandboxed Original come whole, or in pages whose links lead from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Answer, Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
USER = "110985463782"


def page_of(answer: Answer, shape: str) -> tuple[Any, Any]:
    """Return what a page says of its place, and its list."""
    assert answer.body["success"] is True
    place = answer.data if shape == "inside" else answer.body
    return place, place["results"] if shape == "inside" else answer.data


async def follow(caller: Caller, path: str, shape: str) -> list[list[str]]:
    """Return the uids of each page, from the first one along the links."""
    pages = []
    where: str | None = path
    while where is not None:
        place, operations = page_of(await caller.call("GET", where), shape)
        pages.append([operation["uid"] for operation in operations])
        where = place["next"] and place["next"].removeprefix(caller.url)
    return pages


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_pages_hold_every_allocation_once_the_oldest_first(caller_of: CallerOf, shape: str) -> None:
    async with OriginalSandbox(confirm=None, page_size=2, page_shape=shape) as sandbox:
        caller = caller_of(sandbox)
        uids = [(await caller.allocate(f"nonce_{number}")).data["uid"] for number in range(5)]
        await caller.allocate("of another user", to_user_uid="another")
        assert await follow(caller, f"/reward/allocate?user_uid={USER}", shape) == [uids[:2], uids[2:4], uids[4:]]


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_page_tells_the_total_and_links_to_its_neighbours(caller_of: CallerOf, shape: str) -> None:
    async with OriginalSandbox(confirm=None, page_size=2, page_shape=shape) as sandbox:
        caller = caller_of(sandbox)
        for number in range(5):
            await caller.allocate(f"nonce_{number}")
        path = f"/reward/allocate?user_uid={USER}"
        places = [page_of(await caller.call("GET", f"{path}&page={page}"), shape)[0] for page in (1, 2, 3)]
        assert [place["count"] for place in places] == [5, 5, 5]
        links = [(place["previous"], place["next"]) for place in places]
        pages = [f"{sandbox.url}{path}&page={page}" for page in (1, 2, 3)]
        assert links == [(None, pages[1]), (pages[0], pages[2]), (pages[1], None)]


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_full_last_page_links_no_further_and_an_empty_list_is_one_page(caller_of: CallerOf, shape: str) -> None:
    async with OriginalSandbox(confirm=None, page_size=2, page_shape=shape) as sandbox:
        caller = caller_of(sandbox)
        uids = [(await caller.claim()).data["uid"] for _ in range(2)]
        assert await follow(caller, f"/reward/claim?user_uid={USER}", shape) == [uids]
        assert await follow(caller, "/reward/claim?user_uid=nobody", shape) == [[]]


@pytest.mark.parametrize("page", ["2", "0", "-1", "1.0", "last", ""])
async def test_page_that_does_not_exist_is_not_found(caller_of: CallerOf, page: str) -> None:
    async with OriginalSandbox(confirm=None, page_size=2) as sandbox:
        caller = caller_of(sandbox)
        for number in range(2):
            await caller.allocate(f"nonce_{number}")
        answer = await caller.call("GET", f"/reward/allocate?user_uid={USER}&page={page}")
        assert (answer.status, answer.error["type"]) == (404, "client_error")
        assert answer.error["detail"] == {"code": "not_found", "message": "Invalid page."}


async def test_operation_that_lists_still_miss_is_on_no_page_and_not_counted(caller_of: CallerOf) -> None:
    now = 1_700_000_000.0
    async with OriginalSandbox(confirm=None, page_size=1, list_lag=5, clock=lambda: now) as sandbox:
        caller = caller_of(sandbox)
        first = (await caller.allocate("nonce_1")).data["uid"]
        now += 5
        await caller.allocate("nonce_2")
        answer = await caller.call("GET", f"/reward/allocate?user_uid={USER}")
        assert ([one["uid"] for one in answer.data], answer.body["count"], answer.body["next"]) == ([first], 1, None)


async def test_list_without_pages_is_whole_and_says_nothing_of_pages(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        for number in range(30):
            await caller.allocate(f"nonce_{number}")
        answer = await caller.call("GET", f"/reward/allocate?user_uid={USER}&page=2")
        assert (set(answer.body), len(answer.data)) == ({"success", "data"}, 30)
