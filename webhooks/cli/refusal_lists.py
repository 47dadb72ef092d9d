"""Lists of refusals as JSON: from a worker to its supervisor, and from the admin port to its clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import asdict, evolve
from cattrs import Converter
from cattrs.errors import BaseValidationError

from webhooks.refusals import Refusal

_converter = Converter()


def to_json(refusals: Iterable[Refusal]) -> list[dict[str, Any]]:
    """Return refusals as JSON values."""
    return [asdict(each) for each in refusals]


def from_json(values: Any) -> list[Refusal]:
    """Return the refusals of which `to_json` made these values.

    Raises:
        ValueError: they are no such values.
    """
    try:
        return _converter.structure(values, list[Refusal])
    except (BaseValidationError, TypeError, ValueError, AttributeError):
        raise ValueError("This is no list of refusals.") from None


def at_path(path: str, refusals: Iterable[Refusal]) -> list[Refusal]:
    """Return the refusals of the receiver at a path of the listener, with that path."""
    return [evolve(each, path=path) for each in refusals]
