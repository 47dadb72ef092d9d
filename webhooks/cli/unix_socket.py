"""The unix socket for a proxy on this machine: its path, mode and group."""

from __future__ import annotations

import grp
import os
import re
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

from attrs import field, frozen

_PROBE_TIMEOUT = 1.0
_MAX_PATH = 107 if sys.platform == "linux" else 103
_is_mode = re.compile(r"(?:0o?)?6[06][06]", re.ASCII).fullmatch


@frozen(kw_only=True)
class UnixSettings:
    """A unix socket to listen on; `group` is a name or number, None for this process's own.

    Raises:
        ValueError: the path or the mode is invalid.
    """

    path: Path = field()
    mode: int = field(default=0o660)
    group: str | None = None

    @path.validator
    def _check_path(self, _: object, path: Path) -> None:
        if not path.name:
            raise ValueError("--unix: the path is empty. Give one such as /run/rewards/in.sock.")
        if str(path).startswith("@"):
            raise ValueError(
                f"--unix: {path} looks like an abstract socket, which every user of this machine may open. Give the path of a "
                f"file, such as /run/rewards/in.sock, or ./{path} for a file of that name."
            )
        size = len(os.fsencode(path))
        if size > _MAX_PATH:
            raise ValueError(
                f"--unix: the path has {size} bytes; at most {_MAX_PATH} are allowed. Give a shorter one, or one relative to the "
                "folder in which the listener runs."
            )

    @mode.validator
    def _check_mode(self, _: object, mode: int) -> None:
        mode_from(f"{mode:o}")


def mode_from(text: str) -> int:
    """Return the mode of an octal number; raises `ValueError` unless it is a useful mode of a socket."""
    if not _is_mode(text):
        raise ValueError(
            f"--unix-mode: {text[:20]!a} is not a useful mode: clients need to read and write a socket. Give 0600 for the "
            "listener's user only, 0660 for its group too, or 0666 for every user of this machine."
        )
    return int(text, 8)


def open_unix(settings: UnixSettings, backlog: int) -> socket.socket:
    """Listen on a unix socket. No client can connect before its mode and group are set.

    Raises:
        OSError: another server listens on the path, the socket cannot be created, or its group cannot be set.
    """
    group = None if settings.group is None else _group_id(settings.group)
    path = settings.path
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        with suppress(OSError):  # on Linux the mode with which the file is created
            os.fchmod(made.fileno(), settings.mode if group is None else 0o600)
        try:
            made.bind(str(path))
        except OSError as problem:
            raise OSError(f"--unix: could not create a socket at {path}: {problem.strerror}") from None
        bound = file_at(path)
        try:
            if group is not None:
                _set_group(path, group, str(settings.group))
            path.chmod(settings.mode)
            made.listen(backlog)
            if file_at(path) != bound:
                raise FileExistsError(f"another server has just replaced {path}; stop it, or give another path as --unix")
        except OSError:
            if file_at(path) == bound:
                path.unlink(missing_ok=True)
            raise
    except OSError:
        made.close()
        raise
    return made


def file_at(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a path; None if there is no file."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdecimal() and name.isascii() and int(name) < 2**32 - 1:
            return int(name)
    raise OSError(f"--unix-group: there is no group {name[:80]!a} on this machine; give the group of the proxy's user")


def _set_group(path: Path, group: int, name: str) -> None:
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except PermissionError:
        raise PermissionError(
            f"--unix-group: this process may not set the group of its socket to {name[:80]!a}; add its user to that group "
            f"(usermod -aG {name[:80]} USER) and restart it"
        ) from None


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that has died."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(f"{path} exists and is not a socket; give another path as --unix")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError, PermissionError):  # its backlog is full, or it belongs to another user
            pass
    raise FileExistsError(f"another server listens on {path}; stop it, or give another path as --unix")
