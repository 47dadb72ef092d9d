"""How an operation ended, compared with what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from original_async.errors import AllocationFailed, ClaimFailed
from original_async.models import Allocation, AllocationRequest, Claim
from rewards_core.errors import OperationMismatch
from rewards_core.operations import KeyedRequest, Operation, OperationStatus
from rewards_core.validation import kind_of

_ASKED: Mapping[type[Any], tuple[str, ...]] = {
    Allocation: ("uid", "nonce", "reward_uid", "to_user_uid", "amount"),
    AllocationRequest: ("nonce", "reward_uid", "to_user_uid", "amount"),
    Claim: ("uid", "reward_uid", "from_user_uid", "to_address"),
}


def conclude(asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
    """Return the terminal operation if it is done and is what was asked for.

    A vendor that answers a repeated nonce with the first uid hides that the first one had another amount, so all that was asked
    is compared with all that settled.

    Args:
        asked: The operation as it was created here, or the request whose allocation was found by its nonce, or None if only its
            ref is known.
        final: The operation in a terminal status.

    Returns:
        The final operation; `recovered` where it was found by its nonce.

    Raises:
        OperationMismatch: it settled, done or failed, but as another operation than was asked for.
        AllocationFailed: the chain said that the allocation failed.
        ClaimFailed: the chain said that the claim failed.
        TypeError: one of them is neither an allocation nor a claim.
        ValueError: its status is not terminal.
    """
    if not isinstance(final, (Allocation, Claim)):
        raise TypeError(f"final: give an Allocation or a Claim, not {kind_of(final)}.")
    if asked is not None and not isinstance(asked, (Allocation, AllocationRequest, Claim)):
        raise TypeError(f"asked: give an Allocation, an AllocationRequest, a Claim or None, not {kind_of(asked)}.")
    if final.status not in (OperationStatus.DONE, OperationStatus.FAILED):
        raise ValueError(f"final: give an operation in a terminal status, not {final.ref}, which is {final.status}. Wait for it.")
    if asked is not None:
        _compare(asked, final)
    if isinstance(final, Allocation) and (isinstance(asked, AllocationRequest) or (asked is not None and asked.recovered)):
        final = evolve(final, recovered=True)
    if final.status is OperationStatus.DONE:
        return final
    if isinstance(final, Allocation):
        text = f"Allocation {final.uid} failed on the blockchain. Nothing was paid; to try again, use a new nonce."
        raise AllocationFailed(text, operation=final, idempotency_key=final.nonce)
    raise ClaimFailed(f"Claim {final.uid} failed on the blockchain. No tokens moved; you may claim again.", operation=final)


def _compare(asked: Allocation | AllocationRequest | Claim, final: Allocation | Claim) -> None:
    if isinstance(asked, Claim) != isinstance(final, Claim):
        differences: dict[str, tuple[object, object]] = {"kind": (_kind_of(asked), final.ref.kind)}
    else:
        pairs = {name: (getattr(asked, name), getattr(final, name)) for name in _ASKED[type(asked)]}
        differences = {name: pair for name, pair in pairs.items() if not _same(name, *pair)}
    if not differences:
        return
    words = ", ".join(f"{name} {got} instead of {wanted}" for name, (wanted, got) in differences.items())
    raise OperationMismatch(
        f"Original: {final.ref.kind} {final.uid} is {final.status} with {words}: its key had been used for another payout before",
        operation=final,
        asked=asked,
        differences=differences,
        idempotency_key=getattr(asked, "nonce", None),
    )


def _kind_of(asked: Allocation | AllocationRequest | Claim) -> str:
    return asked.kind if isinstance(asked, AllocationRequest) else asked.ref.kind


def _same(name: str, wanted: Any, got: Any) -> bool:
    if name == "to_address":  # the case of a hexadecimal address is a checksum the vendor may write anew
        return bool(wanted.lower() == got.lower()) if wanted[:2].lower() == "0x" else bool(wanted == got)
    return bool(wanted == got)
