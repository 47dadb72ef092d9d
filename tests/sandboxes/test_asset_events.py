"""Events of assets and collections of the sandboxed Original, in every shape, with the faults that events of rewards meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.sandboxes.conftest import USER, Caller, Inbox
from vendor_sandboxes import OriginalSandbox

CallerOf = Callable[[OriginalSandbox], Caller]
EVENTS = {
    "asset": "asset.minted",
    "edit": "asset.edited",
    "transfer": "asset.transferred",
    "burn": "asset.burned",
    "deposit": "asset.transferred",
}
LOGS = {
    "asset": "mint_asset",
    "edit": "edit_asset",
    "transfer": "transfer_asset",
    "burn": "burn_asset",
    "deposit": "transfer_asset",
}
KEYS = {"4o3vfxtcmo7b": "secret-one", "ws7orr8kbho6": "secret-two"}


async def happened(sandbox: OriginalSandbox, caller: Caller, kind: str) -> tuple[str, Any]:
    """Have an operation carried out with its webhook alone; return the uid of the asset and the operation, if it is shown."""
    url, sandbox.webhook_url = sandbox.webhook_url, None
    asset = (await caller.mint()).data["uid"] if kind == "asset" else await caller.minted(sandbox)
    if kind == "deposit":
        await sandbox.settle((await caller.transfer(asset)).data["uid"], kind="transfer")
    sandbox.webhook_url = url
    if kind == "deposit":
        await sandbox.deposit(asset, USER)
    elif kind == "asset":
        await sandbox.settle(asset, kind="asset")
    elif kind == "edit":
        await caller.edit(asset, name="Eve")
        await sandbox.settle(asset, kind="edit")
    else:
        uid = (await (caller.transfer(asset) if kind == "transfer" else caller.burn(asset))).data["uid"]
        await sandbox.settle(uid, kind=kind)
        return asset, (await caller.call("GET", f"/{kind}/{uid}")).data
    return asset, None


@pytest.mark.parametrize("kind", EVENTS)
async def test_event_of_an_asset_is_signed_and_carries_it_whole(caller_of: CallerOf, inbox: Inbox, kind: str) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_keys=KEYS) as sandbox:
        caller = caller_of(sandbox)
        uid, _ = await happened(sandbox, caller, kind)
        read = await caller.asset(uid)
    (arrival,) = inbox.arrivals
    assert all(arrival.signed_by(*key) for key in KEYS.items())
    assert set(arrival.body) == {"data", "event", "event_time", "sent_at"}
    assert arrival.body["event"] == EVENTS[kind]
    data = arrival.body["data"]
    assert set(data) == {"app", "asset", "transaction_log"}
    assert (data["transaction_log"]["type"], data["transaction_log"]["chain_id"]) == (LOGS[kind], 80002)
    assert data["asset"] == read


def subject(shape: str, body: str, asset: Any, beside: dict[str, Any]) -> dict[str, Any]:
    """Return what `data` holds beside the app and the transaction log."""
    if body == "opaque":
        return {}
    if shape == "asset_uid":
        return {"asset_uid": asset["uid"]}
    shown = {"uid": asset["uid"]} if body == "uid" else asset
    if shape == "sample" and body == "full":
        shown = {name: asset[name] for name in ("uid", "name", "metadata")}
    if shape == "flat":
        return dict(shown)
    if shape == "with_operation":
        return {
            "asset": shown,
            **{name: {"uid": each["uid"]} if body == "uid" else each for name, each in beside.items() if each},
        }
    return {"asset": shown}


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("body", ["full", "uid", "opaque"])
@pytest.mark.parametrize("shape", ["asset", "sample", "flat", "asset_uid", "with_operation"])
async def test_event_carries_the_asset_where_the_shape_says(
    caller_of: CallerOf, inbox: Inbox, shape: str, body: str, kind: str
) -> None:
    options: dict[str, Any] = {"asset_webhook_shape": shape, "webhook_body": body}
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, **options) as sandbox:
        caller = caller_of(sandbox)
        uid, operation = await happened(sandbox, caller, kind)
        read = await caller.asset(uid)
    data = inbox.arrivals[0].body["data"]
    del data["app"], data["transaction_log"]
    assert data == subject(shape, body, read, {kind: operation})


async def test_mixed_shapes_of_assets_are_drawn_for_each_event(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, asset_webhook_shape="asset,asset_uid") as sandbox:
        for number in range(12):
            await caller_of(sandbox).minted(sandbox, f"asset_{number}")
    names = [name for arrival in inbox.arrivals for name in arrival.body["data"] if name.startswith("asset")]
    assert (set(names), len(names)) == ({"asset", "asset_uid"}, 12)


async def test_burned_event_shows_the_asset_before_its_lag_is_over(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, burn_lag=3600) as sandbox:
        await happened(sandbox, caller_of(sandbox), "burn")
    assert inbox.arrivals[0].body["data"]["asset"]["is_burned"] is False


async def test_cancelled_transfer_sends_no_event(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        transfer = (await caller.transfer(await caller.minted(sandbox))).data["uid"]
        sandbox.webhook_url = inbox.url
        await sandbox.settle(transfer, "cancelled", kind="transfer")
        await sandbox.quiet()
    assert inbox.arrivals == []


async def test_deployed_collection_sends_its_event_and_a_reward_none(inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=(0, 0), webhook_url=inbox.url) as sandbox:
        sandbox.deploy_collection("c")
        sandbox.deploy_reward("r")
        await sandbox.quiet()
        assert sandbox.books()["collections"][-1]["deliveries"] == 1
    (arrival,) = inbox.arrivals
    assert arrival.body["event"] == "collection.deployed"
    collection = arrival.body["data"]["collection"]
    assert list(collection) == ["uid", "name", "type", "symbol", "website", "image_url", "description", "contract_address"]
    assert (collection["uid"], collection["type"]) == ("c", "ERC721")
    assert arrival.body["data"]["transaction_log"]["type"] == "deploy_collection"


@pytest.mark.parametrize(("body", "shown"), [("uid", {"collection": {"uid": "c"}}), ("opaque", {})])
async def test_event_of_a_collection_may_say_little(inbox: Inbox, body: str, shown: dict[str, Any]) -> None:
    async with OriginalSandbox(confirm=(0, 0), webhook_url=inbox.url, webhook_body=body) as sandbox:
        sandbox.deploy_collection("c")
        await sandbox.quiet()
    data = inbox.arrivals[0].body["data"]
    del data["app"], data["transaction_log"]
    assert data == shown


async def test_events_of_assets_are_lost_and_doubled_too(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_loss=1) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        assert inbox.arrivals == []
        sandbox.options.webhook_loss, sandbox.options.webhook_duplicate = 0, 1
        await sandbox.settle((await caller.burn(uid)).data["uid"], kind="burn")
        await sandbox.delivered()
        books = sandbox.books()
        assert (books["assets"][0]["deliveries"], books["burns"][0]["deliveries"]) == (0, 2)
    assert [arrival.body["event"] for arrival in inbox.arrivals] == ["asset.burned"] * 2


async def test_held_back_event_of_an_asset_arrives_after_a_later_one(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=(0, 0), webhook_url=inbox.url, webhook_reorder=1, webhook_hold=60) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint()).data["uid"]
        await sandbox.until(lambda: sandbox.webhooks.open == 1)
        sandbox.options.webhook_reorder = 0
        await caller.edit(uid)
        await sandbox.until(lambda: sandbox.webhooks.counts["accepted"] == 2)
    assert [arrival.body["event"] for arrival in inbox.arrivals] == ["asset.edited", "asset.minted"]


async def test_events_may_arrive_before_the_reply_to_each_request(caller_of: CallerOf, inbox: Inbox) -> None:
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_before_reply=1) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint()).data["uid"]
        assert [arrival.body["event"] for arrival in inbox.arrivals] == ["asset.minted"]
        edited = await caller.edit(uid)
        assert (edited.status, edited.data, inbox.arrivals[-1].body["event"]) == (200, None, "asset.edited")
        await caller.burn(uid)
        assert inbox.arrivals[-1].body["event"] == "asset.burned"


async def test_refused_event_of_an_asset_is_sent_again(caller_of: CallerOf, inbox: Inbox) -> None:
    inbox.statuses = [500]
    async with OriginalSandbox(confirm=None, webhook_url=inbox.url, webhook_backoff=0.001) as sandbox:
        await caller_of(sandbox).minted(sandbox)
        await sandbox.delivered()
    assert [arrival.headers["x-webhook-attempt"] for arrival in inbox.arrivals] == ["1", "2"]
