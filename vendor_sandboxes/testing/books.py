"""What the vendors' books say about who was paid."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    from vendor_sandboxes.testing.servers import SandboxServer

_EXACT = Context(prec=400)


@frozen(kw_only=True)
class Payment:
    """One entry in the books of a vendor.

    Attributes:
        user: The user.
        amount: Tokens or coins.
        status: `"done"`, `"pending"` or `"failed"`.
        key: The nonce or request id.
        uid: The allocation, None for coins.
    """

    user: str
    amount: Decimal
    status: str
    key: str
    uid: str | None


class RewardsBooks:
    """The books of the sandboxes of a test."""

    def __init__(self, servers: Sequence[SandboxServer[Any]]) -> None:
        self._servers = servers

    @property
    def payments(self) -> list[Payment]:
        """Every allocation of the vendors, whatever its state."""
        return [
            Payment(
                user=entry.get("to_user_uid") or entry["userId"],
                amount=Decimal(entry["amount"]),
                status=entry.get("status", "done"),
                key=entry.get("nonce") or entry["requestId"],
                uid=entry.get("uid"),
            )
            for server in self._servers
            for entry in server.books()["allocations"]
        ]

    def paid(self, user: str, amount: str | int | Decimal, *, once: bool = False) -> bool:
        """Return True if the user was paid this amount; otherwise fail with what the books show about the user.

        Args:
            user: The user's uid (Original) or id (EnKash).
            amount: The exact amount; `"1.230"` equals `"1.23"`.
            once: Fail also if the user is paid this amount, or will be, more than once.

        Raises:
            AssertionError: the user was not paid, or more than once.
        """
        exact = Decimal(amount)
        found = [payment for payment in self.payments if payment.user == user]
        alike = [payment for payment in found if payment.amount == exact and payment.status != "failed"]
        if not any(payment.status == "done" for payment in alike):
            raise AssertionError(f"{user} was not paid {amount}. {_shown(user, found)}")
        if once and len(alike) > 1:
            raise AssertionError(f"{user} was paid {amount} {len(alike)} times. {_shown(user, found)}")
        return True

    def total(self, user: str) -> Decimal:
        """Return the exact sum of what the user was paid."""
        with localcontext(_EXACT):
            return sum((each.amount for each in self.payments if each.user == user and each.status == "done"), Decimal(0))


def _shown(user: str, found: Sequence[Payment]) -> str:
    if not found:
        return f"The books show no payment to {user}."
    lines = "".join(f"\n  {format(each.amount, 'f')} {each.status} under the key {each.key}" for each in found)
    return f"The books show for {user}:{lines}"
