"""A row of EnKash coins."""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen

from payouts.rows import check_field
from payouts.spelling import misspelled_id, misspelled_name
from rewards_core.validation import check_id, check_key, check_name, whole


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
    account: ClassVar[str] = "enkash"
    title: ClassVar[str] = "EnKash coins"
    recipient_field: ClassVar[str] = "user_id"
    item_field: ClassVar[str] = "event"
    key_field: ClassVar[str] = "request_id"
    detail_fields: ClassVar[tuple[str, ...]] = ()
    item_word: ClassVar[str] = "event"
    done_word: ClassVar[str] = "paid"
    sameness: ClassVar[str] = "recipient and event"
    item_is_id: ClassVar[bool] = False
    has_amounts: ClassVar[bool] = False
    has_lookup: ClassVar[bool] = False
    amount: ClassVar[None] = None
    details: ClassVar[None] = None

    id: str
    user_id: str
    event: str
    request_id: str | None = None
    line: int = field(default=0, validator=whole(at_least=0))

    def __attrs_post_init__(self) -> None:
        check_field(misspelled_id, check_key, "id", self.id)
        check_field(misspelled_id, check_id, "user_id", self.user_id)
        check_field(misspelled_name, check_name, "event", self.event)
        if self.request_id is not None:
            check_field(misspelled_id, check_key, "request_id", self.request_id)

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
        """The key given in the file, or None."""
        return self.request_id
