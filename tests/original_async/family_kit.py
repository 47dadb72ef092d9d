"""A call of every method of the client, and the writes of each family with what the vendor holds after them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from attrs import frozen

from original_async import (
    AllocationRequest,
    AssetData,
    AssetRequest,
    BurnRequest,
    EditRequest,
    OriginalClient,
    TransferRequest,
    UserRequest,
)
from rewards_core.operations import OperationRef
from tests.original_async.conftest import REWARD, USER, WALLET
from vendor_sandboxes.original import OriginalSandbox

COLLECTION = "471616646163"
EXTERNAL_ID = "asset_external_id_1"
EMAIL = "user_email+1@email.com"
DATA = AssetData(name="Dave Starbelly", image_url="https://example.com/3.png", unique_name=False, description="Friendly")
EDITED = AssetData(name="Dave Starbelly", image_url="https://example.com/3.png", unique_name=False, description="Edited")


@frozen
class Stage:
    """A user, and an asset that the user owns."""

    user_uid: str
    asset_uid: str


async def set_stage(original: OriginalClient, sandbox: OriginalSandbox) -> Stage:
    """Create a user and mint an asset for it."""
    user = await original.create_user(user_external_id="owner")
    asset = await original.create_asset(user_uid=user.uid, collection_uid=COLLECTION, asset_external_id="staged", data=DATA)
    await sandbox.settle(asset.uid, kind="asset")
    return Stage(user.uid, asset.uid)


@frozen(kw_only=True)
class Write:
    """A method that writes.

    Attributes:
        name: Its name.
        method: The HTTP method.
        path: Where it is sent.
        send: Makes the call.
        made: Returns how many of what it creates the vendor holds.
        request: What its `OutcomeUnknown` carries.
        repeats: Whether it is sent again after an attempt that may have arrived.
        keyed: Whether the vendor may know its key.
        found: Whether what an attempt made is found, so that the call ends well; an edit that is under way cannot be recognised.
    """

    name: str
    method: str = "POST"
    path: str
    send: Callable[[OriginalClient, Stage], Awaitable[Any]]
    made: Callable[[dict[str, Any]], int]
    request: type[Any]
    repeats: bool = True
    keyed: bool = False
    found: bool = True


def _of_user(books: dict[str, Any]) -> int:
    return len(books["users"]) - 1


WRITES = [
    Write(
        name="create_user",
        keyed=True,
        path="/user",
        send=lambda original, _: original.create_user(email=EMAIL, user_external_id="user 1"),
        made=_of_user,
        request=UserRequest,
    ),
    Write(
        name="create_user without an id",
        path="/user",
        send=lambda original, _: original.create_user(),
        made=_of_user,
        request=UserRequest,
        repeats=False,
        found=False,
    ),
    Write(
        name="create_asset",
        keyed=True,
        path="/asset",
        send=lambda original, stage: original.create_asset(
            user_uid=stage.user_uid, collection_uid=COLLECTION, asset_external_id=EXTERNAL_ID, data=DATA
        ),
        made=lambda books: books["assets_created"].get(EXTERNAL_ID, 0),
        request=AssetRequest,
        repeats=False,
    ),
    Write(
        name="edit_asset",
        method="PUT",
        path="/asset/",
        send=lambda original, stage: original.edit_asset(stage.asset_uid, data=EDITED),
        made=lambda books: len(books["edits"]),
        request=EditRequest,
        found=False,
    ),
    Write(
        name="create_transfer",
        path="/transfer",
        send=lambda original, stage: original.create_transfer(
            asset_uid=stage.asset_uid, from_user_uid=stage.user_uid, to_address=WALLET
        ),
        made=lambda books: len(books["transfers"]),
        request=TransferRequest,
    ),
    Write(
        name="create_burn",
        path="/burn",
        send=lambda original, stage: original.create_burn(asset_uid=stage.asset_uid, from_user_uid=stage.user_uid),
        made=lambda books: len(books["burns"]),
        request=BurnRequest,
    ),
]

UID = "151854912345"
NONCE = "nonce_9"
ALLOCATE = AllocationRequest(reward_uid=REWARD, to_user_uid=USER, amount=Decimal(1), nonce=NONCE)
CALLS: dict[str, Callable[..., Awaitable[Any]]] = {
    "create_user": lambda client, **options: client.create_user(email=EMAIL, **options),
    "create_user without an id": lambda client, **options: client.create_user(**options),
    "get_user": lambda client, **options: client.get_user(UID, **options),
    "get_user_by_email": lambda client, **options: client.get_user_by_email(EMAIL, **options),
    "get_user_by_user_external_id": lambda client, **options: client.get_user_by_user_external_id("1", **options),
    "get_collection": lambda client, **options: client.get_collection(COLLECTION, **options),
    "create_asset": lambda client, **options: client.create_asset(
        user_uid=USER, collection_uid=COLLECTION, asset_external_id=EXTERNAL_ID, data=DATA, **options
    ),
    "edit_asset": lambda client, **options: client.edit_asset(UID, data=EDITED, **options),
    "get_asset": lambda client, **options: client.get_asset(UID, **options),
    "get_assets_by_user_uid": lambda client, **options: client.get_assets_by_user_uid(USER, **options),
    "find_asset": lambda client, **options: client.find_asset(USER, asset_external_id=EXTERNAL_ID, **options),
    "create_transfer": lambda client, **options: client.create_transfer(
        asset_uid=UID, from_user_uid=USER, to_address=WALLET, **options
    ),
    "get_transfer": lambda client, **options: client.get_transfer(UID, **options),
    "get_transfers_by_user_uid": lambda client, **options: client.get_transfers_by_user_uid(USER, **options),
    "create_burn": lambda client, **options: client.create_burn(asset_uid=UID, from_user_uid=USER, **options),
    "get_burn": lambda client, **options: client.get_burn(UID, **options),
    "get_burns_by_user_uid": lambda client, **options: client.get_burns_by_user_uid(USER, **options),
    "get_deposit": lambda client, **options: client.get_deposit(USER, collection_uid=COLLECTION, **options),
    "create_allocation": lambda client, **options: client.create_allocation(
        reward_uid=REWARD, to_user_uid=USER, amount="1", nonce=NONCE, **options
    ),
    "get_allocation": lambda client, **options: client.get_allocation(UID, **options),
    "get_allocations_by_user_uid": lambda client, **options: client.get_allocations_by_user_uid(USER, **options),
    "find_allocation": lambda client, **options: client.find_allocation(USER, nonce=NONCE, **options),
    "create_claim": lambda client, **options: client.create_claim(
        reward_uid=REWARD, from_user_uid=USER, to_address=WALLET, **options
    ),
    "get_claim": lambda client, **options: client.get_claim(UID, **options),
    "get_claims_by_user_uid": lambda client, **options: client.get_claims_by_user_uid(USER, **options),
    "get_reward": lambda client, **options: client.get_reward(REWARD, **options),
    "get_balance": lambda client, **options: client.get_balance(REWARD, user_uid=USER, **options),
    "find_operations": lambda client, **options: client.find_operations([ALLOCATE], **options),
    "read_operation": lambda client, **options: client.read_operation(OperationRef("default", "burn", UID), **options),
}
"""A call of each method that asks the vendor."""
READS = {name: call for name, call in CALLS.items() if not name.startswith(("create_", "edit_"))}
LISTS = {name: call for name, call in READS.items() if name.startswith("find_") or name.endswith("s_by_user_uid")}
"""The reads that read a list to its end, unless it shows what they look for."""
