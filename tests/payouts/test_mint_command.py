"""Minting a file by the command line, and everything that a person does to its rows afterwards."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from original_async import AssetData, OriginalClient
from payouts.states import State
from rewards_core.cli.output import Output
from tests.payouts.audit_kit import kinds, summary
from tests.payouts.command_kit import QUICK, Call, entries, for_people, records
from tests.payouts.mint_kit import COLLECTION, HEADER, THREE, minted
from tests.payouts.process_kit import KEY, SECRET, free_port, original_at, playing
from tests.texts import said
from vendor_sandboxes import OriginalSandbox
from vendor_sandboxes.original_resources import Content

MINT = ("--vendor=original", "--kind=mint", "--campaign=badges", "--yes", *QUICK)


@pytest.fixture
def vendor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OriginalSandbox]:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    options: dict[str, Any] = {"confirm": (0.0, 0.02), "duplicate_external_id": "mint"}
    with playing(OriginalSandbox(api_key=KEY, api_secret=SECRET, **options)) as sandbox:
        for name, value in original_at(sandbox.url).items():
            if name.startswith("ORIGINAL_"):
                monkeypatch.setenv(name, value)
        (folder / "users.csv").write_text(THREE)
        yield sandbox


def run(call: Call, *more: str, file: str = "users.csv") -> Any:
    return call("run", file, *MINT, *more)


@pytest.mark.slow
def test_a_file_is_minted_once_and_the_report_says_minted(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    for _ in range(2):
        result = run(call, "--report=r.html", "--results=r.csv")
        assert result.exit_code == 0, result.output
    held = entries(folder)
    assert {entry.state for entry in held.values()} == {State.DONE}
    assert minted(vendor.books()) == {entry.key: 1 for entry in held.values()}
    page = (folder / "r.html").read_text("utf-8")
    assert "Original assets" in page
    assert "<dt>minted</dt>" in page
    assert not re.search(r"\bpaid\b", re.sub(r"(?s)<style>.*?</style>", "", page))
    header, first, *_ = (folder / "r.csv").read_text("utf-8").splitlines()
    assert '"name","image_url","unique_name"' in header
    assert '"Badge 1","https://img.example/1.png","false","false"' in first


@pytest.mark.slow
def test_a_campaign_that_another_ledger_has_minted_is_warned_of(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    first, again, other = (run(call, f"--ledger={name}.db") for name in ("one", "one", "two"))
    assert (first.exit_code, again.exit_code, other.exit_code, first.stderr, again.stderr) == (0, 0, 0, "", "")
    said("run: a campaign that another ledger has minted", other.stderr)


@pytest.mark.slow
def test_the_results_can_be_minted_from_again(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    (folder / "users.csv").write_text(
        "id,user_uid,collection_uid,name,image_url,unique_name,description,attributes\n"
        f'r1,12345,{COLLECTION},Badge,https://img.example/i.png,true,=1+1,"[{{""trait_type"": ""Size"", ""value"": 1.50}}]"\n'
    )
    assert run(call, "--results=r.csv").exit_code == 0
    result = run(call, file="r.csv")
    assert (result.exit_code, minted(vendor.books())) == (0, {entries(folder)["r1"].key: 1})


@pytest.mark.slow
def test_an_event_settles_a_row(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    port = free_port()
    vendor.webhook_url = f"http://127.0.0.1:{port}/webhooks/original"
    result = run(call, f"--webhook-port={port}", "--poll-after=600")
    assert result.exit_code == 0, result.output
    assert {entry.settled_by for entry in entries(folder).values()} == {"webhook"}


@pytest.mark.slow
def test_status_shows_what_a_row_mints(call: Call, vendor: OriginalSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    run(call)
    (row,) = records(call("status", "r2", "--kind=mint"))
    assert (row["collection_uid"], row["name"], row["unique_name"], row["amount"]) == (COLLECTION, "Badge 2", False, None)
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    assert "badges (original-mint): 3 of 3 rows minted" in call("status").output
    assert "unique_name   false" in call("status", "r2").output


@pytest.mark.slow
def test_mints_and_tokens_of_one_name_are_told_apart_by_their_kind(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    run(call)
    (folder / "tokens.csv").write_text("id,reward_uid,to_user_uid,amount\nr1,764893807463,12345,1\n")
    assert call("run", "tokens.csv", "--vendor=original", "--campaign=badges", "--yes", *QUICK).exit_code == 0
    assert call("status", "--campaign=badges").exit_code == 2
    vendors = [
        records(call("status", "--campaign=badges", *which))[0]["vendor"] for which in (("--kind=mint",), ("--kind=allocation",))
    ]
    assert vendors == ["original-mint", "original"]
    audits = [summary(call("audit", *which))["rows"] for which in ((), ("--kind=mint",), ("--kind=mint", "--campaign=badges"))]
    assert audits == [1, 3, 3]


@pytest.mark.parametrize(
    "options",
    [
        "--vendor=enkash --kind=mint",
        "--vendor=original --kind=mint --max-total=5",
        "--vendor=original --kind=mint --repeat-is-safe",
        "--vendor=original --kind=mint --nonce-column=a",
        "--vendor=original --name-column=a",
    ],
)
def test_options_that_make_no_sense_are_refused(call: Call, vendor: OriginalSandbox, options: str) -> None:
    result = call("run", "users.csv", "--campaign=badges", "--yes", *options.split())
    assert result.exit_code == 2
    said(f"run {options}", result.output)
    assert not vendor.requests


def test_a_changed_file_is_refused_and_the_column_named(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    run(call)
    (folder / "users.csv").write_text(THREE.replace("Badge 2,https://img.example/2", "Badge 2,https://img.example/9"))
    result = run(call)
    (mistake,) = [each for each in records(result) if each["event"] == "mistake"]
    assert (result.exit_code, mistake["kind"], mistake["line"], mistake["name"]) == (2, "changed", 3, "image_url")
    assert "img.example/9" in mistake["message"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_nothing_is_sent_of_a_file_with_a_misspelled_column(call: Call, folder: Path, vendor: OriginalSandbox, form: str) -> None:
    row = {"id": "r1", "user_uid": "12345", "collection_uid": COLLECTION, "name": "Badge", "image_url": "https://img.example/1"}
    row["attribute.Colour"] = "blue"
    lines = {"csv": f"{','.join(row)}\n{','.join(row.values())}\n", "jsonl": json.dumps(row)}
    (folder / f"badges.{form}").write_text(lines[form])
    result = run(call, file=f"badges.{form}")
    (mistake,) = [each for each in records(result) if each["event"] == "mistake"]
    assert (result.exit_code, mistake["name"], list(vendor.requests)) == (2, "attributes", [])


@pytest.mark.slow
def test_a_campaign_that_repeats_another_needs_a_decision(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    run(call)
    (folder / "again.csv").write_text(
        THREE.replace("img.example", "cdn.example") + f"r4,42345,{COLLECTION},Badge 4,https://img.example/i.png\n"
    )
    again = ("run", "again.csv", "--vendor=original", "--kind=mint", "--campaign=more", "--yes", *QUICK)
    result = call(*again)
    (repeat,) = [each for each in records(result) if each["event"] == "repeats"]
    assert (result.exit_code, repeat["campaign"], repeat["rows"]) == (2, "badges", 3)
    said("run: assets that another campaign has minted", repeat["message"])
    assert call(*again, "--repeats-of=badges").exit_code == 0
    assert len(minted(vendor.books())) == 7


@pytest.mark.slow
def test_a_row_that_never_arrived_is_resolved_by_hand_and_minted_under_a_new_key(
    call: Call, folder: Path, vendor: OriginalSandbox
) -> None:
    vendor.script("drop_before_commit", path="asset")
    assert run(call, "--concurrency=1").exit_code == 3
    assert run(call).exit_code == 3, "it is looked up, and not sent again"
    (lost,) = [entry for entry in entries(folder).values() if entry.state is State.UNKNOWN]
    assert call("retry", lost.id, "--yes").exit_code != 0
    assert call("resolve", lost.id, "--as=rejected", "--note=never arrived").exit_code == 0
    result = call("retry", lost.id, "--yes")
    assert result.exit_code == 0, result.output
    assert run(call).exit_code == 0
    held = entries(folder)
    assert held[lost.id].key != lost.key
    assert minted(vendor.books()) == {entry.key: 1 for entry in held.values()}


@pytest.mark.slow
def test_no_row_gets_a_new_key_while_the_vendor_lists_its_asset(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    vendor.script("drop_after_commit", path="asset")
    vendor.options.list_lag = 3600.0
    assert run(call, "--concurrency=1").exit_code == 3
    (lost,) = [entry for entry in entries(folder).values() if entry.state is State.UNKNOWN]
    assert call("resolve", lost.id, "--as=rejected", "--note=a mistake").exit_code == 0
    vendor.options.list_lag = 0.0
    result = call("retry", lost.id, "--yes")
    assert result.exit_code != 0
    said("retry: an asset that the vendor lists", result.output)
    assert call("resolve", lost.id, "--as=unknown", "--note=it is there").exit_code == 0
    assert run(call).exit_code == 0
    assert minted(vendor.books()) == {entry.key: 1 for entry in entries(folder).values()}


def _calls(vendor: OriginalSandbox, work: Any) -> Any:
    async def carry_out() -> Any:
        async with OriginalClient(api_key=vendor.api_key, api_secret=vendor.api_secret, base_url=vendor.url) as client:
            return await work(client)

    return asyncio.run(carry_out())


@pytest.mark.slow
def test_an_asset_that_changed_hands_or_was_burned_was_minted_all_the_same(
    call: Call, folder: Path, vendor: OriginalSandbox
) -> None:
    run(call)
    held = entries(folder)

    async def move_on(client: OriginalClient) -> None:
        owner = (await client.get_asset(held["r3"].uid or "")).owner_address or ""
        await client.create_transfer(asset_uid=held["r1"].uid or "", from_user_uid="12345", to_address=owner)
        await client.create_burn(asset_uid=held["r2"].uid or "", from_user_uid="22345")

    _calls(vendor, move_on)
    while vendor.books()["under_way"]:
        pass
    assert _calls(vendor, lambda client: client.get_assets_by_user_uid("12345")) == []
    result = call("audit", "--kind=mint")
    assert (result.exit_code, summary(result)["agree"], kinds(result)) == (0, 3, {})


@pytest.mark.slow
def test_an_asset_that_others_minted_and_a_user_was_given_is_no_grant_to_that_user(
    call: Call, folder: Path, vendor: OriginalSandbox
) -> None:
    run(call)
    held = entries(folder)

    async def give(client: OriginalClient) -> None:
        data = AssetData(name="Other", image_url="i", unique_name=False)
        call = {"collection_uid": COLLECTION, "asset_external_id": "other", "data": data}
        other = await client.create_asset(user_uid="99999", **call)  # type: ignore[arg-type]
        while not (await client.get_asset(other.uid)).is_transferable:
            pass
        owner = (await client.get_asset(held["r3"].uid or "")).owner_address or ""
        await client.create_transfer(asset_uid=other.uid, from_user_uid="99999", to_address=owner)
        while len(await client.get_assets_by_user_uid("32345")) < 2:
            pass

    _calls(vendor, give)
    assert call("audit", "--kind=mint").exit_code == 0


@pytest.mark.slow
def test_a_ledger_that_may_be_an_older_copy_needs_an_audit_of_its_mints_too(
    call: Call, folder: Path, vendor: OriginalSandbox
) -> None:
    (folder / "tokens.csv").write_text("id,reward_uid,to_user_uid,amount\nr1,764893807463,12345,1\n")
    assert run(call).exit_code == 0
    assert call("run", "tokens.csv", "--vendor=original", "--campaign=tokens", "--yes", *QUICK).exit_code == 0
    shutil.rmtree(folder / "state")
    assert run(call).exit_code == 7
    result = call("audit", "--apply")
    assert result.exit_code == 4
    assert "payouts audit --kind mint --apply" in result.output
    assert run(call).exit_code == 7
    assert call("audit", "--kind=mint", "--apply").exit_code == 0
    assert run(call).exit_code == 0


@pytest.mark.slow
def test_an_audit_finds_what_the_ledger_does_not_know(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    vendor.script("none", "drop_after_commit", path="asset")
    vendor.options.list_lag = 3600.0
    run(call, "--concurrency=1")
    vendor.options.list_lag = 0.0
    held = entries(folder)
    lost = next(entry for entry in held.values() if entry.state is State.UNKNOWN)
    done = next(entry for entry in held.values() if entry.state is State.DONE)

    async def mint_more(client: OriginalClient) -> None:
        data = AssetData(name="More", image_url="i", unique_name=False)
        for key in (done.key, "by-hand"):
            await client.create_asset(user_uid=done.recipient, collection_uid=COLLECTION, asset_external_id=key, data=data)

    _calls(vendor, mint_more)
    result = call("audit", "--kind=mint", "--apply")
    assert result.exit_code == 3
    found = [each for each in records(result) if each["event"] == "difference"]
    assert {(each["id"], each["kind"]) for each in found} == {
        (lost.id, "held"),
        (done.id, "held_twice"),
        (None, "unknown_to_ledger"),
    }
    assert next(each for each in found if each["kind"] == "unknown_to_ledger")["vendor"].startswith(f"1 of {COLLECTION}, ")
    assert entries(folder)[lost.id].state is State.DONE


@pytest.mark.slow
def test_refused_rows_are_looked_up_in_bulk_if_the_key_sees_their_collections(
    call: Call, folder: Path, vendor: OriginalSandbox
) -> None:
    (folder / "users.csv").write_text(
        f"{HEADER.strip()},asset_external_id\nr1,12345,{COLLECTION},Badge,https://img.example/i.png,\nr2,12345,{COLLECTION},Badge 2,https://img.example/j.png,taken\n"
    )
    nothing: dict[str, Any] = dict.fromkeys(("description", "external_url", "attributes"))
    content = Content(name="n", unique_name=False, image_url="i.png", on_ipfs=False, **nothing)
    vendor.state.assets.add(COLLECTION, "67890", "taken", content, None)
    vendor.options.duplicate_external_id = "reject"  # and the list of the row's user does not show whose it is
    assert run(call, "--concurrency=1").exit_code == 3
    bulk = ("resolve", "--unknown", "--refused", "--as=rejected", "--yes")
    result = call(*bulk)
    assert (result.exit_code, records(result)[-1]["waiting"]) == (4, 1), result.output
    vendor.state.assets.collections.pop(COLLECTION)
    vendor.options.strict = True
    result = call(*bulk)
    assert result.exit_code != 0
    said("resolve: a collection that the key does not see", result.output)


def test_a_header_of_tokens_is_not_one_of_mints(call: Call, folder: Path, vendor: OriginalSandbox) -> None:
    (folder / "users.csv").write_text("id,reward_uid,to_user_uid,amount\nr1,1,2,3\n")
    result = run(call)
    assert result.exit_code == 2
    assert "--user-uid-column" in result.output
