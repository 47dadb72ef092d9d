"""Edits of assets, which have no uid: what they show tells when they are done."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from aioresponses import aioresponses

from original_async import AssetAttribute, AssetData, Edit, EditRequest, OriginalClient
from rewards_core.errors import OutcomeUnknown, RequestRejected
from rewards_core.operations import OperationRef
from tests.original_async.conftest import BASE
from tests.original_async.family_kit import COLLECTION, DATA, EDITED, set_stage
from vendor_sandboxes.original import OriginalSandbox

BASE_TRAIT = {"trait_type": "Base", "value": "Starfish"}
LEVEL = {"trait_type": "Level", "value": "1.5"}


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


async def test_a_refused_rename_is_no_edit(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    other = AssetData(name="Badge #1", image_url="i", unique_name=True)
    await original.create_asset(user_uid=stage.user_uid, collection_uid=COLLECTION, asset_external_id="y", data=other)
    with pytest.raises(RequestRejected, match="name"):
        await original.edit_asset(stage.asset_uid, data=other)


async def test_an_edit_is_done_once_the_asset_shows_it(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    edit = await original.edit_asset(stage.asset_uid, data=EDITED)
    assert sandbox.requests[-1].json() == {
        "data": {
            "name": "Dave Starbelly",
            "unique_name": False,
            "image_url": "https://example.com/3.png",
            "description": "Edited",
        }
    }
    assert (edit.asset_uid, edit.status) == (stage.asset_uid, "pending")
    assert edit.ref == OperationRef("default", "edit", edit.uid)
    assert edit.ref.about == f"asset/{stage.asset_uid}"
    seen = await original.read_operation(edit.ref)
    assert seen.status == "pending"
    await sandbox.settle(stage.asset_uid, kind="edit")
    done = await original.read_operation(edit.ref)
    assert isinstance(done, Edit)
    assert (done.status, done.uid) == ("done", edit.uid)
    assert done.asset is not None
    assert done.asset.metadata is not None
    assert done.asset.metadata.description == "Edited"


async def test_two_equal_edits_are_two_edits(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    first = await original.edit_asset(stage.asset_uid, data=EDITED)
    await sandbox.settle(stage.asset_uid, kind="edit")
    second = await original.edit_asset(stage.asset_uid, data=EDITED)
    assert first.ref != second.ref
    assert first.key[:16] == second.key[:16]


async def test_an_edit_that_another_one_replaced_is_not_seen_as_done(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    edit = await original.edit_asset(stage.asset_uid, data=EDITED)
    await sandbox.settle(stage.asset_uid, kind="edit")
    await original.edit_asset(stage.asset_uid, data=DATA)
    await sandbox.settle(stage.asset_uid, kind="edit")
    assert (await original.read_operation(edit.ref)).status == "pending"


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"name": "Dave #12", "token_id": 12, "metadata": {"name": None}},
        {"metadata": {"image": "ipfs://x"}},
        {"metadata": {"org_image_url": None}},
        {"metadata": {"description": ""}},
        {"metadata": {"external_url": ""}},
        {"metadata": {"attributes": [LEVEL, BASE_TRAIT]}},
        {"metadata": {"attributes": [{**BASE_TRAIT, "display_type": None}, {**LEVEL, "value": 1.5}]}},
    ],
)
async def test_the_same_content_written_in_another_way_is_the_same(
    client: OriginalClient, wire: aioresponses, shown: dict[str, Any]
) -> None:
    data = AssetData(
        name="Dave",
        image_url="https://example.com/3.png",
        unique_name=False,
        attributes=[
            AssetAttribute(trait_type="Base", value="Starfish"),
            AssetAttribute(trait_type="Level", value=Decimal("1.50")),
        ],
    )
    wire.put(f"{BASE}/asset/1", payload=ok(None))
    edit = await client.edit_asset("1", data=data)
    metadata = {
        "name": "Dave",
        "image": "https://example.com/3.png",
        "org_image_url": "https://example.com/3.png",
        "attributes": [{"trait_type": "Base", "value": "Starfish"}, {"trait_type": "Level", "value": 1.5}],
        **shown.pop("metadata", {}),
    }
    asset = {"uid": "1", "name": "Dave", "token_id": 12, "collection_uid": "2", "is_minted": True, **shown, "metadata": metadata}
    wire.get(f"{BASE}/asset/1", payload=ok(asset))
    assert (await client.read_operation(edit.ref)).status == "done"
    wire.get(f"{BASE}/asset/1", payload=ok({**asset, "is_editing": True}))
    assert (await client.read_operation(edit.ref)).status == "pending"
    others: list[dict[str, Any]] = [
        {"name": "Dave #12"},
        {"description": "x"},
        {"org_image_url": "https://example.com/4.png"},
        {"attributes": []},
    ]
    for other in others:
        wire.get(f"{BASE}/asset/1", payload=ok({**asset, "metadata": {**metadata, **other}}))
        assert (await client.read_operation(edit.ref)).status == "pending"


async def test_an_edit_whose_reply_was_lost_is_found_by_its_content(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    stage = await set_stage(original, sandbox)
    sandbox.script("drop_after_commit", "p503", "p503", method="PUT")
    with pytest.raises(OutcomeUnknown) as caught:
        await original.edit_asset(stage.asset_uid, data=EDITED)
    request = caught.value.request
    assert isinstance(request, EditRequest)
    assert [each.status for each in await original.find_operations([request])] == ["pending"]
    await sandbox.settle(stage.asset_uid, kind="edit")
    (found,) = await original.find_operations([request])
    assert request.is_met_by(found)
    assert (found.status, found.recovered) == ("done", True)


@pytest.mark.parametrize(
    ("value", "written", "same"),
    [
        (10, b'"10"', True),
        (100, b"1E+2", True),
        (Decimal("2.50"), b'"2.5"', True),
        (Decimal("-0"), b"0", True),
        (10**30 + 1, b"1000000000000000000000000000001", True),
        (10**30 + 1, b"1000000000000000000000000000002", False),
        (Decimal("1E+1000000"), b"1E+1000000", True),
        (Decimal("1E+1000000"), b"1E+1000001", False),
        (1, b"true", False),
        ("True", b"true", False),
        ("None", b"null", False),
        ("1e1", b"10", False),
    ],
)
async def test_the_number_of_a_trait_is_compared_exactly(
    client: OriginalClient, wire: aioresponses, value: str | int | Decimal, written: bytes, same: bool
) -> None:
    data = AssetData(name="n", image_url="i", unique_name=False, attributes=[AssetAttribute(trait_type="t", value=value)])
    wire.put(f"{BASE}/asset/1", payload=ok(None))
    edit = await client.edit_asset("1", data=data)
    body = (
        b'{"success":true,"data":{"uid":"1","name":"n","collection_uid":"2","is_minted":true,"metadata":'
        b'{"name":"n","image":"i","attributes":[{"trait_type":"t","value":' + written + b"}]}}}"
    )
    wire.get(f"{BASE}/asset/1", body=body)
    assert (await client.read_operation(edit.ref)).status == ("done" if same else "pending")


async def test_a_uid_that_leaves_no_room_for_the_token_is_refused(client: OriginalClient, wire: aioresponses) -> None:
    with pytest.raises(ValueError, match="uid"):
        await client.edit_asset("1" * 240, data=DATA)
