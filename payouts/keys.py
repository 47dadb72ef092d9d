"""Idempotency keys of rows: the same on every machine and in every run."""

from __future__ import annotations

import base64
import hashlib

from payouts.vendors import ROW_TYPES
from rewards_core.validation import check_choice, check_key, check_name, check_whole

_KEY_DOMAIN = b"rewards-async payout key"
_KEY_CHARACTERS = 26
_LATER_KEYS = 20
_KEY_BYTES = 20  # more than 26 characters of base32 need, and a number that needs no padding


class Keys:
    """Derive the idempotency keys of one campaign: 26 characters, the same on every machine and in every run.

    Args:
        vendor: The vendor's name, as in `Ledger(vendor=...)`.
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
    """Return the idempotency key of one row: 26 characters, the same on every machine and in every run.

    Args:
        vendor: The name of the vendor, as in `Ledger(vendor=...)`.
        campaign: The name of the campaign; the same row id in another campaign has another key.
        row_id: The row's id.
        retry: How many keys of the row were given up before, 0 or more.

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
        vendor: The vendor's name, as in `Ledger(vendor=...)`.
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
