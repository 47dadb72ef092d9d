"""A lock of campaigns in a PostgreSQL database: a command that decides by hand, or plans, keeps others away while it works."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from payouts.states import LedgerInUse
from payouts.vendors import options_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from payouts.ledger.base import Database
    from rewards_core.postgres.statements import BlockingConnection

PLANNING = 0
"""Stands for the number of a campaign in the lock of those who check and plan files."""
_WHOLE = 2**31 - 1
"""Stands for all campaigns: one lock for each of many would fill the server's table of locks."""
SHARED_LOCK = " AND ".join(f"pg_try_advisory_xact_lock_shared('rows'::regclass::oid::integer, {each})" for each in (_WHOLE, "{}"))
"""Keeps such commands from a campaign until the end of the transaction; false if one is at work."""

_BUSY = (
    "Another command decides by hand now, or a worker starts at this moment.",
    "Another payouts plan or run checks a file against this ledger now.",
)
_TAKE = "SELECT pg_try_advisory_lock{}('rows'::regclass::oid::integer, ?::integer)"
_HOLDS = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = ? AND granted AND objsubid = 2 "
    "AND classid = 'rows'::regclass::oid AND objid = ANY(?::oid[])"
)
_END_LOST = (  # else one that was frozen might renew its lease after the decision, and send what it had begun
    "UPDATE workers SET alive = false WHERE alive AND campaign = ANY(?::bigint[]) AND lease_until < now_s() - ?::double precision"
)
_LIVING = (
    "SELECT host, process, name, vendor, ceil(lease_until + ? - now_s())::bigint FROM workers "
    "JOIN campaigns ON campaigns.number = workers.campaign WHERE alive AND campaigns.number = ANY(?::bigint[]) "
    "AND lease_until + ? > now_s() ORDER BY lease_until DESC LIMIT 1"
)


class PostgresLock:
    """Keep workers and other commands away from campaigns; the lock ends with the connection that holds it.

    Args:
        connect: Opens a connection to the ledger.
        campaigns: Their numbers, or `PLANNING`; several stand for all of the database.
        grace: Seconds after its lease for which a silent worker may still have a request under way.
    """

    def __init__(self, connect: Callable[[], BlockingConnection], campaigns: Collection[int], *, grace: float) -> None:
        self._connect = connect
        self._campaigns = sorted(campaigns)
        self._numbers = [number for number in self._campaigns if number != PLANNING]
        self._locks = {_WHOLE: ""} if len(self._campaigns) > 1 else dict.fromkeys(self._campaigns, "")
        if self._locks.keys().isdisjoint({_WHOLE, PLANNING}):
            self._locks[_WHOLE] = "_shared"
        self._grace = grace
        self._connection: BlockingConnection | None = None
        self._session = 0

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LedgerInUse: a worker or another command is at work.
            LedgerUnavailable: the database failed.
        """
        try:
            self._connection = database = self._connect()
            self._session = database.execute("SELECT pg_backend_pid()").get
            for number, kind in self._locks.items():
                if not database.execute(_TAKE.format(kind), (number,)).get:
                    raise LedgerInUse(
                        f"{_BUSY[number == PLANNING]} Nothing was changed. Run the same command again when it has ended.",
                        pid=None,
                    )
            database.execute(_END_LOST, (self._numbers, self._grace))
            living = database.execute(_LIVING, (self._grace, self._numbers, self._grace)).get
        except BaseException:
            self.release()
            raise
        if living is not None:
            self.release()
            host, process, name, vendor, seconds = living
            raise LedgerInUse(
                f"Process {process} on {host} is paying campaign {name}. Nothing was changed. Stop the workers first, with the "
                f"same ledger: payouts stop --campaign {name} {options_of(vendor)}. If that process was killed, wait {seconds} "
                "seconds.",
                pid=process,
            )

    def check(self, database: Database) -> None:
        """Make sure, in a transaction, that the lock is still held.

        Raises:
            LedgerInUse: the connection that held it was lost.
        """
        if database.execute(_HOLDS, (self._session, list(self._locks))).get < len(self._locks):
            raise LedgerInUse(
                "The connection that kept workers away was lost. Nothing more was changed. Run the same command again.", pid=None
            )

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
