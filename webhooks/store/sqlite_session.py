"""The transactions of a `SQLiteStore`, and the processes that share its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from rewards_core.clock import HOUR, UNKNOWN_BOOT, same_boot
from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import Connection, fetch, transaction
from webhooks.store.hints import EVERYTHING, JOBS, POLLS, Notification
from webhooks.store.members import ALIVE_FOR, GONE_AFTER, MAX_RELEASED, RENEW_EVERY, Member
from webhooks.store.records import Subscription
from webhooks.store.rows import (
    text,
)
from webhooks.store.sqlite_rows import (
    insert,
)
from webhooks.store.subscriptions import SubscriptionIndex

if TYPE_CHECKING:
    from rewards_core.sqlite.wakeups import Wakeups


@define(eq=False)
class FileMember(Member):
    """This store object among those that share the file. It survives a reopening of the file.

    Attributes:
        wakeups: Its socket.
        moves: Whether it moves the store, and so may change it while it is frozen.
        joined: Whether it has committed anything, so that no time in the file is of another boot.
        served: What it serves, as last committed.
    """

    wakeups: Wakeups = field(kw_only=True)
    moves: bool = field(default=False, kw_only=True)
    joined: bool = False
    served: tuple[Subscription, ...] = ()


class Session:
    """What the store's transactions share: the connection, the time, the notifications to send, and the other processes.

    `hourly` is called about once an hour, inside a transaction.
    """

    def __init__(
        self,
        db: Connection,
        member: FileMember,
        *,
        clock: Callable[[], float],
        uptime: Callable[[], float],
        boot: str,
        hourly: Callable[[Session], object],
    ) -> None:
        member.make_id()
        self.db = db
        self.member = member
        self.now = uptime()
        self.wall = clock()
        self.notifications: list[Notification] = []
        self.subscribed = SubscriptionIndex()
        self._clock = clock
        self._uptime = uptime
        self.boot = boot
        self._hourly = hourly
        self._servers: dict[str, set[str]] = {}
        self._pollers: dict[str, set[str]] = {}
        self._addresses: dict[str, str] = {}
        self._hints: dict[str, bytes] = {}
        self._sure = False
        self._version: int | None = None
        self._seen_version: int | None = None
        self._members: int | None = None
        self._late: dict[str, float] = {}
        self._next_renewal = 0.0
        self._releasing = False
        self._next_hour = self.now

    # a transaction

    def begin(self) -> None:
        """Read the clocks, and which processes have joined or left."""
        self.now, self.wall = self._uptime(), self._clock()
        self.notifications = []
        self._hints = {}
        version = self._data_version()
        if not self._sure:
            self._members = None
            self.member.rates.clear()
            self.member.serves = list(self.member.served)
            self._check_boot()
        if not self._sure or version != self._version:
            self._reload()
        if not self._sure and self.member.registered:
            self._rejoin()
        if not self._sure or self.now >= self._next_hour:
            self._next_hour = self.now + HOUR
            self._hourly(self)
        self._sure = False  # until the commit, as all may be rolled back
        self._version = version

    def end(self) -> list[Notification]:
        """Return the notifications to send once this is durable."""
        return self.notifications

    def committed(self) -> None:
        """Wake the other processes that this concerns."""
        self._sure = self.member.joined = True
        self.member.served = tuple(self.member.serves)
        for address, hint in self._hints.items():
            self.member.wakeups.send(hint, (address,))

    def tick(self) -> list[Notification]:
        """Detect what other processes wrote without waking this process, and renew its record."""
        version = self._data_version()
        notifications = [Notification(look=EVERYTHING)] if version != self._seen_version else []
        if self.member.registered and (self._releasing or self._uptime() >= self._next_renewal):
            with transaction(self.db):
                self.begin()
                self.renew()
            self._next_renewal = self.now + RENEW_EVERY
            self.committed()
            notifications += self.notifications
        self._seen_version = version
        return notifications

    # processes

    def register(self) -> None:
        """Write a record of this process, unless there is one."""
        member = self.member
        if not member.registered:
            member.wakeups.bind()
            member.registered = True
            self._write_record()
            self.change_members()

    def resign(self) -> None:
        """Remove this process's record; the ticks of other processes then release what only this process watched."""
        self.member.registered = False
        self._mark_dead(self.member.id)
        self._release_interest()
        self.change_members()

    def change_members(self) -> None:
        """Make every process reload the others."""
        self.db.execute("UPDATE meta SET value = value + 1 WHERE name = 'members'")
        self._reload()

    def write_served(self, subscription: Subscription) -> None:
        row = (self.member.id, *row_of_subscription(subscription))
        insert(self.db, "served", "process, service, handler, scope, patterns", [row], verb="INSERT OR IGNORE")

    def serves(self, job_name: str) -> bool:
        """Return whether a living process runs this handler."""
        return bool(self._servers.get(job_name))

    def hint_jobs(self, job_names: Iterable[str]) -> None:
        """Wake the processes that serve handlers with new jobs."""
        self.notifications.append(Notification(look=JOBS))
        me = self.member.id
        for name in job_names:
            servers = self._servers.get(name, set())
            if me not in servers:
                self.hint(JOBS, servers)

    def hint_polls(self, scope: str) -> None:
        """Wake the processes that poll a scope."""
        self.notifications.append(Notification(look=POLLS))
        pollers = self._pollers.get(scope, set())
        if self.member.id not in pollers:
            self.hint(POLLS, pollers)

    def hint(self, hint: bytes, processes: Iterable[str]) -> None:
        """Wake other processes after the commit."""
        for process in processes:
            address = self._addresses.get(process)
            if address is not None and process != self.member.id and hint not in self._hints.get(address, b""):
                self._hints[address] = self._hints.get(address, b"") + hint

    def abandon(self, scope: str, kind: str, uid: str) -> None:
        """Give an operation the lowest priority if no process waits for it."""
        self.db.execute(
            "UPDATE pending SET watched = 0, priority = CASE WHEN priority > 0 THEN 4 ELSE 0 END "
            "WHERE scope = ? AND kind = ? AND uid = ? AND NOT EXISTS (SELECT 1 FROM interest WHERE interest.scope = ? "
            "AND interest.kind = ? AND interest.uid = ?)",
            (scope, kind, uid, scope, kind, uid),
        )

    def _write_record(self) -> None:
        member = self.member
        row = (member.id, os.getpid(), member.wakeups.address, self.now, 1, member.report())
        insert(self.db, "process", "id, pid, address, renewed_at, alive, report", [row], verb="INSERT OR REPLACE")

    def write_rate(self, scope: str, per_second: float) -> None:
        row = (scope, self.member.id, per_second, self.now)
        insert(self.db, "rate", "scope, process, per_second, seen_at", [row], verb="INSERT OR REPLACE")
        known = (scope, per_second) in self.member.rates
        self.member.rates[scope, per_second] = self.now
        if not known:
            self.change_members()

    def _data_version(self) -> int:
        """Return a number that changes with every commit of another connection."""
        return int(self.db.execute("PRAGMA data_version").get)

    def renew(self) -> None:
        """Renew this process's record, and mark the processes as dead that did not."""
        member = self.member
        self._rejoin()
        self._write_record()
        for (scope, per_second), polled_at in list(member.polled_at.items()):
            if self.now - polled_at < 2 * RENEW_EVERY:
                self.write_rate(scope, per_second)
        if self._mark_late_dead():
            member.wakeups.sweep()
            self.change_members()
        self._release_interest()

    def _rejoin(self) -> None:
        """Write the record again if other processes marked this process as dead, or the file was replaced."""
        alive = fetch(self.db, "SELECT alive FROM process WHERE id = ?", (self.member.id,))
        if not alive or not alive[0][0]:
            self._write_record()
            self.db.execute("DELETE FROM interest WHERE process = ?", (self.member.id,))  # its store object watches again
            for subscription in self.member.serves:
                self.write_served(subscription)
            self.member.rates.clear()
            self.notifications.append(Notification(missed=True))
            self.change_members()

    def _mark_late_dead(self) -> bool:
        """Mark processes dead that are late a second time: after a suspend, all are late once. Return whether there were any."""
        late = dict(
            fetch(self.db, "SELECT id, renewed_at FROM process WHERE alive = 1 AND renewed_at < ?", (self.now - ALIVE_FOR,))
        )
        dead = [process for process, renewed_at in late.items() if self._late.get(process) == renewed_at]
        self._late = late
        for process in dead:
            self._mark_dead(process)
        self.db.execute(
            "DELETE FROM process WHERE alive = 0 AND renewed_at < ? AND id NOT IN (SELECT process FROM interest)",
            (self.now - GONE_AFTER,),
        )
        return bool(dead)

    def _mark_dead(self, process: str) -> None:
        for table in ("served", "rate"):
            self.db.execute(f"DELETE FROM {table} WHERE process = ?", (process,))
        self.db.execute("UPDATE process SET alive = 0, address = NULL WHERE id = ?", (process,))

    def _release_interest(self) -> None:
        """Remove the interest of dead processes, some at a time."""
        found = fetch(
            self.db,
            "SELECT scope, kind, uid, process FROM interest WHERE process IN (SELECT id FROM process WHERE alive = 0) LIMIT ?",
            (MAX_RELEASED,),
        )
        self._releasing = len(found) == MAX_RELEASED
        for scope, kind, uid, process in found:
            self.db.execute(
                "DELETE FROM interest WHERE scope = ? AND kind = ? AND uid = ? AND process = ?", (scope, kind, uid, process)
            )
            self.abandon(scope, kind, uid)

    def _check_boot(self) -> None:
        """Make everything due after a reboot, as its times are of another boot and no holder of a lease is left.

        If boots cannot be told apart, or a host was restored to an earlier moment, times in the future show it.
        """
        known = fetch(self.db, "SELECT value FROM meta WHERE name = 'boot'")
        to_come = "SELECT 1 FROM process WHERE renewed_at > ? UNION ALL SELECT 1 FROM meta WHERE name = 'upkeep_at' AND value > ?"
        if known and same_boot(known[0][0], self.boot) and not fetch(self.db, to_come, (self.now, self.now)):
            if known[0][0] == UNKNOWN_BOOT:
                self.db.execute("UPDATE meta SET value = ? WHERE name = 'boot'", (self.boot,))
            return
        insert(
            self.db,
            "meta",
            "name, value",
            [("boot", self.boot), ("upkeep_at", -1e9), ("counted_at", -1e9)],
            verb="INSERT OR REPLACE",
        )
        self.db.execute(
            "UPDATE job SET due_at = 0, fence = NULL, held = 0, "
            "began_at = ? - max(0, (SELECT max(renewed_at) FROM process) - began_at) WHERE state = 1",
            (self.now,),
        )
        self.db.execute(
            "UPDATE pending SET due_at = 0, fence = NULL, watched = 0, attempt = 0, missing = 0, "
            "priority = CASE priority WHEN 3 THEN 4 ELSE priority END"
        )
        for table in ("process", "interest", "served", "rate", "budget"):
            self.db.execute(f"DELETE FROM {table}")

    def _reload(self) -> None:
        members = fetch(self.db, "SELECT value FROM meta WHERE name = 'members'")[0][0]
        if members == self._members:
            return
        self._members = members
        frozen = fetch(self.db, "SELECT value FROM meta WHERE name = 'frozen'")
        if frozen and not self.member.moves:
            raise StoreError(frozen[0][0])
        kept = fetch(self.db, "SELECT service, handler, scope, patterns FROM subscription")
        self.subscribed = SubscriptionIndex(map(subscription_of, kept))
        self._addresses = dict(fetch(self.db, "SELECT id, address FROM process WHERE alive = 1 AND address IS NOT NULL"))
        self._servers, self._pollers = {}, {}
        for row in fetch(self.db, "SELECT service, handler, scope, patterns, process FROM served"):
            self._servers.setdefault(subscription_of(row[:4]).job_name, set()).add(row[4])
        for scope, process in fetch(self.db, "SELECT scope, process FROM rate"):
            self._pollers.setdefault(scope, set()).add(process)


def row_of_subscription(one: Subscription) -> tuple[str, str, str, str]:
    return one.service, text(one.handler), one.scope, text("\n".join(sorted(one.patterns)))


def subscription_of(row: Sequence[str]) -> Subscription:
    service, handler, scope, patterns = row
    return Subscription(service=service, handler=handler, scope=scope, patterns=frozenset(patterns.split("\n")))
