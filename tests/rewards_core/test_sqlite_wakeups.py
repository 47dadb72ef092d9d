"""How processes wake each other: sockets beside the file, and what becomes of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from rewards_core.sqlite.wakeups import Wakeups

LONG = "a-folder-with-a-long-name-" * 5


class Heard:
    def __init__(self) -> None:
        self.hints: list[bytes] = []
        self.came = asyncio.Event()

    def __call__(self, hint: bytes) -> None:
        self.hints.append(hint)
        self.came.set()


Make = Callable[..., Wakeups]


@pytest_asyncio.fixture
async def make(path: Path) -> AsyncIterator[Make]:
    made: list[Wakeups] = []

    def make(heard: Callable[[bytes], None] = lambda hint: None, path: Path = path) -> Wakeups:
        wakeups = Wakeups(path, heard)
        made.append(wakeups)
        return wakeups

    yield make
    for wakeups in made:
        wakeups.stop()
        await asyncio.to_thread(wakeups.close)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a folder with a short name: a socket's path may have few characters."""
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / LONG).mkdir()
    return tmp_path / LONG / "notes.db"


async def test_what_one_sends_the_other_hears_each_byte_once(make: Make) -> None:
    heard = Heard()
    ours, theirs = make(heard), make()
    await asyncio.to_thread(ours.bind)
    await asyncio.to_thread(ours.bind)
    ours.listen()
    ours.listen()
    assert ours.address is not None
    for hint in (b"b", b"a", b"ba", b"c"):
        theirs.send(hint, [ours.address])
    await heard.came.wait()
    assert heard.hints == [b"abc"]


@pytest.mark.slow
async def test_a_hint_for_one_that_is_gone_or_does_not_keep_up_is_passed_over(make: Make) -> None:
    heard = Heard()
    ours, theirs = make(heard), make()
    await asyncio.to_thread(ours.bind)
    assert ours.address is not None
    for _ in range(10_000):
        theirs.send(b"a", ["/nowhere", ours.address])
    ours.listen()
    await heard.came.wait()
    assert set(heard.hints) == {b"a"}


async def test_without_a_socket_to_be_had_hints_are_passed_over(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    ours, theirs = make(), make()
    await asyncio.to_thread(ours.bind)
    assert ours.address is not None
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        theirs.send(b"a", [ours.address])
        await asyncio.to_thread(theirs.bind)
    theirs.listen()
    assert theirs.address is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_without_a_folder_to_write_to_hints_do_without(make: Make, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = make(path=path.parent / "missing" / "notes.db")
    await asyncio.to_thread(ours.bind)
    assert ours.address is None
    assert caplog.records[-1].levelno == logging.WARNING


async def test_the_socket_is_for_its_owner_alone_and_goes_with_it(make: Make, path: Path) -> None:
    ours = make()
    await asyncio.to_thread(ours.bind)
    assert ours.address is not None
    address = Path(ours.address)
    assert address.parent == path.parent
    assert stat.S_IMODE(address.stat().st_mode) == 0o600
    ours.stop()
    for _ in range(2):
        await asyncio.to_thread(ours.close)
    assert not address.exists()


async def test_nothing_is_heard_after_the_end(make: Make) -> None:
    heard = Heard()
    ours, theirs = make(heard), make()
    await asyncio.to_thread(ours.bind)
    ours.listen()
    assert ours.address is not None
    theirs.send(b"a", [ours.address])
    ours.stop()
    await asyncio.to_thread(ours.close)
    assert heard.hints == []


async def test_a_long_path_has_its_sockets_among_the_temporary_files(make: Make, long_path: Path, tmp_path: Path) -> None:
    heard = Heard()
    ours, theirs = make(heard, long_path), make(path=long_path)
    await asyncio.to_thread(ours.bind)
    ours.listen()
    assert ours.address is not None
    assert Path(ours.address).parent == tmp_path / "tmp"
    theirs.send(b"a", [ours.address])
    await heard.came.wait()


async def test_the_longest_name_beside_the_file_can_be_bound(make: Make, tmp_path: Path) -> None:
    room = 100 - len(".wake-4194304-abcdef") - len(os.fsencode(tmp_path)) - 1
    for length, beside in ((room, True), (room + 1, False)):
        ours = make(path=tmp_path / ("n" * length))
        await asyncio.to_thread(ours.bind)
        assert ours.address is not None
        assert (Path(ours.address).parent == tmp_path) is beside


LEAVE_ONE = """
import os, sys
from pathlib import Path
from rewards_core.sqlite.wakeups import Wakeups
import tempfile
tempfile.tempdir = sys.argv[2]
wakeups = Wakeups(Path(sys.argv[1]), print)
wakeups.bind()
print(wakeups.address, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("long", [False, True])
async def test_sockets_of_killed_processes_are_removed_and_those_of_living_ones_stay(
    make: Make, path: Path, long_path: Path, tmp_path: Path, long: bool
) -> None:
    file = long_path if long else path
    living = make(path=file)
    await asyncio.to_thread(living.bind)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEAVE_ONE, str(file), str(tmp_path / "tmp"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    left = Path(out.decode().strip())
    assert left.is_socket()
    no_socket = left.with_name(left.name + "0")
    no_socket.touch()
    await asyncio.to_thread(make(path=file).bind)
    assert living.address is not None
    assert Path(living.address).is_socket()
    assert not left.exists()
    assert no_socket.exists()


async def test_a_socket_is_heard_in_one_loop_after_the_other(make: Make) -> None:
    heard = Heard()
    ours, theirs = make(heard), make()
    await asyncio.to_thread(ours.bind)

    async def listen() -> None:
        ours.listen()

    await asyncio.to_thread(asyncio.run, listen())
    ours.listen()
    assert ours.address is not None
    theirs.send(b"a", [ours.address])
    await heard.came.wait()


async def test_a_loop_that_ended_needs_no_stop(make: Make) -> None:
    ours = make()
    await asyncio.to_thread(ours.bind)

    async def listen() -> None:
        ours.listen()

    await asyncio.to_thread(asyncio.run, listen())
    ours.stop()
    ours.stop()
