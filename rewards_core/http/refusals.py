"""Whether the text of a refusal says that the vendor already knows an idempotency key.

No vendor here documents its texts, so this reads English as Django REST Framework and similar frameworks write it. In doubt the
key is known: the payout is then looked up, while the opposite mistake would call a payout refused that exists.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards_core.errors import FieldError, VendorError

_NO_FIELD = frozenset(
    {"", "all", "base", "body", "code", "detail", "details", "error", "errors", "general", "message", "non field errors"}
    | {"reason", "request", "root"}
)
"""The field names of errors about the request as a whole."""

_affirmed = re.compile(
    r"\b(?:already|previously)|\b(?:has|have|had|was|were|is|are)\s+(?:been\s+)?(?:used|seen|processed|created|recorded|submitted|found)\b"
    r"|\b(?:taken|consumed|spent|repeated)\b|\bfirst\s+used\b|\b(?:used|seen|sent)\b.*\bbefore\b|\bearlier\b"
    r"|\b(?:being|been)\s+processed\b|\bin\s+(?:progress|use)\b|\bis\s+(?:still\s+)?(?:pending|processing|queued)\b"
    r"|\bbelongs?\s+to\s+another\b|\bexists\b|\bexisting\s+(?:\w+\s+)?(?:allocation|request|nonce|transaction)\b"
    r"|\bduplicat(?:e[ds]?|ion)\b|\bconflict(?:s|ing|ed)?\b|\bcollision\b|\breplay(?:ed)?\b|\bresubmi(?:t|tted|ssion)\b"
    r"|\brepeat\s+(?:request|call|submission|allocation)\b|\bconcurrent\b|\bidentical\b|\bdouble\s+(?:allocation|request)\b"
).finditer
_implied = re.compile(  # these mean that it exists, although many contain a "not"
    r"\b(?:must|should|(?:has|have|needs?)\s+to)\s+be\s+(?:\w+\s+)?(?:unique|new|unused)\b|\bunique\s+(?:set|constraint|together)\b"
    r"|(?:\bnot|\bnon|n['\u2019]t)\s+(?:an?\s+)?unique\b|\bunique$|\bre\s?us(?:e|ed|ing)\b"
    r"|\bused\s+(?:twice|again|only\s+once|more\s+than\s+once)\b|\b(?:only\s+be|be\s+only)\s+used\s+once\b"
    r"|\bonly\s+one\b.*\bper\b"
    r"|\b(?:must|may|should|can)\s?(?:not|never)\s+(?:already\s+)?(?:exist|have\s+been\s+used)\b"
    r"|(?:\bcan\s?not|\bnot|n['\u2019]t)\s+(?:be\s+)?(?:a\s+)?duplicated?\b|\bno\s+duplicat|\bnonce\s+(?:is\s+)?too\s+low\b"
    r"|\b(?:use|choose|try|provide|send)\s+(?:an?\s+)?(?:new|different|other|another|unused|unique)"
    r"\s+(?:nonce|key|id|one|reference|request|value)\b"
).search
_denied = re.compile(  # a negation applies to the text after it only if no verb is between them
    r"(?:\b(?:not|no|never|none|neither|nor|without|unless|if)|n['\u2019]t)"
    r"(?:\s+(?:yet|ever|already|previously|been|being|be|a|an|any|such|the|this|that|it|longer|has|have|with|under|for|of|nonce|allocations?|requests?"
    r"|id|\"[^\"]*\"|'[^']*'|\w*\d\w*))*\s*$"
).search
_of_something_else = re.compile(
    r"\b(?:users?|customers?|members?|rewards?|wallets?|address(?:es)?|e\s?mails?|accounts?|beneficiar(?:y|ies)|apps?|compan(?:y|ies)"
    r"|collections?|assets?|claims?|contracts?|events?|cards?|names?|phones?|tokens?|amounts?|balances?|budgets?|limits?|quotas?"
    r"|allowances?)\b"
).search
_CALL = r"(?:requests?|transactions?|operations?|payments?|payouts?|submissions?|transfers?|idempotency\s+keys?)\b"
_of_this_call = re.compile(  # for any user or reward
    rf"\bduplicat\w*\s+(?:\w+\s+)?{_CALL}"
    rf"|\b{_CALL}(?:\s+(?:with|under|for|from|by|to|of)(?:\s+\S+){{1,4}}?)?(?:\s+(?:is|are|was|were|has|have|had))*"
    r"\s+(?:already|previously|duplicat|exists|in\s+progress|be(?:ing|en)|still|pending)"
    r"|\b(?:already|previously)\s+(?:been\s+)?(?:credited|distributed|granted|issued|paid|processed|rewarded|sent|transferred)\b"
).search
_SENTENCES = re.compile(r"[.;:!?\n]+|\s[-\u2013\u2014]\s")


def affirms_existence(error: VendorError, *, about: Collection[str]) -> bool:
    """Return whether a refusal says that the operation already exists: an earlier call with the key may have been carried out.

    Args:
        error: The refusal. The statuses 409 (conflict), 423 (locked) and 425 (too early) are enough.
        about: Lower-case words for the key and for what it creates, such as `{"nonce", "allocation"}`. A text about anything
            else, such as "User already exists", does not count; "Duplicate request", which names nothing, does.
    """
    return error.status in {409, 423, 425} or any(_affirms(detail, about) for detail in error.details)


def names_other_fields(error: VendorError, *, about: Collection[str]) -> bool:
    """Return whether every error is about a named field other than the key's."""
    fields = [_folded(detail.field) for detail in error.details]
    return bool(fields) and not any(field in _NO_FIELD or _mentions(field, about) for field in fields)


def _affirms(detail: FieldError, about: Collection[str]) -> bool:
    field = _folded(detail.field)
    of_the_key = _mentions(field, about)
    if field not in _NO_FIELD and not of_the_key:
        return False
    sentences = [_folded(each) for each in (*_SENTENCES.split(detail.message), re.sub(r"\W+", " ", detail.code or ""))]
    return any(_states_existence(each) and (of_the_key or _concerns(each, about)) for each in sentences)


def _states_existence(sentence: str) -> bool:
    if _implied(sentence):
        return True
    return any(not _denied(sentence[: found.start()]) for found in _affirmed(sentence))


def _concerns(sentence: str, about: Collection[str]) -> bool:
    return _mentions(sentence, about) or _of_something_else(sentence) is None or _of_this_call(sentence) is not None


def _mentions(text: str, about: Collection[str]) -> bool:
    return any(word in text for word in about)


def _folded(text: str) -> str:
    """Return a text in lower case with compound names split into words: `nonce_already_used`, `requestId`, `non-unique`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[-_]+", " ", text).strip().lower()
