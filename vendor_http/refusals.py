"""What the words of a refusal say about an idempotency key: whether the vendor affirms that it already knows it.

No vendor here documents its words, so this reads English as Django REST Framework and its relatives write it. An error towards
"known" leaves a payout unknown, to be looked up; an error the other way would call a payout refused that exists.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vendor_http.errors import FieldError, VendorError

_NO_FIELD = frozenset({"", "all", "code", "detail", "details", "error", "errors", "message", "non field errors"})
"""What stands in the place of a field's name where an error belongs to the request as a whole."""

_affirmed = re.compile(
    r"\balready\s+(?:(?:been|being|in)\s+)?(?:exist(?:s|ed|ing)?|used?|processed|taken|submitted|received|known|present"
    r"|registered|recorded|allocated|claimed)\b"
    r"|\b(?:has|have|had|was|were|is|are)\s+(?:been\s+)?(?:used|taken)\b"
    r"|\b(?:being|been)\s+processed\b|\bin\s+progress\b|\bis\s+(?:still\s+)?pending\b"
    r"|\bexists\b|\bduplicat(?:e[ds]?|ion)\b|\bconflict(?:s|ing)?\s+with\b"
).finditer
_implied = re.compile(  # these say that it exists, though many of them hold a "not"
    r"\bmust\s+be\s+(?:\w+\s+)?unique\b|\bunique\s+(?:set|constraint|together)\b|\b(?:not|non)[\s-]+unique\b|^unique$"
    r"|\bre-?us(?:e|ed|ing)\b|\bused\s+(?:twice|again|before|only\s+once|more\s+than\s+once)\b|\bonly\s+be\s+used\s+once\b"
    r"|\b(?:must|may|should)\s+not\s+(?:already\s+)?(?:exist|be\s+(?:a\s+)?duplicated?)\b"
).search
_denied = re.compile(  # a denial belongs to what follows only if no verb stands between them
    r"(?:\b(?:not|no|never|none|neither|nor|without|unless|if)|n.t)"
    r"(?:\s+(?:yet|ever|been|be|a|an|any|such|the|this|that|it|longer|has|have|with|under|for|of|nonce|allocations?|requests?"
    r"|id))*\s*$"
).search
_of_something_else = re.compile(
    r"\b(?:users?|customers?|members?|rewards?|wallets?|address(?:es)?|e-?mails?|accounts?|beneficiar(?:y|ies)|apps?|compan(?:y|ies)"
    r"|collections?|assets?|claims?|contracts?|events?|cards?|names?|phones?|tokens?|amounts?|balances?|budgets?|limits?)\b"
).search
_SENTENCES = re.compile(r"[.;:!?\n]+")


def affirms_existence(error: VendorError, *, about: Collection[str]) -> bool:
    """Return whether a refusal says that what it refuses already exists: an earlier call with the key may have been carried out.

    Args:
        error: The refusal. Status 409 says so by itself.
        about: Lower-case words for the key and for what it creates, such as `{"nonce", "allocation"}`. What is said about
            something else, such as "User already exists", says nothing about the key; "Duplicate request", about nothing in
            particular, does.
    """
    return error.status == 409 or any(_affirms(detail, about) for detail in error.details)


def names_other_fields(error: VendorError, *, about: Collection[str]) -> bool:
    """Return whether everything the vendor found wrong is a named field other than the key's."""
    fields = [_folded(detail.field) for detail in error.details]
    return bool(fields) and not any(field in _NO_FIELD or _mentions(field, about) for field in fields)


def _affirms(detail: FieldError, about: Collection[str]) -> bool:
    field = _folded(detail.field)
    of_the_key = _mentions(field, about)
    if field not in _NO_FIELD and not of_the_key:
        return False
    sentences = [each.strip() for each in (*_SENTENCES.split(_folded(detail.message)), _folded(detail.code or ""))]
    return any(_states_existence(each) and (of_the_key or _concerns(each, about)) for each in sentences)


def _states_existence(sentence: str) -> bool:
    if _implied(sentence):
        return True
    return any(not _denied(sentence[: found.start()]) for found in _affirmed(sentence))


def _concerns(sentence: str, about: Collection[str]) -> bool:
    return _mentions(sentence, about) or _of_something_else(sentence) is None


def _mentions(text: str, about: Collection[str]) -> bool:
    return any(word in text for word in about)


def _folded(text: str) -> str:
    """Return a text in lower case with the parts of compound names as words: `nonce_already_used`, `requestId`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_+", " ", text).strip().lower()
