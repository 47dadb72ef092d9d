"""What became of a nonce: whether an allocation that was refused, or never answered, exists after all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from vendor_http.errors import Conflict, OutcomeUnknown, RequestRejected, VendorError

if TYPE_CHECKING:
    from decimal import Decimal

    from original_async.models import Allocation

LIST_LAG = 2.0
"""Seconds between two look-ups: a list may lag behind what was created."""

_names_the_nonce = re.compile(r"nonce", re.IGNORECASE).search
_says_it_exists = re.compile(r"already|duplicate|exist|taken|unique|used", re.IGNORECASE).search


@frozen(kw_only=True)
class Wanted:
    """The allocation that was asked for."""

    reward_uid: str
    to_user_uid: str
    amount: Decimal
    nonce: str

    def is_met_by(self, held: Allocation) -> bool:
        """Return whether an allocation is what was asked for."""
        return (held.nonce, held.reward_uid, held.to_user_uid, held.amount) == (
            self.nonce,
            self.reward_uid,
            self.to_user_uid,
            self.amount,
        )


async def reconcile(
    wanted: Wanted,
    trouble: RequestRejected | OutcomeUnknown,
    *,
    look_up: Callable[[], Awaitable[Sequence[Allocation]]],
    clock: Callable[[], float],
    started: float,
    deadline: float,
    sleep: Callable[[float], Awaitable[object]],
) -> Allocation:
    """Return the allocation that exists under the nonce, after a creation that did not end well.

    Args:
        wanted: What was asked for.
        trouble: How the creation ended: refused although every attempt was answered, or unknown.
        look_up: Lists the user's allocations that bear the nonce.
        clock: Monotonic seconds.
        started: When the call began.
        deadline: When it must be over.
        sleep: Waits for so many seconds.

    Raises:
        Conflict: the nonce is held by an allocation with another reward or amount.
        RequestRejected: `trouble` itself: every attempt was answered and the vendor holds nothing under the nonce.
        OutcomeUnknown: an attempt may have arrived, or the vendor says it knows the nonce, and the look-ups do not show it; or a
            look-up failed.
    """
    answered = isinstance(trouble, RequestRejected)
    believed = answered and not _claims_the_nonce(trouble)
    looks = 1 if believed else 2
    for look in range(1, looks + 1):
        try:
            held = await look_up()
        except VendorError as problem:
            trouble.elapsed = clock() - started
            raise _unknown(wanted, trouble, f"its look-up ended with {type(problem).__name__}") from problem
        for allocation in held:
            if wanted.is_met_by(allocation):
                return evolve(allocation, recovered=True)
        # Whether a nonce counts for the app or for one reward is not documented: after an attempt that may have arrived,
        # only one of the same reward proves that this one was not carried out.
        rivals = [allocation for allocation in held if answered or allocation.reward_uid == wanted.reward_uid]
        trouble.elapsed = clock() - started
        if rivals:
            raise _conflict(wanted, trouble, rivals[0]) from trouble
        if look < looks:
            if deadline - clock() <= LIST_LAG:
                looks = look
                break
            await sleep(LIST_LAG)
    if believed:
        raise trouble
    raise _unknown(wanted, trouble, f"{looks} look-up{'s' * (looks > 1)} did not show it") from trouble


def _claims_the_nonce(trouble: VendorError) -> bool:
    """Return whether a refusal says that the nonce is known, so that its absence from a list proves nothing."""
    if trouble.status == 409:
        return True
    text = " ".join(
        [str(trouble), trouble.code or "", *(f"{error.field} {error.message} {error.code}" for error in trouble.field_errors)]
    )
    return bool(_names_the_nonce(text) and _says_it_exists(text))


def _conflict(wanted: Wanted, trouble: VendorError, held: Allocation) -> Conflict:
    return Conflict(
        f"Original create_allocation: expected nonce {wanted.nonce!r} to be new or of {wanted.amount} from {wanted.reward_uid}, "
        f"got allocation {held.uid} of {held.amount} from {held.reward_uid} under it; nothing was created by this call: "
        "use a nonce for one payout only",
        existing=held,
        **_facts(wanted, trouble),
    )


def _unknown(wanted: Wanted, trouble: VendorError, what: str) -> OutcomeUnknown:
    answer = "no answer" if trouble.status is None else f"HTTP {trouble.status}"
    came = str(trouble) if isinstance(trouble, RequestRejected) else f"{answer} in the last of {trouble.attempts} attempts"
    return OutcomeUnknown(
        f"Original create_allocation: expected to learn what became of nonce {wanted.nonce!r} after {came}, but {what}; "
        "it may have been carried out: call again with the same nonce, or find_allocation, and never with another nonce",
        **_facts(wanted, trouble),
    )


def _facts(wanted: Wanted, trouble: VendorError) -> dict[str, Any]:
    return {
        "status": trouble.status,
        "code": trouble.code,
        "field_errors": trouble.field_errors,
        "request_id": trouble.request_id,
        "attempts": trouble.attempts,
        "elapsed": trouble.elapsed,
        "idempotency_key": wanted.nonce,
    }
