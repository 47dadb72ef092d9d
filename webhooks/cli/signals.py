"""Signals that end a serving command: the first one begins an orderly shutdown, a second one ends the process at once."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from webhooks.cli.systemd import Notifier
from webhooks.early_signals import HAD_TERMINAL, has_terminal, take_hang_ups

if TYPE_CHECKING:
    from rewards_core.cli.exit_codes import Exit

logger = logging.getLogger("webhooks.listener")

ENDING = (signal.SIGTERM, signal.SIGINT)


def end_on_signals(stop: Callable[[], None], abort: Callable[[], object], numbers: Sequence[int] = ENDING) -> Callable[[], None]:
    """Handle the signals that end the command.

    Args:
        stop: Begins an orderly shutdown, at the first signal.
        abort: Ends the process, at the next one.
        numbers: The signals.

    Returns:
        The handler of the first signal, for other causes of a shutdown.
    """
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in numbers:
            loop.add_signal_handler(number, abort)
        stop()

    for number in numbers:
        loop.add_signal_handler(number, first)
    return first


class Service(Protocol):
    """What runs until a signal: a listener, a supervisor or a consumer."""

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Work until `stop`, then drain, and return the exit code; `started` is called once with the startup record."""
        ...

    def stop(self) -> None:
        """Begin to drain."""
        ...

    def abort(self) -> object:
        """End the process now."""
        ...

    async def reload(self) -> None:
        """Reload keys and certificate."""
        ...


async def run_until_signalled(service: Service, started: Callable[[Mapping[str, Any]], None]) -> Exit:
    """Run a service until SIGTERM or SIGINT, reload it on SIGHUP, and return its exit code; systemd is notified of each step."""
    notifier = Notifier()
    hung_up = asyncio.Event()

    def drain() -> None:
        logger.info("draining; a second signal exits at once")
        notifier.stopping()
        service.stop()

    stop = end_on_signals(drain, service.abort)

    def hang_up() -> None:
        if HAD_TERMINAL and not has_terminal():
            stop()
        else:
            hung_up.set()

    async def reload() -> None:
        while await hung_up.wait():
            hung_up.clear()
            try:
                with notifier.reloading():
                    await service.reload()
            except Exception:
                logger.exception("could not reload; the old keys and certificate stay in use")

    def ready(where: Mapping[str, Any]) -> None:
        started(where)
        notifier.ready()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    take_hang_ups()
    beside = [asyncio.create_task(work, name=name) for name, work in (("reload", reload()), ("watchdog", notifier.keep_alive()))]
    try:
        return await service.run(ready)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
