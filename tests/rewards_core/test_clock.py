from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards_core import clock
from rewards_core.clock import HOUR, UNKNOWN_BOOT, TrustedTime, boot_id, loop_time, uptime, uptime_clock
from tests.virtual_time import virtual_time


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Let each test ask the kernel."""
    boot_id.cache_clear()
    yield
    boot_id.cache_clear()


@virtual_time
async def test_loop_time_is_the_running_loops() -> None:
    assert loop_time() == 0.0


def test_processes_of_one_boot_agree_on_uptime_and_boot() -> None:
    before = uptime()
    program = "from rewards_core.clock import boot_id, uptime; print(uptime(), boot_id())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    theirs, _, boot = done.stdout.strip().partition(" ")
    assert before <= float(theirs) <= uptime()
    assert boot == boot_id()


def test_setting_the_wall_clock_does_not_move_uptime(monkeypatch: pytest.MonkeyPatch) -> None:
    before = uptime()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= uptime() < before + 3600.0


@pytest.mark.parametrize(
    ("platform", "name"),
    [("linux", "CLOCK_BOOTTIME"), ("darwin", "CLOCK_MONOTONIC_RAW")],
)
def test_uptime_counts_suspension(monkeypatch: pytest.MonkeyPatch, platform: str, name: str) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC_RAW", 4, raising=False)
    monkeypatch.setattr(time, "clock_gettime", {getattr(time, name): 12.5}.__getitem__)
    assert uptime_clock(platform)() == 12.5


def test_elsewhere_uptime_is_pythons_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 12.5)
    assert uptime_clock("win32")() == 12.5


def test_linux_names_its_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(clock, "BOOT_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("4b1a22db-c141-40fb-b6aa-826de73809cc\n")
    assert boot_id() == "4b1a22db-c141-40fb-b6aa-826de73809cc"


def test_boot_is_read_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = boot_id()
    monkeypatch.setattr(clock, "BOOT_FILE", tmp_path / "gone")
    assert boot_id() == first


@pytest.mark.parametrize("held", [None, b"", b"\n", b"\xff"])
def test_kernel_that_does_not_tell_its_boot_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: bytes | None
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(clock, "BOOT_FILE", tmp_path / "boot_id")
    if held is not None:
        (tmp_path / "boot_id").write_bytes(held)
    assert boot_id() == UNKNOWN_BOOT


class Darwin:
    """Play the C library of macOS."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values

    def sysctlbyname(self, name: bytes, into: Any, size: Any, _new: None, _new_size: ctypes.c_size_t) -> int:
        value = self._values.get(name)
        if value is None or len(value) >= ctypes.cast(size, ctypes.POINTER(ctypes.c_size_t)).contents.value:
            return -1
        into.value = value
        return 0


@pytest.mark.parametrize(
    ("values", "boot"),
    [
        ({b"kern.bootsessionuuid": b"0C9F5A2E-5A1B-4E54-9A39-6C9B0E6F2D11"}, "0C9F5A2E-5A1B-4E54-9A39-6C9B0E6F2D11"),
        ({b"kern.bootsessionuuid": b""}, UNKNOWN_BOOT),
        ({}, UNKNOWN_BOOT),
    ],
)
def test_macos_names_its_boot(monkeypatch: pytest.MonkeyPatch, values: dict[bytes, bytes], boot: str) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Darwin(values))
    assert boot_id() == boot


@pytest.mark.parametrize("boots", [("first", UNKNOWN_BOOT), (UNKNOWN_BOOT, "first")])
def test_time_goes_on_between_processes_of_which_one_cannot_read_the_boot(boots: tuple[str, str]) -> None:
    kept = TrustedTime(wall=1_000.0, uptime=50.0, boot=boots[0])
    later = kept.update(1_000.0 + 5 * HOUR, 50.0 + 5 * HOUR, boots[1])
    assert (later.wall, later.offer) == (1_000.0 + 5 * HOUR, None)
