"""Waiting as a state machine: in every order of events, the waits agree with the outcome that stands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rewards_core.errors import NotFound, OperationFailed
from tests.virtual_time import VirtualLoop
from tests.webhooks.fakes import Thing, a_ref, trouble
from tests.webhooks.world import World, settle
from webhooks import CompletionTimeout

pytestmark = pytest.mark.repeats_itself

UIDS = st.sampled_from(["1", "2", "3"])


class CompletionsMachine(RuleBasedStateMachine):
    """A model: the first outcome of each operation."""

    waits = Bundle("waits")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.world = self.run(self.open())
        self.said: dict[str, str] = {}
        self.spoken_of: set[str] = set()
        self.deliveries = 0
        self.open_waits: list[tuple[str, asyncio.Task[Any], float | None]] = []

    def run(self, doing: Any) -> Any:
        return self.loop.run_until_complete(doing)

    async def open(self) -> World:
        world = World()
        for uid in ("1", "2", "3"):
            world.vendor.will(uid, "pending")
        await world.completions.start()
        return world

    @rule(target=waits, uid=UIDS, timeout=st.none() | st.floats(0, 100), now=st.booleans())
    def wait(self, uid: str, timeout: float | None, now: bool) -> int:
        async def begin() -> None:
            ends = None if timeout is None else self.loop.time() + timeout
            self.open_waits.append((uid, self.world.start(uid, timeout=timeout, poll_now=now), ends))
            await settle()

        self.run(begin())
        self.note_polls()  # `now` asks the vendor at once
        return len(self.open_waits) - 1

    @rule(which=consumes(waits))
    def cancel(self, which: int) -> None:
        async def end() -> None:
            self.open_waits[which][1].cancel()
            await settle()

        self.run(end())

    @rule(uid=UIDS, status=st.sampled_from(["done", "failed"]), again=st.booleans())
    def deliver(self, uid: str, status: str, again: bool) -> None:
        self.deliveries += not again
        self.said.setdefault(uid, status)
        self.run(self.world.deliver(uid, status, number=self.deliveries))
        self.run(settle())

    @rule(uid=UIDS)
    def speak(self, uid: str) -> None:
        self.deliveries += 1
        self.spoken_of.add(uid)
        self.run(self.world.deliver(uid, None, number=self.deliveries))
        self.run(asyncio.sleep(1.0))
        self.note_polls()

    @rule(uid=UIDS, answer=st.sampled_from(["pending", "done", "failed", "trouble", "missing"]))
    def the_vendor_will_say(self, uid: str, answer: str) -> None:
        answers = {"trouble": trouble(), "missing": NotFound("no such thing", status=404)}
        self.world.vendor.will(uid, answers.get(answer, answer))

    @rule(seconds=st.floats(0, 120))
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.run(settle())
        self.note_polls()

    def note_polls(self) -> None:
        for uid in ("1", "2", "3"):
            kept = self.run(self.world.store.outcome(a_ref(uid)))
            if kept is not None and uid not in self.said:
                assert kept.via == "poll" or uid in self.spoken_of
                self.said[uid] = str(kept.status)

    @invariant()
    def the_first_outcome_stands(self) -> None:
        for uid, status in self.said.items():
            assert self.run(self.world.store.outcome(a_ref(uid))).status == status

    @invariant()
    def waits_end_when_their_operation_does(self) -> None:
        for uid, task, ends in self.open_waits:
            if uid in self.said or (ends is not None and self.loop.time() > ends):
                assert task.done()

    @invariant()
    def what_is_registered_is_what_is_waited_for(self) -> None:
        waited = {uid for uid, task, _ in self.open_waits if not task.done()}
        pending = {ref.uid for ref in self.world.completions.pending()}
        assert waited <= pending
        assert self.world.completions.statistics.waiting == sum(not task.done() for _, task, _ in self.open_waits)

    def teardown(self) -> None:
        self.run(self.world.completions.aclose())
        self.run(settle())
        assert list(self.world.completions.pending()) == []
        for uid, task, ends in self.open_waits:
            assert task.done()
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                assert isinstance(task.result(), Thing)
                assert self.said[uid] == "done"
            elif isinstance(error, OperationFailed):
                assert self.said[uid] == "failed"
            elif isinstance(error, CompletionTimeout):
                assert ends is not None
        self.loop.close()


CompletionsMachine.TestCase.settings = settings(stateful_step_count=30)
TestCompletionsMachine = CompletionsMachine.TestCase
