"""The users of the sandboxed Original and their wallets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define

from vendor_sandboxes.original_operations import timestamp

if TYPE_CHECKING:
    from vendor_sandboxes.options import OriginalOptions

CHAIN_ID = 80002
NETWORK = "Amoy"


def explorer_url(address: str) -> str:
    """Return the page of an address."""
    return f"https://amoy.polygonscan.com/address/{address}"


@define(kw_only=True, eq=False)
class User:
    """A user of the app."""

    uid: str
    email: str | None
    user_external_id: str | None
    created_at: str


class Users:
    """The users, and the wallets of known and unknown ones.

    Attributes:
        by_uid: Uid to user.
        by_email: E-mail address to user.
        by_external_id: External id to user.
    """

    def __init__(self, clock: Callable[[], float], next_uid: Callable[[str], str]) -> None:
        self._clock = clock
        self._next_uid = next_uid
        self.by_uid: dict[str, User] = {}
        self.by_email: dict[str, User] = {}
        self.by_external_id: dict[str, User] = {}
        self._wallets: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def add(self, email: str | None, user_external_id: str | None) -> User | None:
        """Add a user, or return None if the e-mail address or external id is taken."""
        if (email and email in self.by_email) or (user_external_id and user_external_id in self.by_external_id):
            return None
        user = User(
            uid=self._next_uid("user"), email=email, user_external_id=user_external_id, created_at=timestamp(self._clock())
        )
        self.by_uid[user.uid] = user
        if email:
            self.by_email[email] = user
        if user_external_id:
            self.by_external_id[user_external_id] = user
        return user

    def open_wallet(self, user_uid: str) -> str:
        """Return the address of the user's wallet, which the first operation on the blockchain creates."""
        address = self._wallets.setdefault(user_uid, f"0x{hashlib.sha256(user_uid.encode()).hexdigest()[:40]}")
        self._owners[address] = user_uid
        return address

    def wallet(self, user_uid: str) -> str | None:
        """Return the address of the user's wallet, or None if there is none yet."""
        return self._wallets.get(user_uid)

    def owner(self, address: str) -> str | None:
        """Return the user whose wallet has this address."""
        return self._owners.get(address.lower())

    def resource(self, user: User, options: OriginalOptions) -> str:
        """Return the vendor's JSON text of a user."""
        head = {"uid": user.uid, "created_at": user.created_at, "email": user.email, "user_external_id": user.user_external_id}
        address = self.wallet(user.uid)
        if options.user_shape == "wallet_address":
            return json.dumps({**head, "wallet_address": address})
        return json.dumps({**head, "wallets": [_wallet(address)] if address else [], "client_id": user.user_external_id})


def _wallet(address: str) -> dict[str, Any]:
    return {"address": address, "explorer_url": explorer_url(address), "network": "Polygon", "chain_id": CHAIN_ID}
