"""What breaker stores keep, for which accounts, and their locks."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from enkash_async import BreakerState, BreakerStore, FileBreakerStore, MemoryBreakerStore
from enkash_async.credentials import PasswordCredentials
from tests.enkash_async.enkash_kit import AUTH, credentials
from tests.stepped_time import SteppedTime

REFUSED = BreakerState(rejected_at=1_700_000_000.5, status=400, message="Bad credentials")
SILENT = BreakerState(unanswered=2, unanswered_at=1_700_000_001.25)


@pytest.fixture(params=["memory", "file"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BreakerStore]:
    """Return another object with the same states, as of another client."""
    memory = MemoryBreakerStore()
    return lambda: memory if request.param == "memory" else FileBreakerStore(tmp_path / "breaker.json")


async def test_an_unknown_account_is_clear(new_store: Callable[[], BreakerStore]) -> None:
    async with (store := new_store()).exclusive():
        assert await store.load("account-1") == BreakerState()


@pytest.mark.parametrize("state", [REFUSED, SILENT])
async def test_another_client_finds_what_was_kept(new_store: Callable[[], BreakerStore], state: BreakerState) -> None:
    async with (store := new_store()).exclusive():
        await store.save("account-1", state)

    async with (other := new_store()).exclusive():
        assert await other.load("account-1") == state


async def test_accounts_are_kept_apart(new_store: Callable[[], BreakerStore]) -> None:
    async with (store := new_store()).exclusive():
        await store.save("account-1", REFUSED)
        await store.save("account-2", SILENT)
        await store.save("account-1", BreakerState())

        assert await store.load("account-1") == BreakerState()
        assert await store.load("account-2") == SILENT


async def test_only_one_is_inside_at_a_time(new_store: Callable[[], BreakerStore]) -> None:
    inside = 0
    most = 0

    async def enter() -> None:
        nonlocal inside, most
        async with new_store().exclusive():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(enter() for _ in range(5)))

    assert most == 1


async def test_who_is_cancelled_inside_lets_the_next_in(new_store: Callable[[], BreakerStore]) -> None:
    entered = asyncio.Event()

    async def stay() -> None:
        async with new_store().exclusive():
            entered.set()
            await asyncio.Event().wait()

    staying = asyncio.create_task(stay())
    await entered.wait()
    staying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staying

    async with new_store().exclusive():
        pass


async def test_the_file_and_its_lock_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "breaker.json"
    before = os.umask(0)
    try:
        async with (store := FileBreakerStore(path)).exclusive():
            await store.save("account-1", REFUSED)
    finally:
        os.umask(before)

    assert {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {
        "breaker.json": 0o600,
        "breaker.json.lock": 0o600,
    }


async def test_the_file_holds_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "breaker.json"
    owner = credentials()
    async with (store := FileBreakerStore(path)).exclusive():
        await store.save(owner.account(AUTH), REFUSED)

    text = path.read_text()
    for secret in owner.secrets():
        assert secret not in text
    assert json.loads(text)["accounts"].keys() == {owner.account(AUTH)}


@pytest.mark.slow
def test_each_part_of_the_credentials_and_the_address_names_another_account() -> None:
    owner = PasswordCredentials("id", "secret", "user", "password")
    others = [
        PasswordCredentials("id2", "secret", "user", "password"),
        PasswordCredentials("id", "secret2", "user", "password"),
        PasswordCredentials("id", "secret", "user2", "password"),
        PasswordCredentials("id", "secret", "user", "password2"),
    ]

    names = {owner.account(AUTH), owner.account("https://other.example"), *(other.account(AUTH) for other in others)}

    assert len(names) == 6
    assert owner.account(AUTH) == PasswordCredentials("id", "secret", "user", "password").account(AUTH)


async def test_what_a_stranger_left_beside_the_file_is_neither_followed_nor_left_open_to_others(tmp_path: Path) -> None:
    store = FileBreakerStore(tmp_path / "breaker.json")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "breaker.json.new").write_text("")
    (tmp_path / "breaker.json.new").chmod(0o666)
    async with store.exclusive():
        await store.save("account-1", REFUSED)
    assert stat.S_IMODE((tmp_path / "breaker.json").stat().st_mode) == 0o600

    (tmp_path / "breaker.json.new").symlink_to(victim)
    async with store.exclusive():
        with pytest.raises(OSError, match=r"breaker\.json\.new"):
            await store.save("account-1", SILENT)
    (tmp_path / "breaker.json.lock").unlink()
    (tmp_path / "breaker.json.lock").symlink_to(victim)
    with pytest.raises(OSError, match=r"breaker\.json\.lock"):
        async with store.exclusive():
            raise AssertionError

    assert victim.read_text() == "precious"
    assert await store.load("account-1") == REFUSED


async def test_who_comes_by_a_link_shares_the_file_and_its_lock(tmp_path: Path, time: SteppedTime) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "state" / "breaker.json")
    direct = FileBreakerStore(tmp_path / "state" / "breaker.json")
    linked = FileBreakerStore(tmp_path / "link.json", lock_timeout=1.0)

    async with direct.exclusive():
        with pytest.raises(TimeoutError):
            async with linked.exclusive():
                raise AssertionError
    async with linked.exclusive():
        await linked.save("account-1", REFUSED)

    assert (tmp_path / "link.json").is_symlink()
    assert await direct.load("account-1") == REFUSED


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(store: FileBreakerStore) -> None:
        async with store.exclusive():
            await store.save("account-1", REFUSED)

    monkeypatch.chdir(tmp_path)
    store = FileBreakerStore("breaker.json")
    monkeypatch.chdir("/")
    asyncio.run(save(store))

    assert (tmp_path / "breaker.json").exists()


@pytest.mark.parametrize(
    "text",
    [b"", b"no json", b"[]", b'{"version": 2, "accounts": {}}', b'{"version": 1}', b'{"version": 1, "accounts": {"a": 5}}'],
)
async def test_a_file_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "breaker.json"
    path.write_bytes(text)
    store = FileBreakerStore(path)

    async with store.exclusive():
        with pytest.raises(ValueError, match=r"breaker\.json: "):
            await store.load("account-1")
        with pytest.raises(ValueError, match=r"breaker\.json: "):
            await store.save("account-1", REFUSED)

    assert path.read_bytes() == text


async def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        async with FileBreakerStore(tmp_path / "nowhere" / "breaker.json").exclusive():
            raise AssertionError


async def test_a_write_that_fails_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileBreakerStore(tmp_path / "breaker.json")
    async with store.exclusive():
        await store.save("account-1", REFUSED)
        with monkeypatch.context() as broken:
            broken.setattr("enkash_async.breakers.os.fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            with pytest.raises(OSError, match="Input/output error"):
                await store.save("account-1", BreakerState())

        assert await store.load("account-1") == REFUSED


async def test_the_new_state_is_on_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> None:
        steps.append("replace")
        replace(path, target)

    monkeypatch.setattr("enkash_async.breakers.os.fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    async with (store := FileBreakerStore(tmp_path / "breaker.json")).exclusive():
        await store.save("account-1", REFUSED)

    assert steps == ["fsync", "replace", "fsync"]


async def test_a_lock_that_is_not_given_back_ends_the_wait(tmp_path: Path, time: SteppedTime) -> None:
    path = tmp_path / "breaker.json"
    waiting = FileBreakerStore(path, lock_timeout=5.0)
    async with FileBreakerStore(path).exclusive():
        with pytest.raises(TimeoutError, match=r"breaker\.json\.lock: "):
            async with waiting.exclusive():
                raise AssertionError

    assert 4.5 < sum(time.slept) <= 5.0
    assert max(time.slept) == 0.25


@pytest.mark.slow
async def test_a_holder_that_dies_frees_the_lock_and_leaves_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "breaker.json"
    program = f"""
import asyncio, sys
from enkash_async import BreakerState, FileBreakerStore
async def main():
    store = FileBreakerStore({str(path)!r})
    async with store.exclusive():
        await store.save("account-1", BreakerState(unanswered=1, unanswered_at=5.0))
        print("inside", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"inside\n"
    process.kill()
    await process.wait()

    async with (store := FileBreakerStore(path, lock_timeout=5.0)).exclusive():
        assert await store.load("account-1") == BreakerState(unanswered=1, unanswered_at=5.0)


async def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileBreakerStore(tmp_path / "breaker.json", lock_timeout=5.0)
    inherited: list[int] = []
    real_open = os.open

    def open_and_inherit(path: Path, flags: int, mode: int) -> int:
        descriptor = real_open(path, flags, mode)
        inherited.append(os.dup(descriptor))  # as a forked child would have
        return descriptor

    with monkeypatch.context() as forked:
        forked.setattr("enkash_async.breakers.os.open", open_and_inherit)
        async with store.exclusive():
            pass
    try:
        async with store.exclusive():
            pass
    finally:
        for descriptor in inherited:
            os.close(descriptor)


async def test_a_forked_child_that_leaves_does_not_free_what_its_parent_holds(tmp_path: Path) -> None:
    program = f"""
import asyncio, fcntl, os, sys
from enkash_async import FileBreakerStore
class Leaves(Exception):
    pass
async def hold():
    async with FileBreakerStore({str(tmp_path / "breaker.json")!r}).exclusive():
        if not (child := os.fork()):
            raise Leaves
        os.waitpid(child, 0)
        with open({str(tmp_path / "breaker.json.lock")!r}) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("still held")
async def main():
    try:
        await hold()
    except Leaves:
        os._exit(0)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "-c", program, stdout=subprocess.PIPE)
    out, _ = await process.communicate()

    assert (process.returncode, out) == (0, b"still held\n")


@pytest.fixture
async def slow_disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[threading.Event, threading.Event]]:
    """Block every fsync; the first event is set when one starts, the second lets it continue."""
    began, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        began.set()
        assert go_on.wait(10)
        fsync(descriptor)

    monkeypatch.setattr("enkash_async.breakers.os.fsync", slow)
    yield began, go_on
    go_on.set()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancelled_save_ends_before_the_lock_is_given_back(
    tmp_path: Path, slow_disk: tuple[threading.Event, threading.Event], times: int
) -> None:
    began, go_on = slow_disk
    store = FileBreakerStore(tmp_path / "breaker.json")

    async def save() -> None:
        async with store.exclusive():
            await store.save("account-1", REFUSED)

    saving = asyncio.create_task(save())
    await asyncio.to_thread(began.wait, 10)
    for _ in range(times):
        saving.cancel()
        await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):  # still locked while the thread writes
        _lock_now(tmp_path / "breaker.json.lock")
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await saving

    _lock_now(tmp_path / "breaker.json.lock")
    assert await store.load("account-1") == REFUSED


def _lock_now(path: Path) -> None:
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_the_systems_locks_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(RuntimeError, match="flock"):
        FileBreakerStore(tmp_path / "breaker.json")


def test_a_store_says_which_it_is(tmp_path: Path) -> None:
    assert repr(MemoryBreakerStore()) == "MemoryBreakerStore()"
    assert repr(FileBreakerStore("state/breaker.json")) == "FileBreakerStore('state/breaker.json')"
