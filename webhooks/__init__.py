"""Receive, remember, wake: the webhook receiver and what waits on it."""

from typing import TYPE_CHECKING

from rewards_core.late import late_names

if TYPE_CHECKING:
    from webhooks.as_completed import Completion, CompletionStream
    from webhooks.completions import Completions, CompletionStatistics
    from webhooks.dispatch import DispatchStatistics, HandlerPolicy
    from webhooks.errors import (
        CompletionsClosed,
        CompletionsFailed,
        CompletionTimeout,
        StoreClosed,
        StoreError,
        StoreFull,
    )
    from webhooks.ingress.base import Reply
    from webhooks.polling import PollPolicy
    from webhooks.receiver import Receiver, ReceiverStatistics
    from webhooks.store.base import Store
    from webhooks.store.memory import MemoryStore
    from webhooks.store.records import Acceptance, EventState, Outcome, StoredEvent, StoreStatistics
    from webhooks.store.sqlite import SQLiteStore
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
    "DispatchStatistics",
    "EventState",
    "HandlerPolicy",
    "MemoryStore",
    "Outcome",
    "PollPolicy",
    "Receiver",
    "ReceiverStatistics",
    "Reply",
    "RestartPolicy",
    "SQLiteStore",
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreStatistics",
    "StoredEvent",
]

if not TYPE_CHECKING:  # else a type checker would believe in every name
    __getattr__ = late_names(
        __name__,
        __all__,
        (
            "errors",
            "polling",
            "ingress.base",
            "store.base",
            "store.records",
            "store.memory",
            "supervise",
            "as_completed",
            "completions",
            "dispatch",
            "receiver",
            "store.sqlite",  # last: it needs file locks, which Windows has not, and sqlite3
        ),
    )
