"""One row of a payout: who gets what, under which id, and the idempotency key that follows from them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import ClassVar, TypeAlias

from attrs import field, frozen

from vendor_http.errors import RewardsError
from vendor_http.secrets import one_line

MAX_CHARACTERS = 200

_AMOUNT = re.compile(r"[0-9]{1,60}(\.[0-9]{1,30})?", re.ASCII)
_KEY_DOMAIN = b"rewards-async payout key"


class InvalidRow(RewardsError, ValueError):
    """A row's value cannot be sent.

    Attributes:
        name: The field, such as `"amount"`.
    """

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


def derive_key(vendor: str, campaign: str, row_id: str, *, retry: int = 0) -> str:
    """Return the idempotency key of a row: 26 characters, the same on every machine and in every run.

    Args:
        vendor: `"original"` or `"enkash"`.
        campaign: The name of the campaign; the same row id in another campaign has another key.
        row_id: The row's stable id.
        retry: 0 for the first key, n for the n-th time somebody asked for the row to be paid anew.
    """
    digest = hashlib.sha256(_KEY_DOMAIN)
    for part in (vendor, campaign, row_id, *([f"retry {retry}"] if retry else [])):
        encoded = part.encode()
        digest.update(b"%d:%b" % (len(encoded), encoded))  # length first, so that no two triples frame to the same bytes
    return base64.b32encode(digest.digest()).decode("ascii").lower()[:26]


def check_text(name: str, value: object) -> str:
    """Return the value if it can name something at a vendor.

    Raises:
        InvalidRow: not a str, empty, longer than 200 characters, not printable, or with white space around it.
    """
    if value is None:
        raise InvalidRow("expected a value, got none", name=name)
    if not isinstance(value, str):
        raise InvalidRow(f"expected text, got a {type(value).__name__.strip('_').lower()}", name=name)
    if not value:
        raise InvalidRow("expected a value, got an empty one", name=name)
    if len(value) > MAX_CHARACTERS:
        raise InvalidRow(f"expected at most {MAX_CHARACTERS} characters, got {len(value)}", name=name)
    if not value.isprintable():
        raise InvalidRow(f"expected printable text, got {quoted(value)} with characters nobody can see", name=name)
    if value != value.strip():
        raise InvalidRow(f"expected no white space around the value, got {quoted(value)}", name=name)
    return value


def check_amount(value: object) -> str:
    """Return an amount as the text that will be sent: plain digits above zero, every one of them kept.

    Args:
        value: A str such as `"1.23"`, an int or a `Decimal`; never a float, which has lost digits already.

    Raises:
        InvalidRow: anything else, or not above zero.
    """
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        value = format(value, "f") if isinstance(value, Decimal) else str(value)
    if value is None:
        raise InvalidRow("expected an amount, got none", name="amount")
    if not isinstance(value, str):
        raise InvalidRow(f"expected a decimal as text, int or Decimal, got a {type(value).__name__}", name="amount")
    if not _AMOUNT.fullmatch(value):
        raise InvalidRow(f"expected a decimal in plain digits such as 1.23, got {quoted(value)}", name="amount")
    if not Decimal(value):
        raise InvalidRow(f"expected an amount above 0, got {quoted(value)}", name="amount")
    return value


def quoted(value: str) -> str:
    """Return a stranger's text in quotes, as one short printable line."""
    return f'"{one_line(value, 60)}"'


@frozen(kw_only=True)
class OriginalRow:
    """One grant of Original tokens.

    Args:
        id: The row's stable id, unique in its campaign.
        reward_uid: The reward contract.
        to_user_uid: Who gets it.
        amount: How much, exactly; a str, int or `Decimal` above zero.
        nonce: The idempotency key, if the file brings its own; derived from the id otherwise.
        line: Where in the file, 0 if there is none.

    Raises:
        InvalidRow: a value cannot be sent.
    """

    vendor: ClassVar[str] = "original"

    id: str
    reward_uid: str
    to_user_uid: str
    amount: str = field(converter=check_amount)
    nonce: str | None = None
    line: int = 0

    def __attrs_post_init__(self) -> None:
        check_text("id", self.id)
        check_text("reward_uid", self.reward_uid)
        check_text("to_user_uid", self.to_user_uid)
        if self.nonce is not None:
            check_text("nonce", self.nonce)

    @property
    def item(self) -> str:
        """What is granted: the reward contract."""
        return self.reward_uid

    @property
    def recipient(self) -> str:
        """Who gets it."""
        return self.to_user_uid

    @property
    def given_key(self) -> str | None:
        """The key that the file brought."""
        return self.nonce


@frozen(kw_only=True)
class EnkashRow:
    """One grant of EnKash coins; how many is configured with the event.

    Args:
        id: The row's stable id, unique in its campaign.
        user_id: Who gets them.
        event: The configured event's name.
        request_id: The idempotency key, if the file brings its own; derived from the id otherwise.
        line: Where in the file, 0 if there is none.

    Raises:
        InvalidRow: a value cannot be sent.
    """

    vendor: ClassVar[str] = "enkash"
    amount: ClassVar[None] = None

    id: str
    user_id: str
    event: str
    request_id: str | None = None
    line: int = 0

    def __attrs_post_init__(self) -> None:
        check_text("id", self.id)
        check_text("user_id", self.user_id)
        check_text("event", self.event)
        if self.request_id is not None:
            check_text("request_id", self.request_id)

    @property
    def item(self) -> str:
        """What is granted: the event."""
        return self.event

    @property
    def recipient(self) -> str:
        """Who gets it."""
        return self.user_id

    @property
    def given_key(self) -> str | None:
        """The key that the file brought."""
        return self.request_id


Row: TypeAlias = OriginalRow | EnkashRow

ROW_TYPES: Mapping[str, type[OriginalRow | EnkashRow]] = MappingProxyType({"original": OriginalRow, "enkash": EnkashRow})
"""The kind of row of each vendor."""
