"""Outcomes that are kept under a key."""

from __future__ import annotations

from typing import Any

from rewards_core.operations import OperationStatus
from tests.virtual_time import EPOCH
from tests.webhooks.fakes import a_ref, words_of
from webhooks.store.records import Outcome


def kept(uid: str = "1", status: str = "done", amount: str = "1.5", key: str = "k", via: Any = "poll") -> Outcome:
    words = words_of(uid, status, amount, key)
    return Outcome(ref=a_ref(uid), status=OperationStatus(status), resource=words, via=via, settled_at=EPOCH, key=key)
