"""How many connections a listener can take with the files that its process may have open."""

from __future__ import annotations

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

_FEWEST = 64
_FOR_ITSELF = 64
_FOR_POLLS = 100


def fit_connections(settings: ListenerSettings) -> ListenerSettings:
    """Raise this process's limit of open files as far as need be and the system allows.

    Returns:
        The settings, with fewer connections, which one line in the log tells, where the files do not suffice for all.

    Raises:
        CannotStart: there are too few files to listen at all.
    """
    connections = settings.limits.connections
    handshakes = 0 if settings.tls is None else min(settings.limits.handshakes, connections)
    beside = _FOR_ITSELF + ADMIN_LIMITS.connections
    if settings.forward is not None:
        beside += settings.forward.handlers.concurrency * len({source.path for source in settings.sources})
    if settings.poll is not None:
        beside += _FOR_POLLS
    wanted = connections + handshakes + beside
    files = _raise_limit(wanted)
    remedy = f"Give it LimitNOFILE={wanted} in its systemd unit, or run `ulimit -n {wanted}` before it."
    if files < _FEWEST:
        raise CannotStart(
            f"could not start: only {counted(files, 'file')} may be open, and a listener needs {_FEWEST} at least. {remedy}",
            Exit.UNAVAILABLE,
        )
    left = files - min(beside, files // 2)
    possible = left - min(handshakes, left // 2)
    if possible >= connections:
        return settings
    logger.warning(
        "%s takes %d connections at a time, not --max-connections %d: those need %d open files, and %d are allowed. %s",
        "The listener" if settings.workers == 1 else "Each worker",
        possible,
        connections,
        wanted,
        files,
        remedy,
    )
    fewer = evolve(settings.limits, connections=possible, handshakes=min(settings.limits.handshakes, possible))
    return evolve(settings, limits=fewer)


def _raise_limit(wanted: int) -> int:
    """Return how many files may be open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft
