"""The order of things on their way to the disk: no 200 leaves before its delivery is synchronised.

Killing a process proves nothing about that, because what it wrote survives it in the system's cache. So the system calls of a
listener are traced: the write of a delivery into the store's log, the synchronisation of that log, the answer. With workers each
must synchronise what it wrote itself: another's may have ended before that was written.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from attrs import evolve, frozen

from tests.webhooks.listener_process import client, delivery, post, running, working

traced_only = pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which Linux alone has, is not on this machine")

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

_CALL = re.compile(r"^(?P<thread>\d+) +(?:(?P<call>\w+)\((?P<start>.*)|<\.\.\. (?P<resumed>\w+) resumed>(?P<rest>.*))$")
_RESULT = re.compile(r" = (\d+)\b[^=]*$")
_SOCKET = re.compile(r"^\d+<(\w+:\[[^\]]+\])>")
_UID = re.compile(r"uid_\d\d_")


@frozen
class Call:
    """One system call: its process, its position in the trace, and its arguments."""

    process: str
    name: str
    words: str
    began: int
    ended: int


@frozen
class Answer:
    """A response to a delivery: its process, and whether that process had synchronised the delivery before."""

    process: int
    uid: str
    durable: bool


def calls(trace: str) -> list[Call]:
    """Parse strace's output, joining interrupted calls, and threads with their processes."""
    found: list[Call] = []
    unfinished: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(trace.splitlines()):
        match = _CALL.match(line)
        if match is None:
            continue
        thread = match["thread"]
        if match["resumed"]:
            name, words, began = unfinished.pop(thread)
            found.append(Call(thread, name, words + match["rest"], began, number))
        elif match["start"].endswith("<unfinished ...>"):
            unfinished[thread] = (match["call"], match["start"], number)
        else:
            found.append(Call(thread, match["call"], match["start"], number, number))
    found.sort(key=lambda call: call.began)
    process_of: dict[str, str] = {}
    for call in found:
        if "CLONE_THREAD" in call.words and call.name.startswith("clone") and (made := _RESULT.search(call.words)):
            process_of[made[1]] = process_of.get(call.process, call.process)
    return [evolve(call, process=process_of.get(call.process, call.process)) for call in found]


def answers(trace: str) -> list[Answer]:
    """Return the responses to deliveries, in the order in which they were sent."""
    found = calls(trace)
    log = [call for call in found if "inbox.db-wal" in call.words]
    asked: dict[tuple[str, str], str] = {}
    answered = []
    for call in found:
        socket = _SOCKET.match(call.words)
        if socket is None:
            continue
        if call.name.startswith(("recv", "read")) and (uid := _UID.search(call.words)):
            asked[call.process, socket[1]] = uid[0]
        if call.name.startswith(("send", "write")) and "HTTP/1.1 200" in call.words and (call.process, socket[1]) in asked:
            name = asked.pop((call.process, socket[1]))
            answered.append(Answer(int(call.process), name, is_durable(name, call, log)))
    return answered


def is_durable(uid: str, answer: Call, log: list[Call]) -> bool:
    """Whether a synchronisation that the same process began after it had written the delivery ended before the answer began."""
    own = [call for call in log if call.process == answer.process and call.ended < answer.began]
    written = [call.ended for call in own if call.name.startswith("pwrite") and uid in call.words]
    synced = [call.began for call in own if call.name in {"fdatasync", "fsync"} and call.words.endswith("= 0")]
    return bool(written) and any(began > min(written) for began in synced)


def too_early(found: list[Answer]) -> list[str]:
    """Return the deliveries that were answered before they were on disk."""
    return [answer.uid for answer in found if not answer.durable]


def tracing(folder: Path) -> list[str]:
    """Return the command prefix that traces a listener and its processes into `trace`."""
    every = "clone,clone3,fdatasync,fsync,pwrite64,pwritev,read,recvfrom,recvmsg,sendto,sendmsg,write,writev"
    prefix = ["strace", "-f", "-y", "-s", "70000", "-o", str(folder / "trace")]
    return [*prefix, "-e", f"trace={every}", "-e", "signal=none"]


async def deliver(session: aiohttp.ClientSession, url: str, first: int, count: int) -> None:
    """Send this many deliveries concurrently."""
    bodies = [delivery(f"uid_{number:02}_") for number in range(first, first + count)]
    assert await asyncio.gather(*(post(session, url, body) for body in bodies)) == [200] * count


async def answers_in(folder: Path) -> list[Answer]:
    """Return the responses of a complete trace."""
    return answers(await asyncio.to_thread((folder / "trace").read_text, "utf-8", "backslashreplace"))


async def answers_of(folder: Path, program: tuple[str, ...]) -> list[Answer]:
    """Send deliveries to a traced listener, some concurrently, and return its responses."""
    async with running(folder, prefix=tracing(folder), program=program) as listener, aiohttp.ClientSession() as session:
        for first in range(0, DELIVERIES, AT_ONCE):
            await deliver(session, listener.url, first, AT_ONCE)
    found = await answers_in(folder)
    assert len({answer.uid for answer in found}) == len(found) == DELIVERIES
    return found


@pytest.mark.slow
@traced_only
async def test_no_answer_is_sent_before_its_delivery_is_on_disk(tmp_path: Path) -> None:
    assert too_early(await answers_of(tmp_path, ("-m", "webhooks"))) == []


@pytest.mark.slow
@traced_only
async def test_without_fsync_the_trace_shows_answers_sent_too_early(tmp_path: Path) -> None:
    assert len(too_early(await answers_of(tmp_path, UNSAFE))) == DELIVERIES


@pytest.mark.slow
@traced_only
async def test_no_worker_answers_before_its_delivery_is_on_disk(tmp_path: Path) -> None:
    async with working(tmp_path, prefix=tracing(tmp_path)) as workers, client() as session:
        for number in workers.pids:
            async with workers.only(number):
                await deliver(session, workers.url, number * AT_ONCE, AT_ONCE)
        await deliver(session, workers.url, 2 * AT_ONCE, 2 * AT_ONCE)
    found = await answers_in(tmp_path)
    assert len({answer.uid for answer in found}) == len(found) == 4 * AT_ONCE
    by_worker = Counter(answer.process for answer in found)
    assert by_worker.keys() == set(workers.pids.values())
    assert min(by_worker.values()) >= AT_ONCE
    assert too_early(found) == []


TAKEN = """\
10 clone3({flags=CLONE_VM|CLONE_THREAD, exit_signal=0}, 88) = 11
10 recvfrom(9<socket:[1]>, "POST uid_01_", 65536, 0, NULL, NULL) = 12
11 pwrite64(7</inbox.db-wal>, "uid_01_", 7, 0) = 7
%s
10 sendto(9<socket:[1]>, "HTTP/1.1 200 OK", 15, 0, NULL, 0) = 15
"""


@pytest.mark.parametrize(
    ("synchronised", "durable"),
    [
        ("11 fdatasync(7</inbox.db-wal>) = 0", True),
        ("20 fdatasync(7</inbox.db-wal>) = 0", False),
        ("11 fdatasync(7</inbox.db-wal>) = -1 EIO (Input/output error)", False),
        ("11 fdatasync(8</inbox.db>) = 0", False),
    ],
    ids=["its own thread's", "another process's", "one that failed", "another file's"],
)
def test_only_an_fsync_of_the_log_by_the_same_process_counts(synchronised: str, durable: bool) -> None:
    assert answers(TAKEN % synchronised) == [Answer(10, "uid_01_", durable)]
