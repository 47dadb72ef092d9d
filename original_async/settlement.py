"""Whether an operation that has ended is done, and is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from original_async.errors import AllocationFailed, ClaimFailed, TransferCancelled
from original_async.kinds import WHAT_HAPPENED
from original_async.models import (
    Allocation,
    AllocationRequest,
    Asset,
    AssetRequest,
    Burn,
    BurnRequest,
    Claim,
    Collection,
    Edit,
    EditRequest,
    Reward,
    Transfer,
    TransferRequest,
)
from original_async.models.transfers import same_address
from rewards_core.errors import OperationCancelled, OperationFailed, OperationMismatch
from rewards_core.operations import KeyedRequest, Operation, OperationRef, OperationStatus
from rewards_core.validation import kind_of

OriginalOperation = Allocation | Claim | Asset | Edit | Transfer | Burn | Collection | Reward
"""Any operation of Original."""
OriginalRequest = AllocationRequest | AssetRequest | EditRequest | TransferRequest | BurnRequest

_OPERATIONS = (Allocation, Claim, Asset, Edit, Transfer, Burn, Collection, Reward)
REQUESTS = (AllocationRequest, AssetRequest, EditRequest, TransferRequest, BurnRequest)
"""The requests whose operations are found by their keys."""


_FAILED: Mapping[type[Any], type[OperationFailed]] = {Allocation: AllocationFailed, Claim: ClaimFailed}
_CANCELLED: Mapping[type[Any], type[OperationCancelled]] = {Transfer: TransferCancelled}
_COMPARED: Mapping[type[Any], tuple[str, ...]] = {
    Allocation: ("uid", "nonce", "reward_uid", "to_user_uid", "amount"),
    AllocationRequest: ("nonce", "reward_uid", "to_user_uid", "amount"),
    Claim: ("uid", "reward_uid", "from_user_uid", "to_address"),
    Asset: ("uid", "asset_external_id", "collection_uid", "mint_for_user_uid", "name"),
    AssetRequest: ("asset_external_id", "collection_uid", "name"),
    Edit: ("uid",),
    EditRequest: ("uid",),
    Transfer: ("uid", "asset_uid", "from_user_uid", "to_address"),
    TransferRequest: ("asset_uid", "from_user_uid", "to_address"),
    Burn: ("uid", "asset_uid", "from_user_uid"),
    BurnRequest: ("asset_uid", "from_user_uid"),
    Collection: ("uid",),
    Reward: ("uid",),
}
_UNTOLD_WHILE_NONE = frozenset({"asset_external_id", "mint_for_user_uid"})
"""Fields that older answers of the vendor lack."""
_CAUSES: Mapping[type[Any], str] = {
    Allocation: "its nonce was used for another payout before",
    Asset: "its external id was used for another asset before, or it was edited meanwhile",
}


def conclude(asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
    """Return an operation that has ended, if it is done and is what was asked for.

    A vendor that answers a repeated nonce with the first uid hides that the first allocation had another amount, so everything
    that was asked for is compared.

    Args:
        asked: The operation as it was created here, or the request whose operation was found by its key, or None if only its ref
            is known.
        final: The operation in a terminal status.

    Returns:
        The final operation; with `recovered=True` if it was found by its key.

    Raises:
        OperationMismatch: it ended with other content than was asked for, such as another amount, user or address.
        AllocationFailed: the allocation failed on the blockchain; nothing was paid.
        ClaimFailed: the claim failed on the blockchain; no tokens moved.
        TransferCancelled: the transfer was cancelled; it moved nothing.
        OperationFailed, OperationCancelled: an operation of another kind ended without being done.
        TypeError: an argument is not an operation of Original.
        ValueError: the status of `final` is not terminal.
    """
    if not isinstance(final, _OPERATIONS):
        raise TypeError(f"final: give an operation of Original, such as an Allocation, not {kind_of(final)}.")
    if asked is not None and not isinstance(asked, (*_OPERATIONS, *REQUESTS)):
        raise TypeError(f"asked: give an operation of Original, its request or None, not {kind_of(asked)}.")
    outcome = final.status.outcome
    if outcome is None:
        raise ValueError(f"final: give an operation in a terminal status, not {final.ref}, which is {final.status}. Wait for it.")
    if asked is not None:
        _compare(asked, final)
        if isinstance(asked, REQUESTS) or asked.recovered:
            final = _recovered(final)
    if outcome is OperationStatus.DONE:
        return final
    text = ending_in_words(final.ref, outcome)
    if outcome is OperationStatus.CANCELLED:
        raise _CANCELLED.get(type(final), OperationCancelled)(text, operation=final, idempotency_key=final.key)
    raise _FAILED.get(type(final), OperationFailed)(text, operation=final, idempotency_key=final.key)


def ending_in_words(ref: OperationRef, outcome: OperationStatus) -> str:
    """Return what it means that an operation ended without being done."""
    ended = "was cancelled" if outcome is OperationStatus.CANCELLED else "failed on the blockchain"
    return f"{ref.kind.capitalize()} {ref.uid} {ended}. {WHAT_HAPPENED.get(ref.kind, 'Ask the vendor what became of it.')}"


def _recovered(final: OriginalOperation) -> OriginalOperation:
    return final if isinstance(final, (Claim, Collection, Reward)) else evolve(final, recovered=True)


def _compare(asked: OriginalOperation | OriginalRequest, final: OriginalOperation) -> None:
    kind = asked.kind if isinstance(asked, REQUESTS) else asked.ref.kind
    if kind != final.ref.kind:
        differences: dict[str, tuple[object, object]] = {"kind": (kind, final.ref.kind)}
    else:
        pairs = {name: (getattr(asked, name), getattr(final, name)) for name in _COMPARED[type(asked)]}
        differences = {name: pair for name, pair in pairs.items() if not _equal(final, name, *pair)}
    if not differences:
        return
    words = ", ".join(f"{name} {got} instead of {wanted}" for name, (wanted, got) in differences.items())
    cause = _CAUSES.get(type(final), f"it is not the {final.ref.kind} that was created")
    raise OperationMismatch(
        f"Original: {final.ref.kind} {final.uid} is {final.status} with {words}: {cause}. "
        "What was asked for may not have been done: find out which of the two was meant before you call again.",
        operation=final,
        asked=asked,
        differences=differences,
        idempotency_key=asked.key,
    )


def _equal(final: OriginalOperation, name: str, wanted: Any, got: Any) -> bool:
    if name == "to_address":
        return same_address(wanted, got)
    if name == "name" and isinstance(final, Asset):
        return final.is_named(wanted)
    if name in _UNTOLD_WHILE_NONE and None in {wanted, got}:
        return True
    return bool(wanted == got)
