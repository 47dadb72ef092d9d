"""What many workers on one PostgreSQL cost, and what limits them: CPU per row, rows per second, planning and claims.

Each part has a schema of its own in one durable server. Vendor, server, workers and this process share the machine's cores.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from benchmarks._processes import cpu_of_server, running
from benchmarks._results import percentile, row
from benchmarks._vendor import vendor
from benchmarks.payouts import AT_ONCE, CAMPAIGN, STEPS, bare, client_at, measure, rows, waiting, write_file
from payouts import Layout, RunOptions, read_rows
from payouts.ledger.postgres import PostgresLedger
from payouts.pipeline.planning import plan_rows
from payouts.progress import Progress, Stop
from payouts.runner import work_payouts
from tests.postgres_server import Server, postgres_server

if TYPE_CHECKING:
    from payouts.rows import Row

WORKERS = 4
PER_SECOND = 500
CLAIMED = 500
_WARM_UP = 10
_FILL = """
WITH contents AS (
  INSERT INTO row_contents (number, campaign, vendor, id, line, recipient, item, amount, key, planned_at, likeness)
  SELECT n, $1, 'original', 'row-' || n, n, lpad(n::text, 12, '0'), '764893807463', '1.23', left(md5(n::text), 26), 0,
    n || chr(31) || '764893807463' || chr(31) || '1.23'
  FROM generate_series(1, $2::bigint) AS n
  RETURNING number, campaign
)
INSERT INTO row_states (number, campaign, state) SELECT number, campaign, 'planned' FROM contents
"""


def run(quick: bool = False) -> list[dict[str, Any]]:
    with postgres_server(durable=True) as server, tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        state = Path(folder)
        return [
            *paying(server, state, 1_000 if quick else 20_000),
            *planning(server, state, 5_000 if quick else 1_000_000),
            *asyncio.run(claiming(server, state, *((20, 12_000, 50_000) if quick else (200, 100_000, 10_000_000)))),
        ]


def paying(server: Server, state: Path, number: int) -> list[dict[str, Any]]:
    """Take rows through the ledger alone, then let several workers pay at the pace that the vendor allows."""
    with vendor() as vendor_url, ExitStack() as stack:
        alone = asyncio.run(_requests(vendor_url, number))
        asyncio.run(_plan(server.url, state, "kept", rows(number)))
        before = cpu_of_server(server.pid)
        of_client = asyncio.run(_keep(server.url, state, number))
        of_ledger = of_client + (cpu_of_server(server.pid) - before) / number * 1e6
        asyncio.run(_plan(server.url, state, "paid", rows(number), paused=True))
        command = ("-m", "benchmarks.fleet", "work", server.url, str(state), vendor_url)
        outputs = [stack.enter_context(running(*command))[0] for _ in range(WORKERS)]
        for output in outputs:
            assert output.readline() == b"ready\n"
        before = cpu_of_server(server.pid)
        asyncio.run(_resume(server.url, state))
        of_workers = sum(json.loads(output.readline()) for output in outputs) / number * 1e6
        of_server = (cpu_of_server(server.pid) - before) / number * 1e6
    pace = asyncio.run(_pace(server))
    requests = f"its POST and GET: {alone:.0f} µs"
    return [
        row(
            f"CPU per row of a worker's ledger and PostgreSQL together, from planned to done, {AT_ONCE} at a time",
            of_ledger,
            "µs",
            reference=requests,
            ratio=of_ledger / alone,
            bar="≤ 0.6",
        ),
        row(
            f"CPU per row of {WORKERS} workers and PostgreSQL in all, with its requests and the wait for its end",
            of_workers + of_server,
            "µs",
            reference=f"{requests}; PostgreSQL {of_server:.0f} µs",
            ratio=(of_workers + of_server) / alone,
        ),
        row(
            f"rows per second, {WORKERS} workers",
            pace,
            "1/s",
            reference=f"the vendor's limit: {PER_SECOND}/s",
            ratio=pace / PER_SECOND,
            bar="≥ 0.95",
        ),
    ]


def planning(server: Server, state: Path, number: int) -> list[dict[str, Any]]:
    """Plan the rows of a file, then COPY the same rows into an equal table."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        path = Path(folder) / "rewards.csv"
        write_file(path, number)
        with running("-m", "benchmarks.fleet", "plan", server.url, str(state), str(path)) as (output, _):
            seconds, memory = json.loads(output.readline())
        alone = asyncio.run(_copy(server, state, Path(folder) / "rows"))
    return [
        row(
            f"planning {number:,} rows of a file",
            seconds,
            "s",
            reference=f"COPY of the same rows alone: {alone:.1f} s",
            ratio=seconds / alone,
            bar="≤ 3",
        ),
        row(f"peak memory while {number:,} rows are planned", memory, "MiB", bar="≤ 200 MiB"),
    ]


async def claiming(server: Server, state: Path, claims: int, few: int, many: int) -> list[dict[str, Any]]:
    """Claim rows where few, then where many are planned."""
    took = {}
    for planned in (few, many):
        async with _ledger(server.url, state, f"claims_{planned}") as ledger:
            connection = await asyncpg.connect(server.url)
            await connection.execute(f"SET search_path = claims_{planned}")
            await connection.execute(_FILL, ledger.number, planned)
            await connection.execute("VACUUM ANALYZE")
            await connection.execute("CHECKPOINT")
            await connection.close()
            async with ledger.one_worker(rate=None) as worker:
                took[planned] = [await _seconds_to_claim(worker) for _ in range(claims)][_WARM_UP:]
    worst, reference = percentile(took[many], 99), percentile(took[few], 99)
    return [
        row(
            f"claim of {CLAIMED} rows, {many:,} planned, p99",
            worst * 1e3,
            "ms",
            reference=f"{few:,} planned: {reference * 1e3:.1f} ms",
            ratio=worst / reference,
            bar="≤ 2",
        )
    ]


async def _seconds_to_claim(worker: Any) -> float:
    began = time.perf_counter()
    turn = await worker.claim(CLAIMED)
    assert len(turn.entries) == CLAIMED
    return time.perf_counter() - began


def _ledger(url: str, state: Path, schema: str) -> PostgresLedger:
    return PostgresLedger(url, vendor="original", campaign=CAMPAIGN, schema=schema, state=state)


async def _requests(vendor_url: str, number: int) -> float:
    """Return the CPU of a row's requests in microseconds."""
    async with client_at(vendor_url) as client:
        await bare(client, AT_ONCE, read=True)
        return (await measure(lambda: bare(client, number, read=True), number)).cpu


async def _plan(url: str, state: Path, schema: str, given: Iterable[Row], *, paused: bool = False) -> float:
    """Return the seconds that planning takes."""
    async with _ledger(url, state, schema) as ledger:
        began = time.perf_counter()
        await plan_rows(given, ledger, Stop(), Progress())
        seconds = time.perf_counter() - began
        if paused:
            await ledger.pause()
    return seconds


async def _resume(url: str, state: Path) -> None:
    async with _ledger(url, state, "paid") as ledger:
        await ledger.resume()


async def _keep(url: str, state: Path, number: int) -> float:
    """Claim rows and move them until they are done; return this process's CPU per row in microseconds."""
    async with _ledger(url, state, "kept") as ledger, ledger.one_worker(rate=None) as worker:

        async def keep() -> None:
            while claimed := (await worker.claim(AT_ONCE)).entries:
                some = list(claimed)
                for to, facts in STEPS[1:]:
                    some = await ledger.move_each([(entry, to, facts) for entry in some])

        return (await measure(keep, number)).cpu


async def _pace(server: Server) -> float:
    """Return rows per second between the first and the last tenth of the rows, as the vendor accepted them."""
    connection = await asyncpg.connect(server.url)
    moments = [at for (at,) in await connection.fetch("SELECT accepted_at FROM paid.rows ORDER BY accepted_at")]
    assert await connection.fetchval("SELECT bool_and(state = 'done') FROM paid.rows")
    await connection.close()
    tenth = len(moments) // 10
    return float((len(moments) - 2 * tenth - 1) / (moments[-tenth - 1] - moments[tenth]))


async def _copy(server: Server, state: Path, path: Path) -> float:
    """Return the seconds that a COPY of all planned rows takes, from a file into the table of another ledger."""
    connection = await asyncpg.connect(server.url)
    tables = ("row_contents", "row_states")
    for table in tables:
        await connection.copy_from_table(table, schema_name="planned", output=path.with_name(table), format="binary")
    async with _ledger(server.url, state, "copied"):
        await connection.execute("CHECKPOINT")
        began = time.perf_counter()
        for table in tables:
            await connection.copy_to_table(table, schema_name="copied", source=path.with_name(table), format="binary")
        seconds = time.perf_counter() - began
    await connection.close()
    return seconds


def _plan_file(url: str, state: Path, path: Path) -> tuple[float, float]:
    """Plan a file; return the seconds and the peak memory in MiB."""
    with path.open("rb") as stream:
        seconds = asyncio.run(_plan(url, state, "planned", read_rows(stream, Layout(vendor="original"))))
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _work(url: str, state: Path, vendor_url: str) -> float:
    """Pay as one of several workers; return its CPU seconds."""
    async with (
        client_at(vendor_url) as client,
        waiting(client) as completions,
        _ledger(url, state, "paid") as ledger,
    ):
        print("ready", flush=True)
        began = time.process_time()
        options = RunOptions(rate=PER_SECOND, concurrency=AT_ONCE)
        async for _ in work_payouts(client=client, completions=completions, ledger=ledger, options=options):
            pass
        return time.process_time() - began


if __name__ == "__main__":
    command, url, state, source = sys.argv[1:]
    told: Any = _plan_file(url, Path(state), Path(source)) if command == "plan" else asyncio.run(_work(url, Path(state), source))
    print(json.dumps(told), flush=True)
