"""Where it is remembered that token requests were refused or not answered, so that nobody locks the account.

EnKash locks an account after three failed attempts in a row, whoever makes them. What is known about them must therefore outlive
a client and, with `FileBreakerStore`, a process.
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

FIRST_LOOK = 0.01
"""Seconds before a taken lock is tried again."""
LONGEST_LOOK = 0.25
OPEN_OWN = os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
"""How the companions of a breaker file are opened: a link in their place leads to somebody else's file."""


@frozen(kw_only=True)
class BreakerState:
    """What is known about the token requests of one set of credentials; the default is that nothing speaks against one.

    Attributes:
        accepted_at: When one last brought a token, in seconds since the epoch; None if none ever did, or one was refused since.
        rejected_at: When one was refused, in seconds since the epoch; None if none was since the last token.
        status: HTTP status of the refusal, or of what came instead of the last answer; None if nothing came.
        message: What EnKash said, without secrets.
        unanswered: How many were begun since the last answer and may have counted as failed attempts.
        unanswered_at: When the latest of them was under way, in seconds since the epoch.
        unanswered_since: The same by the `uptime` of a host, under its `boot_id`; for a host that did not send it, when that
            first heard of it. Pauses are measured by this, because a wall clock can be set.
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
    """Keeps breaker states; bring your own to share them between machines.

    What `load` returns must equal what was saved, in every field.
    `load` and `save` are only called inside `exclusive()`. Accounts are named by a salted hash of their credentials.
    """

    def exclusive(self) -> AbstractAsyncContextManager[None]:
        """Hold the right to ask for a token: nobody else who uses the same states may be inside at the same time.

        A holder that dies must not keep the others out for good.

        Raises:
            TimeoutError: another held it for too long.
        """
        ...

    async def load(self, account: str) -> BreakerState:
        """Return what was saved last, `BreakerState()` if nothing was."""
        ...

    async def save(self, account: str, state: BreakerState) -> None:
        """Keep a state; it must be there for others when this returns."""
        ...


class MemoryBreakerStore:
    """Keep breaker states in this process, for one client or several in one event loop."""

    def __init__(self) -> None:
        self._states: dict[str, BreakerState] = {}
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        return "MemoryBreakerStore()"

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the right to ask for a token."""
        async with self._lock:
            yield

    async def load(self, account: str) -> BreakerState:
        """Return what was saved last."""
        return self._states.get(account, CLEAR)

    async def save(self, account: str, state: BreakerState) -> None:
        """Keep a state."""
        self._states[account] = state


@frozen(kw_only=True)
class _Kept:
    """What the file holds."""

    version: int
    accounts: dict[str, BreakerState]


class FileBreakerStore:
    """Keep breaker states in a file, for all processes of one machine and over restarts.

    The file holds times, EnKash's message and a salted hash of the credentials, no secret; its mode is 0600. Beside it stands a
    lock file which the operating system frees when its holder dies. Delete the file to close a breaker by hand.

    Args:
        path: The file, in a directory that exists and that nobody else may write to; on a local disk, because the lock is the
            operating system's. A relative path counts from the directory the process is in now. Who reaches the file through a
            symbolic link shares it with those who do not.
        lock_timeout: Seconds to wait for another process that asks for a token, above 0.

    Raises:
        RuntimeError: this platform has no such locks (Windows).
        TypeError: an argument has a wrong type.
        ValueError: `path` is empty, or `lock_timeout` not above 0.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 90.0) -> None:
        try:
            import fcntl  # noqa: PLC0415 - Windows has none, and everything else of this package works there
        except ImportError:
            raise RuntimeError(
                "FileBreakerStore: this platform has no flock, as Linux and macOS have. Use a MemoryBreakerStore."
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
        """Hold the operating system's lock.

        Raises:
            TimeoutError: another process held it for longer than `lock_timeout`.
            OSError: the lock file cannot be opened.
        """
        held: list[int] = []
        owner = os.getpid()
        try:
            await self._acquire(held)
            yield
        finally:
            for descriptor in held:
                if os.getpid() == owner:  # a forked child that leaves must not free what its parent holds
                    self._flock(descriptor, self._free)  # by hand: a forked child would keep it by its copy of the descriptor
                os.close(descriptor)

    async def load(self, account: str) -> BreakerState:
        """Return what was saved last.

        Raises:
            ValueError: the file holds something else.
            OSError: it cannot be read.
        """
        return (await _in_thread(self._read)).get(account, CLEAR)

    async def save(self, account: str, state: BreakerState) -> None:
        """Write the file anew beside the old one and put it in its place.

        Raises:
            ValueError: the old file holds something else.
            OSError: it cannot be written.
        """
        await _in_thread(lambda: self._write(account, state))

    async def _acquire(self, held: list[int]) -> None:
        time = asyncio.get_running_loop().time
        deadline, looks = time() + self._lock_timeout, 0
        while not await _in_thread(lambda: self._take(held)):
            pause = delay(looks, first=FIRST_LOOK, longest=LONGEST_LOOK)
            if time() + pause > deadline:
                raise TimeoutError(
                    f"{self._path}.lock: another process held it for {self._lock_timeout:g} s. Make sure that none hangs."
                )
            await asyncio.sleep(pause)
            looks += 1

    def _beside(self, ending: str) -> tuple[Path, Path]:
        """Return the file behind all links, and its companion of that ending, which is the same for whoever uses the file."""
        real = self._path.resolve()
        return real, real.with_name(real.name + ending)

    def _take(self, held: list[int]) -> bool:
        if not held:
            held.append(os.open(self._beside(".lock")[1], os.O_RDWR | OPEN_OWN, 0o600))
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
            kept = decode(text, _Kept)
        except UnexpectedResponse:
            kept = _Kept(version=0, accounts={})
        if kept.version != 1:
            raise ValueError(
                f"{self._path}: it does not hold the state of a breaker. Make sure that the account is not locked, then delete "
                "the file."
            )
        return kept.accounts

    def _write(self, account: str, state: BreakerState) -> None:
        states = self._read()
        states.pop(account, None)
        if state != CLEAR:
            states[account] = state
        text = dumps({"version": 1, "accounts": {name: asdict(kept) for name, kept in states.items()}})
        real, new = self._beside(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_TRUNC | OPEN_OWN, 0o600), "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # one that a crash or a stranger left may be open to others
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(real)
        directory = os.open(real.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run file work off the loop; who is cancelled, however often, stays to its end: nothing is written without the lock."""
    running = asyncio.get_running_loop().run_in_executor(None, work)  # no task, which the end of the loop would cancel
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as asked:
            cancelled = asked
    if cancelled is not None:
        running.exception()  # seen: the cancellation is what counts
        raise cancelled
    return running.result()
