"""The live part of the page: server-sent events, made once for all viewers, and only while there is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.errors import StoreError
from webhooks.console.views import as_json
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    from webhooks.console.views import Views
    from webhooks.console.watched import Watched
    from webhooks.delivery_watch import DeliveryFilter

logger = logging.getLogger("webhooks.console")

MAX_VIEWERS = 8
_STATUS_EVERY = 2.0
_STATUS_SHARE = 100
"""The status is read again after this many times the time that reading it took, so that a large store is not kept busy."""
_LONGEST_PAUSE = 60.0
_ALIVE_EVERY = 5.0
_ALIVE = b":\n\n"
"""A comment, which keeps a quiet connection from being taken for a dead one."""
_MAX_WAITING = 50
"""Frames that wait for a viewer; beyond it the viewer is dropped."""
_FULL = "Eight viewers watch already. Close another page."


class Feed:
    """Follow what is watched while there are viewers.

    Args:
        watched: The listener or the store.
        views: What is shown of it.
    """

    def __init__(self, watched: Watched, views: Views) -> None:
        self._watched = watched
        self._views = views
        self._viewers: set[_Viewer] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._status: bytes | None = None
        self._closed = False

    async def frames(self, which: DeliveryFilter) -> AsyncGenerator[bytes, None]:
        """Yield the frames of one viewer, until it goes, is too slow, or the feed is closed."""
        if self._closed or len(self._viewers) >= MAX_VIEWERS:
            yield _frame("full", {"reason": "The console is closed." if self._closed else _FULL})
            return
        viewer = _Viewer(which)
        self._viewers.add(viewer)
        try:
            self._begin()
            yield _frame("hello", {"sees_refusals": self._watched.sees_refusals, "rows": await self._recent(which)})
            if self._status is not None:
                yield self._status
            while (frame := await viewer.next()) is not None:
                yield frame
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._end()

    async def aclose(self) -> None:
        """End the frames of all viewers; idempotent."""
        self._closed = True
        for viewer in self._viewers:
            viewer.drop()
        self._end()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _begin(self) -> None:
        if not self._tasks:
            work = {"the console's deliveries": self._follow_deliveries, "the console's status": self._follow_status}
            policy = RestartPolicy(max_crashes=None)
            self._tasks = [
                asyncio.create_task(keep_running(run, name=name, policy=policy, died=lambda _: None), name=name)
                for name, run in work.items()
            ]

    def _end(self) -> None:
        tasks, self._tasks, self._status = self._tasks, [], None
        for task in tasks:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._watched.rest()

    async def _recent(self, which: DeliveryFilter) -> list[dict[str, Any]]:
        try:
            return await self._views.recent(which)
        except StoreError:  # the status says so
            return []

    async def _follow_deliveries(self) -> None:
        while True:
            filters = list(dict.fromkeys(viewer.which for viewer in self._viewers))
            taken: Mapping[str, Any] = {"counts": {}}
            try:
                taken = await self._watched.deliveries(filters)
            except StoreError as problem:
                logger.debug("the console could not read deliveries: %s", problem)
            if taken["counts"]:
                self._show(filters, taken)
            await asyncio.sleep(self._watched.interval)

    def _show(self, filters: Sequence[DeliveryFilter], taken: Mapping[str, Any]) -> None:
        """Give each viewer what it wants of some deliveries; viewers that want the same share a frame."""
        frames = {
            which: _frame("deliveries", {**shown, "counts": taken["counts"]})
            for which, shown in zip(filters, taken["shown"], strict=True)
        }
        for viewer in list(self._viewers):
            if viewer.which in frames:  # otherwise it has come meanwhile, and knows these from the store
                self._offer(viewer, frames[viewer.which])

    def _offer(self, viewer: _Viewer, frame: bytes) -> None:
        if viewer.frames.qsize() < _MAX_WAITING:
            viewer.frames.put_nowait(frame)
        else:
            viewer.drop()
            self._viewers.discard(viewer)
            logger.info("a viewer of the console was too slow and was dropped")

    async def _follow_status(self) -> None:
        while True:
            status, seconds = await self._views.status()
            self._status = _frame("status", status)
            for viewer in list(self._viewers):
                self._offer(viewer, self._status)
            await asyncio.sleep(min(max(_STATUS_EVERY, _STATUS_SHARE * seconds), _LONGEST_PAUSE))


class _Viewer:
    """One viewer, and the frames that wait until it reads them."""

    def __init__(self, which: DeliveryFilter) -> None:
        self.which = which
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def next(self) -> bytes | None:
        """Return the next frame, an empty one if none comes for a while, and None at the end."""
        try:
            async with asyncio.timeout(_ALIVE_EVERY):
                return await self.frames.get()
        except TimeoutError:
            return _ALIVE

    def drop(self) -> None:
        """End its frames, without those that it has not read."""
        while not self.frames.empty():
            self.frames.get_nowait()
        self.frames.put_nowait(None)


def _frame(name: str, data: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), as_json(data))
