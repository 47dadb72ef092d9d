"""What became of an operation: which allocation a nonce made, and whether a terminal one is what was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from original_async.errors import AllocationFailed, ClaimFailed
from original_async.models import Allocation, AllocationRequest, Claim
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    OperationMismatch,
    OutcomeUnknown,
    RequestRejected,
    RewardsError,
    UnexpectedResponse,
    VendorError,
)
from rewards_core.http.refusals import affirms_existence, names_other_fields
from rewards_core.operations import KeyedRequest, Operation, OperationStatus
from rewards_core.text import counted
from rewards_core.validation import kind_of

if TYPE_CHECKING:
    from original_async.pages import Listing

LIST_LAG = 2.0
"""Seconds between two look-ups: a list may lag behind what was created."""
MIN_LOOKUP_TIME = 0.5
"""Seconds that must be left for a second look-up."""
MAX_LOOKUP_RESERVE = 5.0
"""Seconds of a call reserved for the look-up, at most; otherwise a fifth of the call's time."""
ADVICE = (
    "wait for this error with Completions.wait, or repeat the call with the same nonce and repeated=True; "
    "never use another nonce for it"
)
"""What to do about a creation whose outcome is unknown."""

_ABOUT = ("nonce", "allocat")
_COMPARED: Mapping[type[Any], tuple[str, ...]] = {
    Allocation: ("uid", "nonce", "reward_uid", "to_user_uid", "amount"),
    AllocationRequest: ("nonce", "reward_uid", "to_user_uid", "amount"),
    Claim: ("uid", "reward_uid", "from_user_uid", "to_address"),
}


async def reconcile(
    request: AllocationRequest,
    trouble: RequestRejected | OutcomeUnknown,
    *,
    repeated: bool,
    look_up: Callable[[], Awaitable[Listing[Allocation]]],
    started: float,
    deadline: float,
) -> Allocation:
    """Return the allocation that exists under the nonce, after a creation that was rejected or whose outcome is unknown.

    Args:
        request: What was asked for.
        trouble: How the creation ended; a rejection only if every attempt was answered.
        repeated: Whether an earlier call with the nonce may have been sent.
        look_up: Lists the user's allocations under the nonce.
        started: When the call began, in the running loop's time.
        deadline: When the call must end, in the running loop's time.

    Raises:
        Conflict: the nonce belongs to an allocation with another reward, user or amount.
        RequestRejected: `trouble` itself, which does not say that the nonce is known, and nothing sent earlier may have arrived.
        OutcomeUnknown: an attempt or an earlier call may have arrived, or the vendor says that it knows the nonce, and the
            look-ups did not show the allocation or prove nothing.
    """
    time = asyncio.get_running_loop().time
    sure = isinstance(trouble, RequestRejected) and not repeated
    looks = 1 if sure and not says_known(trouble) else 2
    for look in range(1, looks + 1):
        try:
            listing = await look_up()
        except RewardsError as problem:  # not even a look-up that was never sent may replace the outcome of the creation
            trouble.elapsed = time() - started
            if look > 1:
                looks = 1
                break
            raise _unknown(request, trouble, f"the look-up failed ({_reason(problem)})") from problem
        for allocation in listing.found:
            if request.is_met_by(allocation):
                return evolve(allocation, recovered=True)
        trouble.elapsed = time() - started
        other = _conflicting(request, listing.found, sure=sure)
        if other is not None:
            raise Conflict(
                f"Original create_allocation: nonce {request.nonce!r} already belongs to allocation {other.uid} "
                f"of {other.amount} from {other.reward_uid}, not to {request.amount} from {request.reward_uid}. "
                "This call created nothing; use each nonce for one payout only.",
                existing=other,
                **_facts(request, trouble),
            ) from trouble
        if listing.problem is not None:
            shown = f"the list of the user's allocations is incomplete ({_reason(listing.problem)})"
            raise _unknown(request, trouble, shown) from listing.problem
        if look < looks:
            if deadline - time() < LIST_LAG + MIN_LOOKUP_TIME:
                looks = look
                break
            await asyncio.sleep(LIST_LAG)
    if sure and not says_known(trouble):
        raise trouble
    raise _unknown(request, trouble, f"{counted(looks, 'look-up')} did not show it") from trouble


def says_known(refusal: VendorError) -> bool:
    """Return whether a refusal says that the nonce is known, so that its absence from a list proves nothing."""
    return not names_other_fields(refusal, about=_ABOUT) and affirms_existence(refusal, about=_ABOUT)


def conclude(asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
    """Return a terminal operation if it is done and is what was asked for.

    A vendor that answers a repeated nonce with the first uid hides that the first allocation had another amount, so everything
    that was asked for is compared.

    Args:
        asked: The operation as it was created here, or the request whose allocation was found by its nonce, or None if only
            its ref is known.
        final: The operation in a terminal status.

    Returns:
        The final operation; with `recovered=True` if it was found by its nonce.

    Raises:
        OperationMismatch: it settled, done or failed, with another nonce, reward, user, amount or address.
        AllocationFailed: the allocation failed on the blockchain; nothing was paid.
        ClaimFailed: the claim failed on the blockchain; no tokens moved.
        TypeError: an argument is neither an allocation nor a claim.
        ValueError: the status of `final` is not terminal.
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
        kind = asked.kind if isinstance(asked, AllocationRequest) else asked.ref.kind
        differences: dict[str, tuple[object, object]] = {"kind": (kind, final.ref.kind)}
    else:
        pairs = {name: (getattr(asked, name), getattr(final, name)) for name in _COMPARED[type(asked)]}
        differences = {name: pair for name, pair in pairs.items() if not _equal(name, *pair)}
    if not differences:
        return
    words = ", ".join(f"{name} {got} instead of {wanted}" for name, (wanted, got) in differences.items())
    cause = "it is not the claim that was created" if isinstance(final, Claim) else "its nonce was used for another payout before"
    raise OperationMismatch(
        f"Original: {final.ref.kind} {final.uid} is {final.status} with {words}: {cause}. "
        "Check which one was meant before paying again.",
        operation=final,
        asked=asked,
        differences=differences,
        idempotency_key=getattr(asked, "nonce", None),
    )


def _equal(name: str, wanted: Any, got: Any) -> bool:
    if name == "to_address" and wanted[:2].lower() == "0x":  # the case of a hexadecimal address is only a checksum
        return bool(wanted.lower() == got.lower())
    return bool(wanted == got)


def _conflicting(request: AllocationRequest, held: Sequence[Allocation], *, sure: bool) -> Allocation | None:
    """Return an allocation that holds the nonce with other content.

    The scope of a nonce (app, reward or user) is not documented: where an attempt may have arrived, only an allocation of the
    same reward to the same user proves that the request was not carried out.
    """
    asked = (request.reward_uid, request.to_user_uid)
    return next((each for each in held if sure or (each.reward_uid, each.to_user_uid) == asked), None)


def _reason(problem: RewardsError) -> str:
    """Return in a few words why a look-up proves nothing."""
    if isinstance(problem, (ClientClosed, ConfigurationError, ConnectFailed)):
        return "it was not sent"
    status = getattr(problem, "status", None)
    if isinstance(problem, UnexpectedResponse) and (status is None or status < 300):
        return str(problem).partition(". ")[0] if status is None else "its answer cannot be read"
    return "no answer" if status is None else f"HTTP {status}"


def _unknown(request: AllocationRequest, trouble: VendorError, shown: str) -> OutcomeUnknown:
    if isinstance(trouble, RequestRejected):
        came = f"the vendor refused ({str(trouble).partition(': ')[2]})"
    else:
        answer = "no answer" if trouble.status is None else f"HTTP {trouble.status}"
        came = answer if trouble.attempts == 1 else f"{answer} in the last of {counted(trouble.attempts, 'attempt')}"
    return OutcomeUnknown(
        f"Original create_allocation: the outcome of nonce {request.nonce!r} is unknown: {came}, and {shown}. "
        "It may have been carried out",
        request=request,
        advice=ADVICE,
        **_facts(request, trouble),
    )


def _facts(request: AllocationRequest, trouble: VendorError) -> dict[str, Any]:
    return {
        "status": trouble.status,
        "code": trouble.code,
        "details": trouble.details,
        "request_id": trouble.request_id,
        "attempts": trouble.attempts,
        "elapsed": trouble.elapsed,
        "idempotency_key": request.nonce,
    }
