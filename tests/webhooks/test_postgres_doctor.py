"""`webhook-listener doctor` on a store in PostgreSQL: each finding, well and failing, with what to do."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from rewards_core.errors import StoreError
from tests.postgres_server import Server, postgres_server, programs
from tests.texts import said
from tests.webhooks.command_kit import records, run
from tests.webhooks.listener_process import KEYS
from tests.webhooks.postgres_kit import PASSWORD, pooler_before, run_sql, shown_url, url_of
from tests.webhooks.store_contract import event, wants
from tests.webhooks.test_listener_doctor import tell
from tests.webhooks.test_listener_postgres import fill_database
from webhooks.cli import postgres_checks
from webhooks.cli.checks import Finding
from webhooks.store import StoreUrl, open_store
from webhooks.store.postgres_health import Server as Facts

HEALTHY = Facts(
    user="rewards-app",
    database="rewards",
    version="15.4",
    encoding="UTF8",
    major=15,
    layout=1,
    newest=1,
    may_create=True,
    denied=(),
    fsync=True,
    full_page_writes=True,
    synchronous_commit="on",
    synchronous=False,
    standbys=(),
    sees_standbys=True,
    clock=1_000.0,
    asked_at=1_000.0,
    asked_for=0.1,
    max_connections=100,
    connections=10,
    hears=True,
)


@pytest.fixture(scope="module")
def durable() -> Iterator[Server]:
    """A server whose disk is waited for."""
    with postgres_server(tcp=True, durable=True) as server:
        yield server


@pytest.fixture
def url(durable: Server) -> Iterator[str]:
    yield url_of(durable)
    run_sql(durable, "DROP SCHEMA IF EXISTS rewards_webhooks CASCADE")


def findings(url: str) -> dict[str, Finding]:
    """Return what the doctor finds about a server."""
    return {one.check: one for one in asyncio.run(_check(url))}


async def _check(url: str) -> list[Finding]:
    store = StoreUrl(url)
    assert store.database is not None
    return list(await postgres_checks.check_postgres(store, store.database))


def test_each_fact_of_a_server_has_a_finding() -> None:
    some = {
        "too old": postgres_checks.check_version(evolve(HEALTHY, version="13.2", major=13)),
        "another encoding": postgres_checks.check_version(evolve(HEALTHY, encoding="SQL_ASCII")),
        "no right to create": postgres_checks.check_rights(evolve(HEALTHY, layout=None, may_create=False)),
        "no right to write": postgres_checks.check_rights(evolve(HEALTHY, denied=("event", "job"))),
        "not durable": postgres_checks.check_durability(evolve(HEALTHY, fsync=False, full_page_writes=False)),
        "commits wait for ever": postgres_checks.check_standbys(
            evolve(HEALTHY, synchronous=True, standbys=(("archive", "async"),))
        ),
        "no connections": postgres_checks.check_connections(evolve(HEALTHY, connections=98)),
    }
    assert not any(one.ok for one in some.values())
    soon = {
        "others lose commits": postgres_checks.check_durability(evolve(HEALTHY, synchronous_commit="off")),
        "asynchronous": postgres_checks.check_standbys(evolve(HEALTHY, standbys=(("a", "async"), ("b", "async")))),
        "hidden": postgres_checks.check_standbys(evolve(HEALTHY, sees_standbys=False, standbys=(("", ""),))),
        "hidden, synchronous": postgres_checks.check_standbys(evolve(HEALTHY, sees_standbys=False, synchronous=True)),
        "deaf": postgres_checks.check_notifications(evolve(HEALTHY, hears=False)),
        "few connections": postgres_checks.check_connections(evolve(HEALTHY, connections=90)),
        "clock ahead": postgres_checks.check_server_clock(evolve(HEALTHY, clock=1_040.0)),
        "clock behind": postgres_checks.check_server_clock(evolve(HEALTHY, clock=900.0)),
    }
    assert all(one.ok and one.advice for one in soon.values())
    well = {
        "one node": postgres_checks.check_standbys(HEALTHY),
        "synchronous": postgres_checks.check_standbys(
            evolve(HEALTHY, synchronous=True, standbys=(("a", "quorum"), ("b", "quorum"), ("c", "async")))
        ),
        "a slow answer": postgres_checks.check_server_clock(evolve(HEALTHY, clock=1_040.0, asked_for=20.0)),
    }
    assert all(one.ok and not one.advice for one in well.values())
    everything = {**some, **soon, **well}
    said("doctor: facts of a server", "\n".join(f"# {name}\n{tell(one)}" for name, one in everything.items()))


@pytest.mark.slow
def test_a_healthy_server_passes_before_and_after_the_first_listener(
    folder: Path, durable: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    result = run("doctor", "--store", url, "--port", "1", "--unix", str(folder / "missing"))
    before = {row["check"]: row for row in records(result)}
    assert run_sql(durable, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rewards%'") == "0"
    fill_database(url, lambda store: store.accept(event()))
    after = findings(url)
    assert all(one.ok for one in after.values())
    said("doctor: a database", f"{before['store']['found']}\n{after['store'].found}".replace(shown_url(durable), "URL"))
    assert PASSWORD not in result.stdout + result.stderr + tell(*after.values())
    assert not {"sqlite", "space", "integrity"} & set(before)


@pytest.mark.slow
def test_dead_letters_and_handlers_that_differ_are_told(url: str) -> None:
    async def differing() -> dict[str, Finding]:
        one, other = open_store(url), open_store(url)
        await one.register_handlers([wants("app.pay", "reward.allocated")])
        await other.register_handlers([wants("app.pay", "reward.claimed")])
        found = {each.check: each for each in await _check(url)}
        await one.aclose()
        await other.aclose()
        return found

    told = asyncio.run(differing())["store"]
    assert (told.ok, "app.pay" in told.found) == (True, True)
    assert told.advice
    fill_database(url, lambda store: store.accept(event(problem="unreadable")))
    dead = findings(url)["store"]
    assert (dead.ok, "dead-letters list" in dead.advice) == (False, True)


def _grant(server: Server, rights: str) -> None:
    run_sql(server, "GRANT USAGE ON SCHEMA rewards_webhooks TO guest", f"GRANT {rights} IN SCHEMA rewards_webhooks TO guest")


async def _ping(url: str) -> None:
    store = open_store(url)
    try:
        await store.ping()
    finally:
        await store.aclose()


@pytest.mark.slow
def test_a_user_without_rights_and_a_store_of_another_layout(durable: Server, url: str) -> None:
    run_sql(durable, "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN")
    as_guest = url.replace("postgres:", "guest:", 1).replace("postgresql://postgres", "postgresql://guest")
    assert not findings(as_guest)["rights"].ok
    fill_database(url, lambda store: store.accept(event()))
    found = findings(as_guest)
    assert "event" in found["rights"].found
    assert "store" not in found
    said("doctor: standbys, for a user without rights", found["standbys"].found)
    assert not found["durability"].advice
    run_sql(durable, "ALTER ROLE guest SET synchronous_commit = off")
    told = findings(as_guest)["durability"]
    assert (told.ok, "synchronous_commit is off" in told.found) == (True, True)
    _grant(durable, "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES")
    assert findings(as_guest)["rights"].found.endswith(" event_id, outcome_seq")
    with pytest.raises(StoreError, match="sequence event_id"):
        asyncio.run(_ping(as_guest))
    _grant(durable, "USAGE ON ALL SEQUENCES")
    assert findings(as_guest)["rights"].ok
    asyncio.run(_ping(as_guest))
    run_sql(durable, "REVOKE INSERT ON rewards_webhooks.identity FROM guest")
    with pytest.raises(StoreError, match="table identity"):
        asyncio.run(_ping(as_guest))
    run_sql(durable, "UPDATE rewards_webhooks.layout SET version = 0")
    older = findings(url)["store"]
    assert older.ok
    assert run_sql(durable, "SELECT version FROM rewards_webhooks.layout") == "0"
    run_sql(durable, "UPDATE rewards_webhooks.layout SET version = 99")
    newer = findings(url)["store"]
    both = re.sub(r"to layout \d+", "to layout N", f"{older.found}\n{newer.found}")
    said("doctor: a store of an older or a newer layout", both.replace(shown_url(durable), "URL"))


@contextmanager
def standby(server: Server, folder: Path) -> Iterator[None]:
    """Stream the server's log to disk, as a standby does."""
    folder.mkdir(exist_ok=True)
    program, place = str(programs() / "pg_receivewal"), ("-h", str(server.folder), "-p", str(server.port), "-U", "postgres")
    command = [program, "-D", str(folder), *place]
    with subprocess.Popen([*command, "--synchronous", "--no-loop"], stderr=subprocess.DEVNULL) as process:
        while run_sql(server, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "0":
            assert process.poll() is None
        yield
        process.kill()
    while run_sql(server, "SELECT count(*) FROM pg_stat_replication") != "0":
        pass


@pytest.mark.slow
def test_standbys(durable: Server, url: str, tmp_path: Path) -> None:
    assert "one node" in findings(url)["standbys"].found
    with standby(durable, tmp_path / "log"):
        told = findings(url)["standbys"]
        assert (told.ok, "asynchronously" in told.found, bool(told.advice)) == (True, True, True)
        run_sql(durable, "ALTER SYSTEM SET synchronous_standby_names = 'pg_receivewal'", "SELECT pg_reload_conf()")
        while run_sql(durable, "SELECT sync_state FROM pg_stat_replication") != "sync":
            pass
        told = findings(url)["standbys"]
        assert told.ok
        said("doctor: a synchronous standby", told.found)
    told = findings(url)["standbys"]
    assert not told.ok
    said("doctor: no synchronous standby", f"{told.found}\n{told.advice}")
    run_sql(durable, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


@pytest.mark.slow
def test_a_pooler_in_transaction_mode_is_noticed(durable: Server, url: str) -> None:
    with pooler_before(durable) as port:
        told = findings(f"postgresql://postgres@127.0.0.1:{port}/postgres")["notifications"]
    assert (told.ok, bool(told.advice)) == (True, True)
    said("doctor: notifications behind a pooler, and without", f"{told.found}\n{findings(url)['notifications'].found}")


def test_a_server_that_cannot_be_reached_fails_once(url: str) -> None:
    assert list(findings("postgresql://postgres@127.0.0.1:9/postgres")) == ["store"]
