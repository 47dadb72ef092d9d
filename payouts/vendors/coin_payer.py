"""EnKash's client as a payer of rows of coins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from payouts.vendors.enkash import EnkashRow

if TYPE_CHECKING:
    from payouts.payer import Balances
    from payouts.states import Entry
    from payouts.vendors.clients import CoinClient


@frozen
class CoinPayer:
    """EnKash coins: paid or refused with the answer, and no way to ask later.

    Args:
        client: The client.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.
    """

    client: CoinClient
    may_repeat: bool = False
    name = EnkashRow.vendor
    lookups = None

    @property
    def balances(self) -> Balances:
        """Itself."""
        return self

    async def balance_of(self, recipient: str) -> int:
        """Return a user's coins."""
        return await self.client.get_balance(recipient)

    async def pay(self, entry: Entry, *, repeated: bool = False) -> None:  # noqa: ARG002 - EnKash has no look-up to tell
        """Allocate the coins of the event."""
        await self.client.allocate_coins(event=entry.item, user_id=entry.recipient, request_id=entry.key)
