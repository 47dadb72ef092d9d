"""Receive, remember, wake: the webhook receiver and what waits on it."""

from typing import TYPE_CHECKING, Any

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
from webhooks.polling import PollPolicy
from webhooks.receiver import Receiver, ReceiverStatistics, Reply
from webhooks.store.base import Acceptance, EventState, Outcome, Store, StoredEvent, StoreStatistics
from webhooks.store.memory import MemoryStore
from webhooks.streams import Completion, CompletionStream
from webhooks.supervise import RestartPolicy

if TYPE_CHECKING:
    from webhooks.store.sqlite import SQLiteStore

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

    def __getattr__(name: str) -> Any:
        if name == "SQLiteStore":  # looked up late: it needs file locks, which Windows has not, and sqlite3
            from webhooks.store.sqlite import SQLiteStore  # noqa: PLC0415

            return SQLiteStore
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
