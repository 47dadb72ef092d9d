"""Listening sockets, and who owns the path of a unix socket."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.texts import said
from webhooks.cli.settings import ListenerSettings
from webhooks.cli.sockets import ListeningSockets, open_sockets
from webhooks.cli.sources import SourceSpec
from webhooks.cli.unix_socket import UnixSettings, mode_from


@pytest.fixture
def path(tmp_path: Path, blocking_calls_fail: object) -> Path:
    blocking_calls_fail.deactivate()  # type: ignore[attr-defined]  # a listener that starts may ask another one
    return tmp_path / "in.sock"


def at(path: Path, **options: Any) -> ListenerSettings:
    return ListenerSettings(sources=[SourceSpec()], store="memory:", unix=UnixSettings(path=path, **options))


@pytest.fixture
def another(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


async def test_a_path_exists_as_long_as_its_socket(path: Path) -> None:
    opened = await open_sockets(at(path))
    assert opened.where == {"unix": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert answers(path)
    opened.close()
    opened.close()
    assert not path.exists()


async def test_a_path_with_a_live_server_is_refused(path: Path, another: socket.socket) -> None:
    another.bind(str(path))
    another.listen(0)
    for _ in range(3):  # until its queue is full
        with pytest.raises(FileExistsError):
            await open_sockets(at(path))
    assert path.is_socket()


async def test_the_path_of_a_dead_process_is_replaced(path: Path, another: socket.socket) -> None:
    another.bind(str(path))
    another.close()
    opened = await open_sockets(at(path))
    assert answers(path)
    opened.close()


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_a_file_that_is_no_socket_is_not_removed(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileExistsError):
        await open_sockets(at(path))
    assert path.is_symlink() or path.read_text() == "precious"


async def test_the_path_of_another_process_is_not_removed(path: Path, another: socket.socket) -> None:
    opened = await open_sockets(at(path))
    path.unlink()
    another.bind(str(path))
    opened.close()
    assert path.is_socket()


async def test_an_impossible_path_leaves_no_socket_open(path: Path) -> None:
    with pytest.raises(OSError):
        await open_sockets(at(path.with_name("none") / "in.sock"))


@pytest.mark.parametrize("text", ["", "640", "0777", "1660", "0o060", "066", "rw", "-660", "o660", "6.60", "٦٦٠"])
def test_a_useless_mode_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--unix-mode: "):
        mode_from(text)


def test_an_invalid_path_is_refused_before_anything_is_opened(path: Path) -> None:
    for wrong in ("x" * 108, "@in"):
        with pytest.raises(ValueError, match=r"^--unix: "):
            UnixSettings(path=Path(wrong))
    with pytest.raises(ValueError, match=r"^--unix-mode: "):
        UnixSettings(path=path, mode=0o777)


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("660", 0o660), ("0o666", 0o666)])
@pytest.mark.parametrize("umask", [0, 0o077])
async def test_the_mode_is_set_whatever_the_umask(path: Path, text: str, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        opened = await open_sockets(at(path, mode=mode_from(text)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    opened.close()


async def test_the_path_is_never_open_to_more_than_its_mode(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def give(*_: object, **__: object) -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        assert not answers(path)

    monkeypatch.setattr(os, "chown", give)
    opened = await open_sockets(at(path, mode=0o666, group="0"))
    assert seen == [0o600 & ~_umask()] if sys.platform == "linux" else seen
    opened.close()


async def test_the_group_is_set(path: Path) -> None:
    for name in (grp.getgrgid(os.getgid()).gr_name, str(os.getgid())):
        opened = await open_sockets(at(path, group=name))
        assert path.stat().st_gid == os.getgid()
        opened.close()


async def test_a_forbidden_group_leaves_no_socket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError) as refused:
        await open_sockets(at(path, group="0"))
    said("serve: a group that this process may not set", refused.value)
    assert not path.exists()


async def test_an_unknown_group_leaves_the_path_alone(path: Path, another: socket.socket) -> None:
    another.bind(str(path))
    another.close()
    with pytest.raises(OSError, match=r"^--unix-group: "):
        await open_sockets(at(path, group="nobody at all"))
    assert path.is_socket()


async def test_the_path_of_a_server_that_came_in_between_is_left_alone(
    path: Path, another: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtake(*_: object, **__: object) -> None:
        path.unlink()
        another.bind(str(path))
        another.listen()

    monkeypatch.setattr(os, "chown", overtake)
    with pytest.raises(FileExistsError):
        await open_sockets(at(path, group="0"))
    assert answers(path)


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


async def test_each_address_of_a_name_has_a_socket() -> None:
    settings = ListenerSettings(sources=[SourceSpec()], store="memory:", host="127.0.0.1", port=0)
    opened: ListeningSockets = await open_sockets(settings)
    (one,) = opened.sockets
    assert opened.where == {"url": f"http://127.0.0.1:{one.getsockname()[1]}"}
    opened.close()
    assert one.fileno() == -1
