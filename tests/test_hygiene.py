"""A test that leaves something behind fails, whatever was left out of its garbage collection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FIRST = """
import asyncio

async def test_sound():
    await asyncio.sleep(0)

async def test_task():
    asyncio.get_running_loop().left = asyncio.ensure_future(asyncio.sleep(3_600))
"""
SECOND = """
import socket

class Held:
    def __init__(self):
        self.itself, self.socket = self, socket.socket()

async def test_socket():
    Held()

async def test_sound_too():
    pass
"""


def test_who_leaves_a_task_or_a_socket_behind_fails_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    told = [line.split(" - ")[0].rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert sorted(told) == ["test_socket", "test_task"], done.stdout
    assert "tasks left behind" in done.stdout
    assert "unclosed <socket.socket" in done.stdout
