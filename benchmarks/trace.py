"""How far a create with a lost reply travels through the house: how often the next of our functions stands in another file.

A change of file is two consecutive calls of our own functions that stand in different files, as `sys.setprofile` sees them; a
coroutine that goes on after it waited is no new call. `python -m benchmarks.trace` prints the whole way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from original_async import OriginalClient
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = frozenset({"rewards_core", "original_async", "enkash_async", "webhooks", "payouts"})
IN_THE_FIRST_VERSION = 83
"""What the first version makes of it, counted in the same way; every resumption counted as well, it makes 112."""


class Step(NamedTuple):
    """One call of one of our functions."""

    file: str
    function: str


class Trace:
    """Note each call of our functions while it is entered; a frame that goes on is known by its id, so it is kept alive."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._frames: dict[int, FrameType] = {}

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._frames.clear()

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or id(frame) in self._frames:
            return
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in PACKAGES and frame.f_code.co_filename.startswith(str(ROOT)):
            self._frames[id(frame)] = frame
            self.steps.append(Step(str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_name))

    @property
    def changes(self) -> int:
        """How often the next function stood in another file."""
        return sum(one.file != other.file for one, other in pairwise(self.steps))


async def lost_reply() -> Trace:
    """Let the reply to a create be lost, the repetition be refused, and the look-up find what was created."""
    async with OriginalSandbox() as vendor, OriginalClient(vendor.api_key, vendor.api_secret, base_url=vendor.url) as client:
        create: Callable[[str], Any] = lambda nonce: client.create_allocation(  # noqa: E731
            reward_uid="764893807463", to_user_uid="110985463782", amount="1.23", nonce=nonce
        )
        await create("first")
        vendor.plan.script("drop_after_commit")
        with Trace() as trace:
            allocation = await create("second")
    assert allocation.recovered
    return trace


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    trace = asyncio.run(lost_reply())
    files = len({step.file for step in trace.steps})
    return [
        {
            "name": f"changes of file in a create with a lost reply: {len(trace.steps)} calls, {files} files",
            "value": trace.changes,
            "unit": "changes",
            "reference": f"the first version: {IN_THE_FIRST_VERSION}",
            "ratio": trace.changes / IN_THE_FIRST_VERSION,
            "bar": "≤ 0.5",
        }
    ]


if __name__ == "__main__":
    for file, stay in groupby(asyncio.run(lost_reply()).steps, key=lambda step: step.file):
        print(file, *(f"    {step.function}" for step in stay), sep="\n")
