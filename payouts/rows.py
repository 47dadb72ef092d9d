"""The rows of a payout, one type per vendor, and the idempotency keys derived from them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from payouts.spelling import Misspelling, misspelled_amount, misspelled_id, misspelled_name, unfit
from rewards_core.errors import RewardsError
from rewards_core.validation import check_amount, check_choice, check_id, check_key, check_name, check_whole, whole

_KEY_DOMAIN = b"rewards-async payout key"
_KEY_CHARACTERS = 26
_LATER_KEYS = 20
_KEY_BYTES = 20  # more than 26 characters of base32 need, and a number that needs no padding


class InvalidRow(RewardsError, ValueError):
    """A row's value cannot be sent.

    Attributes:
        name: The field, such as `"amount"`.
        kind: A word for programs, such as `"scientific"`; see `payouts.spelling`.
    """

    def __init__(self, message: str, *, name: str, kind: str = "refused") -> None:
        super().__init__(message)
        self.name = name
        self.kind = kind


class Keys:
    """Derive the idempotency keys of one campaign: 26 characters, the same on every machine and in every run.

    Args:
        vendor: `"original"` or `"enkash"`.
        campaign: The name of the campaign; the same row id in another campaign has another key.
    """

    def __init__(self, vendor: str, campaign: str) -> None:
        self._begun = hashlib.sha256(_KEY_DOMAIN + _framed(vendor) + _framed(campaign))

    def of(self, row_id: str, *, retry: int = 0) -> str:
        """Return the key of a row.

        Args:
            row_id: The row's stable id.
            retry: 0 for the first key, n for the key of the n-th retry.
        """
        digest = self._begun.copy()
        digest.update(_framed(row_id))
        if retry:
            digest.update(_framed(f"retry {retry}"))
        return base64.b32encode(digest.digest()[:_KEY_BYTES]).decode("ascii").lower()[:_KEY_CHARACTERS]


def derive_key(vendor: str, campaign: str, row_id: str, *, retry: int = 0) -> str:
    """Return the idempotency key of one row; see `Keys`.

    Raises:
        TypeError: a name is not a str, or `retry` not an integer.
        ValueError: there is no such vendor, the campaign or row id is invalid, or `retry` is negative.
    """
    check_choice(vendor, "vendor", ROW_TYPES)
    check_name(campaign, "campaign")
    check_key(row_id, "row_id")
    check_whole(retry, "retry", at_least=0)
    return Keys(vendor, campaign).of(row_id, retry=retry)


def later_keys(vendor: str, campaign: str, row_id: str, retry: int) -> frozenset[str]:
    """Return the keys of a row's next 20 retries, which a newer copy of the ledger may have used.

    Args:
        vendor: `"original"` or `"enkash"`.
        campaign: The campaign's name.
        row_id: The row's id.
        retry: How often the row was retried so far.
    """
    keys = Keys(vendor, campaign)
    return frozenset(keys.of(row_id, retry=number) for number in range(retry + 1, retry + 1 + _LATER_KEYS))


def _framed(part: str) -> bytes:
    """Return a part prefixed with its length, so that different parts never give the same bytes."""
    encoded = part.encode()
    return b"%d:%b" % (len(encoded), encoded)


def _check(misspelled: Callable[[object], Misspelling | None], check: Callable[[Any, str], str], name: str, value: object) -> str:
    wrong = misspelled(value)
    if wrong is None:
        try:
            return check(value, name)
        except (TypeError, ValueError):
            wrong = unfit(value, is_amount=check is check_amount)
    raise InvalidRow(wrong.message, name=name, kind=wrong.kind)


def _amount(value: object) -> str:
    return _check(misspelled_amount, check_amount, "amount", value)


@frozen(kw_only=True)
class OriginalRow:
    """One grant of Original tokens.

    Args:
        id: The row's stable id, unique in its campaign.
        reward_uid: The reward contract.
        to_user_uid: The recipient.
        amount: The exact amount; a str, int or `Decimal` above zero.
        nonce: The idempotency key, if the file has its own; derived from the id otherwise.
        line: The line in the file, 0 if there is none.

    Raises:
        InvalidRow: a value cannot be sent.
        TypeError: `line` is not an integer.
        ValueError: `line` is negative.
    """

    vendor: ClassVar[str] = "original"
    title: ClassVar[str] = "Original tokens"
    recipient_field: ClassVar[str] = "to_user_uid"
    item_field: ClassVar[str] = "reward_uid"
    key_field: ClassVar[str] = "nonce"
    item_word: ClassVar[str] = "reward"
    item_is_id: ClassVar[bool] = True
    has_amounts: ClassVar[bool] = True
    has_lookup: ClassVar[bool] = True

    id: str
    reward_uid: str
    to_user_uid: str
    amount: str = field(converter=_amount)
    nonce: str | None = None
    line: int = field(default=0, validator=whole(at_least=0))

    def __attrs_post_init__(self) -> None:
        _check(misspelled_id, check_key, "id", self.id)
        _check(misspelled_id, check_id, "reward_uid", self.reward_uid)
        _check(misspelled_id, check_id, "to_user_uid", self.to_user_uid)
        if self.nonce is not None:
            _check(misspelled_id, check_key, "nonce", self.nonce)

    @property
    def item(self) -> str:
        """What is granted: the reward contract."""
        return self.reward_uid

    @property
    def recipient(self) -> str:
        """The recipient."""
        return self.to_user_uid

    @property
    def given_key(self) -> str | None:
        """The key given in the file."""
        return self.nonce


@frozen(kw_only=True)
class EnkashRow:
    """One grant of EnKash coins; the event sets how many.

    Args:
        id: The row's stable id, unique in its campaign.
        user_id: The recipient.
        event: The configured event's name.
        request_id: The idempotency key, if the file has its own; derived from the id otherwise.
        line: The line in the file, 0 if there is none.

    Raises:
        InvalidRow: a value cannot be sent.
        TypeError: `line` is not an integer.
        ValueError: `line` is negative.
    """

    vendor: ClassVar[str] = "enkash"
    title: ClassVar[str] = "EnKash coins"
    recipient_field: ClassVar[str] = "user_id"
    item_field: ClassVar[str] = "event"
    key_field: ClassVar[str] = "request_id"
    item_word: ClassVar[str] = "event"
    item_is_id: ClassVar[bool] = False
    has_amounts: ClassVar[bool] = False
    has_lookup: ClassVar[bool] = False
    amount: ClassVar[None] = None

    id: str
    user_id: str
    event: str
    request_id: str | None = None
    line: int = field(default=0, validator=whole(at_least=0))

    def __attrs_post_init__(self) -> None:
        _check(misspelled_id, check_key, "id", self.id)
        _check(misspelled_id, check_id, "user_id", self.user_id)
        _check(misspelled_name, check_name, "event", self.event)
        if self.request_id is not None:
            _check(misspelled_id, check_key, "request_id", self.request_id)

    @property
    def item(self) -> str:
        """What is granted: the event."""
        return self.event

    @property
    def recipient(self) -> str:
        """The recipient."""
        return self.user_id

    @property
    def given_key(self) -> str | None:
        """The key given in the file."""
        return self.request_id


Row: TypeAlias = OriginalRow | EnkashRow

ROW_TYPES: Mapping[str, type[OriginalRow | EnkashRow]] = MappingProxyType({"original": OriginalRow, "enkash": EnkashRow})
"""The row type of each vendor. Class attributes hold what differs between vendors.

`title` names the vendor and what it pays; `recipient_field`, `item_field` and `key_field` are columns of its files; `item_word`
is what it calls an item. `item_is_id` is false where items are names, `has_amounts` where the item sets the amount, and
`has_lookup` where the vendor cannot tell later what became of a row.
"""

FIELDS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {vendor: (row.recipient_field, row.item_field, "amount", row.key_field) for vendor, row in ROW_TYPES.items()}
)
"""What each vendor's files call recipient, item, amount and key."""
