"""The unix socket that a proxy on this machine connects to: whose its path is, and who may open it."""

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

_ANSWER_SECONDS = 1.0
_LONGEST_PATH = 107 if sys.platform == "linux" else 103
_is_mode = re.compile(r"(?:0o?)?6[06][06]", re.ASCII).fullmatch


@frozen(kw_only=True)
class UnixSettings:
    """A unix socket to listen on.

    Attributes:
        path: Its path, of 107 bytes at most, with a name.
        mode: Who may connect: 0o600, 0o660, 0o606 or 0o666.
        group: Name or number of its group, None for this process's own.

    Raises:
        ValueError: the path cannot be one, or the mode makes no sense.
    """

    path: Path = field()
    mode: int = field(default=0o660)
    group: str | None = None

    @path.validator
    def _check_path(self, _: object, path: Path) -> None:
        if not path.name:
            raise ValueError("--unix: give the path of a socket, such as /run/rewards/in.sock.")
        if str(path).startswith("@"):
            raise ValueError(
                f"--unix: {path} looks like an abstract socket, which anybody on this machine may open. Give the path of a file, "
                f"such as /run/rewards/in.sock, or ./{path} if a file of that name is meant."
            )
        size = len(os.fsencode(path))
        if size > _LONGEST_PATH:
            raise ValueError(
                f"--unix: the path has {size} bytes, and that of a unix socket may have {_LONGEST_PATH}. Give a shorter one, or "
                "one that is relative to the folder in which the listener runs."
            )

    @mode.validator
    def _check_mode(self, _: object, mode: int) -> None:
        mode_from(f"{mode:o}")


def mode_from(text: str) -> int:
    """Return the mode that an octal number means.

    Raises:
        ValueError: it is none, or makes no sense for a socket.
    """
    if not _is_mode(text):
        raise ValueError(
            f"--unix-mode: {text[:20]!a} makes no sense for a socket. Whoever connects needs to read and write it: give 0600 for "
            "the listener's user alone, 0660 for its group too, or 0666 for everybody on this machine."
        )
    return int(text, 8)


def open_unix(settings: UnixSettings, backlog: int) -> socket.socket:
    """Listen on a unix socket. Nobody can connect before its mode and group are as told.

    Raises:
        OSError: another server answers on the path, it cannot be made, or this process may not give it to the group.
    """
    group = None if settings.group is None else _group(settings.group)
    path = settings.path
    _make_way(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        with suppress(OSError):  # on Linux the file of the socket then begins with no more than this
            os.fchmod(made.fileno(), settings.mode if group is None else 0o600)
        try:
            made.bind(str(path))
        except OSError as problem:
            raise OSError(f"--unix: no socket can be made at {path}: {problem.strerror}") from None
        bound = file_at(path)
        try:
            if group is not None:
                _give(path, group, str(settings.group))
            path.chmod(settings.mode)
            made.listen(backlog)
            if file_at(path) != bound:
                raise FileExistsError(f"another server has just taken {path}; stop it, or give another path as --unix")
        except OSError:
            if file_at(path) == bound:
                path.unlink(missing_ok=True)
            raise
    except OSError:
        made.close()
        raise
    return made


def file_at(path: Path) -> tuple[int, int] | None:
    """Return which file a path leads to, None if to none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdecimal() and name.isascii() and int(name) < 2**32 - 1:
            return int(name)
    raise OSError(f"--unix-group: there is no group {name[:80]!a} on this machine; give the group of the proxy's user")


def _give(path: Path, group: int, name: str) -> None:
    try:
        os.chown(path, -1, group, follow_symlinks=False)
    except PermissionError:
        raise PermissionError(
            f"--unix-group: this process may not give its socket to the group {name[:80]!a}; add its user to that group "
            f"(usermod -aG {name[:80]} USER) and restart it"
        ) from None


def _make_way(path: Path) -> None:
    """Remove the socket that a process left when it died.

    Raises:
        OSError: another server answers there, or what is there is no socket.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(f"{path} exists and is no socket; give another path as --unix")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError, PermissionError):  # its queue is full, or it is another user's
            pass
    raise FileExistsError(f"another server listens on {path}; stop it, or give another path as --unix")
