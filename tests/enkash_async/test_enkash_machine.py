"""After any sequence of calls and faults, the vendor's coins agree with a model of integers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from enkash_async import EnkashClient, PasswordCredentials, TokenUnavailable
from rewards_core.errors import OutcomeUnknown, RequestRejected
from tests.stepped_time import SteppedTime
from vendor_sandboxes import EnkashSandbox

pytestmark = pytest.mark.repeats_itself

T = TypeVar("T")

NAMES = st.sampled_from(["REFERRAL_EVENT", "MEAL_CARD_PAYMENT"])
USERS = st.sampled_from(["EK1", "EK2", "EK3"])
COINS = st.integers(0, 50)
COMMITTED = {"none", "p429", "drop_after_commit", "p503_after_commit"}
"""The faults after which a write that is not retried has happened; after a 429 it is sent again."""
ANSWERED = {"none", "p429"}
FAULTS = st.sampled_from(["none", "p429", "p503", "drop_before_commit", "drop_after_commit", "p503_after_commit"])


class CoinsMachine(RuleBasedStateMachine):
    """Two clients and one vendor; the model holds the worth of each event, the coins of each user and the remaining budget."""

    events = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.time = SteppedTime()
        self.patches = pytest.MonkeyPatch()
        self.time.rule(self.runner.get_loop(), self.patches)
        self.worth: dict[str, int] = {}
        self.balances: Counter[str] = Counter()
        self.funds = 1_000
        self.requests = 0
        self.run(self._open())

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    async def _open(self) -> None:
        self.sandbox = EnkashSandbox(clock=self.time.now, funds=self.funds)
        await self.sandbox.start()
        self.bare, self.keyed = (self._client(repeat_allocations=keyed) for keyed in (False, True))

    def _client(self, **arguments: Any) -> EnkashClient:
        sandbox = self.sandbox
        return EnkashClient(
            coins_base_url=sandbox.url,
            auth_base_url=sandbox.url,
            credentials=PasswordCredentials(sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password),
            clock=self.time.now,
            **arguments,
        )

    def teardown(self) -> None:
        async def close() -> None:
            await self.bare.aclose()
            await self.keyed.aclose()
            await self.sandbox.aclose()

        self.run(close())
        self.patches.undo()
        self.runner.close()

    def script(self, client: EnkashClient, fault: str, method: str, path: str) -> None:
        """Let a fault hit the client's next write, which has a valid token."""
        self.run(client.get_balance("EK1"))
        self.sandbox.script(fault, method=method, path=path)

    @initialize(target=events)
    def first_event(self) -> Any:
        return self.create("REFERRAL_EVENT", 6, "none")

    @rule(target=events, name=NAMES, amount=COINS, fault=FAULTS)
    def create(self, name: str, amount: int, fault: str) -> Any:
        self.script(self.bare, fault, "POST", "create-coins-config")
        if fault in COMMITTED:
            self.worth[name] = amount
        try:
            event = self.run(self.bare.create_event(event=name, amount=amount))
        except OutcomeUnknown:
            assert fault not in ANSWERED
            return multiple()
        assert fault in ANSWERED
        assert (event.event, event.amount) == (name, amount)
        return event

    @rule(event=events, amount=COINS, fault=FAULTS)
    def update(self, event: Any, amount: int, fault: str) -> None:
        self.script(self.bare, fault, "PATCH", event.coin_config_id)
        changed = self.run(self.bare.update_event(event.coin_config_id, amount=amount))
        assert (changed.event, changed.amount) == (event.event, amount)
        assert self.run(self.bare.get_event(event.coin_config_id)).amount == amount
        self.worth[event.event] = amount

    @rule(name=NAMES, user=USERS, fault=FAULTS, repeated=st.booleans())
    def allocate(self, name: str, user: str, fault: str, repeated: bool) -> None:
        self.requests += 1
        client = self.keyed if repeated else self.bare
        self.script(client, fault, "POST", "allocate-coin")
        worth = self.worth.get(name)
        refused = worth is None or worth > self.funds
        before = self.sandbox.coins.balances[user]
        try:
            self.run(client.allocate_coins(event=name, user_id=user, request_id=f"R{self.requests}"))
        except RequestRejected:
            assert refused
            assert self.sandbox.coins.balances[user] == before
        except OutcomeUnknown:
            assert fault not in ANSWERED
            assert not repeated or refused
        else:
            assert not refused
            assert repeated or fault in ANSWERED
        if not refused and (repeated or fault in COMMITTED):
            assert worth is not None
            self.balances[user] += worth
            self.funds -= worth

    @rule()
    def tokens_end(self) -> None:
        self.sandbox.expire_tokens()

    @rule(seconds=st.sampled_from([1, 60, 200, 255, 300]))
    def time_passes(self, seconds: int) -> None:
        self.time.at += seconds

    @rule(fault=st.sampled_from(["p503", "drop_before_commit", "drop_after_commit", "p429"]))
    def next_token_request_goes_wrong(self, fault: str) -> None:
        self.time.at += 300
        self.sandbox.script(fault, method="POST", path="/oauth/token")
        assert self.run(self.bare.get_balance("EK1")) == self.balances["EK1"]

    @rule(name=NAMES, user=USERS)
    def tokens_end_while_no_other_can_be_had(self, name: str, user: str) -> None:
        self.run(self.bare.get_balance("EK1"))
        self.sandbox.expire_tokens()
        self.sandbox.script("p503", "drop_after_commit", method="POST", path="/oauth/token")
        with pytest.raises(TokenUnavailable, match="HTTP 401"):
            self.run(self.bare.allocate_coins(event=name, user_id=user, request_id="R0"))
        self.time.at += 60
        assert self.run(self.bare.get_balance(user)) == self.balances[user]

    @rule(coins=COINS)
    def funds_change(self, coins: int) -> None:
        self.funds = self.sandbox.funds = coins

    @invariant()
    def everybody_has_what_the_integers_say(self) -> None:
        for user in ("EK1", "EK2", "EK3"):
            assert self.run(self.keyed.get_balance(user)) == self.balances[user]
        assert self.sandbox.funds == self.funds

    @invariant()
    def the_account_is_never_in_danger(self) -> None:
        assert self.sandbox.token_rejections == 0


CoinsMachine.TestCase.settings = settings(stateful_step_count=25, max_examples=settings().max_examples // 4)
TestCoins = CoinsMachine.TestCase
