"""The supervisor of `webhook-listener serve --workers N`: it opens the sockets, runs the workers and serves the admin port."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import evolve

from rewards_core.cli.exit_codes import Exit
from webhooks.cli.admin import console_of, open_admin
from webhooks.cli.errors import CannotStart
from webhooks.cli.inbox import open_metrics
from webhooks.cli.listener import DELIVERIES_EVERY, Listener
from webhooks.cli.metric_families import Families, as_text, families_of
from webhooks.cli.process_tuning import fit_connections
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.cli.sockets import open_sockets
from webhooks.cli.workers import STATES, WorkerProcess
from webhooks.console.watched import Readiness
from webhooks.delivery_watch import NOTHING, merged_deliveries
from webhooks.refusals import Refusal, Refusals, merged
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings
    from webhooks.console.console import Console
    from webhooks.delivery_watch import DeliveryFilter

logger = logging.getLogger("webhooks.listener")

_KILL_AFTER = 5.0
_ASK_TIMEOUT = 2.0
_RELOAD_TIMEOUT = 30.0
_PROBE_TIMEOUTS = (0.5, 1.5)  # a health probe gives up after a second or more, and one ready worker is enough


class Supervisor:
    """Open the sockets, let workers take deliveries on them until stopped, and serve the admin port for all.

    Args:
        settings: The listener's settings.

    Attributes:
        sees_refusals: For the console: it knows refused deliveries.
        interval: For the console: seconds between two looks at the deliveries.

    Raises:
        ValueError: a setting, a key or the certificate is invalid, or the store lives in the memory of one process.
    """

    sees_refusals = True
    interval = DELIVERIES_EVERY

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._reloadable = Reloadable(settings)
        self._token = None if settings.admin is None else settings.admin.token()
        Listener(settings)  # each worker makes its own; invalid settings are reported here, once
        if settings.store.in_memory:
            raise ValueError("--workers: a memory: store cannot be shared between processes. Give --store sqlite:///FILE.")
        self._refusals = Refusals(logger)
        self._metrics = open_metrics(self._refusals.total, "supervisor")
        self._stop = asyncio.Event()
        self._workers: list[WorkerProcess] = []

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Serve until `stop`, then let every worker drain.

        Args:
            started: Called once with where the listener listens, when all workers take deliveries.

        Returns:
            `Exit.OK` if every delivery in progress was answered, `Exit.NOT_YET` if some were cut off.

        Raises:
            CannotStart: a socket cannot be opened, or a worker cannot start.
        """
        settings = self._settings = fit_connections(self._settings)  # workers inherit the limit of files
        warn_of_open_files(settings)
        async with AsyncExitStack() as stack:
            try:
                opened = await open_sockets(settings)
                stack.callback(opened.close)
                console = self._open_console(stack)
                admin = await open_admin(stack, self, settings.admin, self._token, self._refusals, console)
            except OSError as problem:
                raise CannotStart(f"could not start: {problem}", Exit.UNAVAILABLE) from None
            for_workers = evolve(settings, admin=None)
            self._workers = [WorkerProcess(number, for_workers, opened.sockets) for number in range(settings.workers)]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = {worker: group.create_task(_keep_running(worker)) for worker in self._workers}
                    failure = await self._first_starts()
                    if failure is None and not self._stop.is_set():
                        where = {"paths": settings.paths, **opened.where, **admin, "workers": settings.workers}
                        started(settings.startup_record(where))
                        await self._stop.wait()
                    opened.close()
                    answered = await self._drain(tasks)
            finally:
                self._workers = []
        if failure is not None:
            raise failure
        return Exit.OK if answered else Exit.NOT_YET

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()
        for worker in self._workers:
            worker.stop()

    def abort(self) -> NoReturn:
        """End all workers and this process now; deliveries in progress are not answered."""
        for worker in self._workers:
            worker.kill()
        os._exit(Exit.NOT_YET)

    async def reload(self) -> None:
        """Reload keys and certificate in every worker, and wait until they use them; if one is invalid, none is replaced."""
        warn_of_open_files(self._settings)
        if self._reloadable.reload():
            for worker in self._workers:
                worker.order("reload")
            await asyncio.gather(*(worker.ask("reloaded", _RELOAD_TIMEOUT) for worker in self._workers))

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now: yes while at least one worker can store them."""
        if self._stop.is_set():
            return Readiness(ready=False, reasons=("draining",))
        found: list[str | None] = []
        for timeout in _PROBE_TIMEOUTS:
            found = await asyncio.gather(*(worker.why_not_ready(timeout) for worker in self._workers))
            if None in found:
                break
        reasons = [f"worker {number}: {reason}" for number, reason in enumerate(found) if reason is not None]
        return Readiness(ready=len(reasons) < len(found), reasons=reasons)

    async def metrics(self) -> bytes | None:
        """Return the sums over all workers, and the store's metrics once; None if the extra `metrics` is not installed."""
        if self._metrics is None:
            return None
        from webhooks.cli.metrics import of_workers  # noqa: PLC0415 - needs an extra

        answers = await asyncio.gather(*(worker.ask("counted", _ASK_TIMEOUT) for worker in self._workers))
        held: Families = []
        for worker in (worker for worker, answer in zip(self._workers, answers, strict=True) if answer is not None):
            answer = await worker.ask("held", _ASK_TIMEOUT)
            if answer is not None:
                held = answer["value"]
                break
        restarts = sum(max(0, worker.starts - 1) for worker in self._workers)
        about_workers = families_of(of_workers(self.worker_states(), restarts))
        counted = [families for worker in self._workers for families in worker.families()]
        return as_text([*counted, held, await self._metrics.families(), about_workers])

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals of all workers and the admin port, newest first."""
        await asyncio.gather(*(worker.ask("refused", _ASK_TIMEOUT) for worker in self._workers))
        by_workers = [each for worker in self._workers for each in worker.refusals()]
        return merged([*self._refusals.newest_first(), *by_workers])

    async def deliveries(self, filters: Sequence[DeliveryFilter]) -> Mapping[str, Any]:
        """Return the deliveries of all workers since the last call; the answer of a slow worker comes with a later one."""
        wanted = [[which.event, which.uid, which.verdict] for which in filters]
        await asyncio.gather(*(worker.ask("deliveries", DELIVERIES_EVERY, filters=wanted) for worker in self._workers))
        by_workers = [taken for worker in self._workers for taken in worker.take_deliveries(wanted)]
        return merged_deliveries([{"counts": {}, "shown": [NOTHING] * len(filters)}, *by_workers])

    def rest(self) -> None:
        """Collect no deliveries until they are asked for again."""
        for worker in self._workers:
            worker.order("rest")

    def worker_states(self) -> Mapping[str, int]:
        """Return how many workers are in each state."""
        states = Counter(worker.state for worker in self._workers)
        return {state: states[state] for state in STATES}

    def _open_console(self, stack: AsyncExitStack) -> Console | None:
        """Return the console, which has its own store object; it is opened by the first viewer."""
        if not self._settings.console:
            return None
        store = self._settings.store.open()
        stack.push_async_callback(store.aclose)
        return console_of(self, store, self._settings)

    async def _first_starts(self) -> CannotStart | None:
        """Wait until every worker takes deliveries; return the error if one cannot start."""
        try:
            await asyncio.gather(*(worker.first_start for worker in self._workers))
        except CannotStart as problem:
            return problem
        return None

    async def _drain(self, tasks: Mapping[WorkerProcess, asyncio.Task[None]]) -> bool:
        """End every worker; return whether every delivery in progress was answered."""
        for worker, task in tasks.items():
            if not worker.stop():
                task.cancel()
        _, left = await asyncio.wait(tasks.values(), timeout=self._settings.drain_seconds + _KILL_AFTER)
        for task in left:
            task.cancel()
        return not left and not any(worker.cut_off for worker in tasks)


async def _keep_running(worker: WorkerProcess) -> None:
    await keep_running(
        worker.run,
        name=f"worker {worker.number}",
        policy=RestartPolicy(max_crashes=None),
        died=lambda _: None,
        traceback=False,
    )
