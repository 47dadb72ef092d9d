"""Every call of the vendor's own SDK, as installed, works against the sandbox with nothing set but address and credentials."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from original_sdk import ClientError, OriginalAsyncClient, OriginalClient, ValidationError

from vendor_sandboxes import OriginalSandbox

REWARD = "764893807463"
COLLECTION = "471616646163"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
Call = Callable[..., Awaitable[Any]]


async def whole_story(call: Call, sandbox: OriginalSandbox, mail: str) -> None:
    """Go through users, allocations, lists, claims, balance and reward; `call` names a method of the SDK."""
    user = (await call("create_user", email=mail, user_external_id=f"external {mail}"))["data"]["uid"]
    read = await call("get_user", user)
    assert (read["success"], read["data"]["email"]) == (True, mail)
    assert read.status_code() == 200
    assert (await call("get_user_by_email", mail))["data"]["uid"] == user
    assert (await call("get_user_by_user_external_id", f"external {mail}"))["data"]["uid"] == user
    assert (await call("create_user"))["data"]["uid"] != user
    assert dict(await call("get_user_by_email", "nobody@example.com")) == {"success": False, "data": None}
    with pytest.raises(ClientError, match="User already exists"):
        await call("create_user", email=mail)
    with pytest.raises(ValidationError, match="valid email"):
        await call("create_user", email="no address")
    with pytest.raises(ClientError, match="User not found"):
        await call("get_user", "000000000000")

    reward = (await call("get_reward", REWARD))["data"]
    assert (reward["status"], reward["token_type"]) == ("deployed", "ERC20")

    asked = {"reward_uid": REWARD, "to_user_uid": user, "amount": 0.001, "nonce": f"nonce of {mail}"}
    created = await call("create_allocation", **asked)
    assert created.status_code() == 201
    uid = created["data"]["uid"]
    pending = (await call("get_allocation", uid))["data"]
    assert (pending["status"], pending["amount"], pending["to_user_uid"]) == ("pending", 0.001, user)
    with pytest.raises(ClientError, match="nonce already used"):
        await call("create_allocation", **asked)
    await sandbox.settle(uid)
    assert (await call("get_allocation", uid))["data"]["status"] == "done"
    assert [one["uid"] for one in (await call("get_allocations_by_user_uid", user))["data"]] == [uid]
    assert (await call("get_allocations_by_user_uid", "000000000000"))["data"] == []
    with pytest.raises(ClientError, match="Allocation not found"):
        await call("get_allocation", "000000000000")

    balance = (await call("get_balance", reward_uid=REWARD, user_uid=user))["data"]
    assert balance == {"reward_uid": REWARD, "user_uid": user, "amount": 0.001}
    with pytest.raises(ClientError, match="Reward not found"):
        await call("get_balance", reward_uid="000000000000", user_uid=user)

    claim = (await call("create_claim", reward_uid=REWARD, from_user_uid=user, to_address=WALLET))["data"]["uid"]
    assert (await call("get_claim", claim))["data"]["status"] == "pending"
    await sandbox.settle(claim, kind="claim")
    claims = (await call("get_claims_by_user_uid", user))["data"]
    assert [(one["uid"], one["status"], one["amount"]) for one in claims] == [(claim, "done", 0.001)]
    assert (await call("get_balance", reward_uid=REWARD, user_uid=user))["data"]["amount"] == 0
    with pytest.raises(ClientError, match="Collection not found"):
        await call("get_collection", "000000000000")


async def story_of_assets(call: Call, sandbox: OriginalSandbox, name: str) -> None:
    """Go through collections, assets, edits, transfers, burns and deposits; `call` names a method of the SDK."""
    collection = (await call("get_collection", COLLECTION))["data"]
    assert (collection["status"], collection["type"], collection["editable_assets"]) == ("deployed", "ERC721", True)
    user, other = [(await call("create_user"))["data"]["uid"] for _ in range(2)]
    look = {"name": name, "unique_name": True, "image_url": "https://example.com/1.png", "store_image_on_ipfs": False}
    asked = {"collection_uid": COLLECTION, "data": look, "sale_price_in_usd": 9.99}
    created = await call("create_asset", user_uid=user, asset_external_id=name, **asked)
    assert created.status_code() == 201
    asset = created["data"]["uid"]
    assert (await call("get_asset", asset))["data"]["is_transferable"] is False
    with pytest.raises(ClientError, match="cannot be transferred now"):
        await call("create_transfer", asset_uid=asset, from_user_uid=user, to_address=WALLET)
    with pytest.raises(ClientError, match="name already exists"):
        await call("create_asset", user_uid=user, asset_external_id=f"{name} again", **asked)
    await sandbox.settle(asset, kind="asset")
    assert (await call("get_asset", asset))["data"]["sale_price_in_usd"] == 9.99
    assert [one["uid"] for one in (await call("get_assets_by_user_uid", user))["data"]] == [asset]
    assert (await call("get_assets_by_user_uid", "000000000000"))["data"] == []
    with pytest.raises(ClientError, match="Asset not found"):
        await call("get_asset", "000000000000")

    edited = await call("edit_asset", asset, data={**look, "description": "edited"})
    assert (edited.status_code(), dict(edited)) == (200, {"success": True, "data": None})
    await sandbox.settle(asset, kind="edit")
    assert (await call("get_asset", asset))["data"]["metadata"]["description"] == "edited"

    assert (await call("get_deposit", other, COLLECTION))["data"]["wallet_address"] is None
    second = (
        await call(
            "create_asset",
            user_uid=other,
            asset_external_id=f"{name} 2",
            collection_uid=COLLECTION,
            data={**look, "name": f"{name} 2"},
        )
    )["data"]["uid"]
    await sandbox.settle(second, kind="asset")
    wallet = (await call("get_deposit", other, COLLECTION))["data"]["wallet_address"]
    assert (await call("get_user", other))["data"]["wallets"][0]["address"] == wallet

    transfer = (await call("create_transfer", asset_uid=asset, from_user_uid=user, to_address=wallet))["data"]["uid"]
    assert (await call("get_transfer", transfer))["data"]["status"] == "pending"
    await sandbox.settle(transfer, kind="transfer")
    assert [one["status"] for one in (await call("get_transfers_by_user_uid", user))["data"]] == ["done"]
    assert (await call("get_asset", asset))["data"]["owner_user_uid"] == other

    burn = (await call("create_burn", asset_uid=asset, from_user_uid=other))["data"]["uid"]
    await sandbox.settle(burn, kind="burn")
    assert (await call("get_burn", burn))["data"]["status"] == "done"
    assert [one["uid"] for one in (await call("get_burns_by_user_uid", other))["data"]] == [burn]
    assert (await call("get_asset", asset))["data"]["is_burned"] is True


def calls_of(sdk: type[Any]) -> set[str]:
    """Return the names of the SDK's calls of the vendor."""
    return {name for name in vars(sdk) if name.startswith(("create_", "get_", "edit_"))}


async def test_async_sdk_as_installed() -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        client = OriginalAsyncClient(api_key=sandbox.api_key, api_secret=sandbox.api_secret, base_url=sandbox.origin)
        called = set()

        def call(name: str, *values: Any, **named: Any) -> Awaitable[Any]:
            called.add(name)
            answer: Awaitable[Any] = getattr(client, name)(*values, **named)
            return answer

        async with client.session:
            await whole_story(call, sandbox, "async@example.com")
            await story_of_assets(call, sandbox, "async")
    assert (called, len(called)) == (calls_of(OriginalAsyncClient), 24)


async def test_sync_sdk_as_installed() -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        client = OriginalClient(api_key=sandbox.api_key, api_secret=sandbox.api_secret, base_url=sandbox.origin)

        called = set()

        async def call(name: str, *values: Any, **named: Any) -> Any:
            called.add(name)
            return await asyncio.to_thread(getattr(client, name), *values, **named)

        await whole_story(call, sandbox, "sync@example.com")
        await story_of_assets(call, sandbox, "sync")
        client.session.close()
    assert (called, len(called)) == (calls_of(OriginalClient), 24)


async def test_sdk_with_wrong_secret_is_refused() -> None:
    async with OriginalSandbox() as sandbox:
        client = OriginalAsyncClient(
            api_key=sandbox.api_key, api_secret="another secret of thirty-two characters or more", base_url=sandbox.origin
        )
        async with client.session:
            with pytest.raises(ClientError) as caught:
                await client.get_reward(REWARD)
    assert caught.value.status == 401


def test_sdk_is_the_one_from_the_index() -> None:
    assert "site-packages" in inspect.getfile(OriginalClient)
