"""Lists of refusals as JSON values, for the control channel and the admin port."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import asdict
from cattrs import Converter
from cattrs.errors import BaseValidationError

from webhooks.refusals import Refusal

_converter = Converter()


def to_json(refusals: Iterable[Refusal]) -> list[dict[str, Any]]:
    """Return refusals as JSON values."""
    return [asdict(each) for each in refusals]


def from_json(values: Any) -> list[Refusal]:
    """Return the refusals from which `to_json` made these values; raises `ValueError` for other values."""
    try:
        return _converter.structure(values, list[Refusal])
    except (BaseValidationError, TypeError, ValueError, AttributeError):
        raise ValueError("This is not a list of refusals.") from None
