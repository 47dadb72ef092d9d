"""What a process that takes deliveries changes about itself: its limit of open files, garbage collection, TLS buffers."""

from __future__ import annotations

import asyncio.sslproto
import gc
import logging
import resource
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve

from rewards_core.cli.exit_codes import Exit
from rewards_core.text import counted
from webhooks.cli.admin import ADMIN_LIMITS
from webhooks.cli.errors import CannotStart

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings

logger = logging.getLogger("webhooks.listener")

_MIN_FILES = 64
_OWN_FILES = 64
_FILES_FOR_POLLS = 100
_GC_THRESHOLD = 5_000
_TLS_BUFFER = 4_096


def fit_connections(settings: ListenerSettings) -> ListenerSettings:
    """Raise this process's limit of open files as far as needed and allowed.

    Returns:
        The settings, with fewer connections and a warning in the log if the files do not suffice for all.

    Raises:
        CannotStart: there are too few files to listen at all.
    """
    connections = settings.limits.connections
    handshakes = 0 if settings.tls is None else min(settings.limits.handshakes, connections)
    other = _OWN_FILES + ADMIN_LIMITS.connections
    if settings.forward is not None:
        other += settings.forward.handlers.concurrency * len(settings.paths)
    if settings.poll is not None:
        other += _FILES_FOR_POLLS
    wanted = connections + handshakes + other
    files = _raise_file_limit(wanted)
    remedy = (
        f"Set LimitNOFILE={wanted} in the listener's systemd unit, or run `ulimit -n {wanted}` before you start the listener."
    )
    if files < _MIN_FILES:
        raise CannotStart(
            f"could not start: only {counted(files, 'file')} may be open, and a listener needs at least {_MIN_FILES}. {remedy}",
            Exit.UNAVAILABLE,
        )
    left = files - min(other, files // 2)
    possible = left - min(handshakes, left // 2)
    if possible >= connections:
        return settings
    logger.warning(
        "%s accepts only %d connections at a time: --max-connections %d needs %d open files, and %d are allowed. %s",
        "The listener" if settings.workers == 1 else "Each worker",
        possible,
        connections,
        wanted,
        files,
        remedy,
    )
    fewer = evolve(settings.limits, connections=possible, handshakes=min(settings.limits.handshakes, possible))
    return evolve(settings, limits=fewer)


def freeze_garbage_collection() -> None:
    """Exclude the objects that exist now from garbage collection, which would scan them hundreds of times a second.

    It still runs often enough to free closed connections, which asyncio leaves to it: with a thousand strangers who reconnect
    over TLS every second, the process holds some 10 MB less than with thresholds of 10,000, 20 and 20, at the same throughput.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 5, 5)


def shrink_tls_buffers() -> None:
    """Let each TLS connection of this process use a read buffer of 4 KiB instead of asyncio's 256 KiB.

    The buffer exists from the first byte of a handshake to the end of the connection. In `benchmarks strangers` a thousand
    connections and 256 handshakes would hold 320 MB; a TLS record has at most 16 KiB.
    """
    asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER


def _raise_file_limit(wanted: int) -> int:
    """Return how many files may be open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # macOS allows fewer than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
