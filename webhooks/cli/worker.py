"""The program of a worker process: a listener on sockets that its supervisor opened, under the supervisor's orders."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogSettings, log_to_stderr
from webhooks.cli.control import Channel, settings_from_json
from webhooks.cli.errors import CannotStart
from webhooks.cli.refusal_lists import to_json
from webhooks.cli.service import Listener
from webhooks.cli.stopping import end_on_signals
from webhooks.cli.tuning import leave_lasting_objects_alone
from webhooks.cli.worker_process import SIGNALS

logger = logging.getLogger("webhooks.listener")


def main() -> None:
    """Serve until told to stop, by the supervisor or by a signal, or until the supervisor has ended."""
    sys.exit(asyncio.run(_work(socket.socket(fileno=int(sys.argv[1])))))


async def _work(control: socket.socket) -> int:
    channel = await Channel.over(control)
    orders = await channel.receive()
    if orders is None:
        return Exit.OK
    log_to_stderr(LogSettings(**orders["log"]), worker=orders["number"])
    try:
        listener = Listener(
            settings_from_json(orders["settings"]),
            sockets=[socket.socket(fileno=each) for each in orders["sockets"]],
            number=orders["number"],
        )
        return await _Worker(listener, channel).run()
    except CannotStart as problem:
        words, code = problem.text, problem.code
    except ValueError as problem:
        words, code = str(problem), Exit.USAGE
    channel.send({"failed": words, "code": code})
    return code


class _Worker:
    """A listener that obeys.

    Args:
        listener: The listener.
        channel: Where orders come from.
    """

    def __init__(self, listener: Listener, channel: Channel) -> None:
        self._listener = listener
        self._channel = channel
        self._stopping = False

    async def run(self) -> int:
        """Serve, and return the exit code."""
        self._take_signals()
        obeying = asyncio.create_task(self._obey(), name="obey the supervisor")
        try:
            code = await self._listener.run(lambda _: self._started())
            self._answer("counted", self._listener.counted())
            self._answer("refused", to_json(self._listener.refused_here()))
        finally:
            obeying.cancel()
            with suppress(asyncio.CancelledError):
                await obeying
        return code

    def _take_signals(self) -> None:
        end_on_signals(self._stop, self._listener.abort)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor looks at keys and certificate first
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _started(self) -> None:
        leave_lasting_objects_alone()
        if not self._stopping:
            self._channel.send({"state": "ready"})

    def _stop(self) -> None:
        self._stopping = True
        self._channel.send({"state": "draining"})
        self._listener.stop()

    async def _obey(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while (message := await self._channel.receive()) is not None:
                    if "ask" in message:
                        group.create_task(self._find(message["ask"]))
                    elif message["do"] == "reload":
                        self._listener.reload()
                    else:
                        self._stop()
        finally:
            self._stop()  # the supervisor has ended

    async def _find(self, question: str) -> None:
        try:
            if question == "readiness":
                self._answer(question, await self._listener.why_not_ready())
            elif question == "counted":
                self._answer(question, self._listener.counted())
            elif question == "refused":
                self._answer(question, to_json(self._listener.refused_here()))
            else:
                self._answer(question, await self._listener.held())
        except Exception:  # deliveries go on
            logger.exception("the supervisor's question about %s could not be answered", question)

    def _answer(self, question: str, value: Any) -> None:
        self._channel.send({"answer": question, "value": value})


if __name__ == "__main__":
    main()
