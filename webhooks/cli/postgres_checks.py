"""The checks of `webhook-listener doctor` for a store in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards_core.errors import StoreError
from rewards_core.postgres.connection import OLDEST, quoted
from webhooks.cli.checks import Finding, check_contents, failed, passed
from webhooks.store.postgres_health import Server, examine

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Address
    from webhooks.store.urls import StoreUrl

_CONNECTIONS_OF_A_PROCESS = 5
_FEW_CONNECTIONS = 4 * _CONNECTIONS_OF_A_PROCESS
_MAX_SKEW = 30.0
_ONE_NODE = "no acknowledged event is lost while its disk honours fsync"


async def check_postgres(url: StoreUrl, database: Address) -> Sequence[Finding]:
    """Check the server of a store, and the store if it has the layout of this version; nothing is created or migrated."""
    try:
        server = await examine(database)
    except StoreError as error:
        return [failed("store", str(error), "Check the URL, the server, its pg_hba.conf, and the firewall between.")]
    findings = [
        check_version(server),
        check_rights(server),
        check_durability(server),
        check_standbys(server),
        check_notifications(server),
        check_connections(server),
        check_server_clock(server),
    ]
    if all(one.ok for one in findings[:2]):
        findings.append(await _check_store(url, server))
    return findings


def check_version(server: Server) -> Finding:
    """Check that the server is new enough, and the database can hold every text."""
    if server.major < OLDEST:
        return failed("postgresql", f"version {server.version} is too old", f"Upgrade to PostgreSQL {OLDEST} or newer.")
    if server.encoding != "UTF8":
        found = f"the encoding of the database is {server.encoding}, which cannot hold every text"
        return failed("postgresql", found, "Create a database with the encoding UTF8.")
    return passed("postgresql", f"version {server.version}")


def check_rights(server: Server) -> Finding:
    """Check that this user may create the store's schema, or read and write its tables."""
    if server.layout is None and not server.denied:
        if server.may_create:
            return passed("rights", "this user may create the store's schema")
        found = "this user may not create the store's schema"
        return failed(
            "rights",
            found,
            f"Run GRANT CREATE ON DATABASE {quoted(server.database)} TO {quoted(server.user)} as the owner of the database.",
        )
    if server.denied:
        found = f"this user may not read and write {', '.join(server.denied)}"
        return failed("rights", found, "Connect as the user that created the store, or grant this one its rights.")
    return passed("rights", "this user may read and write the store's tables")


def check_durability(server: Server) -> Finding:
    """Check that the server waits for its disk; that commits wait for it is set by each of our connections."""
    off = [name for name, on in (("fsync", server.fsync), ("full_page_writes", server.full_page_writes)) if not on]
    if off:
        found = f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} off: a crash of the server's machine loses events"
        return failed("durability", found, f"Set {' and '.join(f'{name} = on' for name in off)}, and restart the server.")
    found = "fsync and full_page_writes are on; commits of the store wait for the disk"
    if server.synchronous_commit not in ("on", "remote_apply"):
        found += f", though synchronous_commit is {server.synchronous_commit} for this user"
        return passed("durability", found, "Set it to on, unless other programs of this user may lose what they have committed.")
    return passed("durability", found)


def check_standbys(server: Server) -> Finding:
    """Check what a failover would lose."""
    if not server.sees_standbys:
        found = f"{'commits wait for a standby' if server.synchronous else 'no synchronous standby is configured'}"
        return passed(
            "standbys",
            f"{found}; which ones are connected is not visible to this user",
            f"Run GRANT pg_monitor TO {quoted(server.user)} as a superuser.",
        )
    names = {state: ", ".join(sorted({name for name, its in server.standbys if its == state})) for _, state in server.standbys}
    in_step = ", ".join(names[state] for state in ("sync", "quorum") if state in names)
    if server.synchronous and not in_step:
        advice = "Start the standbys that synchronous_standby_names lists, or remove them from it."
        return failed("standbys", "no synchronous standby is connected: commits wait, and deliveries are answered 503", advice)
    if in_step:
        return passed("standbys", f"commits wait for {in_step}: no acknowledged event is lost at a failover to it")
    if server.standbys:
        found = f"{', '.join(names.values())} follow asynchronously: a failover loses what they had not received"
        return passed("standbys", found, "Name one in synchronous_standby_names, unless that loss is acceptable.")
    return passed("standbys", f"none, one node: {_ONE_NODE}")


def check_notifications(server: Server) -> Finding:
    """Check that processes can wake each other."""
    if server.hears:
        return passed("notifications", "a session receives those of another")
    advice = "Connect to PostgreSQL directly, or to a pool in session mode."
    found = "none arrive, as behind a pooler in transaction mode: waiters of other processes wake every 10 s only"
    return passed("notifications", found, advice)


def check_connections(server: Server) -> Finding:
    """Check that the server has connections left."""
    left = max(0, server.max_connections - server.connections)
    found = f"{left:,} of {server.max_connections:,} connections are left; a process takes up to {_CONNECTIONS_OF_A_PROCESS}"
    advice = "Raise max_connections, end idle sessions, or run fewer processes."
    if left < _CONNECTIONS_OF_A_PROCESS:
        return failed("connections", found, advice)
    return passed("connections", found, advice if left < _FEW_CONNECTIONS else "")


def check_server_clock(server: Server) -> Finding:
    """Compare the server's clock, which schedules everything in the store, with this machine's."""
    ahead = server.clock - server.asked_at
    if abs(ahead) > _MAX_SKEW + server.asked_for:
        found = f"the database's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        return passed("server clock", found, "Times in lists look wrong. Synchronize both clocks (chrony, systemd-timesyncd).")
    return passed("server clock", f"within {_MAX_SKEW:.0f} s of this machine's")


async def _check_store(url: StoreUrl, server: Server) -> Finding:
    if server.layout is None:
        return passed("store", f"{url} holds no store yet; the listener will create it")
    if server.layout < server.newest:
        found = f"{url} has layout {server.layout}; the next process of this version upgrades it to layout {server.newest}"
        return passed("store", found, "Back it up with pg_dump, and stop older versions first.")
    store = url.open()
    try:
        return await check_contents(store, url)
    except StoreError as error:
        return failed("store", str(error), "See rights, standbys and connections.")
    finally:
        await store.aclose()
