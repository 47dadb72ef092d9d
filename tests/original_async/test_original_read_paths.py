"""The documents name two paths of allocations; the client finds out which one the vendor serves."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aioresponses import aioresponses

from original_async import OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import NotFound, ServerFailed, UnexpectedResponse
from tests.original_async.conftest import BASE, REWARD, USER, MakeClient
from vendor_sandboxes.original import OriginalSandbox


async def make_one(client: OriginalClient) -> str:
    return (await client.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount="1", nonce="nonce_1")).uid


def reads(sandbox: OriginalSandbox) -> list[str]:
    paths = [seen.path.removeprefix("/v1/reward/") for seen in sandbox.requests if seen.method == "GET"]
    sandbox.requests.clear()
    return paths


@pytest.mark.parametrize("path", ["allocation", "allocate", "both"])
async def test_reading_works_wherever_the_vendor_has_it(original: OriginalClient, sandbox: OriginalSandbox, path: str) -> None:
    sandbox.options.read_path = path
    uid = await make_one(original)
    assert (await original.get_allocation(uid)).uid == uid
    assert [each.uid for each in await original.get_allocations_by_user_uid(USER)] == [uid]
    found = await original.find_allocation(USER, nonce="nonce_1")
    assert found is not None


async def test_one_is_asked_for_under_the_source_documents_path_first(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    uid = await make_one(original)
    await original.get_allocation(uid)
    await original.get_allocation(uid)
    assert reads(sandbox) == [f"allocation/{uid}"] * 2


async def test_a_list_is_asked_for_under_the_other_path_first(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    await original.get_allocations_by_user_uid(USER)
    await original.get_allocations_by_user_uid(USER)
    assert reads(sandbox) == ["allocate"] * 2


async def test_the_first_path_that_answers_settles_it(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.options.read_path = "allocate"
    uid = await make_one(original)
    await original.get_allocation(uid)
    assert reads(sandbox) == [f"allocation/{uid}", f"allocate/{uid}"]
    await original.get_allocation(uid)
    with pytest.raises(NotFound):
        await original.get_allocation("999")
    assert reads(sandbox) == [f"allocate/{uid}", "allocate/999"]


async def test_a_404_everywhere_settles_nothing(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.options.read_path = "allocate"
    for _ in range(2):
        with pytest.raises(NotFound):
            await original.get_allocation("999")
        assert reads(sandbox) == ["allocation/999", "allocate/999"]
    uid = await make_one(original)
    assert (await original.get_allocation(uid)).uid == uid


async def test_a_list_caught_by_another_route_is_asked_for_under_the_other_path(
    original: OriginalClient, sandbox: OriginalSandbox
) -> None:
    sandbox.options.read_path = "allocation"
    uid = await make_one(original)
    assert [each.uid for each in await original.get_allocations_by_user_uid(USER)] == [uid]
    assert reads(sandbox) == ["allocate", "allocation"]
    await original.get_allocations_by_user_uid(USER)
    assert reads(sandbox) == ["allocation"]


async def test_what_a_list_found_out_says_nothing_about_reading_one(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    uid = await make_one(original)
    await original.get_allocations_by_user_uid(USER)
    await original.get_allocation(uid)
    assert reads(sandbox) == ["allocate", f"allocation/{uid}"]


@pytest.mark.parametrize("path", ["allocation", "allocate"])
async def test_a_pinned_path_is_the_only_one_asked(make_client: MakeClient, sandbox: OriginalSandbox, path: Any) -> None:
    client = make_client(base_url=sandbox.url, read_path=path)
    uid = await make_one(client)
    await client.get_allocation(uid)
    await client.get_allocations_by_user_uid(USER)
    with pytest.raises(NotFound):
        await client.get_allocation("999")
    assert reads(sandbox) == [f"{path}/{uid}", path, f"{path}/999"]


async def test_reads_at_the_same_time_all_find_their_way(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    sandbox.options.read_path = "allocate"
    uid = await make_one(original)
    found = await asyncio.gather(*(original.get_allocation(uid) for _ in range(10)))
    assert {each.uid for each in found} == {uid}


@pytest.mark.parametrize(
    ("answer", "kind"), [({"status": 500}, ServerFailed), ({"status": 200, "body": b"<html>"}, UnexpectedResponse)]
)
async def test_only_a_404_asks_elsewhere(make_client: MakeClient, wire: aioresponses, answer: Any, kind: type[Exception]) -> None:
    wire.get(f"{BASE}/reward/allocation/1", **answer)
    with pytest.raises(kind):
        await make_client(retry=RetryPolicy(attempts=1)).get_allocation("1")
    assert len(wire.requests) == 1


async def test_an_operation_is_read_by_its_ref(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    uid = await make_one(original)
    await sandbox.settle(uid)
    claim = await original.create_claim(reward_uid=REWARD, from_user_uid=USER, to_address="0x" + "a" * 40)
    allocation = await original.read_operation(original.ref_of(uid))
    assert (allocation.ref, allocation.status) == (original.ref_of(uid), "done")
    assert (await original.read_operation(claim.ref)).ref == claim.ref
    assert (await original.read_operation(cast("Any", uid))).ref == allocation.ref


LISTS = [f"{BASE}/reward/{path}?user_uid={USER}" for path in ("allocate", "allocation")]
LISTED = {"uid": "1", "status": "done", "reward_uid": REWARD, "to_user_uid": USER, "amount": "1", "nonce": "nonce_1"}


async def test_a_path_that_serves_only_creations_is_not_the_one_that_is_read(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(LISTS[0], status=405, repeat=True)
    wire.get(LISTS[1], payload={"success": True, "data": [LISTED]}, repeat=True)
    assert [each.uid for each in await client.get_allocations_by_user_uid(USER)] == ["1"]


async def test_an_empty_list_does_not_settle_where_allocations_are(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(LISTS[0], status=404)
    wire.get(LISTS[1], payload={"success": True, "data": []}, repeat=True)
    assert await client.find_allocation(USER, nonce="nonce_1") is None
    wire.get(LISTS[0], payload={"success": True, "data": [LISTED]}, repeat=True)
    found = await client.find_allocation(USER, nonce="nonce_1")
    assert found is not None
