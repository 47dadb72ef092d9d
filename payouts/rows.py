"""One row of a payout, independent of the vendor: an id, a recipient and what is granted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from payouts.spelling import Misspelling, unfit
from rewards_core.errors import RewardsError
from rewards_core.validation import check_amount


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


class Row(Protocol):
    """One grant of any vendor."""

    @property
    def vendor(self) -> str:
        """The vendor's name."""
        ...

    @property
    def id(self) -> str:
        """The row's stable id, unique in its campaign."""
        ...

    @property
    def line(self) -> int:
        """The line in the file, 0 if there is none."""
        ...

    @property
    def recipient(self) -> str:
        """The recipient."""
        ...

    @property
    def item(self) -> str:
        """What is granted, in the vendor's words."""
        ...

    @property
    def amount(self) -> str | None:
        """The exact amount; None where the item sets it."""
        ...

    @property
    def details(self) -> str | None:
        """What is granted beside that, as JSON; None for a grant that has no such details."""
        ...

    @property
    def given_key(self) -> str | None:
        """The key given in the file, or None."""
        ...


def check_field(
    misspelled: Callable[[object], Misspelling | None], check: Callable[[Any, str], str], name: str, value: object
) -> str:
    """Return a field's value as text; see `payouts.spelling` for what is refused.

    Raises:
        InvalidRow: the value cannot be sent.
    """
    wrong = misspelled(value)
    if wrong is None:
        try:
            return check(value, name)
        except (TypeError, ValueError):
            wrong = unfit(value, is_amount=check is check_amount)
    raise InvalidRow(wrong.message, name=name, kind=wrong.kind)
