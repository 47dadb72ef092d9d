"""Receive, remember, wake: the webhook receiver and what waits on it."""

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
    "Store",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreStatistics",
    "StoredEvent",
]
