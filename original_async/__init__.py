"""Asyncio client for Original, and its webhooks: how they are signed and what they say.

    async with OriginalClient.from_env() as original:
        allocation = await original.create_allocation(reward_uid=..., to_user_uid=..., amount="1.23", nonce=...)

`OriginalClient` has all calls. What it creates is settled later, and `webhooks.Completions` waits for it. `OriginalWebhooks`
verifies and parses deliveries for a `webhooks.Receiver`. A class such as `AllocationRequest` is the `request` of an
`OutcomeUnknown`.
"""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from original_async.client import OriginalClient
    from original_async.errors import AllocationFailed, ClaimFailed, TransferCancelled
    from original_async.models import (
        Allocation,
        AllocationRequest,
        Asset,
        AssetAttribute,
        AssetData,
        AssetMetadata,
        AssetRequest,
        AssetTrait,
        Balance,
        Burn,
        BurnRequest,
        Claim,
        ClaimRequest,
        Collection,
        DeploymentStatus,
        Deposit,
        Edit,
        EditRequest,
        Reward,
        Transfer,
        TransferRequest,
        User,
        UserRequest,
        Wallet,
    )
    from original_async.signature import Keyring, sign
    from original_async.webhooks import OriginalWebhooks

__all__ = [
    "Allocation",
    "AllocationFailed",
    "AllocationRequest",
    "Asset",
    "AssetAttribute",
    "AssetData",
    "AssetMetadata",
    "AssetRequest",
    "AssetTrait",
    "Balance",
    "Burn",
    "BurnRequest",
    "Claim",
    "ClaimFailed",
    "ClaimRequest",
    "Collection",
    "DeploymentStatus",
    "Deposit",
    "Edit",
    "EditRequest",
    "Keyring",
    "OriginalClient",
    "OriginalWebhooks",
    "Reward",
    "Transfer",
    "TransferCancelled",
    "TransferRequest",
    "User",
    "UserRequest",
    "Wallet",
    "sign",
]

if not TYPE_CHECKING:  # a type checker would accept every name from a module with __getattr__
    __getattr__ = lazy_names(__name__, __all__, ("models", "errors", "signature", "webhooks", "client"))
