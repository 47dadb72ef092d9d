"""What can be wrong with a listener's surroundings, one check at a time."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path

import aiohttp
from attrs import frozen

from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import DAMAGE_ERRORS, VERSION, InterruptError, SQLiteError, connect, meaning
from rewards_core.sqlite.migrations import layout_of
from rewards_core.text import counted, one_line
from webhooks.cli.secret_files import close_them, open_to_all
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.cli.space import LEAST_FREE, measure
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_schema import SCHEMA

_SHORTEST_SECRET = 16
_LARGEST_SKEW = 30.0
_FIRST_SAFE_SQLITE = (3, 51, 3)
_INTEGRITY_SECONDS = 60.0
_STEPS_BETWEEN_LOOKS = 10_000
_ASK_TIMEOUT = aiohttp.ClientTimeout(total=10.0)


@frozen(kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        ok: Whether a listener can work.
        found: What there is.
        advice: What to do, empty where nothing is to be done; with `ok` it can wait some days.
    """

    check: str
    ok: bool
    found: str
    advice: str = ""


def _well(check: str, found: str) -> Finding:
    return Finding(check=check, ok=True, found=found)


def _wrong(check: str, found: str, advice: str) -> Finding:
    return Finding(check=check, ok=False, found=found, advice=advice)


def check_keys(specs: Sequence[SourceSpec]) -> Finding:
    """Look whether each source has keys that can verify something."""
    for spec in specs:
        try:
            weak = ReloadableSource(spec).ids_of_secrets_below(_SHORTEST_SECRET)
        except ValueError as problem:
            return _wrong("keys", str(problem), "copy id and secret from the console's Webhooks page")
        if weak:
            return _wrong(
                "keys",
                f"the secret of {', '.join(weak)} has fewer than {_SHORTEST_SECRET} characters",
                "check that it was copied whole; the webhook secret is not the API secret",
            )
    return _well("keys", f"{counted(len(specs), 'source')} with keys")


def check_permissions(paths: Sequence[Path]) -> Finding:
    """Look whether files of secrets and of the store are for their owner and group alone."""
    loose = open_to_all(paths)
    if loose:
        return _wrong("permissions", f"everybody on this machine may read {', '.join(map(str, loose))}", close_them(loose))
    return _well("permissions", "files of secrets and of the store are closed to others")


def check_sqlite(version: tuple[int, ...] = VERSION) -> Finding:
    """Look whether several processes may write one file with the SQLite that is used here."""
    words = f"SQLite {'.'.join(map(str, version))}"
    if version < _FIRST_SAFE_SQLITE:
        first = ".".join(map(str, _FIRST_SAFE_SQLITE))
        return _wrong(
            "sqlite",
            f"{words}, which can lose commits where several processes write",
            f"pip install --upgrade apsw; it carries its own SQLite, {first} or newer",
        )
    return _well("sqlite", words)


async def check_store(path: Path | None) -> Finding:
    """Look whether the store can be written; one of an older layout is left as it is."""
    if path is None:
        return _wrong("store", "memory:", "events are lost with the process; give --store sqlite:///FILE")
    if not path.exists():
        if os.access(path.absolute().parent, os.W_OK):
            return _well("store", f"{path} will be made by the first listener")
        return _wrong("store", f"no file can be made at {path}", "make its folder, and let this user write there")
    store = SQLiteStore(path)
    try:
        layout = await asyncio.to_thread(_layout, path)
        if 0 < layout < SCHEMA.layout:
            found = f"{path} has layout {layout}; once no older version has it open, the next listener brings it to layout"
            return _well("store", f"{found} {SCHEMA.layout}, after a backup beside it")
        await store.ping()
        held = await store.statistics()
    except StoreError as problem:
        return _wrong("store", str(problem), "see `integrity`, `space` and `permissions`")
    finally:
        await store.aclose()
    if held.dead:
        return _wrong(
            "store",
            f"{path} can be written; it holds {counted(held.dead, 'dead letter')}",
            "webhook-listener dead-letters list",
        )
    return _well(
        "store",
        f"{path} can be written; {counted(held.events, 'event')}, {counted(held.ready, 'waits', 'wait')} for handlers",
    )


def _layout(path: Path) -> int:
    try:
        with closing(connect(path, read_only=True)) as connection:
            return layout_of(connection, path, SCHEMA)
    except SQLiteError as problem:
        raise meaning(problem, path) from None


async def check_integrity(path: Path | None, seconds: float = _INTEGRITY_SECONDS) -> Finding:
    """Look whether every page of the store's file is sound, for so many seconds at most; a listener can go on meanwhile."""
    ended = threading.Event()
    try:
        return await asyncio.to_thread(_integrity, path, time.monotonic() + seconds, ended)
    finally:
        ended.set()


def _integrity(path: Path | None, until: float, ended: threading.Event) -> Finding:
    if path is None or not path.exists():
        return _well("integrity", "there is no file yet")
    try:
        with closing(connect(path, read_only=True)) as connection:
            connection.set_progress_handler(lambda: ended.is_set() or time.monotonic() >= until, _STEPS_BETWEEN_LOOKS)
            said = str(connection.execute("PRAGMA integrity_check(1)").get)
    except InterruptError:
        return _well("integrity", f"{path}: no damage in what could be read in time")
    except DAMAGE_ERRORS as problem:
        said = str(problem)
    except SQLiteError as problem:
        return _wrong("integrity", str(meaning(problem, path)), "see `permissions`, then look again")
    if said == "ok":
        return _well("integrity", f"{path} is sound")
    said = one_line(said.removeprefix("*** in database main ***"), 200)
    return _wrong("integrity", f"{path} is damaged: {said}", "stop the listener, and restore the file from a backup")


async def check_space(path: Path | None, keep_days: float, clock: Callable[[], float] = time.time) -> Finding:
    """Look whether the store's disk has room, and for how long."""
    try:
        space = await asyncio.to_thread(measure, path, keep_days=keep_days, now=clock())
    except OSError as problem:
        return _wrong("space", f"{problem.filename}: {problem.strerror}", "make the folder")
    except StoreError as problem:
        return _wrong("space", str(problem), "see `integrity`")
    advice = "free some, or keep events for fewer days (--keep-days)"
    if space.short:
        return _wrong("space", str(space), f"{advice}; below {LEAST_FREE // 1024**2} MiB deliveries will soon be answered 503")
    return Finding(check="space", ok=True, found=str(space), advice=advice if space.low else "")


async def check_port(host: str, port: int, admin: str | None) -> Finding:
    """Look whether the port is free, or a listener that is ready holds it."""
    refused = _why_not_bound(host, port)
    if refused is None:
        return _well("port", f"{host}:{port} is free")
    taken = refused.errno == errno.EADDRINUSE
    if taken and admin is not None:
        try:
            async with aiohttp.ClientSession(timeout=_ASK_TIMEOUT) as session, session.get(f"{admin}/readyz") as answer:
                words = (await answer.text()).strip()[:200]
                if answer.status == 200:
                    return _well("port", f"a listener at {host}:{port} is ready")
                return _wrong("port", f"a listener at {host}:{port} is not ready: {words}", "see its log")
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass
    if taken:
        advice = "stop what holds it, or give --port"
    elif refused.errno == errno.EACCES:
        advice = "give --port 1024 or above, or let this user bind lower ones"
    else:
        advice = "give an address of this machine as --host"
    return _wrong("port", f"{host}:{port}: {refused.strerror or refused}", advice)


def _why_not_bound(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            return problem
        except TypeError:  # what encodings cannot hold
            return OSError("no host can have this name")
    return None


async def check_clock(url: str | None, clock: Callable[[], float] = time.time) -> Finding:
    """Compare this machine's clock with that of the vendor's API; its tokens live by it."""
    if url is None:
        return _well("clock", "not compared: no API is known here")
    try:
        async with aiohttp.ClientSession(timeout=_ASK_TIMEOUT) as session, session.get(url, allow_redirects=False) as answer:
            said = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as problem:
        return _wrong("clock", f"the API's clock could not be read ({type(problem).__name__})", "see `reachability`")
    skew = clock() - said
    if abs(skew) > _LARGEST_SKEW:
        return _wrong(
            "clock",
            f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API's",
            "let the system keep time (chrony, systemd-timesyncd); the API refuses tokens from another time",
        )
    return _well("clock", f"within {_LARGEST_SKEW:.0f} s of the API's")


async def check_reachability(url: str | None, public_url: str | None) -> Finding:
    """Look whether the vendor's API answers, and whether the public URL leads to a listener."""
    found = []
    async with aiohttp.ClientSession(timeout=_ASK_TIMEOUT) as session:
        if url is not None:
            try:
                async with session.get(url, allow_redirects=False) as answer:
                    found.append(f"the API answers ({answer.status})")
            except (aiohttp.ClientError, OSError, TimeoutError) as problem:
                return _wrong(
                    "reachability",
                    f"the API does not answer ({type(problem).__name__})",
                    "check DNS, firewall and proxy between here and the API, and ORIGINAL_BASE_URL",
                )
        if public_url is not None:
            try:
                async with session.post(public_url, data=b"{}", allow_redirects=False) as answer:
                    status = answer.status
            except (aiohttp.ClientError, OSError, TimeoutError) as problem:
                return _wrong(
                    "reachability",
                    f"the public URL does not answer ({type(problem).__name__})",
                    "check DNS, certificate and proxy before the listener; the vendor needs https",
                )
            if status != 401:
                return _wrong(
                    "reachability",
                    f"the public URL answered an unsigned delivery with {status}, not 401",
                    "something else answers there, or its path is not the listener's; check the proxy",
                )
            found.append("the public URL leads to a listener")
    return _well("reachability", "; ".join(found) or "nothing to reach is known here; give --public-url")


async def run_checks(checks: Sequence[Awaitable[Finding]]) -> list[Finding]:
    """Run checks at the same time."""
    return list(await asyncio.gather(*checks))


def secret_files(files: Sequence[Path | None], store: Path | None) -> list[Path]:
    """Return, of files of secrets and those of the store, what is there: only their owner should read them."""
    wanted = [path for path in files if path is not None]
    if store is not None:
        wanted += [store.with_name(store.name + suffix) for suffix in ("", "-wal", "-shm", ".lock")]
    return [path for path in wanted if path.exists() and stat.S_ISREG(path.stat().st_mode)]
