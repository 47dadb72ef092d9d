"""The models of Original: what the client sends and returns."""

from __future__ import annotations

from original_async.models.assets import (
    Asset,
    AssetAttribute,
    AssetData,
    AssetMetadata,
    AssetRequest,
    AssetTrait,
    Collection,
)
from original_async.models.edits import Edit, EditRequest
from original_async.models.fields import DeploymentStatus
from original_async.models.rewards import (
    Allocation,
    AllocationRequest,
    Balance,
    Claim,
    ClaimRequest,
    Reward,
)
from original_async.models.transfers import Burn, BurnRequest, Deposit, Transfer, TransferRequest
from original_async.models.users import User, UserRequest, Wallet

__all__ = [
    "Allocation",
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
