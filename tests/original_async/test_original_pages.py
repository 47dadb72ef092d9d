"""Lists of several pages: what they show, and when they prove that something is absent."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from aioresponses import aioresponses
from yarl import URL

from original_async import Allocation, AllocationRequest, OriginalClient
from original_async.calls import reading
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import OutcomeUnknown, RequestRejected, ServerFailed, UnexpectedResponse, VendorError
from tests.original_async.conftest import BASE, REWARD, USER, WALLET, MakeClient
from tests.original_async.family_kit import LISTS
from tests.stepped_time import SteppedTime
from tests.texts import raises, said
from vendor_sandboxes.original import OriginalSandbox

FIRST = f"{BASE}/reward/allocate?user_uid={USER}"
SECOND = f"{BASE}/reward/allocate?page=2&user_uid={USER}"
THIRD = f"{BASE}/reward/allocate?page=3&user_uid={USER}"
ANY_LIST = re.compile(rf"{re.escape(BASE)}/(asset|transfer|burn|reward/(allocate|allocation|claim))\?user_uid={USER}")


def request(nonce: str) -> AllocationRequest:
    return AllocationRequest(reward_uid=REWARD, to_user_uid=USER, amount=Decimal(1), nonce=nonce)


def entry(number: int, **changes: Any) -> dict[str, Any]:
    """Return an entry that any of the lists could hold."""
    made: dict[str, Any] = {"uid": str(number), "status": "pending", "reward_uid": REWARD, "to_user_uid": USER, "amount": "1"}
    moved = {"asset_uid": "1", "from_user_uid": USER, "to_address": WALLET}
    asset = {"name": "n", "collection_uid": "1", "is_minted": True}
    return {**made, **moved, **asset, "nonce": f"nonce_{number}", **changes}


def page(*numbers: int, **around: Any) -> dict[str, Any]:
    return {"payload": {"success": True, "data": [entry(number) for number in numbers], **around}}


def asked(wire: aioresponses) -> list[str]:
    """Return the address of every request, in order."""
    return [str(url) for (_, url), calls in wire.requests.items() for _ in calls]


async def allocate(client: OriginalClient, nonce: str) -> Allocation:
    return await client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1", nonce=nonce)


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_every_page_is_read(original: OriginalClient, sandbox: OriginalSandbox, shape: str) -> None:
    uids = [(await allocate(original, f"nonce_{number}")).uid for number in range(5)]
    sandbox.options.page_size, sandbox.options.page_shape = 2, shape
    assert [each.uid for each in await original.get_allocations_by_user_uid(USER)] == uids
    assert [seen.query.get("page") for seen in sandbox.requests if seen.method == "GET"] == [None, "2", "3"]
    found = await original.find_allocation(USER, nonce="nonce_4")
    assert found is not None
    assert (found.uid, await original.find_allocation(USER, nonce="nonce_5")) == (uids[4], None)


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_every_page_of_claims_is_read(original: OriginalClient, sandbox: OriginalSandbox, shape: str) -> None:
    sandbox.options.page_size, sandbox.options.page_shape = 1, shape
    claims = [await original.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address=WALLET) for _ in range(3)]
    assert [each.uid for each in await original.get_claims_by_user_uid(USER)] == [claim.uid for claim in claims]


@pytest.mark.parametrize("shape", ["beside", "inside"])
async def test_a_payout_whose_reply_was_lost_is_found_on_the_third_page(
    original: OriginalClient, sandbox: OriginalSandbox, shape: str
) -> None:
    sandbox.options.page_size, sandbox.options.page_shape = 2, shape
    for number in range(4):
        await allocate(original, f"nonce_{number}")
    sandbox.script("drop_after_commit")
    made = await allocate(original, "nonce_4")
    assert (made.recovered, made.uid in sandbox.state.operations["allocation"]) == (True, True)


@pytest.mark.parametrize(
    "link",
    [
        "?page=2&user_uid=110985463782",
        "/v1/reward/allocate?page=2&user_uid=110985463782",
        "allocate?page=2&user_uid=110985463782",
        "//api.getoriginal.com/v1/reward/allocate?page=2&user_uid=110985463782",
        SECOND,
        SECOND.replace("https://", "http://"),
        SECOND.replace("api.getoriginal.com", "api.getoriginal.com:8080"),
        SECOND.replace("https://api.getoriginal.com", "http://user:password@API.getoriginal.com:8000"),
    ],
)
@pytest.mark.parametrize("place", ["beside", "pagination", "links", "inside", "meta inside", "header"])
async def test_the_next_page_is_asked_for_at_our_own_origin(
    client: OriginalClient, wire: aioresponses, link: str, place: str
) -> None:
    entries = [entry(1)]
    bodies: dict[str, Any] = {
        "beside": {"data": entries, "next": link},
        "pagination": {"data": entries, "pagination": {"next": link}},
        "links": {"data": entries, "links": {"next": link, "prev": None}},
        "inside": {"data": {"results": entries, "next": link}},
        "meta inside": {"next": None, "data": {"items": entries, "meta": {"next": link}}},
        "header": {"data": entries},
    }
    headers = {"Link": f'<{FIRST}>; rel="prev", <{link}>; rel="next"'} if place == "header" else {}
    wire.get(FIRST, payload={"success": True, **bodies[place]}, headers=headers)
    wire.get(SECOND, **page(2))
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["1", "2"]
    assert asked(wire) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "link",
    [
        "https://api.getoriginal.com.example.com/v1/reward/allocate?page=2",
        "//example.com/v1/reward/allocate?page=2",
        "https://api.getoriginal.com@example.com/?page=2",
        "http://127.0.0.1/?page=2",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://[",
        "https://api.getoriginal.com:99999/?page=2",
    ],
)
async def test_another_host_is_never_asked(client: OriginalClient, wire: aioresponses, link: str) -> None:
    wire.get(ANY_LIST, repeat=True, **page(1, next=link))
    for read in LISTS.values():
        with pytest.raises(UnexpectedResponse) as caught:
            await read(client)
        said("list: it continues on another host", caught.value)
    assert all(ANY_LIST.fullmatch(url) for url in asked(wire))
    found = await client.find_allocation(USER, nonce="nonce_1")
    assert found is not None


INCOMPLETE: dict[str, dict[str, Any]] = {
    "a larger count": {"count": 2},
    "a larger total inside": {"pagination": {"total": 2, "next": None}},
    "a larger total count": {"meta": {"total_count": 7}},
    "has_more": {"has_more": True},
    "has_next": {"meta": {"has_next": True}},
    "a cursor": {"next_cursor": "abc"},
    "the number of a page": {"pagination": {"next_page": 2}},
    "a number as the link": {"next": 2},
    "an object as the link": {"links": {"next": {"page": 2}}},
    "a count in text": {"count": "7"},
    "names in another case": {"hasMore": True},
    "another word for the count": {"totalCount": 2},
    "pages in all": {"total_pages": 2},
    "a last page": {"meta": {"current_page": 1, "last_page": 2}},
    "pages aside": {"pagination": {"pages": 2, "page": 1}},
    "a page that is not the last": {"last": False},
    "truncated": {"is_truncated": True},
}


@pytest.mark.parametrize("read", LISTS.values(), ids=LISTS)
async def test_a_list_that_says_there_is_more_proves_no_absence(client: OriginalClient, wire: aioresponses, read: Any) -> None:
    texts = []
    for name, around in INCOMPLETE.items():
        wire.get(ANY_LIST, **page(1, **around))
        with pytest.raises(UnexpectedResponse) as caught:
            await read(client)
        assert caught.value.path == "data"
        texts.append(f"{name}: {str(caught.value).partition('. ')[0]}")
    said("list: it says that there is more", "\n".join(texts))


@pytest.mark.parametrize("around", INCOMPLETE.values(), ids=INCOMPLETE)
async def test_what_an_incomplete_list_shows_counts(client: OriginalClient, wire: aioresponses, around: dict[str, Any]) -> None:
    wire.get(FIRST, repeat=True, **page(9, **around))
    found = await client.find_allocation(USER, nonce="nonce_9")
    assert found is not None
    assert [each.uid for each in await client.find_operations([request("nonce_9"), request("nonce_8")])] == [found.uid]


@pytest.mark.parametrize(
    "around",
    [
        {"count": 1, "next": None, "previous": None},
        {"count": 0, "has_more": False, "next_cursor": None, "next_page": None, "links": {"next": None}},
        {"pagination": {"total": 1, "has_next": False}},
        {"count": "1", "meta": [], "links": None, "total_pages": 1, "last": True, "per_page": 20, "page": 1, "page_size": 20},
        {"links": {"next": {"href": None}, "last": "?page=1"}, "total_amount": 150, "more_info": ""},
    ],
)
async def test_a_list_that_shows_all_it_counts_is_complete(
    client: OriginalClient, wire: aioresponses, around: dict[str, Any]
) -> None:
    wire.get(FIRST, repeat=True, **page(1, **around))
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["1"]
    assert await client.find_allocation(USER, nonce="nonce_9") is None
    assert await client.find_operations([request("nonce_9")]) == []


async def test_a_count_on_an_earlier_page_counts_on_the_last_one(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, **page(1, next=SECOND, count=3))
    wire.get(SECOND, **page(2))
    with pytest.raises(UnexpectedResponse, match=r"^the list .* incomplete"):
        await client.get_allocations_by_user_uid(USER)


async def test_an_entry_pushed_on_to_the_next_page_counts_once(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, **page(3, 2, next=SECOND, count=3))
    wire.get(SECOND, **page(2, 1, count=3))
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["3", "2", "1"]


async def test_an_entry_shown_twice_does_not_make_up_for_one_that_is_missing(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, **page(3, 2, next=SECOND, count=4))
    wire.get(SECOND, **page(3, 2, count=4))
    with pytest.raises(UnexpectedResponse, match=r"^the list .* incomplete"):
        await client.get_allocations_by_user_uid(USER)


async def test_an_envelope_that_ends_does_not_end_the_list_inside(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, payload={"success": True, "count": 2, "data": {"results": [entry(1)], "count": 1, "next": None}})
    with pytest.raises(UnexpectedResponse, match=r"^the list .* incomplete"):
        await client.get_allocations_by_user_uid(USER)


@pytest.mark.parametrize(
    ("shown", "link"), [([3], FIRST), ([3], SECOND), ([3], THIRD), ([], f"{FIRST}&page=4"), ([1, 2], f"{FIRST}&page=4")]
)
async def test_pages_that_lead_back_or_show_nothing_new_are_incomplete(
    client: OriginalClient, wire: aioresponses, shown: list[int], link: str
) -> None:
    wire.get(FIRST, **page(1, next=SECOND))
    wire.get(SECOND, **page(2, next=THIRD))
    wire.get(THIRD, **page(*shown, next=link))
    with raises(UnexpectedResponse, "lists: pages that lead back"):
        await client.get_allocations_by_user_uid(USER)
    assert asked(wire) == [FIRST, SECOND, THIRD]


BROKEN: dict[str, tuple[dict[str, Any], type[VendorError]]] = {
    "an error": ({"status": 500}, ServerFailed),
    "a page that is gone": ({"status": 404}, RequestRejected),
    "no JSON": ({"body": b"<html>"}, UnexpectedResponse),
    "no list": ({"payload": {"success": True, "data": None}}, UnexpectedResponse),
    "a failure": ({"payload": {"success": False, "data": []}}, UnexpectedResponse),
}


@pytest.mark.parametrize(("name", "answer", "kind"), [(name, *broken) for name, broken in BROKEN.items()])
async def test_a_later_page_that_cannot_be_read_leaves_what_was_found(
    make_client: MakeClient, wire: aioresponses, name: str, answer: dict[str, Any], kind: type[VendorError]
) -> None:
    client = make_client(retry=RetryPolicy(attempts=1))
    wire.get(ANY_LIST, repeat=True, **page(1, next=f"?page=2&user_uid={USER}"))
    wire.get(re.compile(r".*\?page=2"), repeat=True, **answer)
    wire.post(f"{BASE}/reward/allocate", status=400, payload={"detail": "Out of budget."}, repeat=True)
    found = await client.find_allocation(USER, nonce="nonce_1")
    assert found is not None
    assert (await allocate(client, "nonce_1")).recovered
    for read in LISTS.values():
        with pytest.raises(kind):
            await read(client)
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(client, "nonce_9")
    said(f"create_allocation: a list with {name} on its second page", caught.value)


async def test_why_an_incomplete_list_leaves_it_unknown_is_said(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, **page(1, count=2))
    wire.post(f"{BASE}/reward/allocate", status=400, payload={"detail": "Out of budget."})
    with pytest.raises(OutcomeUnknown) as caught:
        await allocate(client, "nonce_9")
    said("create_allocation: an incomplete list after a rejection", caught.value)


@pytest.mark.parametrize(("most", "complete"), [(10_000, True), (500, False), (10, False)])
async def test_all_pages_together_have_a_bound(
    client: OriginalClient, wire: aioresponses, monkeypatch: pytest.MonkeyPatch, most: int, complete: bool
) -> None:
    monkeypatch.setattr(reading, "MAX_LIST", most)
    wire.get(FIRST, **page(1, next=SECOND))
    wire.get(SECOND, **page(2))
    if complete:
        assert len(await client.get_allocations_by_user_uid(USER)) == 2
    else:
        with pytest.raises(UnexpectedResponse):
            await client.get_allocations_by_user_uid(USER)
    assert asked(wire) == ([FIRST] if most == 10 else [FIRST, SECOND])


async def test_pages_that_use_the_bound_up_are_incomplete(
    client: OriginalClient, wire: aioresponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = orjson.dumps(page(1, next=SECOND)["payload"])
    monkeypatch.setattr(reading, "MAX_LIST", len(body))
    wire.get(FIRST, body=body)
    with pytest.raises(UnexpectedResponse, match=r"^the list .* incomplete"):
        await client.get_allocations_by_user_uid(USER)
    assert asked(wire) == [FIRST]


async def test_a_list_longer_than_any_other_answer_is_read(make_client: MakeClient) -> None:
    body = orjson.dumps({"success": True, "data": [entry(number, note="x" * 1_000_000) for number in range(11)]})

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with RawTestServer(answer) as server:
        found = await make_client(base_url=str(server.make_url("/v1"))).find_allocation(USER, nonce="nonce_10")
    assert found is not None
    assert found.uid == "10"


@pytest.mark.parametrize("nonce", [{}, [], 7, None, ["nonce_9"]])
async def test_an_odd_nonce_elsewhere_in_the_list_hides_nothing(client: OriginalClient, wire: aioresponses, nonce: Any) -> None:
    wire.get(FIRST, payload={"success": True, "data": [entry(1, nonce=nonce), entry(9), entry(8)]}, repeat=True)
    assert await LISTS["find_allocation"](client) is not None
    found = await client.find_operations([request("nonce_9"), request("nonce_8")])
    assert [(each.uid, each.recovered) for each in found] == [("9", True), ("8", True)]


async def test_credentials_go_nowhere_but_to_the_vendor(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, **page(1, next=SECOND.replace("https://", "http://")))
    wire.get(SECOND, **page(2, next="https://example.com/?page=3"))
    with pytest.raises(UnexpectedResponse):
        await client.get_allocations_by_user_uid(USER)
    assert {URL(url).origin() for url in asked(wire)} == {URL("https://api.getoriginal.com")}


async def test_a_listing_waits_before_each_further_page_and_each_has_its_own_time(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    for number in range(5):
        await allocate(original, f"nonce_{number}")
    sandbox.options.page_size = 2
    sandbox.requests.clear()
    pages: list[int] = []

    async def wait() -> None:
        pages.append(len(sandbox.requests))
        ticks.at += 29.0

    (found,) = await original.find_operations([request("nonce_4")], before_page=wait)
    assert (found.nonce, pages) == ("nonce_4", [1, 2])


@pytest.mark.parametrize("name", [name for name in LISTS if name.endswith("_by_user_uid")])
async def test_every_list_of_a_user_waits_before_its_further_pages(client: OriginalClient, wire: aioresponses, name: str) -> None:
    wire.get(ANY_LIST, **page(1, next="?page=2&user_uid=" + USER))
    wire.get(re.compile(rf"{re.escape(BASE)}/.*page=2"), **page(2))
    asked_before: list[int] = []

    async def wait() -> None:
        asked_before.append(len(asked(wire)))

    found = await LISTS[name](client, before_page=wait)
    assert ([each.uid for each in found], asked_before) == (["1", "2"], [1])
    with pytest.raises(TypeError, match=r"^before_page: "):
        await LISTS[name](client, before_page=5)


@pytest.mark.parametrize(
    "around",
    [
        {"next_page_url": "?page=2&user_uid=" + USER},
        {"_links": {"next": {"href": "?page=2&user_uid=" + USER}}},
        {"links": {"self": "?page=1", "next": SECOND}},
        {"meta": {"nextLink": SECOND}},
    ],
)
async def test_a_next_page_is_found_under_its_usual_names(
    client: OriginalClient, wire: aioresponses, around: dict[str, Any]
) -> None:
    wire.get(FIRST, **page(1, **around))
    wire.get(SECOND, **page(2))
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["1", "2"]


@pytest.mark.parametrize(
    "header",
    [
        f'<{SECOND}>; rel="next"',
        f"<{SECOND}>; rel=NEXT",
        f'<{FIRST}>; rel="first", <{SECOND}>; title="a, b"; rel="last next"',
    ],
)
async def test_a_next_page_is_found_in_a_link_header(client: OriginalClient, wire: aioresponses, header: str) -> None:
    wire.get(FIRST, headers={"Link": header}, **page(1))
    wire.get(SECOND, **page(2))
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["1", "2"]


async def test_a_count_in_a_header_counts(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(FIRST, headers={"X-Total-Count": "7"}, **page(1))
    with pytest.raises(UnexpectedResponse, match=r"^the list .* incomplete"):
        await client.find_allocation(USER, nonce="nonce_9")


@pytest.mark.parametrize("odd", [{"amount": None}, {"status": 5}, {"nonce": 9}, {"uid": "9\0"}])
async def test_an_entry_that_cannot_be_read_hides_no_other_and_proves_no_absence(
    client: OriginalClient, wire: aioresponses, odd: dict[str, Any]
) -> None:
    entries = [entry(1), {**entry(9, nonce="9"), **odd}, entry(2)]
    wire.get(FIRST, repeat=True, payload={"success": True, "data": entries})
    found = await client.find_operations([request("nonce_1"), request("9"), request("nonce_2")])
    assert [each.uid for each in found] == ["1", "2"]
    with pytest.raises(UnexpectedResponse):
        await client.find_allocation(USER, nonce="9")
    wire.post(f"{BASE}/reward/allocate", status=400, payload={"success": False})
    with pytest.raises(OutcomeUnknown):
        await allocate(client, "9")
