"""The page on errors answers for every error that a user can meet, and for no other."""

from __future__ import annotations

import re
from pathlib import Path

import enkash_async
import original_async
import payouts
import rewards_core
import webhooks
import webhooks.errors

PAGE = Path(__file__).parents[1] / "docs/how-to/errors.md"
MODULES = (rewards_core, original_async, enkash_async, webhooks, payouts)
BASES = {"RewardsError", "VendorError"}
"""Raised only as their subclasses."""


def public_errors() -> set[str]:
    offered = {name for module in MODULES for name in module.__all__ if is_error(getattr(module, name))}
    return offered | {name for name, each in vars(webhooks.errors).items() if is_error(each)}


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, rewards_core.RewardsError)


def test_every_public_error_has_one_row_that_says_what_to_do() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| [^|]+ \| [^|]+ \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(public_errors() - BASES)
