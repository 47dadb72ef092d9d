"""The fleet of `make demo-fleet`, in small, and the same fleet's compose file."""

from __future__ import annotations

import asyncio
import copy
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml
from typer.main import get_command

from examples.fleet import waiting_service
from examples.fleet.__main__ import differences
from payouts import Entry, State
from payouts.cli import app as payouts
from payouts.ledger.postgres_schema import SCHEMA_NAME
from vendor_sandboxes.__main__ import build
from webhooks.cli import app as listener

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "deploy" / "compose.yaml"
KILLED = re.compile(r"worker \d \(process (\d+)\) killed")


async def end_lease(url: str, process: int) -> None:
    """Let the lease and the grace of a killed worker be over."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"UPDATE {SCHEMA_NAME}.workers SET lease_until = 0 WHERE process = $1", process)
    finally:
        await connection.close()


@pytest.mark.slow
def test_a_fleet_pays_every_row_once_although_parts_of_it_are_killed() -> None:
    command = [sys.executable, "-m", "examples.fleet", "--rows", "150", "--rate", "15"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as fleet:
        assert fleet.stdout is not None
        said, url, process, is_over = "", "", 0, False
        for line in fleet.stdout:
            said += line
            if "PostgreSQL: " in line and not url:
                url = line.split()[-1]
            if (found := KILLED.search(line)) and not process:
                process = int(found[1])
            if "PostgreSQL started again" in line and not is_over:  # the table repeats it
                asyncio.run(end_lease(url, process))
                is_over = True
    assert fleet.returncode == 0, said
    for words in ("listener 3", "PostgreSQL killed", "audit", "150 rows planned", "every row was paid exactly once"):
        assert words in said


ROWS = [{"id": f"r{n}", "to_user_uid": f"10{n}", "amount": "1.50", "nonce": f"n{n}"} for n in range(2)]
ENTRIES = [
    Entry(number=n, id=f"r{n}", line=n, recipient=f"10{n}", item="1", amount="1.5", key=f"n{n}", state=state, uid=f"70{n}")
    for n, state in enumerate((State.DONE, State.FAILED))
]
BOOKS: dict[str, Any] = {
    "allocations": [
        {"nonce": f"n{n}", "uid": f"70{n}", "to_user_uid": f"10{n}", "amount": "1.5", "status": status}
        for n, status in enumerate(("done", "failed"))
    ],
    "created": {"n0": 1, "n1": 1},
}
SEEN: list[dict[str, Any]] = [{"ends": {"700": "done"}}, {"ends": {"701": "failed"}}]


def paid_twice(books: Any, _: Any) -> None:
    books["created"]["n0"] = 2


def not_paid(books: Any, _: Any) -> None:
    books["allocations"].pop(0)


def another_amount(books: Any, _: Any) -> None:
    books["allocations"][0]["amount"] = "15"


def another_user(books: Any, _: Any) -> None:
    books["allocations"][0]["to_user_uid"] = "101"


def another_end(books: Any, seen: Any) -> None:
    books["allocations"][0]["status"] = seen[0]["ends"]["700"] = "failed"


def another_operation(books: Any, seen: Any) -> None:
    books["allocations"][0]["uid"] = "702"
    seen[0]["ends"]["702"] = "done"


def not_waited_for(_: Any, seen: Any) -> None:
    del seen[0]["ends"]["700"]


def waited_for_another_end(_: Any, seen: Any) -> None:
    seen[0]["ends"]["700"] = "failed"


def not_in_the_file(books: Any, _: Any) -> None:
    books["allocations"].append({**books["allocations"][0], "nonce": "n9"})


FAULTS = (paid_twice, not_paid, another_amount, another_user, another_end, another_operation, not_waited_for)


@pytest.mark.parametrize("fault", [*FAULTS, waited_for_another_end, not_in_the_file], ids=lambda fault: fault.__name__)
def test_the_fleet_reports_each_difference(fault: Callable[[Any, Any], None]) -> None:
    books, seen = copy.deepcopy(BOOKS), copy.deepcopy(SEEN)
    assert differences(ROWS, ENTRIES, books, seen) == []
    fault(books, seen)
    assert len(differences(ROWS, ENTRIES, books, seen)) == 1


def services() -> dict[str, Any]:
    found = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    return {name: service for name, service in found.items() if service.get("image") == "rewards-fleet"}


def commands() -> dict[str, list[str]]:
    return {name: service["command"] for name, service in services().items()}


def understood(program: str, words: Sequence[str]) -> Any:
    """Return what a program makes of the words of a command line; none of them may be unknown to it."""
    if program == "python":
        module, *words = words[1:]
        parse: Any = {"vendor_sandboxes": build, "examples.fleet.waiting_service": waiting_service.parsed}[module]
        return parse(words)
    group: Any = get_command({"payouts": payouts, "webhook-listener": listener}[program])
    context = group.make_context(program, list(words))
    _, command, rest = group.resolve_command(context, [*words])
    return command.make_context(words[0], rest, parent=context).params


@pytest.mark.parametrize("name", commands())
def test_each_command_of_the_compose_file_is_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in services()[name]["environment"].items():
        monkeypatch.setenv(variable, str(value))
    program, *words = commands()[name]
    assert understood(program, words)
