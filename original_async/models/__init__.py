"""The models of Original: what the client sends and returns."""

from __future__ import annotations

from original_async.models.assets import (
    ASSET,
    COLLECTION,
    Asset,
    AssetAttribute,
    AssetData,
    AssetMetadata,
    AssetRequest,
    Collection,
)
from original_async.models.edits import EDIT, Edit, EditRequest
from original_async.models.fields import DeploymentStatus
from original_async.models.rewards import (
    ALLOCATION,
    CLAIM,
    REWARD,
    Allocation,
    AllocationRequest,
    Balance,
    Claim,
    ClaimRequest,
    Reward,
)
from original_async.models.transfers import BURN, TRANSFER, Burn, BurnRequest, Deposit, Transfer, TransferRequest
from original_async.models.users import User, UserRequest, Wallet

__all__ = [
    "ALLOCATION",
    "ASSET",
    "BURN",
    "CLAIM",
    "COLLECTION",
    "EDIT",
    "REWARD",
    "TRANSFER",
    "Allocation",
    "AllocationRequest",
    "Asset",
    "AssetAttribute",
    "AssetData",
    "AssetMetadata",
    "AssetRequest",
    "Balance",
    "Burn",
    "BurnRequest",
    "Claim",
    "ClaimRequest",
    "Collection",
    "DeploymentStatus",
    "Deposit",
    "Edit",
    "EditRequest",
    "Reward",
    "Transfer",
    "TransferRequest",
    "User",
    "UserRequest",
    "Wallet",
]
