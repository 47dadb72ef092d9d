"""The program of a worker process: a listener on inherited sockets, controlled by its supervisor."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogSettings, log_to_stderr
from webhooks.cli.control_channel import Channel, settings_from_json
from webhooks.cli.errors import CannotStart
from webhooks.cli.listener import Listener
from webhooks.cli.process_tuning import freeze_garbage_collection
from webhooks.cli.refusal_lists import to_json
from webhooks.cli.signals import end_on_signals
from webhooks.cli.workers import SIGNALS
from webhooks.delivery_watch import DeliveryFilter

logger = logging.getLogger("webhooks.listener")


def main() -> None:
    """Serve until stopped by the supervisor or a signal, or until the supervisor has ended."""
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
        return await _ControlledListener(listener, channel).run()
    except CannotStart as problem:
        text, code = problem.text, problem.code
    except ValueError as problem:
        text, code = str(problem), Exit.USAGE
    channel.send({"failed": text, "code": code})
    return code


class _ControlledListener:
    """A listener that follows the orders of a control channel."""

    def __init__(self, listener: Listener, channel: Channel) -> None:
        self._listener = listener
        self._channel = channel
        self._stopping = False

    async def run(self) -> int:
        """Serve, and return the exit code."""
        end_on_signals(self._stop, self._listener.abort)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor validates keys and certificate before any worker reloads
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        obeying = asyncio.create_task(self._obey(), name="obey the supervisor")
        try:
            code = await self._listener.run(lambda _: self._started())
            for question in ("counted", "refused"):
                self._send_answer(question, await self._find(question, {}))
        finally:
            obeying.cancel()
            with suppress(asyncio.CancelledError):
                await obeying
        return code

    def _started(self) -> None:
        freeze_garbage_collection()
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
                    if message.get("ask") == "deliveries":  # at once: an order to rest may follow
                        await self._answer("deliveries", message)
                    elif "ask" in message:
                        group.create_task(self._answer(message["ask"], message))
                    elif message["do"] == "reload":
                        await self._listener.reload()
                    elif message["do"] == "rest":
                        self._listener.rest()
                    else:
                        self._stop()
        finally:
            self._stop()  # the supervisor has ended

    async def _answer(self, question: str, asked: Mapping[str, Any]) -> None:
        try:
            self._send_answer(question, await self._find(question, asked))
        except Exception:
            logger.exception("could not answer the supervisor about %s; deliveries continue", question)

    async def _find(self, question: str, asked: Mapping[str, Any]) -> Any:
        if question == "readiness":
            return await self._listener.why_not_ready()
        if question == "counted":
            return await self._listener.families()
        if question == "refused":
            return to_json(await self._listener.refused())
        if question == "deliveries":
            filters = [DeliveryFilter(event=event, uid=uid, verdict=verdict) for event, uid, verdict in asked["filters"]]
            return {**await self._listener.deliveries(filters), "filters": asked["filters"]}
        if question == "reloaded":
            return True  # orders are obeyed one after the other
        return await self._listener.store_families()

    def _send_answer(self, question: str, value: Any) -> None:
        self._channel.send({"answer": question, "value": value})


if __name__ == "__main__":
    main()
