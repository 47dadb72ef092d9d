"""The checks of `webhook-listener doctor`."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
from attrs import frozen

from rewards_core.errors import ConfigurationError, StoreError
from rewards_core.sqlite.connection import DAMAGE_ERRORS, VERSION, InterruptError, SQLiteError, as_store_error, connect
from rewards_core.sqlite.migrations import layout_of
from rewards_core.text import counted, one_line
from webhooks.cli.disk_space import MIN_FREE, measure
from webhooks.cli.secret_files import chmod_command, open_to_all
from webhooks.cli.settings import ConsumerSettings
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.errors import QueueError
from webhooks.store.base import Store
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_schema import SCHEMA

_MIN_SECRET = 16
_MAX_SKEW = 30.0
_FIRST_SAFE_SQLITE = (3, 51, 3)
_INTEGRITY_SECONDS = 60.0
_STEPS_BETWEEN_CHECKS = 10_000
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


@frozen(kw_only=True)
class Finding:
    """The result of a check.

    Attributes:
        check: The check.
        ok: Whether a listener can work.
        found: What was found.
        advice: What to do, empty if nothing; if `ok`, it can wait some days.
    """

    check: str
    ok: bool
    found: str
    advice: str = ""


def passed(check: str, found: str, advice: str = "") -> Finding:
    """Return what a listener can work with, perhaps with advice for the coming days."""
    return Finding(check=check, ok=True, found=found, advice=advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return what a listener cannot work with."""
    return Finding(check=check, ok=False, found=found, advice=advice)


def check_keys(specs: Sequence[SourceSpec]) -> Finding:
    """Check that each source has usable keys."""
    for spec in specs:
        try:
            weak = ReloadableSource(spec).ids_of_secrets_below(_MIN_SECRET)
        except ValueError as error:
            return failed("keys", str(error), "Copy id and secret from the console's Webhooks page.")
        if weak:
            return failed(
                "keys",
                f"the secret of {', '.join(weak)} has fewer than {_MIN_SECRET} characters",
                "Check that it was copied completely. The webhook secret is not the API secret.",
            )
    return passed("keys", f"{counted(len(specs), 'source')} with keys")


def check_permissions(paths: Sequence[Path]) -> Finding:
    """Check that only their owner and group can read files of secrets and of the store."""
    loose = open_to_all(paths)
    if loose:
        names = ", ".join(map(str, loose))
        return failed("permissions", f"every user of this machine can read {names}", f"Run {chmod_command(loose)}")
    return passed("permissions", "other users cannot read secrets or the store")


def existing_secret_files(files: Sequence[Path | None], store: Path | None) -> list[Path]:
    """Return those of these files, and of the store's, that exist."""
    wanted = [path for path in files if path is not None]
    if store is not None:
        wanted += [store.with_name(store.name + suffix) for suffix in ("", "-wal", "-shm", ".lock")]
    return [path for path in wanted if path.exists() and stat.S_ISREG(path.stat().st_mode)]


def check_sqlite(version: tuple[int, ...] = VERSION) -> Finding:
    """Check that this SQLite is safe for several processes on one file."""
    name = f"SQLite {'.'.join(map(str, version))}"
    if version < _FIRST_SAFE_SQLITE:
        first = ".".join(map(str, _FIRST_SAFE_SQLITE))
        return failed(
            "sqlite",
            f"{name} can lose commits when several processes write",
            f"Upgrade the package apsw to a version that contains SQLite {first} or newer.",
        )
    return passed("sqlite", name)


async def check_store(path: Path | None) -> Finding:
    """Check that the store can be written; one of an older layout is not upgraded."""
    if path is None:
        return failed("store", "memory:", "Events are lost when the process ends. Give --store sqlite:///FILE.")
    if not path.exists():
        if os.access(path.absolute().parent, os.W_OK):
            return passed("store", f"{path} does not exist yet; the listener will create it")
        return failed("store", f"{path} cannot be created", "Create its folder, and allow this user to write there.")
    store = SQLiteStore(path)
    try:
        layout = await asyncio.to_thread(_layout, path)
        if 0 < layout < SCHEMA.layout:
            found = f"{path} has layout {layout}; the next listener upgrades it to layout {SCHEMA.layout} and leaves a backup"
            return passed("store", f"{found}, once no older version has it open")
        return await check_contents(store, path)
    except StoreError as error:
        return failed("store", str(error), "See integrity, space and permissions.")
    finally:
        await store.aclose()


async def check_contents(store: Store, name: object) -> Finding:
    """Check that a store can be written, has no dead letters, and that its processes agree on their handlers."""
    await store.ping()
    held = await store.statistics()
    if held.dead:
        found = f"{name} is writable and has {counted(held.dead, 'dead letter')}"
        return failed("store", found, "Run webhook-listener dead-letters list")
    found = f"{name} is writable; {counted(held.events, 'event')}, {held.ready:,} waiting for handlers"
    differing = sorted({one.subscription.handler for one in await store.list_handlers() if one.differing})
    if differing:
        found += f"; running processes want different events for {', '.join(differing)}"
        advice = "A rolling deploy shows this too. If it lasts longer than 10 minutes, restart the processes that run older code."
        return passed("store", found, f"The newest registration applies to all. {advice}")
    return passed("store", found)


def _layout(path: Path) -> int:
    try:
        with closing(connect(path, read_only=True)) as connection:
            return layout_of(connection, path, SCHEMA)
    except SQLiteError as error:
        raise as_store_error(error, path) from None


async def check_integrity(path: Path | None, seconds: float = _INTEGRITY_SECONDS) -> Finding:
    """Check the pages of the store's file, for at most `seconds`, while listeners keep running."""
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(_integrity, path, time.monotonic() + seconds, cancelled)
    finally:
        cancelled.set()


def _integrity(path: Path | None, until: float, cancelled: threading.Event) -> Finding:
    if path is None or not path.exists():
        return passed("integrity", "there is no file yet")
    try:
        with closing(connect(path, read_only=True)) as connection:
            connection.set_progress_handler(lambda: cancelled.is_set() or time.monotonic() >= until, _STEPS_BETWEEN_CHECKS)
            result = str(connection.execute("PRAGMA integrity_check(1)").get)
    except InterruptError:
        return passed("integrity", f"{path}: no damage in the part that was read in time")
    except DAMAGE_ERRORS as error:
        result = str(error)
    except SQLiteError as error:
        return failed("integrity", str(as_store_error(error, path)), "See permissions, then run the doctor again.")
    if result == "ok":
        return passed("integrity", f"{path} is intact")
    result = one_line(result.removeprefix("*** in database main ***"), 200)
    return failed("integrity", f"{path} is damaged: {result}", "Stop the listener, and restore the file from a backup.")


async def check_space(path: Path | None, keep_days: float) -> Finding:
    """Check that the store's disk has room for the coming days."""
    try:
        space = await asyncio.to_thread(measure, path, keep_days=keep_days, now=time.time())
    except OSError as error:
        return failed("space", f"{error.filename}: {error.strerror}", "Create the folder.")
    except StoreError as error:
        return failed("space", str(error), "See integrity.")
    advice = "Free disk space, or keep events for fewer days (--keep-days)."
    if space.critical:
        return failed("space", str(space), f"{advice} Below {MIN_FREE // 1024**2} MiB deliveries may be answered 503.")
    return passed("space", str(space), advice if space.low else "")


async def check_port(host: str, port: int, admin: str | None) -> Finding:
    """Check that the port is free, or held by a listener that is ready."""
    refused = _why_not_bound(host, port)
    if refused is None:
        return passed("port", f"{host}:{port} is free")
    taken = refused.errno == errno.EADDRINUSE
    if taken and admin is not None:
        with suppress(*_UNREACHABLE):
            status, _, reason = await _request("GET", f"{admin}/readyz")
            if status == 200:
                return passed("port", f"the listener at {host}:{port} is ready")
            return failed("port", f"the listener at {host}:{port} is not ready: {reason.strip()[:200]}", "See its log.")
    if taken:
        advice = "Stop the process that holds it, or give --port."
    elif refused.errno == errno.EACCES:
        advice = "Give --port 1024 or above, or allow this user to bind lower ports."
    else:
        advice = "Give an address of this machine as --host."
    return failed("port", f"{host}:{port}: {refused.strerror or refused}", advice)


def _why_not_bound(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
        except TypeError:  # the idna codec cannot encode it
            return OSError("this is not a host name")
    return None


async def check_queue(queue: ConsumerSettings) -> Finding:
    """Check that the queue can be read, and that its settings are safe."""
    try:
        from webhooks.ingress.sqs import SqsQueue  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        return failed("queue", str(error), "Install the extra where the consumer runs.")
    opened = SqsQueue(queue.url, region=queue.region, endpoint=queue.endpoint, allow_insecure=queue.allow_insecure)
    try:
        await opened.open()
        settings = await opened.settings()
    except (QueueError, ConfigurationError) as error:
        return failed("queue", str(error), "The consumer needs the same credentials, endpoint and permissions.")
    finally:
        await opened.aclose()
    found = f"{opened.name}: {counted(settings.waiting, 'message')} waiting, {settings.in_flight:,} in progress"
    if settings.max_receives is not None:
        found += f", dead letters after {counted(settings.max_receives, 'receipt')}"
    return failed("queue", found, " ".join(settings.advice)) if settings.advice else passed("queue", found)


async def check_clock(url: str | None, clock: Callable[[], float] = time.time) -> Finding:
    """Compare this machine's clock with that of the vendor's API, which rejects tokens from another time."""
    if url is None:
        return passed("clock", "not compared: no API is configured here")
    try:
        _, headers, _ = await _request("GET", url)
        api_time = email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
    except (*_UNREACHABLE, KeyError, ValueError) as error:
        return failed("clock", f"the API's clock could not be read ({type(error).__name__})", "See reachability.")
    skew = clock() - api_time
    if abs(skew) > _MAX_SKEW:
        return failed(
            "clock",
            f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API's",
            "Synchronize the clock (chrony, systemd-timesyncd); the API rejects tokens from another time.",
        )
    return passed("clock", f"within {_MAX_SKEW:.0f} s of the API's")


async def check_reachability(url: str | None, public_url: str | None) -> Finding:
    """Check that the vendor's API answers, and that the public URL leads to a listener."""
    found = []
    if url is not None:
        try:
            status, _, _ = await _request("GET", url)
        except _UNREACHABLE as error:
            return failed(
                "reachability",
                f"the API does not answer ({type(error).__name__})",
                "Check DNS, firewall and proxy between here and the API, and ORIGINAL_BASE_URL.",
            )
        found.append(f"the API answers a request without credentials ({status})")
    if public_url is not None:
        try:
            status, _, _ = await _request("POST", public_url, b"{}")
        except _UNREACHABLE as error:
            return failed(
                "reachability",
                f"the public URL does not answer ({type(error).__name__})",
                "Check DNS, certificate and proxy in front of the listener. The vendor requires https.",
            )
        if status != 401:
            return failed(
                "reachability",
                f"the public URL answered an unsigned delivery with {status} instead of 401",
                "Something else answers there, or the path is not the listener's. Check the proxy.",
            )
        found.append("the public URL leads to a listener")
    return passed("reachability", "; ".join(found) or "not checked: give --public-url")


async def _request(method: str, url: str, body: bytes | None = None) -> tuple[int, Mapping[str, str], str]:
    """Return the status, the headers and the beginning of the body of an answer."""
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT) as session,
        session.request(method, url, data=body, allow_redirects=False) as reply,
    ):
        return reply.status, reply.headers, (await reply.content.read(1_000)).decode(errors="replace")
