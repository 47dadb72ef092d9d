"""Assets are minted once for each row, whatever happens to the answers: a row is never sent twice under one key."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from payouts import RowChanged, RunOptions, run_payouts
from payouts.states import State
from payouts.vendors.mint_payer import MintPayer
from payouts.vendors.payers import payer_of
from tests.payouts.mint_kit import COLLECTION, MINT, client_of, mint, mint_row, minted
from tests.payouts.payout_kit import StubEnkash, StubOriginal, ledger_at
from vendor_sandboxes import OriginalSandbox

SOON: dict[str, Any] = {"confirm": (0.0, 0.05), "duplicate_external_id": "mint"}
AGAIN = RunOptions(rate=None, lookup_timeout=5.0)


async def test_every_column_arrives_at_the_vendor(tmp_path: Path) -> None:
    row = mint_row(
        "r1",
        user_uid="123456789012",
        description="A, b",
        unique_name=True,
        external_url="https://e.example",
        store_image_on_ipfs=True,
        sale_price_in_usd="12.50",
        attributes='[{"trait_type": "Size", "value": 1.50, "display_type": "number"}, {"trait_type": "Base", "value": "a"}]',
    )
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        entry = (await mint([row, mint_row("r2")], client=client, ledger=ledger))["r1"]
        assert (entry.state, entry.settled_by, entry.recipient, entry.item) == (State.DONE, "poll", "123456789012", COLLECTION)
        asset = await client.get_asset(entry.uid or "")
        sent = next(each for each in sandbox.requests if each.method == "POST" and b"r1" in each.body).body
    assert (asset.asset_external_id, asset.mint_for_user_uid, asset.collection_uid) == (entry.key, "123456789012", COLLECTION)
    assert (asset.is_minted, asset.sale_price_in_usd) == (True, Decimal("12.5"))
    assert asset.metadata is not None
    assert (asset.metadata.name, asset.metadata.description, asset.metadata.external_url) == (
        "Badge r1",
        "A, b",
        "https://e.example",
    )
    assert [(each.trait_type, str(each.value), each.display_type) for each in asset.metadata.attributes or ()] == [
        ("Size", "1.50", "number"),
        ("Base", "a", None),
    ]
    assert b'"store_image_on_ipfs":true' in sent
    assert b'"unique_name":true' in sent


async def test_an_answer_that_is_lost_mints_once(tmp_path: Path) -> None:
    rows = [mint_row(f"r{number}") for number in range(6)]
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        sandbox.script("drop_after_commit", "p503_after_commit", "none", "drop_after_commit", path="asset")
        ended = await mint(rows, client=client, ledger=ledger)
        assert {entry.state for entry in ended.values()} == {State.DONE}
        books = sandbox.books()
    assert minted(books) == {entry.key: 1 for entry in ended.values()} == books["assets_asked"]


@pytest.mark.slow
async def test_a_row_that_never_arrived_stays_unknown_and_is_not_sent_again(tmp_path: Path) -> None:
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        sandbox.script("drop_before_commit", path="asset")
        for _ in range(2):
            await mint([mint_row("r1")], client=client, ledger=ledger)
            entry = await ledger.find("r1")
            assert entry is not None
            assert entry.state is State.UNKNOWN
        assert entry is not None
        assert entry.problem is not None
        assert "payouts resolve" in entry.problem
        assert "payouts retry" in entry.problem
        assert "repeats" not in entry.problem
        assert sandbox.request_counts["POST"] == 1
        assert minted(sandbox.books()) == {}
        refused = await ledger.move(entry, State.REJECTED, settled_by="hand", note="the vendor says that it never arrived")
        renewed = await ledger.renew_key(refused)
        ended = await mint([mint_row("r1")], client=client, ledger=ledger)
        assert ended["r1"].state is State.DONE
        assert minted(sandbox.books()) == {renewed.key: 1}


@pytest.mark.parametrize("state", [State.SENT, State.UNKNOWN])
async def test_a_row_that_an_earlier_run_left_is_looked_up_and_never_sent_again(tmp_path: Path, state: State) -> None:
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        for entry in await ledger.plan([mint_row("there"), mint_row("nowhere")]):
            sent = await ledger.move(entry, State.SENT)
            if state is State.UNKNOWN:
                await ledger.move(sent, state, problem="no answer")
            if entry.id == "there":
                await MintPayer(client).pay(entry)
        await mint([mint_row("there"), mint_row("nowhere"), mint_row("new")], client=client, ledger=ledger)
        found = {row_id: await ledger.find(row_id) for row_id in ("there", "nowhere", "new")}
        assert {row_id: entry and entry.state for row_id, entry in found.items()} == {
            "there": State.DONE,
            "nowhere": State.UNKNOWN,
            "new": State.DONE,
        }
        assert sorted(minted(sandbox.books()).values()) == [1, 1]


@pytest.mark.slow
async def test_a_row_that_shows_late_is_still_found_by_the_run_that_looks_for_it(tmp_path: Path) -> None:
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        (entry,) = await ledger.plan([mint_row("r1")])
        await ledger.move(entry, State.SENT)
        await MintPayer(client).pay(entry)
        sandbox.options.list_lag = 0.3
        ended = await mint([mint_row("r1")], client=client, ledger=ledger, options=AGAIN)
        assert ended["r1"].state is State.DONE
        assert minted(sandbox.books()) == {entry.key: 1}


async def test_a_refused_row_is_rejected_and_an_external_id_of_other_content_is_a_mismatch(tmp_path: Path) -> None:
    rows = [mint_row("r1", collection_uid="404"), mint_row("r2", user_uid="u", asset_external_id="order-17")]
    async with (
        OriginalSandbox(confirm=(0.0, 0.05), duplicate_external_id="reject") as sandbox,
        client_of(sandbox) as client,
        ledger_at(tmp_path / "a.db", MINT) as ledger,
    ):
        other = mint_row("x", user_uid="u", name="Taken", asset_external_id="order-17")
        (before,) = await ledger.plan([other])
        await MintPayer(client).pay(before)
        sandbox.options.strict = True
        async with ledger_at(tmp_path / "b.db", MINT) as another:
            ended = await mint(rows, client=client, ledger=another)
    assert [ended[row].state for row in ("r1", "r2")] == [State.REJECTED, State.MISMATCH]


@pytest.mark.slow
async def test_an_older_asset_under_the_external_id_is_not_what_the_row_minted(tmp_path: Path) -> None:
    row = mint_row("r1", user_uid="u", asset_external_id="order-17")
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        (before,) = await ledger.plan([mint_row("x", user_uid="u", name="Older", asset_external_id="order-17")])
        await MintPayer(client).pay(before)
        await sandbox.until(lambda: bool(sandbox.books()["assets"]))
        sandbox.script("drop_before_commit", path="asset")
        async with ledger_at(tmp_path / "b.db", MINT) as another:
            ends = [(await mint([row], client=client, ledger=another)).get("r1") for _ in range(2)]
            left = await another.find("r1")
        assert [end and end.state for end in ends] == [State.UNKNOWN, State.MISMATCH]
        assert left is not None
        assert "name Older" in (left.problem or "")
        assert sandbox.books()["assets_asked"] == {"order-17": 1}


async def test_a_row_that_now_mints_something_else_ends_the_run(tmp_path: Path) -> None:
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client, ledger_at(tmp_path / "a.db", MINT) as ledger:
        await mint([mint_row("r1")], client=client, ledger=ledger)
        with pytest.raises(RowChanged, match=r"image_url https://img\.example/b\.png instead of https://img\.example/badge\.png"):
            await mint([mint_row("r1", image_url="https://img.example/b.png")], client=client, ledger=ledger)


async def test_the_ledger_says_what_an_original_client_grants() -> None:
    async with OriginalSandbox(**SOON) as sandbox, client_of(sandbox) as client:
        assert [payer_of(client, vendor).name for vendor in ("original", MINT)] == ["original", MINT]


@pytest.mark.parametrize("client", [StubOriginal(), StubEnkash()], ids=["tokens only", "coins"])
async def test_a_client_that_cannot_mint_is_refused(tmp_path: Path, client: Any) -> None:
    async with ledger_at(tmp_path / "a.db", MINT) as ledger:
        with pytest.raises(TypeError, match=r"^client: .*\bcreate_asset\b"):
            run_payouts([mint_row("r1")], client=client, ledger=ledger, options=RunOptions(wait=False))
