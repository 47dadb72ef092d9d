"""An interrupted run sends nothing more, awaits what is under way, and leaves its ledger whole."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from payouts.cli.display import JsonLines
from payouts.cli.supervision import run_to_end
from payouts.progress import Progress
from payouts.states import Entry, State
from rewards_core.cli.output import Output
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, entries, run_of
from tests.payouts.process_kit import (
    books,
    end,
    lines_of,
    original_at,
    payouts,
    playing,
    sandbox,
)
from tests.texts import said
from vendor_sandboxes import OriginalSandbox


def test_an_interrupt_during_the_check_sends_nothing(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("payouts.cli.preflight.check_rows", interrupted)
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of())
    assert result.exit_code == 130
    said("run: interrupted during the check", result.stderr)


async def test_who_cancels_a_run_without_an_interrupt_is_heard() -> None:
    class Endless:
        progress = Progress(total=1)
        begun = asyncio.Event()

        async def __aenter__(self) -> Endless:
            return self

        async def __aexit__(self, *_: object) -> None:
            """Nothing to give back."""

        async def __aiter__(self) -> AsyncIterator[Entry]:
            self.begun.set()
            await asyncio.Event().wait()
            yield None  # type: ignore[misc]

        def stop(self) -> None:
            """Send nothing more."""

    run = Endless()
    following = asyncio.ensure_future(run_to_end(run, JsonLines(Output())))  # type: ignore[arg-type]
    await run.begun.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


def interrupt(process: subprocess.Popen[bytes], number: int, times: int) -> tuple[int, str]:
    """Interrupt a process once rows have come out of it, the second time once it has said that it stops."""
    for line in lines_of(process):
        if line["event"] == "row":
            break
    assert process.stderr is not None
    for _ in range(times):
        process.send_signal(number)
        if times > 1:
            process.stderr.readline()
    told = end(process)
    return process.returncode, told


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_interrupt_lets_what_is_under_way_end(folder: Path, number: int, code: int) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(5000)))
    with sandbox("original", "--confirm=0:0.2") as url:
        env = original_at(url) | {"PWD": str(folder)}
        process = payouts(*run_of(str(folder / "rewards.csv"), f"--ledger={folder / 'payouts.db'}"), env=env)
        assert interrupt(process, number, 1)[0] == code
        paid = books(url)["allocations"]
    states = [entry.state for entry in entries(folder).values()]
    assert State.SENT not in states
    assert 0 < states.count(State.DONE) == len(paid) < 5000


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_and_leaves_the_ledger_whole(folder: Path) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(2000)))
    slow = OriginalSandbox(confirm=(0.0, 0.0), slow_after_commit=1.0, slow_seconds=600.0)
    slow.plan.script("none")  # one row comes out, and all others are under way
    with playing(slow):
        more = (f"--ledger={folder / 'payouts.db'}", f"--report={folder / 'report.html'}", "--grace=600")
        process = payouts(*run_of(str(folder / "rewards.csv"), *more), env=original_at(slow.url))
        assert interrupt(process, signal.SIGINT, 2)[0] == 130
        held = {allocation["nonce"] for allocation in books(slow.url)["allocations"]}
    for entry in entries(folder).values():
        assert entry.key in held or entry.state in {State.PLANNED, State.SENT}
    assert not (folder / "report.html").exists()
