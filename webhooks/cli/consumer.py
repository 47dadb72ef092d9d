"""The running consumer: store, receiver, polling, queue and admin port, from start-up to the last message."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import StoreError
from webhooks.cli.admin import open_admin
from webhooks.cli.errors import CannotStart
from webhooks.cli.inbox import Inbox, open_metrics
from webhooks.cli.metric_families import as_text, families_of
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.console.watched import Readiness
from webhooks.errors import QueueError
from webhooks.refusals import Refusal, Refusals

if TYPE_CHECKING:
    from webhooks.cli.settings import ConsumerSettings, ListenerSettings
    from webhooks.ingress.sqs import SqsIngress

logger = logging.getLogger("webhooks.listener")

_SDK_LOGS = ("aiobotocore", "botocore")


class Consumer:
    """Take deliveries from a queue until stopped.

    Args:
        settings: The settings of a listener; those of its sockets are not used.
        queue: The queue.

    Raises:
        ValueError: a setting, a key or a credential is invalid, or the sources have several paths.
    """

    def __init__(self, settings: ListenerSettings, queue: ConsumerSettings) -> None:
        self._settings = settings
        self._queue = queue
        self._name = queue.check("QUEUE")
        if len(settings.paths) > 1:
            raise ValueError("--source: a queue has no paths. Give all sources the same path, or each queue its own consumer.")
        self._reloadable = Reloadable(settings)
        if settings.admin is not None:
            settings.admin.hosts()
        self._token = None if settings.admin is None else settings.admin.token()
        self._refusals = Refusals(logger)
        self._metrics = open_metrics(self._refusals.total)
        self._inbox = Inbox(settings, self._reloadable, metrics=self._metrics, maintains=True)
        self._stop = asyncio.Event()
        self._ingress: SqsIngress

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Consume until `stop`, then drain.

        Args:
            started: Called once with the queue, and where the admin port is.

        Returns:
            `Exit.OK` if every message received was finished, `Exit.NOT_YET` if some were given back to the queue.

        Raises:
            CannotStart: the queue or the store cannot be used, a port cannot be opened, or the extra `sqs` is missing.
            ValueError: a setting or a credential is invalid.
        """
        warn_of_open_files(self._settings)
        for each in _SDK_LOGS:  # what they log at DEBUG holds signatures and session tokens
            logging.getLogger(each).setLevel(logging.WARNING)
        try:
            from webhooks.ingress.sqs import SqsIngress  # noqa: PLC0415 - needs an extra
        except ImportError as problem:
            raise CannotStart(str(problem), Exit.USAGE) from None
        queue = self._queue
        async with AsyncExitStack() as stack:
            try:
                await self._inbox.open(stack)
                self._ingress = SqsIngress(
                    queue.url,
                    next(iter(self._inbox.receivers.values())),
                    region=queue.region,
                    endpoint=queue.endpoint,
                    allow_insecure=queue.allow_insecure,
                    concurrency=queue.concurrency,
                    visibility=queue.visibility,
                )
                admin = await open_admin(stack, self, self._settings.admin, self._token, self._refusals)
                stack.push_async_callback(self._ingress.aclose, 0.0)
                await self._ingress.start()
            except (OSError, StoreError, QueueError) as problem:
                raise CannotStart(f"could not start: {problem}", Exit.UNAVAILABLE) from None
            started(self._settings.startup_record({"queue": self._name, **admin}))
            await self._stop.wait()
            return await self._drain()

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    def abort(self) -> NoReturn:
        """End the process now; messages in progress are received again after their visibility timeout."""
        os._exit(Exit.NOT_YET)

    async def reload(self) -> None:
        """Reload keys; if one is invalid, none is replaced."""
        self._reloadable.reload()
        warn_of_open_files(self._settings)

    async def readiness(self) -> Readiness:
        """Return whether deliveries can be taken from the queue now."""
        store = await self._inbox.why_not_ready()
        found = ["draining"] if self._stop.is_set() else [each for each in (store, self._ingress.trouble) if each is not None]
        return Readiness(ready=not found, reasons=found)

    async def metrics(self) -> bytes | None:
        """Return the metrics; None if the extra `metrics` is not installed."""
        if self._metrics is None:
            return None
        from webhooks.cli.metrics import of_queue  # noqa: PLC0415 - needs an extra

        queue = families_of(of_queue(self._ingress.statistics, readable=self._ingress.trouble is None))
        return as_text([await self._metrics.families(), queue, await self._inbox.store_families()])

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals, newest first."""
        return self._inbox.refused(self._refusals)

    async def _drain(self) -> Exit:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_seconds
        finished = await self._ingress.drain(self._settings.drain_seconds * 0.75)
        await self._inbox.drain(max(0.0, end - loop.time() - 1.0))
        return Exit.OK if finished else Exit.NOT_YET
