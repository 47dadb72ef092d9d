"""Where a listener listens: whose the path of a unix socket is."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from webhooks.cli.settings import ListenerSettings
from webhooks.cli.sockets import ListeningSockets, open_sockets
from webhooks.cli.sources import SourceSpec


@pytest.fixture
def path(tmp_path: Path, blocking_calls_fail: object) -> Path:
    blocking_calls_fail.deactivate()  # type: ignore[attr-defined]  # a listener that starts may ask another one
    return tmp_path / "in.sock"


def at(path: Path) -> ListenerSettings:
    return ListenerSettings(sources=[SourceSpec()], store="memory:", unix=path)


@pytest.fixture
def another(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


async def test_a_path_is_there_for_as_long_as_its_socket(path: Path) -> None:
    opened = await open_sockets(at(path))
    assert opened.where == {"unix": str(path)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert answers(path)
    opened.close()
    opened.close()
    assert not path.exists()


async def test_a_path_where_a_server_answers_is_refused(path: Path, another: socket.socket) -> None:
    another.bind(str(path))
    another.listen(0)
    for _ in range(3):  # until its queue is full
        with pytest.raises(FileExistsError, match="another server listens on"):
            await open_sockets(at(path))
    assert path.is_socket()


async def test_a_path_that_a_dead_process_left_is_replaced(path: Path, another: socket.socket) -> None:
    another.bind(str(path))
    another.close()
    opened = await open_sockets(at(path))
    assert answers(path)
    opened.close()


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(FileExistsError, match="is no socket"):
        await open_sockets(at(path))
    assert path.is_symlink() or path.read_text() == "precious"


async def test_the_path_of_another_process_is_not_removed(path: Path, another: socket.socket) -> None:
    opened = await open_sockets(at(path))
    path.unlink()
    another.bind(str(path))
    opened.close()
    assert path.is_socket()


async def test_a_path_that_cannot_be_leaves_no_socket_open(path: Path) -> None:
    with pytest.raises(OSError, match="path too long"):
        await open_sockets(at(path.with_name("x" * 120)))


async def test_each_address_of_a_name_has_a_socket() -> None:
    settings = ListenerSettings(sources=[SourceSpec()], store="memory:", host="127.0.0.1", port=0)
    opened: ListeningSockets = await open_sockets(settings)
    (one,) = opened.sockets
    assert opened.where == {"url": f"http://127.0.0.1:{one.getsockname()[1]}"}
    opened.close()
    assert one.fileno() == -1
