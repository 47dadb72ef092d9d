"""Clients with a wrong password on one store, with crashes, lost replies and time: no third attempt soon after two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from enkash_async import MemoryBreakerStore
from enkash_async.credentials import AccessToken
from enkash_async.tokens import PAUSE_UNPROVEN, PasswordTokens
from rewards_core.errors import ConnectFailed, OutcomeUnknown, RateLimited, Unauthorized, VendorError
from tests.enkash_async.enkash_kit import outcome
from tests.stepped_time import DAY, SteppedTime

pytestmark = pytest.mark.repeats_itself

T = TypeVar("T")

FATES = st.sampled_from(["lost", "crash", "never left", "429", "answered"])
PROCESSES = 3


class WrongPassword(RuleBasedStateMachine):
    """A vendor that rejects every request; its answers are lost at random."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = SteppedTime()
        self.patches = pytest.MonkeyPatch()
        self.time.rule(self.runner.get_loop(), self.patches)
        self.boots = 0
        self.patches.setattr("enkash_async.tokens.boot_id", lambda: f"boot-{self.boots}")
        self.store = MemoryBreakerStore()
        self.fate = ""
        self.arrived: list[float] = []
        self.told: list[float] = []
        self.asking = asyncio.Event()
        self.processes = [self.start() for _ in range(PROCESSES)]

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    async def ask(self) -> AccessToken:
        if self.fate == "never left":
            raise ConnectFailed("no connection")
        if self.fate == "429":
            raise RateLimited("429")
        self.arrived.append(self.time.now())
        if self.fate == "answered":
            self.told.append(self.time.now())
            raise Unauthorized("Bad credentials", status=400)
        if self.fate == "crash":
            self.asking.set()
            await asyncio.Event().wait()
        raise OutcomeUnknown("no answer")

    def start(self) -> PasswordTokens:
        return PasswordTokens(ask=self.ask, account=lambda: "account-1", store=self.store, clock=self.time.wall)

    @rule(number=st.integers(0, PROCESSES - 1), fate=FATES, callers=st.integers(1, 3))
    def token_is_wanted(self, number: int, fate: str, callers: int) -> None:
        self.fate = fate
        self.run(self._want(self.processes[number], callers))
        if fate == "crash":
            self.processes[number] = self.start()

    async def _want(self, tokens: PasswordTokens, callers: int) -> None:
        self.asking.clear()
        asking = asyncio.ensure_future(self.asking.wait())
        waiting = asyncio.gather(*(outcome(tokens.token()) for _ in range(callers)))
        either: list[asyncio.Future[Any]] = [waiting, asking]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await tokens.aclose()  # to the store this looks like a crash
        asking.cancel()
        assert all(isinstance(problem, VendorError) for problem in await waiting)

    @rule(seconds=st.sampled_from([1, 60, 540, 600]), jump=st.sampled_from([0, 0, -1_800, 40 * DAY, -40 * DAY]))
    def time_passes(self, seconds: int, jump: float) -> None:
        self.time.ahead += jump
        self.time.at += seconds

    @rule(up=st.sampled_from([5, 3600]))
    def host_is_booted(self, up: int) -> None:
        self.run(self._close())
        self.boots += 1
        booted = self.time.at - up
        self.patches.setattr("enkash_async.tokens.uptime", lambda: self.time.at - booted)
        self.processes = [self.start() for _ in range(PROCESSES)]

    @invariant()
    def no_third_attempt_follows_soon_after_two(self) -> None:
        for second, third in zip(self.arrived[1:], self.arrived[2:], strict=False):
            assert third - second >= PAUSE_UNPROVEN

    @invariant()
    def password_that_is_known_to_be_wrong_is_never_tried_again(self) -> None:
        assert not self.told or self.arrived[-1] == self.told[0]

    async def _close(self) -> None:
        for tokens in self.processes:
            await tokens.aclose()

    def teardown(self) -> None:
        self.run(self._close())
        self.patches.undo()
        self.runner.close()


WrongPassword.TestCase.settings = settings(stateful_step_count=30)
TestWrongPassword = WrongPassword.TestCase
