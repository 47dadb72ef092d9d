"""Notifications to systemd, which starts, reloads and watches services of `Type=notify`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("webhooks.listener")


class Notifier:
    """Tell systemd when this process is ready, reloads, lives and stops; if systemd did not start it, do nothing."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address  # "@": the abstract namespace
        self._is_ready = self._is_stopped = False

    def ready(self) -> None:
        """Say that deliveries are taken; nothing after `stopping`."""
        if not self._is_stopped:
            self._is_ready = True
            self._send("READY=1")

    def stopping(self) -> None:
        """Say that this process drains."""
        self._is_ready, self._is_stopped = False, True
        self._send("STOPPING=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Say when a reload begins and ends; nothing before the process is ready or after it was stopped."""
        if self._is_ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")
        try:
            yield
        finally:
            if self._is_ready:
                self._send("READY=1")

    async def keep_alive(self) -> None:
        """Say that the event loop lives, twice in each interval of `WatchdogSec=`."""
        interval = _watchdog_interval()
        while self._address and interval is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval / 2)

    def _send(self, *states: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.setblocking(False)
                sending.sendto("\n".join(states).encode(), self._address)
        except OSError as problem:
            logger.warning("could not tell systemd %s: %s", states[0], problem.strerror or problem)


def _watchdog_interval() -> float | None:
    """Return the seconds within which systemd wants a sign of life; None if it wants none from this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1_000_000 if microseconds.isdecimal() and int(microseconds) > 0 else None
