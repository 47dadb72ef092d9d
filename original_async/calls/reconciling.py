"""What became of a write that was refused or whose outcome is unknown: the vendor is asked for what it holds under the key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from attrs import evolve, frozen

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
from rewards_core.text import counted

if TYPE_CHECKING:
    from original_async.calls.pages import Listing

M = TypeVar("M", bound=Any)

LIST_LAG = 2.0
"""Seconds between two look-ups: a list may lag behind what was created."""
MIN_LOOKUP_TIME = 0.5
"""Seconds that must be left for a second look-up."""
MAX_LOOKUP_RESERVE = 5.0
"""Seconds of a call reserved for the look-up, at most; otherwise a fifth of the call's time."""


class ComparableRequest(Protocol):
    """The request of a call, which can be compared with what the vendor holds."""

    def is_met_by(self, found: Any, /) -> bool:
        """Return whether what the vendor holds is what was asked for."""
        ...


@frozen(kw_only=True)
class Rules:
    """How one kind of write is looked up, and the words for it.

    Attributes:
        call: The method of the client.
        noun: What it creates.
        key: What the key is called.
        about: Lower-case words for the key and for what the call creates, in the vendor's refusals; None if it keeps no key.
        believes: Whether a refusal is final without a look-up, unless it says that the key is known.
        advice: What to do if the outcome is unknown.
        reuse: What to do about a conflict.
        describe: Returns in a few words the content of a request or of what the vendor holds.
        excludes: Returns whether other content under the key is a conflict, given the request, what the vendor holds, and whether
            every attempt was refused. If an attempt may have arrived, the content is a conflict only if it proves that no attempt
            was carried out.
    """

    call: str
    noun: str
    key: str
    about: tuple[str, ...] | None
    advice: str
    believes: bool = True
    reuse: str = ""
    describe: Callable[[Any], str] = str
    excludes: Callable[[Any, Any, bool], bool] = lambda _asked, _found, _sure: False

    def says_known(self, refusal: VendorError) -> bool:
        """Return whether a refusal says that the key is known, so that its absence from a list proves nothing."""
        about = self.about
        return about is not None and not names_other_fields(refusal, about=about) and affirms_existence(refusal, about=about)


async def reconcile(
    rules: Rules,
    key: str,
    asked: Callable[[], ComparableRequest],
    trouble: RequestRejected | OutcomeUnknown,
    *,
    repeated: bool,
    look_up: Callable[[], Awaitable[Listing[M]]],
    started: float,
    deadline: float,
) -> M:
    """Return what exists under the key, after a write that was rejected or whose outcome is unknown.

    Args:
        rules: How this kind of write is looked up.
        key: The key.
        asked: Returns what was asked for; called after a look-up, whose answer may tell when the call began.
        trouble: How the write ended; a rejection only if every attempt was answered.
        repeated: Whether an earlier call with the key may have been sent.
        look_up: Lists what the vendor holds under the key.
        started: When the call began, in the running loop's time.
        deadline: When the call must end, in the running loop's time.

    Raises:
        Conflict: the key belongs to other content.
        RequestRejected: `trouble` itself, which does not say that the key is known, and nothing sent earlier may have arrived.
        OutcomeUnknown: an attempt or an earlier call may have arrived, or the vendor says that it knows the key, and the look-ups
            did not show it or prove nothing.
    """
    time = asyncio.get_running_loop().time
    unknown = _Unknown(rules, key, asked, trouble)
    sure = isinstance(trouble, RequestRejected) and not repeated
    if sure and rules.believes and not rules.says_known(trouble):
        raise trouble
    looks = 1 if sure and not rules.says_known(trouble) else 2
    for look in range(1, looks + 1):
        try:
            listing = await look_up()
        except RewardsError as problem:  # not even a look-up that was never sent may replace the outcome of the write
            trouble.elapsed = time() - started
            if look > 1:
                looks = 1
                break
            raise unknown.error(f"the look-up failed ({_reason(problem)})") from problem
        wanted = asked()
        for held in listing.found:
            if wanted.is_met_by(held):
                found: M = evolve(held, recovered=True)
                return found
        trouble.elapsed = time() - started
        other = next((each for each in listing.found if rules.excludes(wanted, each, sure)), None)
        if other is not None:
            raise unknown.conflict(other) from trouble
        if listing.problem is not None:
            raise unknown.error(f"the list is incomplete ({_reason(listing.problem)})") from listing.problem
        if look < looks:
            if deadline - time() < LIST_LAG + MIN_LOOKUP_TIME:
                looks = look
                break
            await asyncio.sleep(LIST_LAG)
    if sure and not rules.says_known(trouble):
        raise trouble
    raise unknown.error(f"{counted(looks, 'look-up')} did not show it") from trouble


@frozen
class _Unknown:
    rules: Rules
    key: str
    asked: Callable[[], ComparableRequest]
    trouble: RequestRejected | OutcomeUnknown

    def error(self, shown: str) -> OutcomeUnknown:
        rules, trouble = self.rules, self.trouble
        if isinstance(trouble, RequestRejected):
            came = f"the vendor refused ({str(trouble).partition(': ')[2]})"
        else:
            answer = "no answer" if trouble.status is None else f"HTTP {trouble.status}"
            if not trouble.attempts:
                answer = "an earlier call may have been sent"
            came = answer if trouble.attempts <= 1 else f"{answer} in the last of {counted(trouble.attempts, 'attempt')}"
        return OutcomeUnknown(
            f"Original {rules.call}: the outcome of {rules.key} {self.key!r} is unknown: {came}, and {shown}. "
            "It may have been carried out",
            request=self.asked(),
            advice=rules.advice,
            **self._facts(),
        )

    def conflict(self, other: Any) -> Conflict:
        rules = self.rules
        return Conflict(
            f"Original {rules.call}: {rules.key} {self.key!r} already belongs to {rules.noun} {other.uid} "
            f"{rules.describe(other)}, not {rules.describe(self.asked())}. This call created nothing; {rules.reuse}.",
            existing=other,
            **self._facts(),
        )

    def _facts(self) -> dict[str, Any]:
        trouble = self.trouble
        return {
            "status": trouble.status,
            "code": trouble.code,
            "details": trouble.details,
            "request_id": trouble.request_id,
            "attempts": trouble.attempts,
            "elapsed": trouble.elapsed,
            "idempotency_key": self.key,
        }


def _reason(problem: RewardsError) -> str:
    """Return in a few words why a look-up proves nothing."""
    if isinstance(problem, (ClientClosed, ConfigurationError, ConnectFailed)):
        return "it was not sent"
    status = getattr(problem, "status", None)
    if isinstance(problem, UnexpectedResponse) and (status is None or status < 300):
        return str(problem).partition(". ")[0] if status is None else "its answer cannot be read"
    return "no answer" if status is None else f"HTTP {status}"
