"""`doctor --unix` reports sockets that a proxy cannot open, and its reports are true."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.texts import said
from tests.webhooks.command_kit import alone
from tests.webhooks.listener_process import running
from webhooks.cli.checks import Finding
from webhooks.cli.socket_access import check_unix

PROXY = "nobody"
CONNECT = """
import os, pwd, socket, sys
entry = pwd.getpwnam(sys.argv[2])
os.setgroups([])
os.setgid(entry.pw_gid)
os.setuid(entry.pw_uid)
socket.socket(socket.AF_UNIX).connect(sys.argv[1])
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are private."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@contextmanager
def listening(path: Path, mode: int) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        path.chmod(mode)
        made.listen()
        yield


def check(path: Path, user: str | None = PROXY) -> Finding:
    """Run the check and, as root, verify it with a process of that user."""
    found = asyncio.run(check_unix(path, user))
    if os.getuid() == 0 and user == PROXY and path.is_socket():
        connecting = [sys.executable, "-c", CONNECT, str(path), user]
        tried = subprocess.run(connecting, stderr=subprocess.DEVNULL, check=False)
        assert found.ok == (tried.returncode == 0)
    return found


@pytest.mark.parametrize(("mode", "ok"), [(0o600, False), (0o660, False), (0o666, True)])
def test_a_proxy_outside_the_group_needs_a_socket_open_to_all(folder: Path, mode: int, ok: bool) -> None:
    path = folder / "in.sock"
    with listening(path, mode):
        found = check(path)
        assert found.ok == ok
        if not ok:
            assert re.search(f"{PROXY} .* {mode:04o}, .* {path.group()}; ", found.found)
            assert "--unix-group " in found.advice
            assert "--unix-mode 0666" in found.advice


@pytest.mark.parametrize(("mode", "ok"), [(0o600, False), (0o660, True), (0o606, False)])
def test_a_proxy_in_the_group_can_open_a_group_socket(folder: Path, mode: int, ok: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "in.sock"
    with listening(path, mode):
        monkeypatch.setattr(os, "getgrouplist", lambda *_: [path.stat().st_gid])
        found = asyncio.run(check_unix(path, PROXY))
    assert found.ok == ok
    assert ok or found.advice.endswith(" --unix-mode 0660")


def test_a_folder_that_the_proxy_may_not_enter_is_named(folder: Path) -> None:
    closed = folder / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o754)  # it may look, not enter
    (folder / "link").symlink_to(closed)
    path = closed / "open" / "in.sock"
    for way in (path, folder / "link" / "open" / "in.sock"):
        before = check(way)
        assert not before.ok
        assert re.search(f"; {PROXY} .*/(closed|link)$", before.found)
    with listening(path, 0o666):
        shut = check(path)
        assert f" {closed}" in shut.found
        assert shut.advice.startswith(f"chmod o+x {closed},")
        closed.chmod(0o751)
        assert check(path).ok


def test_the_file_at_the_path_is_described(folder: Path) -> None:
    path = folder / "in.sock"
    found = [check(path)]
    with listening(path, 0o666):
        found.append(check(path))
    found.append(asyncio.run(check_unix(path, PROXY)))
    path.unlink()
    path.write_text("")
    found += [check(path), check(folder / "none" / "in.sock"), check(path, "who is that")]
    assert [each.ok for each in found] == [True, True, True, False, False, False]
    lines = [f"{each.found}\n    {each.advice}" for each in found]
    said("doctor: what is found at a unix socket", "\n".join(lines).replace(str(folder), "/run/rewards").replace(PROXY, "PROXY"))


def test_without_a_name_the_users_of_common_proxies_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "in.sock"
    with listening(path, 0o666):
        assert PROXY in check(path, None).found
        path.chmod(0o600)
        assert not check(path, None).ok
        path.chmod(0o660)
        monkeypatch.setattr(os, "getgrouplist", lambda name, _: [path.stat().st_gid] if name == PROXY else [])
        assert f"{PROXY} can " in check(path, None).found


@pytest.mark.slow
async def test_doctor_finds_a_running_listener(folder: Path) -> None:
    path = folder / "in.sock"
    words = ("doctor", "--unix", str(path), "--proxy-user", PROXY)
    async with running(folder, "--unix", str(path)):
        kept_out = await asyncio.to_thread(alone, *words, "--json", cwd=folder)
    (row,) = [row for row in map(json.loads, kept_out.stdout.splitlines()) if row["check"] == "socket"]
    assert (kept_out.returncode, row["ok"]) == (6, False)
    assert "--unix-mode 0666" in row["advice"]
    async with running(folder, "--unix", str(path), "--unix-mode", "0666", "--workers", "2"):
        able = await asyncio.to_thread(alone, *words, "--text", cwd=folder)
    assert (able.returncode, PROXY in able.stdout) == (0, True), able.stdout + able.stderr


@pytest.mark.slow
def test_a_user_without_a_socket_is_refused(folder: Path) -> None:
    ended = alone("doctor", "--proxy-user", PROXY, cwd=folder)
    assert ended.returncode == 2
    assert "--unix" in ended.stderr
