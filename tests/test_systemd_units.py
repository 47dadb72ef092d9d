"""The units of `deploy/`, as systemd reads them, and what a listener does beside what its unit allows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.system_parts import system_program
from tests.test_fleet import understood
from tests.webhooks.listener_process import KEYS, delivery, post, running

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
LISTENER_UNIT, WORKER_UNIT = "webhook-listener.service", "payouts-worker@.service"
UNITS = (LISTENER_UNIT, WORKER_UNIT)
MAX_EXPOSURE = 17
"""Tenths of what `systemd-analyze security` calls exposure; 15 are those of a service that may use the network."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, which start the programs of this environment."""
    for name in UNITS:
        text = (DEPLOY / name).read_text("utf-8")
        (tmp_path / name).write_text(text.replace("/opt/rewards-async/bin", str(Path(sys.executable).parent)))
    return tmp_path


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_each_line_of_a_unit(units: Path, name: str) -> None:
    command = [system_program("systemd-analyze"), "verify", "--recursive-errors=no", "--man=no", str(units / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    about = name.partition(".")[0].rstrip("@")
    assert [line for line in (done.stdout + done.stderr).splitlines() if about in line] == []
    assert done.returncode == 0


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_a_unit_little_exposed(units: Path, name: str) -> None:
    command = [
        system_program("systemd-analyze"),
        "security",
        "--offline=true",
        "--no-pager",
        f"--threshold={MAX_EXPOSURE}",
        str(units / name),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def values(name: str, setting: str) -> list[str]:
    return re.findall(rf"^{setting}=(.*)$", (DEPLOY / name).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", UNITS)
def test_the_command_of_a_unit_is_understood(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((program, *words),) = [line.replace("%i", "diwali").split() for line in values(name, "ExecStart")]
    monkeypatch.chdir(tmp_path)
    Path("options.toml").write_text("")
    assert Path(words[words.index("--config") + 1]).is_relative_to("/etc")
    words[words.index("--config") + 1] = "options.toml"
    monkeypatch.setenv("PAYOUTS_LEDGER", "postgresql://pay@db/payouts")  # as the file of options or of the environment does
    assert understood(Path(program).name, words)


def test_systemd_waits_longer_than_a_listener_drains() -> None:
    ((_, *words),) = [line.split() for line in values(LISTENER_UNIT, "ExecStart")]
    (stop,) = values(LISTENER_UNIT, "TimeoutStopSec")
    drain = understood("webhook-listener", [words[0]])["drain"]
    assert int(stop.removesuffix("s")) > drain + 5  # and some time to kill workers
    assert values(LISTENER_UNIT, "Type") == ["notify"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_as_a_user_without_rights(name: str) -> None:
    (user,) = values(name, "User")
    assert user not in {"root", "0", "nobody"}
    assert values(name, "CapabilityBoundingSet") == values(name, "AmbientCapabilities") == [""]


def allowed_calls(name: str) -> set[str]:
    """Return the system calls that a unit allows, in the order of its lines as systemd reads them."""
    done = subprocess.run(
        [system_program("systemd-analyze"), "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    sets: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            here = sets[word] = set()
        elif word and not word.startswith("#") and sets:
            here.add(word)

    def calls(word: str) -> set[str]:
        return {each for member in sets[word] for each in calls(member)} if word.startswith("@") else {word}

    allowed: set[str] = set()
    for value in values(name, "SystemCallFilter"):
        named = {each for word in value.removeprefix("~").split() for each in calls(word)}
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def whole_calls(trace: str) -> Iterator[str]:
    """Yield the lines of a trace, with calls in one piece that other threads' calls interrupted."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
        elif call.startswith("<... "):
            yield f"{pid} {begun.pop(pid, '')}{call.partition('resumed>')[2]}"
        else:
            yield f"{pid} {call}"
    yield from (f"{pid} {call}" for pid, call in begun.items())


def test_a_call_that_another_thread_interrupted_is_one_call() -> None:
    traced = '1 openat("/a", <unfinished ...>\n2 read(3) = 0\n1 <... openat resumed>O_RDONLY) = 7\n2 read(3, <unfinished ...>\n'
    assert list(whole_calls(traced)) == ["2 read(3) = 0", '1 openat("/a", O_RDONLY) = 7', "2 read(3, "]


@pytest.mark.slow
async def test_a_listener_does_nothing_that_its_unit_or_a_read_only_image_forbids(tmp_path: Path) -> None:
    state, keys, traced = tmp_path / "state", tmp_path / "keys", tmp_path / "trace"
    state.mkdir()
    keys.write_text(KEYS)
    options = ("--workers", "2", "--keys-file", str(keys), "--forward-to", "http://127.0.0.1:9/", "--polls-per-second", "1")
    variables = {
        "ORIGINAL_API_KEY": "key",
        "ORIGINAL_API_SECRET": "a-secret-of-more-than-32-characters",
        "ORIGINAL_BASE_URL": "http://127.0.0.1:9/v1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    prefix = (system_program("strace"), "-f", "-qq", "-e", "signal=none", "-o", str(traced))
    async with running(state, *options, prefix=prefix, env=variables) as listener, aiohttp.ClientSession() as session:
        for number in range(20):
            assert await post(session, listener.url, delivery(str(number), complete=False)) == 200
        async with session.get(f"{listener.where['admin']}/metrics") as answer:
            metrics = await answer.text()
    trace = "\n".join(whole_calls(traced.read_text("utf-8", "replace")))
    calls = set(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))
    assert {"accept4", "fdatasync", "execve"} <= calls
    assert calls - allowed_calls(LISTENER_UNIT) == set()
    assert re.findall(r"m(?:map|protect)\(.*PROT_WRITE\|PROT_EXEC.*", trace) == []  # MemoryDenyWriteExecute=
    families = {*re.findall(r"socket(?:pair)?\((AF_\w+)", trace)}
    assert families <= {*values(LISTENER_UNIT, "RestrictAddressFamilies")[0].split()}
    written = set(re.findall(r'openat\([^"\n]*"([^"\n]+)", [^)\n]*O_(?:WRONLY|RDWR|CREAT)', trace))
    elsewhere = {Path(path) for path in written if "/" in path and not path.startswith((str(state), "/dev/"))}
    assert {path for path in elsewhere if path.parent != Path("/tmp")} == set()
    read = set(re.findall(r'openat\([^"]*"(/(?:dev|proc)/[^"]+)", [^)]*\) = \d', trace))
    devices = {path for path in read if path.startswith("/dev/")}
    assert devices <= {"/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"}  # PrivateDevices=
    assert {"/proc/stat", "/proc/sys/kernel/random/boot_id"} <= read
    assert all(values(name, "ProcSubset") == [] for name in UNITS)  # `pid` would hide both
    assert "\nprocess_resident_memory_bytes" in metrics
    assert "\nprocess_start_time_seconds" in metrics
