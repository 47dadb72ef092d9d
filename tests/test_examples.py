"""The examples that are programs: they are short, the page on installing lists them, and what they print is true."""

from __future__ import annotations

import ast
import io
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from payouts import Layout, read_rows
from rewards_core.errors import ConnectFailed, OutcomeUnknown, RequestRejected, VendorError
from tests.example_kit import EXAMPLES, ROOT, load
from vendor_sandboxes.testing import EnkashServer, OriginalServer, RewardsBooks

SHORT = sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"demo", "enkash_cashback"})
REWARD, USER = "764893807463", "110985463782"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"


@pytest.mark.parametrize("name", SHORT)
def test_an_example_is_short_enough_to_read(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text("utf-8")
    begins = ast.parse(source).body[0].end_lineno  # after the docstring
    assert len([line for line in source.splitlines()[begins:] if line]) < 70


def test_the_page_on_installing_lists_every_example() -> None:
    listed = re.findall(r"\]\(\.\./\.\./examples/([\w.]+)\)", (ROOT / "docs/how-to/installing.md").read_text("utf-8"))
    assert sorted(listed) == sorted([*(f"{name}.py" for name in SHORT), "enkash_cashback.py"])


@pytest.fixture
def port(original_sandbox: OriginalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port for the example, to which the sandbox sends its webhooks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setenv("PORT", str(free))
    original_sandbox.webhook_url = f"http://127.0.0.1:{free}/webhooks/original"


async def test_the_smallest_example_pays_once_and_says_so(
    port: None, capsys: pytest.CaptureFixture[str], rewards_books: RewardsBooks
) -> None:
    for _ in range(2):
        await load("smallest").grant(USER, "1.23", "order-1001", int(os.environ["PORT"]))
        assert capsys.readouterr().out == f"1.23 to {USER}: done\n"
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smallest", "badges", "batch_allocate", "pay_file", "sqs_service"])
def test_without_arguments_an_example_says_in_a_line_what_it_takes(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORIGINAL_WEBHOOK_KEYS": "k1:secret"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def batch(folder: Path, *rows: str) -> Path:
    """Return a file with rows of user, amount and nonce."""
    file = folder / "rewards.csv"
    lines = ["to_user_uid,amount,nonce,reward_uid", *(f"{row},{REWARD}" for row in rows)]
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return file


@pytest.mark.rewards(strict=True)
async def test_a_batch_tells_of_rows_that_it_could_not_pay(
    port: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], rewards_books: RewardsBooks
) -> None:
    file = batch(tmp_path, f"{USER},1e3,n-1", f"{USER},2,n-2")  # an amount that is none, and a user whom the vendor does not know
    assert await load("batch_allocate").main(file, again=False) == 1
    assert sorted(line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()) == ["n-1", "n-2"]
    assert not rewards_books.payments


@pytest.mark.slow
@pytest.mark.parametrize(("wallet", "end"), [(WALLET, "it is moved: done"), (None, "it is burned: done")])
async def test_a_badge_is_minted_once_and_goes_its_way(
    original_sandbox: OriginalServer, capsys: pytest.CaptureFixture[str], wallet: str | None, end: str
) -> None:
    original_sandbox.script("drop_after_commit", path="/asset")
    for number, known in enumerate(["new", "known"]):
        await load("badges").main("ada@example.com", f"A-{number}", wallet)
        first, *between, last = capsys.readouterr().out.splitlines()
        assert (first.rpartition(" ")[2], last) == (known, end)
        assert between == [f"Early supporter #{number + 1} is minted, token {number + 1}", "it is edited: done"]
    assert original_sandbox.books()["assets_created"] == {"A-0": 1, "A-1": 1}


@pytest.mark.slow
@pytest.mark.rewards(list_lag=600)  # only its webhook shows it
async def test_a_batch_finds_a_row_whose_answer_was_lost(
    port: None,
    tmp_path: Path,
    original_sandbox: OriginalServer,
    capsys: pytest.CaptureFixture[str],
    rewards_books: RewardsBooks,
) -> None:
    original_sandbox.script("drop_after_commit")
    assert await load("batch_allocate").main(batch(tmp_path, f"{USER},1.23,n-1"), again=False) == 0
    assert rewards_books.paid(USER, "1.23", once=True)
    assert capsys.readouterr().out == f"default/allocation/{rewards_books.payments[0].uid}: done\n"


async def test_a_batch_that_was_interrupted_pays_only_the_rest(port: None, tmp_path: Path, rewards_books: RewardsBooks) -> None:
    example = load("batch_allocate")
    assert await example.main(batch(tmp_path, f"{USER},1.23,n-1"), again=False) == 0
    assert await example.main(batch(tmp_path, f"{USER},1.23,n-1", f"{USER},2,n-2"), again=True) == 0
    assert rewards_books.paid(USER, "1.23", once=True)
    assert rewards_books.paid(USER, "2", once=True)


@pytest.mark.rewards(fail_rate=1)
async def test_a_batch_tells_which_row_failed_on_the_blockchain(
    port: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await load("batch_allocate").main(batch(tmp_path, f"{USER},1.23,n-1"), again=False) == 0
    assert " failed " in capsys.readouterr().out


def cashback(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "enkash_cashback.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def check_given(done: subprocess.CompletedProcess[str], coins: int) -> None:
    assert (done.returncode, done.stderr) == (0, "")
    event, *lines = done.stdout.splitlines()
    assert event.startswith(f"MEAL_CARD_PAYMENT gives {coins} coins (WCC")
    users = ("EK1", "EK2", "EK3")
    assert sorted(lines[:3]) == [f"{user}: Successfully allocated enkash Coins (cashback-1-{user})" for user in users]
    assert lines[3:] == [f"{user} has {coins} coins" for user in users]


@pytest.mark.rewards(confirm=(0.0, 0.0))
async def test_a_file_is_paid_once_and_each_row_tells_its_end(
    original_sandbox: OriginalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], rewards_books: RewardsBooks
) -> None:
    table = f"id,reward_uid,to_user_uid,amount\nr1,{REWARD},{USER},1.23\n".encode()
    for campaign, fail_rate, code, told in (("a", 0.0, 0, "r1: done\n"), ("a", 0.0, 0, ""), ("b", 1.0, 3, "r1: it failed ")):
        original_sandbox.options.fail_rate = fail_rate
        rows = read_rows(io.BytesIO(table), Layout(vendor="original"))
        assert await load("pay_file").pay(rows, campaign, tmp_path / "payouts.db") == code
        assert capsys.readouterr().out[: len(told) or None] == told
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.slow
def test_cashback_gives_every_user_the_coins_of_the_event_once(
    enkash_sandbox: EnkashServer, rewards_books: RewardsBooks, tmp_path: Path
) -> None:
    check_given(cashback("--coins", "7", "EK1", "EK2", "EK3", "EK2", cwd=tmp_path), 7)
    assert all(rewards_books.paid(user, 7, once=True) for user in ("EK1", "EK2", "EK3"))


@pytest.mark.slow
def test_cashback_needs_no_set_up_with_a_sandbox_of_its_own(tmp_path: Path) -> None:
    check_given(cashback("--sandbox", "EK1", "EK2", "EK3", cwd=tmp_path), 6)


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (OutcomeUnknown("it may have been carried out"), "EK1: unknown: it may have been carried out"),
        (RequestRejected("no funds"), "EK1: nothing given by this run: no funds"),
        (ConnectFailed("no network"), "EK1: nothing given by this run: no network"),
    ],
)
async def test_cashback_prints_how_each_allocation_ended(
    capsys: pytest.CaptureFixture[str], problem: VendorError, line: str
) -> None:
    class Client:
        async def allocate_coins(self, **_: str) -> None:
            raise problem

        async def get_balance(self, user: str) -> int:
            raise problem

    example = load("enkash_cashback")
    assert await example.grant(Client(), "E", "EK1", "campaign") is False
    assert capsys.readouterr().out.strip() == line
    assert str(problem) in await example.balance(Client(), "EK1")


@pytest.mark.slow
def test_cashback_without_credentials_names_the_missing_variables(tmp_path: Path) -> None:
    done = cashback(cwd=tmp_path)
    assert done.returncode == 2
    assert "ENKASH_CLIENT_SECRET" in done.stderr
