"""Files of secrets that every user of this machine may read."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webhooks.cli.settings import ListenerSettings

logger = logging.getLogger("webhooks.listener")


def open_to_all(paths: Iterable[Path]) -> list[Path]:
    """Return the regular files among these paths that users other than owner and group may read or write."""
    return [path for path in dict.fromkeys(paths) if _is_open_to_all(path)]


def warn_of_open_files(settings: ListenerSettings) -> None:
    """Warn in one line of files of keys, tokens and TLS keys that every user of this machine may read."""
    files = [spec.keys_file for spec in settings.sources]
    if settings.tls is not None:
        files.append(settings.tls.key or settings.tls.certificate)
    if settings.admin is not None:
        files.append(settings.admin.token_file)
    found = open_to_all(path for path in files if path is not None)
    if found:
        logger.warning(
            "every user of this machine may read %s, which holds secrets. Run %s",
            ", ".join(map(str, found)),
            chmod_command(found),
        )


def chmod_command(paths: Iterable[Path]) -> str:
    """Return the command that makes these files private to their owner."""
    return join(["chmod", "600", *map(str, paths)])


def _is_open_to_all(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IRWXO)
