"""One reward as an activity of Temporal: it may be started again at any time, on any host, and pays once.

Run a worker with ORIGINAL_API_KEY, ORIGINAL_API_SECRET, ORIGINAL_BASE_URL and LEDGER (postgresql://user@host/database) in the
environment, after `pip install temporalio 'rewards-async[postgres]'`. A workflow calls the activity with a heartbeat timeout:

    await workflow.execute_activity("pay_reward", reward, start_to_close_timeout=timedelta(hours=1),
                                    heartbeat_timeout=timedelta(seconds=30))
"""

import asyncio
import os
from dataclasses import dataclass

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from original_async import OriginalClient
from payouts import KeyTaken, OriginalRow, PostgresLedger, RowChanged, RunOptions, State, pay_row
from webhooks import Completions, MemoryStore

OPTIONS = RunOptions(rate=20.0, timeout=300.0)
HEARTBEAT_EVERY = 5.0


@dataclass
class Reward:
    """The argument of the activity; `id` never names another reward."""

    id: str
    reward_uid: str
    to_user_uid: str
    amount: str


class Payments:
    def __init__(self, client: OriginalClient, completions: Completions, ledger: PostgresLedger) -> None:
        self._client = client
        self._completions = completions
        self._ledger = ledger

    @activity.defn(name="pay_reward")
    async def pay(self, reward: Reward) -> str:
        """Pay a reward and return the vendor's uid of it."""
        beating = asyncio.create_task(heartbeats())  # without them Temporal could not tell this attempt that it is cancelled
        try:
            row = OriginalRow(id=reward.id, reward_uid=reward.reward_uid, to_user_uid=reward.to_user_uid, amount=reward.amount)
            entry = await pay_row(row, client=self._client, completions=self._completions, ledger=self._ledger, options=OPTIONS)
        except (ValueError, RowChanged, KeyTaken) as problem:
            raise ApplicationError(str(problem), non_retryable=True) from problem
        finally:
            beating.cancel()
        if entry.state is State.DONE:
            return str(entry.uid)
        over = entry.state not in {State.UNKNOWN, State.ACCEPTED}  # these two may still be paid: Temporal tries again
        raise ApplicationError(f"{entry.id} is {entry.state}: {entry.problem}", non_retryable=over)


async def heartbeats() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(HEARTBEAT_EVERY)


async def main() -> None:
    store = MemoryStore()
    async with (
        OriginalClient.from_env() as client,
        Completions(client, store) as completions,
        PostgresLedger(os.environ["LEDGER"], vendor="original", campaign="temporal") as ledger,
    ):
        payments = Payments(client, completions, ledger)
        temporal = await Client.connect(os.environ.get("TEMPORAL", "localhost:7233"))
        await Worker(temporal, task_queue="rewards", activities=[payments.pay]).run()


if __name__ == "__main__":
    asyncio.run(main())
