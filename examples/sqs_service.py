"""Take the vendor's deliveries from a queue of Amazon SQS, and pass each to a handler.

Run it with ORIGINAL_WEBHOOK_KEYS (id:secret) and AWS credentials in the environment, and the queue's URL:
`python examples/sqs_service.py 'sqs://rewards?region=eu-west-1'`.
"""

import asyncio
import signal
import sys
from typing import Any

from original_async import OriginalWebhooks
from rewards_core import Event
from webhooks import Receiver
from webhooks.ingress.sqs import SqsIngress

receiver = Receiver(OriginalWebhooks.from_env(), "sqlite:///inbox.db", max_body=1_048_576)


@receiver.on("reward.allocated")
async def tell_the_user(event: Event) -> None:
    print(f"{event.name}: {event.ref}", flush=True)


async def consume(stopped: asyncio.Event, url: str, **options: Any) -> None:
    async with SqsIngress(url, receiver, **options):
        await stopped.wait()


async def main() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await consume(stopped, sys.argv[1])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Give the URL of the queue.")
    asyncio.run(main())
