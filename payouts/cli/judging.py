"""What the ledger says of the rows of a file before any of them is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payouts.ledger_reader import Campaign, LedgerReader
from payouts.states import same_amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from payouts.rows import Row

_MOST_LOOKED_AT = 1_000
_MOST_CAMPAIGNS = 20


class Judge:
    """Compare rows with the ledger.

    Args:
        reader: The ledger.
        vendor: Who is to pay.
        name: The campaign, which the ledger may not know yet.
    """

    def __init__(self, reader: LedgerReader, vendor: str, name: str) -> None:
        known = [each for each in reader.campaigns() if each.vendor == vendor]
        new = Campaign(number=0, vendor=vendor, name=name, target="", opened_at=0.0)  # keys are taken across campaigns
        self._reader = reader
        self._campaign = next((each for each in known if each.name == name), new)
        self._others = known[-_MOST_CAMPAIGNS:] if self._campaign is new else []
        self._looked_at = 0
        self._twins: dict[str, int] = {}

    def __call__(self, row: Row) -> None:
        """Refuse a row that is known with other content, or that brings the key of another row.

        Raises:
            InvalidRow: it is; the text shows both versions.
        """
        self._reader.judge(self._campaign, row)
        if self._others and self._looked_at < _MOST_LOOKED_AT:
            self._looked_at += 1
            for other in self._others:
                if self._has(other, row):
                    self._twins[other.name] = self._twins.get(other.name, 0) + 1

    def doubts(self) -> Iterator[str]:
        """Say which other campaigns hold rows of this new one, told by the first 1,000 of them."""
        for name, rows in self._twins.items():
            yield (
                f"campaign {self._campaign.name} is new to this ledger, whose campaign {name} has {rows:,} of the first "
                f"{self._looked_at:,} rows with the same id, recipient and amount: if this is the same payout, name that "
                "campaign, or they are paid again"
            )

    def _has(self, campaign: Campaign, row: Row) -> bool:
        known = self._reader.find(campaign, row.id)
        return (
            known is not None
            and (known.recipient, known.item) == (row.recipient, row.item)
            and same_amount(known.amount, row.amount)
        )
