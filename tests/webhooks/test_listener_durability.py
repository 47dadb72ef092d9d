"""The order of things on their way to the disk: no 200 leaves before its delivery is synchronised.

Killing a process proves nothing about that, because what it wrote survives it in the system's cache. So the system calls of a
listener are traced: the write of a delivery into the store's log, the synchronisation of that log, the answer.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from attrs import frozen

from tests.webhooks.listener_process import delivery, post, running

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which Linux alone has, is not on this machine"),
]

DELIVERIES = 12
AT_ONCE = 4
UNSAFE = (
    "-c",
    """
from rewards_core.sqlite import database
from webhooks.__main__ import main

safe = database.connect

def connect(*given, **options):
    connection = safe(*given, **options)
    connection.execute("PRAGMA synchronous = OFF")
    return connection

database.connect = connect
main()
""",
)

_CALL = re.compile(r"^(?P<pid>\d+) +(?:(?P<call>\w+)\((?P<start>.*)|<\.\.\. (?P<resumed>\w+) resumed>(?P<rest>.*))$")


@frozen
class Call:
    """One system call: where in the trace it began and ended, and what it was given."""

    name: str
    words: str
    began: int
    ended: int


def calls(trace: str) -> Iterator[Call]:
    """Read what strace wrote, joining calls that were interrupted by others."""
    unfinished: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.splitlines()):
        found = _CALL.match(line)
        if found is None:
            continue
        if found["resumed"]:
            name, words, began = unfinished.pop(found["pid"])
            yield Call(name, words + found["rest"], began, number)
        elif found["start"].endswith("<unfinished ...>"):
            unfinished[found["pid"]] = (found["call"], found["start"], number)
        else:
            yield Call(found["call"], found["start"], number, number)


def answered_too_early(trace: str) -> list[str]:
    """Return the answers that began to leave before a synchronisation, begun after their deliveries were written, had ended."""
    found = list(calls(trace))
    answers = [call for call in found if "HTTP/1.1 200" in call.words and call.name.startswith(("send", "write"))]
    log = [call for call in found if "inbox.db-wal" in call.words]
    assert len(answers) == DELIVERIES
    early = []
    for number, answer in enumerate(sorted(answers, key=lambda call: call.began)):
        written = [call for call in log if call.name.startswith("pwrite") and call.ended < answer.began]
        uids = {uid for call in written for uid in re.findall(r"uid_\d\d_", call.words)}
        synchronised = {
            uid
            for uid in uids
            if any(
                call.name in {"fdatasync", "fsync"}
                and min(one.ended for one in written if uid in one.words) < call.began
                and call.ended < answer.began
                for call in log
            )
        }
        if len(synchronised) <= number:
            early.append(f"answer {number + 1} of {DELIVERIES} left with {len(synchronised)} deliveries synchronised")
    return early


async def traced(folder: Path, program: tuple[str, ...]) -> str:
    """Let a traced listener take deliveries, some at the same time, and return the trace."""
    trace = folder / "trace"
    prefix = ["strace", "-f", "-y", "-s", "70000", "-o", str(trace)]
    prefix += ["-e", "trace=fdatasync,fsync,pwrite64,pwritev,sendto,sendmsg,write,writev", "-e", "signal=none"]
    async with running(folder, prefix=prefix, program=program) as listener, aiohttp.ClientSession() as session:
        for first in range(0, DELIVERIES, AT_ONCE):
            bodies = [delivery(f"uid_{number:02}_") for number in range(first, first + AT_ONCE)]
            assert await asyncio.gather(*(post(session, listener.url, body) for body in bodies)) == [200] * AT_ONCE
    return await asyncio.to_thread(trace.read_text, "utf-8", "backslashreplace")


async def test_no_answer_leaves_before_its_delivery_is_on_the_disk(tmp_path: Path) -> None:
    assert answered_too_early(await traced(tmp_path, ("-m", "webhooks"))) == []


async def test_without_synchronisation_the_same_look_finds_answers_that_left_too_early(tmp_path: Path) -> None:
    assert len(answered_too_early(await traced(tmp_path, UNSAFE))) == DELIVERIES
