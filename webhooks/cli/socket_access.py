"""Whether a proxy's user can open the listener's unix socket: each folder above it, then the socket itself."""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import stat
from pathlib import Path

from attrs import frozen

from webhooks.cli.checks import Finding

_PROXY_USERS = ("nginx", "www-data", "nobody", "haproxy", "caddy", "apache", "http")
_ANSWER_SECONDS = 1.0
_SEARCH, _WRITE = 0o1, 0o2


@frozen(kw_only=True)
class _User:
    name: str
    uid: int
    group: str
    groups: frozenset[int]

    def may(self, found: os.stat_result, wanted: int) -> bool:
        if self.uid == 0:
            return True
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return bool(found.st_mode >> shift & wanted)


async def check_unix(path: Path, proxy_user: str | None) -> Finding:
    """Look whether a listener answers on a unix socket, and whether the proxy in front of it can open it.

    Args:
        path: The socket, which may not be there yet.
        proxy_user: The user as which the proxy runs; None for those of common proxies that this machine has.
    """
    names = _PROXY_USERS if proxy_user is None else (proxy_user,)
    users = [user for user in map(_user, names) if user is not None]
    if proxy_user is not None and not users:
        return _wrong(
            f"there is no user {proxy_user[:80]!a} on this machine", "give the user of the proxy's workers as --proxy-user"
        )
    try:
        state = await asyncio.to_thread(_state, path)
    except OSError as problem:
        return _wrong(f"{path}: {problem.strerror}", "see that its folder is there (RuntimeDirectory= in a unit of systemd)")
    if state is None:
        return _wrong(f"{path} is no socket", "remove it, or give another path as --unix")
    kept_out = {user.name: why for user in users if (why := _why_not(user, path)) is not None}
    able = [user.name for user in users if user.name not in kept_out]
    if kept_out and not able:
        words, advice = next(iter(kept_out.values()))
        return _wrong(f"{state}; {', '.join(kept_out)} cannot open it: {words}", advice)
    found = state
    if able:
        found += f"; {', '.join(able)} can open it"
    if kept_out:
        found += f", {', '.join(kept_out)} cannot; --proxy-user says which of them the proxy is"
    return Finding(check="socket", ok=True, found=found)


def _wrong(found: str, advice: str) -> Finding:
    return Finding(check="socket", ok=False, found=found, advice=advice)


def _user(name: str) -> _User | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = frozenset(os.getgrouplist(name, entry.pw_gid))
    return _User(name=name, uid=entry.pw_uid, group=_group_name(entry.pw_gid), groups=groups)


def _state(path: Path) -> str | None:
    """Return what there is at a path, None for something that is no socket.

    Raises:
        OSError: its folder cannot be looked into.
    """
    path.absolute().parent.stat()
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return None
    except FileNotFoundError:
        return f"{path} will be made by the listener"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return f"nobody listens on {path}, and the next listener takes its place"
        except OSError:  # its queue is full, or this user may not
            return f"{path} is there"
    return f"a listener answers on {path}"


def _why_not(user: _User, path: Path) -> tuple[str, str] | None:
    """Return why a user cannot open a socket, and what to do; None if it can."""
    resolved = path.resolve()
    for folder in dict.fromkeys([*reversed(path.absolute().parents), *reversed(resolved.parents)]):
        if not user.may(folder.stat(), _SEARCH):
            return f"it may not enter {folder}", f"chmod o+x {folder}, or move the socket to a folder such as /run/rewards"
    try:
        found = resolved.stat()
    except FileNotFoundError:
        return None
    if user.may(found, _WRITE):
        return None
    group, mode = _group_name(found.st_gid), stat.S_IMODE(found.st_mode)
    member = found.st_gid in user.groups
    held = f"its mode is {mode:04o}, its group {group}, {'to' if member else 'not to'} which {user.name} belongs"
    if member:
        return held, "start the listener with --unix-mode 0660"
    return held, f"start the listener with --unix-group {user.group}, or with --unix-mode 0666"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
