"""`webhook-listener serve --workers N`: the process that opens the sockets, runs the workers, and speaks for them."""

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
from webhooks.cli.admin import Readiness, open_admin
from webhooks.cli.errors import CannotStart
from webhooks.cli.open_files import fit_connections
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.cli.service import Listener, described
from webhooks.cli.sockets import open_sockets
from webhooks.cli.totals import summed
from webhooks.cli.workers import STATES, Worker
from webhooks.refusals import Refusal, Refusals, merged
from webhooks.store import store_file
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings
    from webhooks.cli.totals import Families

logger = logging.getLogger("webhooks.listener")

_KILL_AFTER = 5.0
_SCRAPE_SECONDS = 2.0
_PROBE_SECONDS = (0.5, 1.5)  # a probe gives up after a second or more, and one worker that is ready is enough


class Supervisor:
    """Open the sockets, let workers take deliveries on them until told to stop, and serve the admin port for all.

    Args:
        settings: What the listener is told.

    Raises:
        ValueError: a setting, a key or the certificate cannot be what it should, or the store lives in one process.
    """

    def __init__(self, settings: ListenerSettings) -> None:
        self._settings = settings
        self._reloadable = Reloadable(settings)
        self._token = None if settings.admin is None else settings.admin.token()
        Listener(settings)  # each worker makes its own; what is wrong with the settings is said here, once
        if store_file(settings.store, "--store") is None:
            raise ValueError("--workers: a memory: store can be seen only by its own process. Give --store sqlite:///FILE.")
        self._refusals = Refusals(logger)
        self._stop = asyncio.Event()
        self._workers: list[Worker] = []

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Serve until `stop`, then let every worker drain.

        Args:
            started: Called once with where the listener listens, when all workers take deliveries.

        Returns:
            `Exit.OK` if every delivery under way was answered, `Exit.NOT_YET` if some had to be cut off.

        Raises:
            CannotStart: a socket cannot be had, or a worker cannot start.
        """
        settings = self._settings = fit_connections(self._settings)  # said here once; workers inherit the limit of files
        warn_of_open_files(settings)
        async with AsyncExitStack() as stack:
            try:
                opened = await open_sockets(settings)
                stack.callback(opened.close)
                admin = await open_admin(stack, self, settings.admin, self._token, self._refusals)
            except OSError as problem:
                raise CannotStart(f"could not start: {problem}", Exit.UNAVAILABLE) from None
            for_workers = evolve(settings, admin=None)
            self._workers = [Worker(number, for_workers, opened.sockets) for number in range(settings.workers)]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = {worker: group.create_task(_kept_running(worker)) for worker in self._workers}
                    failure = await self._first_starts()
                    if failure is None and not self._stop.is_set():
                        started(described(settings, {**opened.where, **admin, "workers": settings.workers}))
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
        """End all workers and this process now; what is under way is not answered."""
        for worker in self._workers:
            worker.kill()
        os._exit(Exit.NOT_YET)

    def reload(self) -> None:
        """Reload keys and certificate in every worker; if one cannot be used, all stay as they were."""
        warn_of_open_files(self._settings)
        if self._reloadable.reload():
            for worker in self._workers:
                worker.tell("reload")

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now: yes while at least one worker can keep them."""
        if self._stop.is_set():
            return Readiness(ready=False, reasons=("draining",))
        found: list[str | None] = []
        for seconds in _PROBE_SECONDS:
            found = await asyncio.gather(*(worker.why_not_ready(seconds) for worker in self._workers))
            if None in found:
                break
        reasons = [f"worker {number}: {reason}" for number, reason in enumerate(found) if reason is not None]
        return Readiness(ready=len(reasons) < len(found), reasons=reasons)

    async def metrics(self) -> bytes | None:
        """Return the sums over all workers, and what the store holds once; None if the extra is missing."""
        try:
            from webhooks.cli.metrics import as_text, of_refusals, of_workers  # noqa: PLC0415 - needs an extra
        except ImportError:
            return None
        answers = await asyncio.gather(*(worker.ask("counted", _SCRAPE_SECONDS) for worker in self._workers))
        held: Families = []
        for worker in (worker for worker, answer in zip(self._workers, answers, strict=True) if answer is not None):
            answer = await worker.ask("held", _SCRAPE_SECONDS)
            if answer is not None:
                held = answer["value"]
                break
        states = Counter(worker.state for worker in self._workers)
        restarts = sum(max(0, worker.starts - 1) for worker in self._workers)
        here = of_refusals(self._refusals.total)
        counted = summed([*(families for worker in self._workers for families in worker.counted()), here])
        return as_text([*counted, *held, *of_workers({state: states[state] for state in STATES}, restarts)])

    async def refused(self) -> Sequence[Refusal]:
        """Return what all workers and the admin port refused last, newest first."""
        await asyncio.gather(*(worker.ask("refused", _SCRAPE_SECONDS) for worker in self._workers))
        by_workers = [each for worker in self._workers for each in worker.refused()]
        return merged([*self._refusals.newest_first(), *by_workers])

    async def _first_starts(self) -> CannotStart | None:
        """Return once every worker takes deliveries, or why one cannot."""
        try:
            await asyncio.gather(*(worker.first_start for worker in self._workers))
        except CannotStart as problem:
            return problem
        return None

    async def _drain(self, tasks: Mapping[Worker, asyncio.Task[None]]) -> bool:
        """End every worker; return whether all that was under way was answered."""
        for worker, task in tasks.items():
            if not worker.stop():
                task.cancel()
        _, left = await asyncio.wait(tasks.values(), timeout=self._settings.drain_seconds + _KILL_AFTER)
        for task in left:
            task.cancel()
        return not left and not any(worker.cut_off for worker in tasks)


async def _kept_running(worker: Worker) -> None:
    await keep_running(
        worker.live,
        name=f"worker {worker.number}",
        policy=RestartPolicy(deaths=None),
        died=lambda _: None,
        traceback=False,
    )
