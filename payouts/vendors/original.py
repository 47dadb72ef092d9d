"""A row of Original tokens."""

from __future__ import annotations

from decimal import Decimal  # noqa: TC003 - the type of an argument, which tools read
from typing import ClassVar

from attrs import field, frozen

from payouts.rows import check_field
from payouts.spelling import misspelled_amount, misspelled_id
from rewards_core.validation import check_amount, check_id, check_key, whole


def _amount(value: str | int | Decimal) -> str:
    return check_field(misspelled_amount, check_amount, "amount", value)


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
    account: ClassVar[str] = "original"
    title: ClassVar[str] = "Original tokens"
    recipient_field: ClassVar[str] = "to_user_uid"
    item_field: ClassVar[str] = "reward_uid"
    key_field: ClassVar[str] = "nonce"
    detail_fields: ClassVar[tuple[str, ...]] = ()
    item_word: ClassVar[str] = "reward"
    done_word: ClassVar[str] = "paid"
    sameness: ClassVar[str] = "recipient, reward and amount"
    item_is_id: ClassVar[bool] = True
    has_amounts: ClassVar[bool] = True
    has_lookup: ClassVar[bool] = True
    details: ClassVar[None] = None

    id: str
    reward_uid: str
    to_user_uid: str
    amount: str = field(converter=_amount)
    nonce: str | None = None
    line: int = field(default=0, validator=whole(at_least=0))

    def __attrs_post_init__(self) -> None:
        check_field(misspelled_id, check_key, "id", self.id)
        check_field(misspelled_id, check_id, "reward_uid", self.reward_uid)
        check_field(misspelled_id, check_id, "to_user_uid", self.to_user_uid)
        if self.nonce is not None:
            check_field(misspelled_id, check_key, "nonce", self.nonce)

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
        """The key given in the file, or None."""
        return self.nonce
