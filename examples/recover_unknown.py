"""Pay one order, whatever happens on the way: what to do about `OutcomeUnknown`, with a table of your own.

    python examples/recover_unknown.py A-1001 110985463782 1.23

Run it again after a crash, an error, `sent` or `unknown`. The states of an order, which is a file in the folder `orders` here:

    planned    nothing was sent
    sent       it may have been sent: send it again, with the same nonce and repeated=True
    unknown    it was sent and not answered: wait for its nonce
    accepted   the vendor has it: wait for the blockchain
    rejected, failed    nothing was paid; to pay after all, take a new order number
    person     compare the user's allocations with the order; until then, pay it under no other number
"""

import asyncio
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

from original_async import AllocationFailed, OriginalClient
from rewards_core import Conflict, ConnectFailed, Operation, OperationMismatch, OutcomeUnknown, RequestRejected
from webhooks import Completions, CompletionTimeout, MemoryStore, PollPolicy


@dataclass
class Order:
    number: str
    user: str
    amount: str
    state: str = "planned"
    attempts: int = 0
    pending: Operation | OutcomeUnknown | None = None  # both can be pickled

    def save(self, state: str) -> None:
        """Commit before anything else happens; your database also syncs what it commits."""
        self.state = state
        new = Path("orders", f"{self.number}.new")
        new.write_bytes(pickle.dumps(vars(self)))
        new.replace(Path("orders", self.number))


async def send(order: Order, client: OriginalClient) -> None:
    repeated = order.state != "planned"
    order.attempts += 1
    order.save("sent")
    try:
        order.pending = await client.create_allocation(
            reward_uid="764893807463", to_user_uid=order.user, amount=order.amount, nonce=order.number, repeated=repeated
        )
        order.save("accepted")
    except OutcomeUnknown as unknown:
        order.pending = unknown
        order.save("unknown")
    except (ConnectFailed, RequestRejected) as problem:
        if problem.status in {None, 401, 403, 429}:  # this call did nothing, but an earlier one may have
            order.save("sent" if repeated else "planned")
            raise
        order.save("rejected")
    except Conflict:
        order.save("person")


async def settle(order: Order, client: OriginalClient, completions: Completions, timeout: float = 300.0) -> None:
    """Take an order as far as it goes now."""
    if order.state in {"planned", "sent"}:
        await send(order, client)
    if order.state in {"accepted", "unknown"} and order.pending is not None:
        try:
            await completions.wait(order.pending, timeout=timeout)
            order.save("done")
        except AllocationFailed:
            order.save("failed")
        except OperationMismatch:
            order.save("person")
        except CompletionTimeout:
            if order.state == "unknown":  # its nonce was not found
                order.pending = None
                order.save("sent" if order.attempts < 10 else "person")


def load(number: str, user: str, amount: str) -> Order:
    saved = Path("orders", number)
    return Order(**pickle.loads(saved.read_bytes())) if saved.exists() else Order(number, user, amount)


async def main(order: Order) -> None:
    polling = PollPolicy(first_after=2.0)  # in a service, the store of its receiver: webhooks settle most orders before a poll
    async with OriginalClient.from_env() as client, Completions(client, MemoryStore(), polling=polling) as completions:
        await settle(order, client, completions)
    print(f"{order.number}: {order.state}")


if __name__ == "__main__":
    Path("orders").mkdir(exist_ok=True)
    asyncio.run(main(load(*sys.argv[1:4])))
