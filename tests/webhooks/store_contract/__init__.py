"""The contract of every store.

Subclass `StoreContract`, or `DurableStoreContract` for a store that outlives its process, in a test module with two fixtures:

* `stores` yields `(here, there)`: two store objects over one engine, or the same object twice;
* `time` is the `Time` that they live in.

The fixtures `here` and `there` stand in `tests/webhooks/conftest.py`. A durable store's module has `reopen` as well: an async
function that closes a store object and returns another one over the same engine.

Subclass `PollsMachine` as well, and run its `TestCase`.
"""

from tests.webhooks.store_contract.budget import BudgetContract
from tests.webhooks.store_contract.dependents import DependentsContract
from tests.webhooks.store_contract.durable import DurableContract
from tests.webhooks.store_contract.events import EventsContract
from tests.webhooks.store_contract.handlers import HandlersContract
from tests.webhooks.store_contract.kit import (
    A_DAY,
    COUNT,
    EPOCH,
    PAY,
    Ear,
    LoopTime,
    Reopen,
    Time,
    claim,
    event,
    made_with,
    outcome,
    ref,
    resource,
    wants,
)
from tests.webhooks.store_contract.outcomes import OutcomesContract
from tests.webhooks.store_contract.pending import PendingContract
from tests.webhooks.store_contract.polls import PollsContract
from tests.webhooks.store_contract.schedule import PollsMachine
from tests.webhooks.store_contract.upkeep import UpkeepContract
from tests.webhooks.store_contract.watching import WatchingContract

__all__ = [
    "A_DAY",
    "COUNT",
    "EPOCH",
    "PAY",
    "DurableStoreContract",
    "Ear",
    "LoopTime",
    "PollsMachine",
    "Reopen",
    "StoreContract",
    "Time",
    "claim",
    "event",
    "made_with",
    "outcome",
    "ref",
    "resource",
    "wants",
]


class StoreContract(
    EventsContract,
    HandlersContract,
    OutcomesContract,
    PendingContract,
    WatchingContract,
    PollsContract,
    BudgetContract,
    DependentsContract,
    UpkeepContract,
):
    """All of it."""


class DurableStoreContract(StoreContract, DurableContract):
    """All of it, and what must be there after a restart."""
