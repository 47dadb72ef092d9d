"""A ledger whose rows came to every end, at times that are known."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.states import Entry, State
from payouts.vendors import OriginalRow

HOSTILE = "<script>document.title='owned'</script><img src=https://example.com/x onerror=alert(1)>"


class Clock:
    """Time that goes on when it is told to."""

    now = 1_785_000_000.0

    def __call__(self) -> float:
        return self.now


class Paying:
    """Lead rows to their ends as a run would."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock

    async def row(self, row_id: str, *steps: tuple[float, State, dict[str, Any]], **changed: Any) -> Entry:
        values: dict[str, Any] = {"id": row_id, "reward_uid": "764893807463", "to_user_uid": "32", "amount": "1.10", "line": 2}
        (entry,) = await self.ledger.plan([OriginalRow(**values | changed)])
        began = self.clock.now
        for after, state, facts in steps:
            self.clock.now = began + after
            entry = await self.ledger.move(entry, state, **facts)
        self.clock.now = began
        return entry


SENT: tuple[float, State, dict[str, Any]] = (0.0, State.SENT, {})


def accepted(uid: str) -> tuple[float, State, dict[str, Any]]:
    return (0.01, State.ACCEPTED, {"uid": uid})


async def build(path: Path) -> list[Entry]:
    clock = Clock()
    async with Ledger(
        path, vendor="original", campaign="diwali <2026>", target="https://api.getoriginal.com/v1", clock=clock
    ) as ledger:
        paying = Paying(ledger, clock)
        entries = []
        for number in range(40):
            clock.now += 0.5
            after, way = (1.5, "webhook") if number % 4 else (20.0, "poll")
            done = (after, State.DONE, {"settled_by": way})
            amount = "0." + "0" * 17 + "1" if number % 2 else "123456789012345678.9"
            reward = "764893807463" if number % 3 else "112144981245"
            entries.append(await paying.row(f"d{number}", SENT, accepted(str(number)), done, amount=amount, reward_uid=reward))
        entries += [
            await paying.row("p1"),
            await paying.row("s1", SENT),
            await paying.row("a1", SENT, accepted("901")),
            await paying.row(
                "f1", SENT, accepted("902"), (30.0, State.FAILED, {"settled_by": "poll", "problem": ValueError("chain")})
            ),
            await paying.row("=r1", SENT, (0.1, State.REJECTED, {"problem": ValueError(HOSTILE)}), to_user_uid="x" * 80),
            await paying.row("r2", SENT, (0.1, State.REJECTED, {"problem": ValueError("another text")})),
            await paying.row("u1", SENT, (9.0, State.UNKNOWN, {"problem": TimeoutError("no answer")})),
            await paying.row("m1", SENT, (0.2, State.MISMATCH, {"uid": "903", "problem": "-other amount"})),
        ]
        renewed = await ledger.renew_key(await paying.row("t1", SENT, (0.1, State.REJECTED, {"problem": "no"})))
        entries.append(await ledger.move(await ledger.move(renewed, State.SENT), State.UNKNOWN, problem="late"))
        entries[-1] = await ledger.move(entries[-1], State.DONE, settled_by="hand", note="seen in the console")
        return entries


@pytest.fixture
def paid(tmp_path: Path) -> tuple[Path, list[Entry]]:
    path = tmp_path / "payouts.db"
    return path, asyncio.run(build(path))


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))
