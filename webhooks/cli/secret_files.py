"""Files of secrets that everybody on this machine may read."""

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
    """Return which of these files somebody beside their owner and their group may read or write; what is no file is none."""
    return [path for path in dict.fromkeys(paths) if _is_open_to_all(path)]


def warn_of_open_files(settings: ListenerSettings) -> None:
    """Say in a line which files of keys, tokens and TLS keys everybody on this machine may read."""
    files = [spec.keys_file for spec in settings.sources]
    if settings.tls is not None:
        files.append(settings.tls.key or settings.tls.certificate)
    if settings.admin is not None:
        files.append(settings.admin.token_file)
    found = open_to_all(path for path in files if path is not None)
    if found:
        logger.warning(
            "everybody on this machine may read %s, which holds secrets. Run %s",
            ", ".join(map(str, found)),
            close_them(found),
        )


def close_them(paths: Iterable[Path]) -> str:
    """Return the command that leaves these files to their owner."""
    return join(["chmod", "600", *map(str, paths)])


def _is_open_to_all(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IRWXO)
