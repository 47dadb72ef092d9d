"""What an import or a command does not import, so that it costs little; how long it takes is `benchmarks/imports.py`'s."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

import enkash_async
import original_async
import payouts
import payouts.cli
import webhooks
import webhooks.cli
from tests.test_command_lines import begun

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"aiobotocore", "aiohttp", "asyncpg", "botocore", "jwt", "cattrs", "original_async.client", "enkash_async.client"}


def imported(program: str, *arguments: str) -> set[str]:
    """Return what a fresh interpreter has imported after a program."""
    code = f"import sys\ntry:\n    {program}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.slow
@pytest.mark.parametrize("package", ["payouts", "webhooks"])
def test_the_help_of_a_command_line_imports_no_client_and_none_of_its_commands(package: str) -> None:
    found = imported(f"from {package}.__main__ import main; main()", "--help")
    assert found.isdisjoint(HEAVY)
    assert {name for name in found if name.startswith(f"{package}.cli.")} == set()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["status", "status --json", "decisions", "report --help"])
def test_a_command_that_only_reads_the_ledger_imports_no_client(tmp_path: Path, arguments: str) -> None:
    ledger = tmp_path / "payouts.db"
    asyncio.run(begun(ledger))
    found = imported("from payouts.__main__ import main; main()", *arguments.split(), "--ledger", str(ledger))
    assert "payouts.ledger.reader" in found
    assert found.isdisjoint({*HEAVY, "webhooks.completions", "rich.progress"})
    assert ("rich.markdown" in found) == ("--help" in arguments)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["events list", "dead-letters list", "tail --help"])
def test_a_command_that_only_reads_the_store_imports_no_client(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "inbox.db").touch()
    store = f"sqlite:///{tmp_path}/inbox.db"
    found = imported("from webhooks.__main__ import main; main()", *arguments.split(), "--store", store)
    assert ("webhooks.store.sqlite" in found) == ("--help" not in arguments)
    assert found.isdisjoint(HEAVY - {"cattrs"})


@pytest.mark.slow
def test_variables_of_the_command_at_hand_import_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_LISTENER_STORE", f"sqlite:///{tmp_path}/inbox.db")
    monkeypatch.setenv("WEBHOOK_LISTENER_EVENTS_LIST_LIMIT", "5")
    monkeypatch.setenv("WEBHOOK_LISTENER_SERVICE_HOST", "10.96.0.17")
    (tmp_path / "inbox.db").touch()
    assert "webhooks.cli.serve" not in imported("from webhooks.__main__ import main; main()", "events", "list")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "retry", "resolve", "audit"])
def test_the_help_of_a_command_that_pays_imports_no_client(command: str) -> None:
    assert imported("from payouts.__main__ import main; main()", command, "--help").isdisjoint(HEAVY - {"cattrs"})


@pytest.mark.slow
@pytest.mark.parametrize("command", ["serve", "consume", "doctor"])
def test_only_a_queue_needs_the_aws_sdk(command: str) -> None:
    assert imported("from webhooks.__main__ import main; main()", command, "--help").isdisjoint({"aiobotocore", "botocore"})


@pytest.mark.slow
def test_verifying_webhooks_needs_no_client() -> None:
    assert imported("from original_async import OriginalWebhooks").isdisjoint({"aiohttp", "jwt"})


@pytest.mark.slow
def test_a_client_needs_no_cryptography_before_it_is_made() -> None:
    assert imported("from original_async import OriginalClient").isdisjoint({"jwt", "cryptography"})


@pytest.mark.parametrize("package", [enkash_async, original_async, payouts, webhooks])
def test_every_public_name_is_found(package: object) -> None:
    names = getattr(package, "__all__")  # noqa: B009
    assert names
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="'Nothing'"):
        getattr(package, "Nothing")  # noqa: B009


@pytest.mark.parametrize("module", [payouts.cli, webhooks.cli])
def test_the_help_says_of_each_command_what_the_command_says_of_itself(module: object) -> None:
    for place, line in getattr(module, "COMMANDS").values():  # noqa: B009
        home, _, name = place.partition(":")
        found = getattr(import_module(home), name)
        told = found.info.help if isinstance(found, typer.Typer) else (found.__doc__ or "").partition("\n")[0]
        assert told == line


def test_a_package_lists_its_public_names_before_they_are_imported() -> None:
    code = "import original_async as o, sys; print('OriginalClient' in dir(o), 'original_async.client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True False\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", [["payouts", "run"], ["webhooks", "serve"], ["webhooks", "trigger"]])
def test_help_is_shown_on_a_terminal_that_knows_ascii_only(command: list[str]) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], env=os.environ | ascii_only, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
