"""Transfers, burns and deposits: the documented shapes, and which of several transfers is the one of a call."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aioresponses import aioresponses
from attrs import evolve

from original_async import Burn, BurnRequest, Deposit, OriginalClient, Transfer, TransferRequest
from rewards_core.errors import NotFound, OutcomeUnknown, RequestRejected
from rewards_core.operations import OperationRef, OperationStatus
from tests.original_async.conftest import BASE, USER, WALLET, MakeClient
from tests.original_async.family_kit import set_stage
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import OriginalSandbox

TRANSFER: dict[str, Any] = {
    "uid": "213134081289",
    "status": "pending",
    "asset_uid": "112144981245",
    "from_user_uid": "223144788242",
    "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
BURN = {name: value for name, value in TRANSFER.items() if name != "to_address"}
CREATED_AT = datetime(2023, 8, 10, 14, 7, 14, 494142, tzinfo=UTC)


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("pending", OperationStatus.PENDING),
        ("Done", OperationStatus.DONE),
        ("cancelled", OperationStatus.CANCELLED),
        ("Cancelled", OperationStatus.CANCELLED),
    ],
)
async def test_a_transfer_as_documented(client: OriginalClient, wire: aioresponses, word: str, status: OperationStatus) -> None:
    wire.get(f"{BASE}/transfer/213134081289", payload=ok({**TRANSFER, "status": word}))
    transfer = await client.get_transfer("213134081289")
    assert transfer == Transfer(**{**TRANSFER, "status": status, "created_at": CREATED_AT})
    assert transfer.ref == OperationRef("default", "transfer", "213134081289")
    assert (transfer.ref.about, transfer.key) == ("asset/112144981245", "112144981245")


async def test_a_burn_as_documented(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/burn/213134081289", payload=ok({**BURN, "status": "Pending"}))
    burn = await client.get_burn("213134081289")
    assert burn == Burn(**{**BURN, "status": OperationStatus.PENDING, "created_at": CREATED_AT})
    assert (burn.ref.kind, burn.ref.about, burn.key) == ("burn", "asset/112144981245", "112144981245")


async def test_a_transfer_or_burn_of_an_older_answer(client: OriginalClient, wire: aioresponses) -> None:
    def older(resource: dict[str, Any]) -> dict[str, Any]:
        return {"from_app_user_uid" if name == "from_user_uid" else name: value for name, value in resource.items()}

    wire.get(f"{BASE}/transfer/213134081289", payload=ok(older(TRANSFER)))
    wire.get(f"{BASE}/burn/213134081289", payload=ok(older(BURN)))
    transfer, burn = await client.get_transfer("213134081289"), await client.get_burn("213134081289")
    assert (transfer.from_user_uid, burn.from_user_uid) == (TRANSFER["from_user_uid"],) * 2
    assert transfer.raw == older(TRANSFER)


async def test_a_second_transfer_after_a_cancelled_one_is_not_taken_for_it(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    stage = await set_stage(original, sandbox)
    arguments: dict[str, Any] = {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid, "to_address": WALLET}
    first = await original.create_transfer(**arguments)
    await sandbox.settle(first.uid, "cancelled", kind="transfer")
    ticks.at += 5.0
    sandbox.options.list_lag = 4.0
    sandbox.script(*["drop_after_commit"] * 3)
    with pytest.raises(OutcomeUnknown) as caught:
        await original.create_transfer(**arguments)
    request = caught.value.request
    assert isinstance(request, TransferRequest)
    assert [request.is_met_by(each) for each in await original.get_transfers_by_user_uid(stage.user_uid)] == [False]
    ticks.at += 10.0
    assert [request.is_met_by(each) for each in await original.get_transfers_by_user_uid(stage.user_uid)] == [False, True]


async def test_lists(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/transfer?user_uid={USER}", payload=ok([TRANSFER, {**TRANSFER, "uid": "2"}]))
    wire.get(f"{BASE}/burn?user_uid={USER}", payload=ok([BURN]))
    assert [each.uid for each in await client.get_transfers_by_user_uid(USER)] == ["213134081289", "2"]
    assert [each.uid for each in await client.get_burns_by_user_uid(USER)] == ["213134081289"]


async def test_unknown_uids(original: OriginalClient) -> None:
    for read in (original.get_transfer, original.get_burn):
        with pytest.raises(NotFound):
            await read("000000000000")
    for listed in (original.get_transfers_by_user_uid, original.get_burns_by_user_uid):
        assert await listed("000000000000") == []


@pytest.mark.parametrize("collection_uid", [None, "471616646163"])
async def test_a_deposit_as_documented(client: OriginalClient, wire: aioresponses, collection_uid: str | None) -> None:
    deposit: dict[str, Any] = {
        "network": "Amoy",
        "chain_id": 80002,
        "wallet_address": "0x1d6169328e0a2e0a0709115d1860c682cf8d1398",
        "qr_code_data": "ethereum:0x1d6169328e0a2e0a0709115d1860c682cf8d1398@80001",
    }
    more = "" if collection_uid is None else f"&collection_uid={collection_uid}"
    wire.get(f"{BASE}/deposit?user_uid={USER}{more}", payload=ok(deposit))
    wire.get(f"{BASE}/deposit?user_uid={USER}{more}", payload=ok({**deposit, "wallet_address": None, "qr_code_data": None}))
    found = await client.get_deposit(USER, collection_uid=collection_uid)
    assert found == Deposit(**deposit)
    assert found.raw == deposit
    assert (await client.get_deposit(USER, collection_uid=collection_uid)).wallet_address is None


async def test_what_is_sent_and_how_it_ends(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    first = await original.create_transfer(asset_uid=stage.asset_uid, from_user_uid=stage.user_uid, to_address=WALLET)
    assert sandbox.requests[-1].json() == {
        "asset_uid": stage.asset_uid,
        "from_user_uid": stage.user_uid,
        "to_address": WALLET,
    }
    await sandbox.settle(first.uid, "cancelled", kind="transfer")
    assert (await original.get_transfer(first.uid)).status is OperationStatus.CANCELLED
    burn = await original.create_burn(asset_uid=stage.asset_uid, from_user_uid=stage.user_uid)
    assert sandbox.requests[-1].json() == {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid}
    await sandbox.settle(burn.uid, kind="burn")
    assert (await original.get_burn(burn.uid)).status is OperationStatus.DONE


def asked_at(created: datetime) -> TransferRequest:
    return TransferRequest(
        asset_uid="112144981245", from_user_uid="223144788242", to_address=TRANSFER["to_address"].lower(), asked_at=created
    )


def test_a_transfer_is_the_one_of_a_call_only_if_it_is_no_older() -> None:
    transfer = Transfer(**{**TRANSFER, "status": OperationStatus.DONE, "created_at": CREATED_AT})
    cancelled = evolve(transfer, status=OperationStatus.CANCELLED)
    for each in (transfer, cancelled):
        assert asked_at(CREATED_AT).is_met_by(each)
        assert not asked_at(CREATED_AT + timedelta(microseconds=1)).is_met_by(each)
    assert asked_at(CREATED_AT.replace(tzinfo=None)).is_met_by(transfer)
    assert asked_at(CREATED_AT).is_met_by(evolve(transfer, created_at=CREATED_AT.replace(tzinfo=None)))
    assert not asked_at(CREATED_AT).is_met_by(evolve(transfer, created_at=None))
    whenever = evolve(asked_at(CREATED_AT), asked_at=None)
    assert whenever.is_met_by(transfer)
    assert whenever.is_met_by(evolve(transfer, created_at=None))
    assert not whenever.is_met_by(cancelled)
    others: list[dict[str, Any]] = [{"asset_uid": "1"}, {"from_user_uid": "1"}, {"to_address": "0x1"}]
    for changes in others:
        assert not asked_at(CREATED_AT).is_met_by(evolve(transfer, **changes))
        assert not whenever.is_met_by(evolve(transfer, **changes))
    assert not asked_at(CREATED_AT).is_met_by(Burn(**{**BURN, "status": OperationStatus.DONE}))


async def test_an_older_transfer_of_the_same_way_is_another_one(
    original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime
) -> None:
    stage = await set_stage(original, sandbox)
    arguments: dict[str, Any] = {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid, "to_address": WALLET}
    first = await original.create_transfer(**arguments)
    await sandbox.settle(first.uid, kind="transfer")
    ticks.at += 3600.0
    with pytest.raises(RequestRejected):  # the asset is gone, and the older transfer does not count
        await original.create_transfer(**arguments)
    await sandbox.deposit(stage.asset_uid, stage.user_uid)
    sandbox.script("drop_after_commit")
    second = await original.create_transfer(**arguments)
    assert second.recovered
    assert second.uid != first.uid


async def test_of_several_transfers_the_newest_comes_first_and_a_cancelled_one_last(
    client: OriginalClient, wire: aioresponses
) -> None:
    listed = [
        {**TRANSFER, "uid": "1", "status": "cancelled", "created_at": "2023-08-12T00:00:00Z"},
        {**TRANSFER, "uid": "2", "status": "done", "created_at": "2023-08-10T00:00:00Z"},
        {**TRANSFER, "uid": "3", "status": "pending", "created_at": "2023-08-11T00:00:00"},
        {**TRANSFER, "uid": "4", "status": "done", "created_at": None},
    ]
    wire.get(f"{BASE}/transfer?user_uid=223144788242", payload=ok(listed))
    found = await client.find_operations([asked_at(CREATED_AT)])
    assert [(each.uid, each.recovered) for each in found] == [(uid, True) for uid in "3241"]


@pytest.mark.parametrize("ahead", [-7200.0, -2.0, 0.0, 2.0, 7200.0])
@pytest.mark.parametrize("answered_before", [True, False], ids=["answered before", "first answer"])
async def test_a_transfer_is_told_from_another_by_the_vendors_clock(
    make_client: MakeClient, sandbox: OriginalSandbox, ticks: SteppedTime, ahead: float, answered_before: bool
) -> None:
    stage = await set_stage(make_client(base_url=sandbox.url), sandbox)
    ticks.ahead = ahead
    client = make_client(base_url=sandbox.url, token_lifetime=None)
    arguments: dict[str, Any] = {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid, "to_address": WALLET}
    older = await make_client(base_url=sandbox.url, token_lifetime=None).create_transfer(**arguments)
    await sandbox.settle(older.uid, kind="transfer")
    await sandbox.deposit(stage.asset_uid, stage.user_uid)
    ticks.at += 3.0
    if answered_before:
        await client.get_user(stage.user_uid)
        ticks.at += 100.0
    sandbox.script(*["drop_before_commit"] * 3)
    with pytest.raises(OutcomeUnknown) as caught:
        await client.create_transfer(**arguments)
    request = caught.value.request
    assert isinstance(request, TransferRequest)
    sandbox.script(*["drop_after_commit"] * 3)
    lost = await client.create_transfer(**arguments)
    assert lost.recovered
    assert lost.uid != older.uid
    await sandbox.settle(lost.uid, "cancelled", kind="transfer")
    listed = await client.get_transfers_by_user_uid(stage.user_uid)
    assert [request.is_met_by(each) for each in listed] == [False, True]


@pytest.mark.parametrize(("seconds", "met"), [(-60.0, True), (-60.1, False)])
async def test_where_no_answer_has_a_date_this_machines_clock_may_be_a_minute_ahead(
    client: OriginalClient, wire: aioresponses, ticks: SteppedTime, seconds: float, met: bool
) -> None:
    wire.post(f"{BASE}/transfer", status=503, repeat=True)
    wire.get(f"{BASE}/transfer?user_uid=223144788242", payload=ok([]), repeat=True)
    began = datetime.fromtimestamp(ticks.wall(), UTC)
    with pytest.raises(OutcomeUnknown) as caught:
        await client.create_transfer(asset_uid="112144981245", from_user_uid="223144788242", to_address=WALLET)
    transfer = Transfer(**{**TRANSFER, "status": OperationStatus.DONE, "created_at": began + timedelta(seconds=seconds)})
    request = caught.value.request
    assert isinstance(request, TransferRequest)
    assert request.is_met_by(transfer) is met


@pytest.mark.parametrize("move", ["create_transfer", "create_burn"])
@pytest.mark.parametrize("status", ["pending", "done"])
async def test_a_repeated_call_finds_what_an_earlier_one_began(
    make_client: MakeClient, original: OriginalClient, sandbox: OriginalSandbox, ticks: SteppedTime, move: str, status: str
) -> None:
    stage = await set_stage(original, sandbox)
    arguments: dict[str, Any] = {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid}
    if move == "create_transfer":
        arguments["to_address"] = WALLET
        cancelled = await original.create_transfer(**arguments)
        await sandbox.settle(cancelled.uid, "cancelled", kind="transfer")
    first = await getattr(original, move)(**arguments)
    if status == "done":
        await sandbox.settle(first.uid, kind=first.ref.kind)
    ticks.at += 86_400.0  # the process was killed, and begins again the next day
    client = make_client(base_url=sandbox.url)
    with pytest.raises(RequestRejected):
        await getattr(client, move)(**arguments)
    again = await getattr(client, move)(**arguments, repeated=True)
    assert (again.uid, again.status, again.recovered) == (first.uid, status, True)


@pytest.mark.parametrize("move", ["create_transfer", "create_burn"])
async def test_a_repeated_call_does_what_no_earlier_one_did(
    original: OriginalClient, sandbox: OriginalSandbox, move: str
) -> None:
    stage = await set_stage(original, sandbox)
    arguments: dict[str, Any] = {"asset_uid": stage.asset_uid, "from_user_uid": stage.user_uid}
    if move == "create_transfer":
        arguments["to_address"] = WALLET
    made = await getattr(original, move)(**arguments, repeated=True)
    assert (made.status, made.recovered) == (OperationStatus.PENDING, False)
    with pytest.raises(OutcomeUnknown):  # a refusal says nothing about an earlier call
        await getattr(original, move)(**{**arguments, "asset_uid": "999999999999"}, repeated=True)
    with pytest.raises(TypeError, match="repeated"):
        await getattr(original, move)(**arguments, repeated="yes")


def test_a_burn_is_found_by_its_asset_and_user() -> None:
    burn = Burn(**{**BURN, "status": OperationStatus.DONE, "created_at": CREATED_AT})
    request = BurnRequest(asset_uid="112144981245", from_user_uid="223144788242")
    assert request.is_met_by(burn)
    assert not request.is_met_by(evolve(burn, asset_uid="1"))
    assert not request.is_met_by(evolve(burn, from_user_uid="1"))
    assert not request.is_met_by(Transfer(**{**TRANSFER, "status": OperationStatus.DONE}))


@pytest.mark.parametrize(
    ("call", "name", "value", "error"),
    [
        ("create_transfer", "asset_uid", "a/b", ValueError),
        ("create_transfer", "from_user_uid", 7, TypeError),
        ("create_transfer", "to_address", "", ValueError),
        ("create_burn", "asset_uid", "a b", ValueError),
        ("create_burn", "from_user_uid", None, TypeError),
    ],
)
async def test_arguments_are_checked_before_anything_is_sent(
    original: OriginalClient, sandbox: OriginalSandbox, call: str, name: str, value: Any, error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"asset_uid": "1", "from_user_uid": "2"}
    if call == "create_transfer":
        arguments["to_address"] = WALLET
    with pytest.raises(error, match=name):
        await getattr(original, call)(**{**arguments, name: value})
    assert not sandbox.requests


async def test_requests_of_several_kinds_are_refused(original: OriginalClient) -> None:
    transfer = asked_at(CREATED_AT)
    burn = BurnRequest(asset_uid=transfer.asset_uid, from_user_uid=transfer.from_user_uid)
    with pytest.raises(ValueError, match="one kind"):
        await original.find_operations([transfer, burn])
