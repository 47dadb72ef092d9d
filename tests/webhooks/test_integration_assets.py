"""Every asynchronous operation of Original is awaitable: woken by events about its asset, or settled by polls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import frozen

from original_async import (
    Asset,
    AssetData,
    Burn,
    Collection,
    DeploymentStatus,
    Edit,
    OriginalClient,
    Reward,
    Transfer,
    TransferCancelled,
)
from rewards_core import OperationMismatch, OperationRef, OperationStatus, OutcomeUnknown, RetryPolicy, Timeouts
from tests.texts import said
from tests.webhooks.test_integration_original import GRANT, LATE, SOON, Job, a_job
from vendor_sandboxes import OriginalSandbox
from webhooks import PollPolicy
from webhooks.store.records import Priority

COLLECTION = "471616646163"
REWARD = "764893807463"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
DATA = AssetData(name="Badge", image_url="https://example.com/1.png", unique_name=False)
EDITED = AssetData(name="Badge", image_url="https://example.com/2.png", unique_name=False)
SHAPES = ["asset", "sample", "flat", "asset_uid", "with_operation"]


async def mint(client: OriginalClient, external_id: str) -> Asset:
    return await client.create_asset(user_uid="110985463782", collection_uid=COLLECTION, asset_external_id=external_id, data=DATA)


async def minted(job: Job) -> Asset:
    """Return an asset that is minted, and whose event has been delivered."""
    asset = await mint(job.client, "staged")
    await job.sandbox.settle(asset.uid, kind="asset")
    return asset


@frozen
class Step:
    """An operation on an asset.

    Attributes:
        kind: Its kind.
        begin: Starts it.
        model: What `wait` returns.
    """

    kind: str
    begin: Callable[[OriginalClient, Asset], Awaitable[Any]]
    model: type[Any]


def _owner(asset: Asset) -> dict[str, str]:
    return {"asset_uid": asset.uid, "from_user_uid": "110985463782"}


STEPS = [
    Step("edit", lambda client, asset: client.edit_asset(asset.uid, data=EDITED), Edit),
    Step("transfer", lambda client, asset: client.create_transfer(**_owner(asset), to_address=WALLET), Transfer),  # type: ignore[arg-type]
    Step("burn", lambda client, asset: client.create_burn(**_owner(asset)), Burn),  # type: ignore[arg-type]
]
each_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.kind)


async def settle(sandbox: OriginalSandbox, operation: Any, status: str = "done") -> None:
    """Settle an operation; the sandbox knows an edit by its asset."""
    uid = operation.asset_uid if operation.ref.kind == "edit" else operation.uid
    await sandbox.settle(uid, status, kind=operation.ref.kind)


async def polled_once(job: Job, kind: str) -> Priority:
    """Wait until an operation that is awaited has been polled, because of the mint's event; return its priority then."""
    while True:
        for pending in await job.store.list_pending(kind=kind):
            if pending.polls:
                return pending.priority
        await asyncio.sleep(0)


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_mint_is_settled_by_one_read_after_its_event(shape: str) -> None:
    async with a_job(LATE, confirm=(0.01, 0.01), asset_webhook_shape=shape) as job:
        asset = await mint(job.client, "x")
        done = await job.completions.wait(asset, timeout=60)
        assert isinstance(done, Asset)
        assert (done.uid, done.status, done.token_id) == (asset.uid, "done", "1")
        assert sum(seen.method == "GET" for seen in job.sandbox.requests) == 1
        outcome = await job.store.outcome(asset.ref)
        assert outcome is not None
        assert (outcome.via, outcome.status) == ("webhook", OperationStatus.DONE)


@each_step
@pytest.mark.parametrize("shape", SHAPES)
async def test_an_event_about_its_asset_settles_an_operation(step: Step, shape: str) -> None:
    async with a_job(LATE, confirm=None, asset_webhook_shape=shape) as job:
        operation = await step.begin(job.client, await minted(job))
        async with job.completions.as_completed([operation], timeout=60) as outcomes:
            await polled_once(job, step.kind)
            await settle(job.sandbox, operation)
            async for outcome in outcomes:
                assert outcome.error is None
                assert isinstance(outcome.operation, step.model)
                assert outcome.operation.status is OperationStatus.DONE
                assert outcome.via == "webhook"


@each_step
async def test_an_event_before_the_answer_to_the_call_is_not_missed(step: Step) -> None:
    async with a_job(LATE, confirm=None) as job:
        asset = await minted(job)
        job.sandbox.options.webhook_before_reply = 1.0
        operation = await step.begin(job.client, asset)
        reads = sum(seen.method == "GET" for seen in job.sandbox.requests)
        done = await job.completions.wait(operation, timeout=60)
        assert (done.ref, done.status) == (operation.ref, OperationStatus.DONE)
        assert sum(seen.method == "GET" for seen in job.sandbox.requests) == reads + 1


@each_step
async def test_the_event_of_a_mint_costs_what_follows_it_one_poll(step: Step) -> None:
    async with a_job(LATE, confirm=None) as job:
        operation = await step.begin(job.client, await minted(job))
        reads = sum(seen.method == "GET" for seen in job.sandbox.requests)
        async with job.completions.as_completed([operation], timeout=60) as outcomes:
            assert await polled_once(job, step.kind) is Priority.ROUTINE
            assert sum(seen.method == "GET" for seen in job.sandbox.requests) == reads + 1
            await settle(job.sandbox, operation)
            assert [outcome.error async for outcome in outcomes] == [None]


@pytest.mark.slow
async def test_many_transfers_whose_events_came_before_they_were_awaited_settle_without_a_routine_poll() -> None:
    async with a_job(PollPolicy(first_after=600.0, max_per_second=500.0), confirm=None) as job:
        transfers = []
        for number in range(20):
            asset = await mint(job.client, f"x{number}")
            await job.sandbox.settle(asset.uid, kind="asset")
            transfers.append(await STEPS[1].begin(job.client, asset))
            await job.sandbox.settle(transfers[-1].uid, kind="transfer")
        async with job.completions.as_completed(transfers, timeout=60) as outcomes:
            assert {outcome.ref async for outcome in outcomes if outcome.error is None} == {each.ref for each in transfers}


@each_step
async def test_without_events_polls_settle(step: Step) -> None:
    async with a_job(SOON, confirm=(0.01, 0.01), webhook_loss=1.0) as job:
        asset = await job.completions.wait(await mint(job.client, "x"), timeout=60)
        operation = await step.begin(job.client, asset)
        done = await job.completions.wait(operation, timeout=60)
        assert isinstance(done, step.model)
        assert done.status is OperationStatus.DONE


async def test_an_external_id_that_the_vendor_answers_with_an_older_asset_is_a_mismatch() -> None:
    async with a_job(SOON, confirm=(0.01, 0.01), duplicate_external_id="replay") as job:
        older = await job.completions.wait(await mint(job.client, "x"), timeout=60)
        newer = await job.client.create_asset(
            user_uid="110985463782",
            collection_uid=COLLECTION,
            asset_external_id="x",
            data=AssetData(name="Other", image_url="https://example.com/2.png", unique_name=False),
        )
        assert newer.uid == older.uid
        with pytest.raises(OperationMismatch) as caught:
            await job.completions.wait(newer, timeout=60)
        said("wait: the external id belongs to another asset", str(caught.value).replace(older.uid, "UID"))
        assert caught.value.differences == {"name": ("Other", "Badge #1")}


async def test_an_edit_shows_its_asset() -> None:
    async with a_job(SOON, confirm=(0.01, 0.01)) as job:
        asset = await job.completions.wait(await mint(job.client, "x"), timeout=60)
        edit = await job.completions.wait(await job.client.edit_asset(asset.uid, data=EDITED), timeout=60)
        assert edit.asset is not None
        assert edit.asset.metadata is not None
        assert edit.asset.metadata.org_image_url == "https://example.com/2.png"
        again = await job.completions.wait(edit.ref, timeout=60)
        assert again == edit


async def test_a_cancelled_transfer_is_raised_as_such_and_the_asset_can_go_again() -> None:
    async with a_job(SOON, confirm=None) as job:
        asset = await minted(job)
        first = await job.client.create_transfer(asset_uid=asset.uid, from_user_uid="110985463782", to_address=WALLET)
        await job.sandbox.settle(first.uid, "cancelled", kind="transfer")
        with pytest.raises(TransferCancelled) as caught:
            await job.completions.wait(first, timeout=60)
        assert caught.value.operation.uid == first.uid
        outcome = await job.store.outcome(first.ref)
        assert outcome is not None
        assert outcome.status is OperationStatus.CANCELLED
        with pytest.raises(TransferCancelled):
            await job.completions.wait(first.ref, timeout=60)
        second = await job.client.create_transfer(asset_uid=asset.uid, from_user_uid="110985463782", to_address=WALLET)
        await job.sandbox.settle(second.uid, kind="transfer")
        assert (await job.completions.wait(second, timeout=60)).uid == second.uid


async def test_a_collection_and_a_reward_contract_are_awaited_until_they_are_deployed() -> None:
    async with a_job(SOON, confirm=None) as job:
        job.sandbox.deploy_collection("600000000001")
        job.sandbox.deploy_reward("600000000002")
        collection, reward = await job.client.get_collection("600000000001"), await job.client.get_reward("600000000002")
        assert (collection.status, reward.status) == (DeploymentStatus.DEPLOYING, DeploymentStatus.DEPLOYING)
        for kind, uid in (("collection", collection.uid), ("reward", reward.uid)):
            await job.sandbox.settle(uid, kind=kind)
        ready = await job.completions.wait(collection, timeout=60)
        assert (type(ready), ready.status) == (Collection, "deployed")
        assert type(ready.contract_address) is str
        granted = await job.completions.wait(reward, timeout=60)
        assert (type(granted), granted.status) == (Reward, "deployed")
        assert (await job.completions.wait(OperationRef("default", "collection", "600000000001"))).status == "deployed"


async def test_the_event_of_a_collection_settles_it() -> None:
    async with a_job(LATE, confirm=None) as job:
        job.sandbox.deploy_collection("600000000001")
        collection = await job.client.get_collection("600000000001")
        await job.sandbox.settle(collection.uid, kind="collection")
        assert (await job.completions.wait(collection, timeout=60)).status == "deployed"


async def test_what_is_deployed_already_is_done_at_once() -> None:
    async with a_job(LATE) as job:
        assert (await job.completions.wait(await job.client.get_collection(COLLECTION))).uid == COLLECTION
        assert (await job.completions.wait(await job.client.get_reward(REWARD))).uid == REWARD


async def test_operations_of_every_kind_in_one_stream() -> None:
    async with a_job(SOON, confirm=(0.01, 0.05)) as job:
        client = job.client
        assets = [await job.completions.wait(await mint(client, f"x{number}"), timeout=60) for number in range(3)]
        begun: list[Any] = [await step.begin(client, asset) for step, asset in zip(STEPS, assets, strict=True)]
        begun += [
            await mint(client, "y"),
            await client.create_allocation(**GRANT, nonce="n"),
            await client.get_collection(COLLECTION),
        ]
        begun.append(await client.get_reward(REWARD))
        ended = set()
        async with job.completions.as_completed(begun, timeout=60) as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None
                ended.add(outcome.ref)
        assert ended == {operation.ref for operation in begun}
        assert {ref.kind for ref in ended} == {"edit", "transfer", "burn", "asset", "allocation", "collection", "reward"}


OLDER = {"from_user_key": "from_app_user_uid", "asset_webhook_shape": "with_operation"}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [*[(kind, {}) for kind in ("asset", "edit", "transfer", "burn")], ("transfer", OLDER), ("burn", OLDER)],
    ids=["asset", "edit", "transfer", "burn", "older transfer", "older burn"],
)
@pytest.mark.parametrize("webhooks", [True, False])
async def test_what_a_lost_reply_began_is_found_and_awaited(kind: str, shape: dict[str, str], webhooks: bool) -> None:
    async with a_job(SOON, webhooks=webhooks, confirm=None, **shape) as job:
        asset = await minted(job)
        begin = {step.kind: step.begin for step in STEPS}
        job.sandbox.options.list_lag = 3600.0  # so that the call itself does not find it
        job.sandbox.script("drop_after_commit", method="PUT" if kind == "edit" else "POST")
        hasty: Any = {"retry": RetryPolicy(attempts=1), "timeouts": Timeouts(total=2.0)}
        async with OriginalClient(job.sandbox.api_key, job.sandbox.api_secret, base_url=job.sandbox.url, **hasty) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await (mint(client, "x") if kind == "asset" else begin[kind](client, asset))
        job.sandbox.options.list_lag = 0.0
        entries = {"asset": "assets", "edit": "edits", "transfer": "transfers", "burn": "burns"}
        entry = job.sandbox.books()[entries[kind]][-1]
        await job.sandbox.settle(asset.uid if kind == "edit" else entry["uid"], kind=kind)
        found = await job.completions.wait(caught.value, timeout=60)
        assert (found.ref.kind, found.recovered) == (kind, True)
        assert found.status.outcome is OperationStatus.DONE
        assert len(job.sandbox.books()[entries[kind]]) == (2 if kind == "asset" else 1)


async def test_a_bare_ref_learns_from_its_first_poll_what_it_is_about() -> None:
    async with a_job(LATE, confirm=None) as job:
        asset = await minted(job)
        transfer = await job.client.create_transfer(asset_uid=asset.uid, from_user_uid="110985463782", to_address=WALLET)
        bare = OperationRef("default", "transfer", transfer.uid)
        async with job.completions.as_completed([bare], timeout=60, poll_now=True) as outcomes:
            await job.sandbox.until(lambda: any("/transfer/" in seen.path for seen in job.sandbox.requests))
            while not any(one.ref.about for one in await job.store.list_pending(kind="transfer")):
                await asyncio.sleep(0)
            await job.sandbox.settle(transfer.uid, kind="transfer")
            ended = [outcome async for outcome in outcomes]
        assert [(outcome.ref, outcome.via) for outcome in ended] == [(bare, "webhook")]
