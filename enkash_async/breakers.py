"""Breaker stores: they remember rejected and unanswered token requests, so that no client locks the account.

EnKash locks an account after three failed attempts in a row, counted over all clients. So the state must outlive a client and,
with `FileBreakerStore`, a process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import asdict, field, frozen

from rewards_core.backoff import delay
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import decode, dumps
from rewards_core.validation import check_path, check_timeout

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

FIRST_LOCK_DELAY, MAX_LOCK_DELAY = 0.01, 0.25
"""Seconds between two attempts to take the lock."""
OPEN_FLAGS = os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
"""How the companions of a breaker file are opened; a symbolic link in their place is refused."""


@frozen(kw_only=True)
class BreakerState:
    """What is known about the token requests of one set of credentials; by default, nothing that forbids one.

    Attributes:
        accepted_at: When a request last obtained a token, in seconds since the epoch; None if none did since the last rejection.
        rejected_at: When a request was rejected, in seconds since the epoch; None if none was since the last token.
        status: The HTTP status of the rejection, or of what came instead of the last answer; None if nothing came.
        message: EnKash's words, without secrets.
        unanswered: Requests since the last answer that may have counted as failed attempts.
        unanswered_at: When the latest of them was in progress, in seconds since the epoch.
        unanswered_since: The same by the `uptime` of each host, by its `boot_id`; for a host that did not send the request, when
            it first loaded the state. Pauses are measured by this, because a wall clock can be set.
    """

    accepted_at: float | None = None
    rejected_at: float | None = None
    status: int | None = None
    message: str = ""
    unanswered: int = 0
    unanswered_at: float = 0.0
    unanswered_since: dict[str, float] = field(factory=dict)


CLEAR = BreakerState()


class BreakerStore(Protocol):
    """Stores breaker states; implement it to share them between machines.

    `load` must return what was saved, in every field. `load` and `save` are called only inside `exclusive()`. An account is named
    by a salted hash of its credentials.
    """

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Hold the lock under which tokens are requested; it excludes every other user of the same states.

        A holder that dies must not block the others for ever.

        Raises:
            TimeoutError: another holder kept it for too long.
        """
        ...

    async def load(self, account: str) -> BreakerState:
        """Return the saved state, `BreakerState()` if there is none."""
        ...

    async def save(self, account: str, state: BreakerState) -> None:
        """Save a state, which others must see once this returns."""
        ...


class MemoryBreakerStore:
    """Store breaker states in memory, for the clients of one event loop."""

    def __init__(self) -> None:
        self._states: dict[str, BreakerState] = {}
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return "MemoryBreakerStore()"

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock under which tokens are requested: `async with store.exclusive():`."""
        async with self._lock:
            yield

    async def load(self, account: str) -> BreakerState:
        """Return the saved state."""
        return self._states.get(account, CLEAR)

    async def save(self, account: str, state: BreakerState) -> None:
        """Save a state."""
        self._states[account] = state


@frozen(kw_only=True)
class _File:
    version: int
    accounts: dict[str, BreakerState]


class FileBreakerStore:
    """Store breaker states in a file, for all processes of one machine and across restarts.

    The file holds times, EnKash's message and a salted hash of the credentials, but no secret; its mode is 0600. A lock file
    beside it is released by the operating system when its holder dies. To close a breaker by hand, delete the file.

    Args:
        path: The file, on a local disk, in an existing directory that only trusted users can write to. A relative path counts
            from the current directory. Symbolic links to the file share its states and its lock.
        lock_timeout: Seconds to wait while another process requests a token, above 0.

    Raises:
        RuntimeError: the platform has no `flock` (Windows).
        TypeError: an argument has the wrong type.
        ValueError: `path` is empty, or `lock_timeout` is not above 0.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 90.0) -> None:
        try:
            import fcntl  # noqa: PLC0415 - Windows has none, and the rest of this package works there
        except ImportError:
            raise RuntimeError(
                "FileBreakerStore needs flock, which this platform does not have. Use a MemoryBreakerStore."
            ) from None
        self._flock = fcntl.flock
        self._try, self._free = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
        self._given = check_path(path, "path")
        self._path = self._given.absolute()
        self._lock_timeout = check_timeout(lock_timeout, "lock_timeout")

    def __repr__(self) -> str:
        return f"FileBreakerStore({str(self._given)!r})"

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the operating system's lock: `async with store.exclusive():`.

        Raises:
            TimeoutError: another process held it for `lock_timeout` seconds.
            OSError: the lock file cannot be opened.
        """
        held: list[int] = []
        owner = os.getpid()
        try:
            await self._acquire(held)
            yield
        finally:
            for descriptor in held:
                if os.getpid() == owner:  # a forked child must not release the lock of its parent
                    self._flock(descriptor, self._free)  # closing alone leaves it to a forked child's copy
                os.close(descriptor)

    async def load(self, account: str) -> BreakerState:
        """Return the saved state.

        Raises:
            ValueError: the file holds something else.
            OSError: it cannot be read.
        """
        return (await _run_in_thread(self._read)).get(account, CLEAR)

    async def save(self, account: str, state: BreakerState) -> None:
        """Save a state durably, by a new file that replaces the old one.

        Raises:
            ValueError: the old file holds something else.
            OSError: the file cannot be written.
        """
        await _run_in_thread(lambda: self._write(account, state))

    async def _acquire(self, held: list[int]) -> None:
        time = asyncio.get_running_loop().time
        deadline, attempts = time() + self._lock_timeout, 0
        while not await _run_in_thread(lambda: self._take(held)):
            pause = delay(attempts, first=FIRST_LOCK_DELAY, longest=MAX_LOCK_DELAY)
            if time() + pause > deadline:
                raise TimeoutError(
                    f"{self._path}.lock: another process held it for {self._lock_timeout:g} s. Check that no process hangs."
                )
            await asyncio.sleep(pause)
            attempts += 1

    def _beside(self, ending: str) -> tuple[Path, Path]:
        """Return the file behind all symbolic links, and the path of its companion with `ending`."""
        real = self._path.resolve()
        return real, real.with_name(real.name + ending)

    def _take(self, held: list[int]) -> bool:
        if not held:
            held.append(os.open(self._beside(".lock")[1], os.O_RDWR | OPEN_FLAGS, 0o600))
        try:
            self._flock(held[0], self._try)
        except BlockingIOError:
            return False
        return True

    def _read(self) -> dict[str, BreakerState]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            kept = decode(text, _File)
        except UnexpectedResponse:
            kept = _File(version=0, accounts={})
        if kept.version != 1:
            raise ValueError(f"{self._path}: not a breaker file. Make sure that the account is not locked, then delete the file.")
        return kept.accounts

    def _write(self, account: str, state: BreakerState) -> None:
        states = self._read()
        states.pop(account, None)
        if state != CLEAR:
            states[account] = state
        text = dumps({"version": 1, "accounts": {name: asdict(kept) for name, kept in states.items()}})
        real, new = self._beside(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_TRUNC | OPEN_FLAGS, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # a leftover one may be readable by others
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(real)
        directory = os.open(real.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


async def _run_in_thread(work: Callable[[], T]) -> T:
    """Run file work in a thread, and wait for its end even when cancelled: nothing may be written without the lock."""
    running = asyncio.get_running_loop().run_in_executor(None, work)  # a future: the end of the loop would cancel a task
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # retrieved: the cancellation replaces it
        raise cancelled
    return running.result()
