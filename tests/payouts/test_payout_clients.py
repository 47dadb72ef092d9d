"""What a run needs of a client is there before anything is sent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.runner import RunOptions, run_payouts
from payouts.states import Entry, State
from payouts.vendors.payers import payer_of
from tests.payouts.mint_kit import MINT, mint_row
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row

LOOKS = ("scope", "find_operations", "ref_of", "conclude")
TOKENS = (*LOOKS, "create_allocation", "get_allocation", "find_allocation", "get_allocations_by_user_uid")
ASSETS = (*LOOKS, "create_asset", "get_asset", "find_asset", "get_assets_by_user_uid")
COINS = ("allocate_coins", "get_balance")


class Lacking:
    """A client without one of its methods, which would be called after a crash at the latest."""

    def __init__(self, client: object, members: tuple[str, ...], missing: str) -> None:
        self.__dict__.update({name: getattr(client, name, self.nothing) for name in members if name != missing})
        self.given = getattr(client, "given", [])

    def nothing(self) -> None:
        """Stand in for a method that no stub has."""


@pytest.mark.parametrize(
    ("vendor", "client", "row", "members", "missing"),
    [
        *[("original", StubOriginal(), token_row("r1"), TOKENS, missing) for missing in TOKENS],
        *[(MINT, StubOriginal(), mint_row("r1"), ASSETS, missing) for missing in ASSETS],
        *[("enkash", StubEnkash(), coin_row("r1"), COINS, missing) for missing in COINS],
    ],
)
async def test_a_client_that_lacks_a_method_is_refused_before_a_row_is_planned(
    path: Path, vendor: str, client: Any, row: Any, members: tuple[str, ...], missing: str
) -> None:
    lacking: Any = Lacking(client, members, missing)
    async with ledger_at(path, vendor) as ledger:
        with pytest.raises(TypeError, match=rf"\b{missing}\b"):
            async for _ in run_payouts([row], client=lacking, ledger=ledger):
                pass
        assert await ledger.find("r1") is None


class OwnPayer:
    """A payer of somebody's own, whose helpers are named as the methods of a vendor's client."""

    name, may_repeat, lookups, balances = "original", True, None, None
    create_allocation = create_asset = allocate_coins = None

    async def pay(self, entry: Entry, *, repeated: bool = False) -> None:
        """Pay nothing."""


@pytest.mark.parametrize("vendor", ["original", MINT, "enkash"])
def test_a_payer_is_taken_as_it_is_whatever_else_it_has(vendor: str) -> None:
    payer = OwnPayer()
    assert payer_of(payer, vendor) is payer


@pytest.mark.parametrize(
    ("vendor", "client", "row", "lacks"),
    [
        ("original", StubEnkash(), token_row("r1"), "create_allocation"),
        ("enkash", StubOriginal(), coin_row("r1"), "allocate_coins"),
        ("original", object(), token_row("r1"), "find_operations"),
    ],
    ids=["coins", "tokens", "no client"],
)
async def test_a_client_of_another_vendor_is_refused(path: Path, vendor: str, client: Any, row: Any, lacks: str) -> None:
    async with ledger_at(path, vendor) as ledger:
        with pytest.raises(TypeError, match=rf"^client: .*\b{lacks}\b"):
            run_payouts([row], client=client, ledger=ledger, options=RunOptions(wait=False))


@pytest.mark.parametrize("missing", ["balances", "lookups", "may_repeat"])
def test_a_payer_that_lacks_something_is_told_what(missing: str) -> None:
    members = {"name": "original", "may_repeat": True, "lookups": None, "balances": None, "pay": OwnPayer().pay}
    payer: Any = SimpleNamespace(**{name: member for name, member in members.items() if name != missing})
    with pytest.raises(TypeError, match=rf"^client: give a Payer, with {missing}, "):
        payer_of(payer, "original")


class LedgerOfABank:
    """A ledger of somebody's own, of a vendor that this project does not know."""

    vendor = "bank"

    def __init__(self, ledger: Ledger) -> None:
        self.one_run, self.plan, self.plan_sent, self.entries = ledger.one_run, ledger.plan, ledger.plan_sent, ledger.entries
        self.move, self.move_each, self.other_keys = ledger.move, ledger.move_each, ledger.other_keys


async def test_a_payer_of_a_vendor_of_somebodys_own_pays_into_a_ledger_of_its_own(path: Path) -> None:
    payer = OwnPayer()
    payer.name = "bank"
    async with ledger_at(path, "enkash") as ledger:
        own: Any = LedgerOfABank(ledger)
        assert [entry.state async for entry in run_payouts([coin_row("r1")], client=payer, ledger=own)] == [State.DONE]
        with pytest.raises(TypeError, match=r"^client: give a Payer, with .*\bpay\b"):
            run_payouts([token_row("r1")], client=StubOriginal(), ledger=own)


async def test_a_payer_of_another_vendor_is_refused(path: Path) -> None:
    async with ledger_at(path, "enkash") as ledger:
        with pytest.raises(ValueError, match=r"^client: .*\benkash\b.*\boriginal\b"):
            run_payouts([coin_row("r1")], client=OwnPayer(), ledger=ledger)
