"""A full table of files is told in a line now and then, and anything else as ever."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest

from tests.virtual_time import virtual_time
from webhooks.ingress.quiet import quiet_about_accepting


@virtual_time
async def test_a_queue_of_connections_that_cannot_be_taken_is_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    loop, handle = asyncio.get_running_loop(), quiet_about_accepting(logging.getLogger("quiet-accepting"), every=10)
    for _ in range(100):
        handle(loop, {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Too many")})
    assert caplog.messages == ["no further connection could be taken: Too many"]
    await asyncio.sleep(10)
    handle(loop, {"message": "again", "exception": OSError(errno.ENFILE, "Too many in all")})
    assert caplog.messages[1:] == ["no further connection could be taken: Too many in all"]
    assert not any(record.exc_info for record in caplog.records)


async def test_other_trouble_of_the_loop_is_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    handle = quiet_about_accepting(logging.getLogger("quiet-accepting"))
    handle(asyncio.get_running_loop(), {"message": "a callback failed", "exception": OSError(errno.EPIPE, "gone")})
    handle(asyncio.get_running_loop(), {"message": "no exception at all"})
    assert [record.message.splitlines()[0] for record in caplog.records] == ["a callback failed", "no exception at all"]
