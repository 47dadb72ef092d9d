"""Receive, remember, wake: the webhook receiver and what waits on it."""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from rewards_core.errors import StoreClosed, StoreError, StoreFull
    from webhooks.as_completed import Completion, CompletionStream
    from webhooks.completions import Completions, CompletionStatistics
    from webhooks.errors import CompletionsClosed, CompletionsFailed, CompletionTimeout
    from webhooks.handlers import HandlerPolicy, HandlerStatistics
    from webhooks.ingress.base import Reply
    from webhooks.polling import PollPolicy
    from webhooks.receiver import Receiver, ReceiverStatistics
    from webhooks.refusals import Refusal
    from webhooks.store.base import Store
    from webhooks.store.memory import MemoryStore
    from webhooks.store.records import (
        Acceptance,
        EventState,
        HandlerStatus,
        Outcome,
        StoredEvent,
        StoredOutcome,
        StoreStatistics,
        Subscription,
    )
    from webhooks.store.sqlite import SQLiteStore
    from webhooks.store.url import open_store
    from webhooks.supervise import RestartPolicy

__all__ = [
    "Acceptance",
    "Completion",
    "CompletionStatistics",
    "CompletionStream",
    "CompletionTimeout",
    "Completions",
    "CompletionsClosed",
    "CompletionsFailed",
    "EventState",
    "HandlerPolicy",
    "HandlerStatistics",
    "HandlerStatus",
    "MemoryStore",
    "Outcome",
    "PollPolicy",
    "Receiver",
    "ReceiverStatistics",
    "Refusal",
    "Reply",
    "RestartPolicy",
    "SQLiteStore",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreStatistics",
    "StoredEvent",
    "StoredOutcome",
    "Subscription",
    "open_store",
]

if not TYPE_CHECKING:  # else a type checker would believe in every name
    __getattr__ = lazy_names(
        __name__,
        __all__,
        (
            "errors",
            "polling",
            "ingress.base",
            "refusals",
            "store.base",
            "store.records",
            "store.url",
            "store.memory",
            "supervise",
            "as_completed",
            "completions",
            "handlers",
            "receiver",
            "store.sqlite",  # last: it needs file locks, which Windows has not, and sqlite3
        ),
    )
