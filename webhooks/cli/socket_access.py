"""The check of `doctor` whether a proxy's user can open the listener's unix socket."""

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
_PROBE_TIMEOUT = 1.0
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
    """Check whether a listener answers on a unix socket, and whether the proxy in front can open it.

    Args:
        path: The socket; it need not exist yet.
        proxy_user: The proxy's user; None for the users of common proxies on this machine.
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
        return _wrong(f"{path}: {problem.strerror}", "create its folder (RuntimeDirectory= in a systemd unit)")
    if state is None:
        return _wrong(f"{path} is not a socket", "remove it, or give another path as --unix")
    denied = {user.name: why for user in users if (why := _why_denied(user, path)) is not None}
    able = [user.name for user in users if user.name not in denied]
    if denied and not able:
        reason, advice = next(iter(denied.values()))
        return _wrong(f"{state}; {', '.join(denied)} cannot open it: {reason}", advice)
    found = state
    if able:
        found += f"; {', '.join(able)} can open it"
    if denied:
        found += f", {', '.join(denied)} cannot; give the proxy's user as --proxy-user"
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
    """Describe the socket at a path; None for a file that is not a socket. Raises `OSError` if its folder cannot be read."""
    path.absolute().parent.stat()
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return None
    except FileNotFoundError:
        return f"{path} will be created by the listener"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return f"no process listens on {path}; the next listener will replace it"
        except OSError:  # its backlog is full, or this user may not connect
            return f"{path} exists"
    return f"a listener answers on {path}"


def _why_denied(user: _User, path: Path) -> tuple[str, str] | None:
    """Return why a user cannot open a socket, and what to do; None if the user can."""
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
    held = f"its mode is {mode:04o}, its group {group}; {user.name} is {'' if member else 'not '}a member"
    if member:
        return held, "start the listener with --unix-mode 0660"
    return held, f"start the listener with --unix-group {user.group}, or with --unix-mode 0666"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
