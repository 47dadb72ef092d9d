"""What became of a nonce: whether an allocation that was refused, or never answered, exists after all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    OutcomeUnknown,
    RequestRejected,
    RewardsError,
    UnexpectedResponse,
    VendorError,
)
from rewards_core.http.refusals import affirms_existence, names_other_fields

if TYPE_CHECKING:
    from original_async.lists import Listing
    from original_async.models import Allocation, AllocationRequest

LIST_LAG = 2.0
"""Seconds between two look-ups: a list may lag behind what was created."""
LOOK_UP_TIME = 0.5
"""Seconds that a second look-up must have."""
LONGEST_RESERVE = 5.0
"""Seconds that are kept for the look-up at most; otherwise a fifth of the call's time is."""

_ABOUT = ("nonce", "allocat")


def reserve(total: float) -> float:
    """Return the seconds of a call that are kept for looking its nonce up."""
    return min(LONGEST_RESERVE, total / 5)


def advice(nonce: str) -> str:
    """Return what to do about a creation whose outcome is not known."""
    return (
        "wait for this error with Completions.wait, or repeat the call with the same nonce and repeated=True; "
        f"never use another nonce than {nonce!r} for it"
    )


async def reconcile(
    request: AllocationRequest,
    trouble: RequestRejected | OutcomeUnknown,
    *,
    repeated: bool,
    look_up: Callable[[], Awaitable[Listing[Allocation]]],
    clock: Callable[[], float],
    started: float,
    deadline: float,
    sleep: Callable[[float], Awaitable[object]],
) -> Allocation:
    """Return the allocation that exists under the nonce, after a creation that did not end well.

    Args:
        request: What was asked for.
        trouble: How the creation ended: refused although every attempt was answered, or unknown.
        repeated: Whether an earlier call with the nonce may have been sent.
        look_up: Lists the user's allocations that bear the nonce.
        clock: Monotonic seconds.
        started: When the call began.
        deadline: When it must be over.
        sleep: Waits for so many seconds.

    Raises:
        Conflict: the nonce is held by an allocation with another reward or amount.
        RequestRejected: `trouble` itself: the vendor refused for another reason than that it knows the nonce, and nothing that
            was sent earlier may have arrived.
        OutcomeUnknown: an attempt or an earlier call may have arrived, or the vendor says that it knows the nonce, and the
            look-ups do not show it; or they prove nothing.
    """
    sure = isinstance(trouble, RequestRejected) and not repeated
    looks = 1 if sure and not says_known(trouble) else 2
    for look in range(1, looks + 1):
        try:
            listing = await look_up()
        except RewardsError as problem:  # even one that was not sent must not hide what became of the creation
            trouble.elapsed = clock() - started
            if look > 1:
                looks = 1
                break
            raise _unknown(request, trouble, f"looking it up failed ({_ended(problem)})") from problem
        for allocation in listing.found:
            if request.is_met_by(allocation):
                return evolve(allocation, recovered=True)
        trouble.elapsed = clock() - started
        rival = _rival(request, listing.found, sure=sure)
        if rival is not None:
            raise _conflict(request, trouble, rival) from trouble
        if listing.problem is not None:
            told = f"the list of the user's allocations is incomplete ({_ended(listing.problem)})"
            raise _unknown(request, trouble, told) from listing.problem
        if look < looks:
            if deadline - clock() < LIST_LAG + LOOK_UP_TIME:
                looks = look
                break
            await sleep(LIST_LAG)
    if sure and not says_known(trouble):
        raise trouble
    told = f"{looks} look-up{'s' * (looks > 1)} did not show it"
    raise _unknown(request, trouble, told) from trouble


def says_known(refusal: VendorError) -> bool:
    """Return whether a refusal says that the nonce is known, so that its absence from a list proves nothing."""
    return not names_other_fields(refusal, about=_ABOUT) and affirms_existence(refusal, about=_ABOUT)


def _rival(request: AllocationRequest, held: Sequence[Allocation], *, sure: bool) -> Allocation | None:
    """Return what holds the nonce with other content.

    Whether a nonce counts for the app, for one reward or for one user is not documented: where something may have arrived, only
    an allocation of the same reward to the same user proves that what was asked for was not carried out.
    """
    asked = (request.reward_uid, request.to_user_uid)
    return next((each for each in held if sure or (each.reward_uid, each.to_user_uid) == asked), None)


def _ended(problem: RewardsError) -> str:
    """Return in a few words how a look-up ended."""
    if isinstance(problem, (ClientClosed, ConfigurationError, ConnectFailed)):
        return "it was not sent"
    status = getattr(problem, "status", None)
    if isinstance(problem, UnexpectedResponse) and (status is None or status < 300):
        return str(problem).partition("; ")[0] if status is None else "its answer cannot be read"
    return "no answer" if status is None else f"HTTP {status}"


def _conflict(request: AllocationRequest, trouble: VendorError, held: Allocation) -> Conflict:
    return Conflict(
        f"Original create_allocation: nonce {request.nonce!r} already belongs to allocation {held.uid} of {held.amount} from "
        f"{held.reward_uid}, not to {request.amount} from {request.reward_uid}; nothing was created by this call: "
        "use a nonce for one payout only",
        existing=held,
        **_facts(request, trouble),
    )


def _unknown(request: AllocationRequest, trouble: VendorError, told: str) -> OutcomeUnknown:
    if isinstance(trouble, RequestRejected):
        came = f"the vendor refused ({str(trouble).partition(': ')[2]})"
    else:
        answer = "no answer" if trouble.status is None else f"HTTP {trouble.status}"
        came = answer if trouble.attempts == 1 else f"{answer} in the last of {trouble.attempts} attempts"
    return OutcomeUnknown(
        f"Original create_allocation: it is not known whether nonce {request.nonce!r} was carried out: {came}, and {told}; "
        "it may have been carried out",
        request=request,
        advice=advice(request.nonce),
        **_facts(request, trouble),
    )


def _facts(request: AllocationRequest, trouble: VendorError) -> dict[str, Any]:
    return {
        "status": trouble.status,
        "code": trouble.code,
        "field_errors": trouble.field_errors,
        "details": trouble.details,
        "request_id": trouble.request_id,
        "attempts": trouble.attempts,
        "elapsed": trouble.elapsed,
        "idempotency_key": request.nonce,
    }
