"""The part of the interface of all stores that keeps pending operations and shares their polls; see `webhooks.store.base`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.records import Outcome, PendingOperation, PollClaims, PollPermit, PollResult, Priority


class PollStore(Protocol):
    """Keeps pending operations, and shares the budget of their polls among all processes."""

    async def watch(
        self, refs: Sequence[OperationRef], *, poll_in: float, confirmed: bool = False, waiter: str = ""
    ) -> Sequence[Outcome]:
        """Watch operations, and look up their outcomes, in one transaction.

        The subscribers of this store object are notified when one settles, in whichever process. Operations without an outcome
        become pending, with a poll due in at most `poll_in` seconds, or at once where an event of the last 60 s mentioned
        what they are about: with the priority `LOOKUP` if that is the operation itself, else `WISH`.

        Args:
            refs: The operations. What their refs are `about` replaces what was kept of it; a ref without it changes nothing.
            poll_in: Seconds, 0 or more.
            confirmed: Watch and poll an operation until its outcome is confirmed.
            waiter: A name that no other caller of this store object uses; what it watches twice is watched once.

        Returns:
            The first outcomes. An operation whose outcome counts is not watched.
        """
        ...

    def unwatch(self, refs: Sequence[OperationRef], *, waiter: str = "") -> None:
        """Stop watching operations for this waiter, if it watches them; they stay pending."""
        ...

    async def add_pending(self, refs: Sequence[OperationRef], *, poll_in: float) -> None:
        """Make operations without an outcome pending, so that they are polled though no caller waits.

        Args:
            refs: The operations, with what they are `about` as in `watch`.
            poll_in: Seconds until the first poll of new ones, 0 or more; at once where an event of the last 60 s mentioned what
                they are about.
        """
        ...

    async def remove_pending(self, refs: Sequence[OperationRef]) -> int:
        """Stop polling operations, even if a caller waits for them; return how many were pending."""
        ...

    async def list_pending(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        after: OperationRef | None = None,
        limit: int = 100,
    ) -> Sequence[PendingOperation]:
        """Return the pending operations that match all given conditions, in the order of their refs.

        Args:
            scope: The operations' scope.
            kind: Their kind.
            uid: Their uid.
            after: Only operations after this one; pass the last of a page for the next page.
            limit: Maximum number of operations, 0 or more.

        Raises:
            TypeError: `limit` is not an int.
            ValueError: it is negative.
        """
        ...

    async def pending(self, refs: Sequence[OperationRef]) -> Sequence[PendingOperation]:
        """Return the given operations that are pending, in any order."""
        ...

    async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        """Make operations due now, with at least this priority; they become pending if they are not.

        What their refs are `about` is kept as by `watch`.
        With `LOOKUP` and `WISH` a poll in flight loses its claim, as its answer may be older than what the caller knows. With
        `DEADLINE` it keeps it.
        """
        ...

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        """Lease due operations, as far as the budget of the scope allows.

        All processes share one budget. The lowest `max_per_second` of the last 30 s applies, with a warning if values differ.
        Requests are never sent in bursts.

        Args:
            scope: The operations' scope.
            limit: Maximum number of operations, 1 or more.
            lease: Seconds after which other processes may claim them.
            max_per_second: Requests per second that this process allows, above 0.
        """
        ...

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        """Take a request without a claim from the budget, if it is its turn; while operations are due, they alternate."""
        ...

    async def settle_polls(self, results: Sequence[PollResult]) -> None:
        """Return claims whose operations did not settle; a claim that another claim has replaced is skipped.

        `PollResult.about` is kept where it is not known what an operation is about.
        """
        ...

    async def resume_polls(self, scope: str) -> None:
        """End the slow polling after `pause_polls(refused=True)`, because the vendor answers; a pause stays."""
        ...

    async def pause_polls(self, scope: str, seconds: float, *, refused: bool = False) -> None:
        """Pause the polls of all processes; a longer pause stays.

        Args:
            scope: The operations' scope.
            seconds: Above 0.
            refused: The vendor refuses this client: after the pause, poll one operation at a time, at most every 10 s, until
                `resume_polls`.

        Raises:
            TypeError: `seconds` is not a number.
            ValueError: it is not above 0, or not finite.
        """
        ...
