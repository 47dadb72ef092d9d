"""Receive webhooks, store their events, run handlers on them, and wait for operations.

A `Receiver` takes deliveries and runs handlers, `Completions` waits for operations, and both share a store: a `SQLiteStore` on
one host, a `PostgresStore` on several, or a `MemoryStore` in tests.

    store = SQLiteStore("inbox.db")
    receiver = Receiver(source, store)
    receiver.register(app, "/webhooks/rewards")  # an aiohttp application; see also `webhooks.ingress`
    async with Completions(client, store) as completions:
        operation = await completions.wait(operation, timeout=300)

`HandlerPolicy`, `PollPolicy` and `RestartPolicy` hold the settings.
"""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from rewards_core.errors import StoreClosed, StoreError, StoreFull
    from webhooks.as_completed import Completion, CompletionStream
    from webhooks.completions import Completions, CompletionStatistics
    from webhooks.errors import CompletionsClosed, CompletionsFailed, CompletionTimeout, QueueError, RetryLater
    from webhooks.handlers import HandlerPolicy, HandlerStatistics
    from webhooks.ingress.base import Reply
    from webhooks.ingress.serving import serving
    from webhooks.polling import PollPolicy
    from webhooks.receiver import Receiver, ReceiverStatistics
    from webhooks.refusals import Refusal
    from webhooks.store import open_store
    from webhooks.store.base import Store
    from webhooks.store.memory import MemoryStore
    from webhooks.store.postgres import PostgresStore
    from webhooks.store.readings import PollBudget, ProcessActivity, StoreActivity, StoreStatistics, Wake
    from webhooks.store.records import Acceptance, EventState, HandlerStatus, Outcome, StoredEvent, StoredOutcome, Subscription
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
    "EventState",
    "HandlerPolicy",
    "HandlerStatistics",
    "HandlerStatus",
    "MemoryStore",
    "Outcome",
    "PollBudget",
    "PollPolicy",
    "PostgresStore",
    "ProcessActivity",
    "QueueError",
    "Receiver",
    "ReceiverStatistics",
    "Refusal",
    "Reply",
    "RestartPolicy",
    "RetryLater",
    "SQLiteStore",
    "Store",
    "StoreActivity",
    "StoreClosed",
    "StoreError",
    "StoreFull",
    "StoreStatistics",
    "StoredEvent",
    "StoredOutcome",
    "Subscription",
    "Wake",
    "open_store",
    "serving",
]

if not TYPE_CHECKING:  # otherwise a type checker would accept any name
    __getattr__ = lazy_names(
        __name__,
        __all__,
        (
            "errors",
            "polling",
            "ingress.base",
            "refusals",
            "store.base",
            "store.readings",
            "store.records",
            "store",
            "store.memory_events",  # StoreFull, which it raises
            "store.memory",
            "supervise",
            "as_completed",
            "completions",
            "handlers",
            "receiver",
            "ingress.serving",
            "store.sqlite",  # nearly last: it needs file locks, which Windows lacks, and apsw
            "store.postgres",  # last: it needs an extra
        ),
    )
