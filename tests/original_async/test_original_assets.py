"""Collections and assets: every documented shape, what is sent, and edits, which have no uid."""

from __future__ import annotations

import pickle
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aioresponses import aioresponses

from original_async import (
    Asset,
    AssetAttribute,
    AssetData,
    AssetMetadata,
    AssetRequest,
    AssetTrait,
    Collection,
    DeploymentStatus,
    OriginalClient,
)
from rewards_core.errors import Conflict, NotFound, OutcomeUnknown, RequestRejected, UnexpectedResponse
from rewards_core.operations import OperationRef, OperationStatus
from tests.original_async.conftest import BASE, USER, MakeClient
from tests.original_async.family_kit import COLLECTION, DATA, EXTERNAL_ID
from tests.texts import said
from vendor_sandboxes.original import OriginalSandbox

IMAGE = "https://cryptopunks.app/cryptopunks/cryptopunk1081.png"
ASSET: dict[str, Any] = {
    "uid": "151854912345",
    "name": "random name #2",
    "asset_external_id": "asset_external_id_1",
    "collection_uid": "471616646163",
    "collection_name": "Test SDK Collection 1",
    "token_id": 2,
    "created_at": "2024-02-16T11:33:19.577827Z",
    "is_minted": True,
    "is_burned": False,
    "is_transferring": False,
    "is_transferable": True,
    "is_editing": False,
    "mint_for_user_uid": "885810911461",
    "owner_user_uid": "885810911461",
    "owner_address": "0x32e28bfe647939d073d39113c697a11e3065ea97",
    "metadata": {
        "name": "random name",
        "image": IMAGE,
        "description": "nft_description",
        "original_id": "151854912345",
        "external_url": "external_url@example.com",
        "org_image_url": IMAGE,
        "attributes": [{"trait_type": "Stamina Increase", "display_type": "boost_percentage", "value": 10}],
    },
    "explorer_url": "https://mumbai.polygonscan.com/token/0x124a6755ee787153bb6228463d5dc3a02890a7db?a=2",
    "token_uri": "https://storage.googleapis.com/original-production-media/data/metadata/9ac0dad4.json",
}
SHOWN: dict[str, Any] = {
    "uid": "471616646163",
    "name": "Test SDK Collection 1",
    "status": "deployed",
    "type": "ERC721",
    "created_at": "2024-02-13T10:45:56.952745Z",
    "editable_assets": True,
    "contract_address": "0x124a6755ee787153bb6228463d5dc3a02890a7db",
    "symbol": "SYM",
    "description": "Description of the collection",
    "explorer_url": "https://mumbai.polygonscan.com/address/0x124a6755ee787153bb6228463d5dc3a02890a7db",
}


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


async def test_an_asset_as_documented(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/asset/151854912345", payload=ok(ASSET))
    asset = await client.get_asset("151854912345")
    assert asset == Asset(
        uid="151854912345",
        name="random name #2",
        asset_external_id="asset_external_id_1",
        collection_uid="471616646163",
        collection_name="Test SDK Collection 1",
        token_id="2",
        created_at=datetime(2024, 2, 16, 11, 33, 19, 577827, tzinfo=UTC),
        is_minted=True,
        is_transferable=True,
        mint_for_user_uid="885810911461",
        owner_user_uid="885810911461",
        owner_address="0x32e28bfe647939d073d39113c697a11e3065ea97",
        metadata=AssetMetadata(
            name="random name",
            image=IMAGE,
            description="nft_description",
            original_id="151854912345",
            external_url="external_url@example.com",
            org_image_url=IMAGE,
            attributes=(AssetTrait(trait_type="Stamina Increase", display_type="boost_percentage", value=10),),
        ),
        explorer_url=ASSET["explorer_url"],
        token_uri=ASSET["token_uri"],
    )
    assert (asset.status, asset.ref) == (OperationStatus.DONE, OperationRef("default", "asset", "151854912345"))
    assert asset.key == "asset_external_id_1"
    assert asset.raw == ASSET


@pytest.mark.parametrize(("written", "token_id"), [(2, "2"), ("2", "2"), (10**30, str(10**30)), (None, None)])
async def test_a_token_id_as_text_or_number(
    client: OriginalClient, wire: aioresponses, written: Any, token_id: str | None
) -> None:
    body = re.sub(rb'"token_id":\d+', b'"token_id":' + (b"null" if written is None else _json(written)), orjson.dumps(ok(ASSET)))
    wire.get(f"{BASE}/asset/151854912345", body=body)
    assert (await client.get_asset("151854912345")).token_id == token_id


def _json(value: Any) -> bytes:
    return f'"{value}"'.encode() if isinstance(value, str) else str(value).encode()


@pytest.mark.parametrize(
    ("written", "value"), [("10", "10"), (10, 10), (Decimal("1.50"), Decimal("1.50")), ("true", True), ("null", None)]
)
async def test_the_value_of_an_attribute_as_text_or_number(
    client: OriginalClient, wire: aioresponses, written: Any, value: Any
) -> None:
    literal = written.encode() if value in {True, None} else _json(written)
    body = orjson.dumps(ok(ASSET)).replace(b'"value":10', b'"value":' + literal)
    wire.get(f"{BASE}/asset/151854912345", body=body)
    metadata = (await client.get_asset("151854912345")).metadata
    assert metadata is not None
    assert metadata.attributes is not None
    assert (metadata.attributes[0].value, type(metadata.attributes[0].value)) == (value, type(value))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"token_id": True}, "data.token_id"),
        ({"token_id": [2]}, "data.token_id"),
        ({"is_minted": "yes"}, "data.is_minted"),
        ({"name": None}, "data.name"),
        ({"metadata": {"attributes": [{"trait_type": 7}]}}, "data.metadata.attributes[0].trait_type"),
        ({"metadata": {"attributes": {"trait_type": "x"}}}, "data.metadata.attributes"),
        ({"uid": "2"}, "data.uid"),
    ],
)
async def test_an_asset_that_cannot_be_read(
    client: OriginalClient, wire: aioresponses, changes: dict[str, Any], path: str
) -> None:
    wire.get(f"{BASE}/asset/151854912345", payload=ok({**ASSET, **changes}))
    with pytest.raises(UnexpectedResponse) as caught:
        await client.get_asset("151854912345")
    assert caught.value.path == path


async def test_an_asset_that_says_little(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(
        f"{BASE}/asset/1", payload=ok({"uid": "1", "name": "n", "collection_uid": "2", "is_minted": False, "metadata": None})
    )
    asset = await client.get_asset("1")
    assert (asset.status, asset.key, asset.metadata, asset.shown_name) == (OperationStatus.PENDING, None, None, "n")


async def test_a_collection_as_documented(client: OriginalClient, wire: aioresponses) -> None:
    wire.get(f"{BASE}/collection/471616646163", payload=ok(SHOWN))
    collection = await client.get_collection("471616646163")
    assert collection == Collection(
        **{
            **SHOWN,
            "status": DeploymentStatus.DEPLOYED,
            "created_at": datetime(2024, 2, 13, 10, 45, 56, 952745, tzinfo=UTC),
        }
    )
    assert (collection.ref, collection.key, collection.recovered) == (
        OperationRef("default", "collection", "471616646163"),
        None,
        False,
    )


@pytest.mark.parametrize(
    ("word", "outcome"),
    [("deployed", OperationStatus.DONE), ("Deployed", OperationStatus.DONE), ("deploying", None), ("paused", None)],
)
async def test_the_status_of_a_collection(
    client: OriginalClient, wire: aioresponses, word: str, outcome: OperationStatus | None
) -> None:
    wire.get(f"{BASE}/collection/471616646163", payload=ok({**SHOWN, "status": word}))
    collection = await client.get_collection("471616646163")
    assert (collection.status.outcome, collection.status.terminal) == (outcome, outcome is not None)
    assert pickle.loads(pickle.dumps(collection)) == collection


async def test_unknown_uids_are_not_found_and_unknown_users_have_nothing(original: OriginalClient) -> None:
    for read in (original.get_collection, original.get_asset):
        with pytest.raises(NotFound):
            await read("000000000000")
    assert await original.get_assets_by_user_uid("000000000000") == []
    assert await original.find_asset("000000000000", asset_external_id="x") is None


async def test_what_create_asset_sends(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    data = AssetData(
        name="Dave Starbelly",
        unique_name=True,
        image_url="https://example.com/3.png",
        store_image_on_ipfs=True,
        description="Friendly",
        external_url="https://openseacreatures.io/3",
        attributes=[
            AssetAttribute(trait_type="Base", value="Starfish"),
            AssetAttribute(trait_type="Stamina Increase", display_type="boost_percentage", value=Decimal("10.50")),
        ],
    )
    asset = await original.create_asset(
        user_uid=USER, collection_uid=COLLECTION, asset_external_id=EXTERNAL_ID, data=data, sale_price_in_usd=Decimal("9.90")
    )
    sent = sandbox.requests[-1]
    assert sent.body == (
        b'{"user_uid":"110985463782","asset_external_id":"asset_external_id_1","collection_uid":"471616646163",'
        b'"sale_price_in_usd":9.90,"data":{"name":"Dave Starbelly","unique_name":true,"image_url":"https://example.com/3.png",'
        b'"store_image_on_ipfs":true,"description":"Friendly","external_url":"https://openseacreatures.io/3","attributes":'
        b'[{"trait_type":"Base","value":"Starfish"},'
        b'{"trait_type":"Stamina Increase","value":10.50,"display_type":"boost_percentage"}]}}'
    )
    assert (asset.status, asset.shown_name, asset.sale_price_in_usd) == ("pending", "Dave Starbelly", Decimal("9.90"))
    await sandbox.settle(asset.uid, kind="asset")
    minted = await original.get_asset(asset.uid)
    assert (minted.status, minted.sale_price_in_usd, minted.mint_for_user_uid) == ("done", Decimal("9.90"), USER)


async def test_an_external_id_of_another_asset(make_client: MakeClient, sandbox: OriginalSandbox) -> None:
    original = make_client(base_url=sandbox.url)
    sandbox.options.duplicate_external_id = "reject"
    first = await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=DATA)
    again = await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=DATA)
    assert (again.uid, again.recovered) == (first.uid, True)
    other = AssetData(name="Another", image_url="https://example.com/4.png", unique_name=False)
    with pytest.raises(Conflict) as caught:
        await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=other)
    assert caught.value.existing.uid == first.uid
    said("create_asset: the external id belongs to another asset", str(caught.value).replace(first.uid, "UID"))
    assert await original.find_asset(USER, asset_external_id="x", collection_uid=COLLECTION) == await original.get_asset(
        first.uid
    )
    assert await original.find_asset(USER, asset_external_id="x", collection_uid="1") is None


async def test_another_asset_under_the_id_proves_nothing_while_the_first_call_may_have_arrived(
    original: OriginalClient, sandbox: OriginalSandbox
) -> None:
    await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=DATA)
    other = AssetData(name="Another", image_url="https://example.com/4.png", unique_name=False)
    sandbox.script("drop_before_commit")
    with pytest.raises(OutcomeUnknown) as caught:
        await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=other)
    assert caught.value.request == AssetRequest(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", name="Another")


async def test_a_plain_refusal_is_not_looked_up(original: OriginalClient, sandbox: OriginalSandbox) -> None:
    taken = AssetData(name="Taken", image_url="i", unique_name=True)
    asked: Any = {"user_uid": USER, "collection_uid": COLLECTION, "data": taken}
    await original.create_asset(**asked, asset_external_id="x")
    with pytest.raises(RequestRejected, match="name"):
        await original.create_asset(**asked, asset_external_id="y")
    assert [each.method for each in sandbox.requests] == ["POST", "POST"]


async def test_an_external_id_of_an_earlier_call_is_looked_up_and_never_sent(
    original: OriginalClient, sandbox: OriginalSandbox
) -> None:
    asked: Any = {"user_uid": USER, "collection_uid": COLLECTION, "asset_external_id": "x", "data": DATA, "repeated": True}
    with pytest.raises(OutcomeUnknown) as caught:
        await original.create_asset(**asked)
    said("create_asset: an earlier call that does not show", caught.value)
    assert caught.value.request == AssetRequest(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", name=DATA.name)
    first = await original.create_asset(**{**asked, "repeated": False})
    again = await original.create_asset(**asked)
    assert (again.uid, again.recovered) == (first.uid, True)
    assert sandbox.books()["assets_asked"] == {"x": 1}


@pytest.mark.parametrize("name", ["Ünïcode", "👩‍🚀 badge", "می‌خواهم", "a b"])
async def test_a_name_in_any_script(original: OriginalClient, sandbox: OriginalSandbox, name: str) -> None:
    data = AssetData(name=name, image_url="https://example.com/4.png", unique_name=False)
    asset = await original.create_asset(user_uid=USER, collection_uid=COLLECTION, asset_external_id="x", data=data)
    await sandbox.settle(asset.uid, kind="asset")
    assert (await original.get_asset(asset.uid)).shown_name == name


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": ""}, ValueError),
        ({"name": "x" * 256}, ValueError),
        ({"name": 7}, TypeError),
        ({"name": "a\nb"}, ValueError),
        ({"name": " a"}, ValueError),
        ({"image_url": ""}, ValueError),
        ({"image_url": "https://example.com/a b"}, ValueError),
        ({"image_url": "x" * 2049}, ValueError),
        ({"description": "\ud800"}, ValueError),
        ({"external_url": ""}, ValueError),
        ({"unique_name": "true"}, TypeError),
        ({"store_image_on_ipfs": 1}, TypeError),
        ({"description": 7}, TypeError),
        ({"external_url": b"x"}, TypeError),
        ({"attributes": "Base"}, TypeError),
        ({"attributes": [{"trait_type": "Base", "value": "x"}]}, TypeError),
        ({"attributes": AssetAttribute(trait_type="Base", value="x")}, TypeError),
    ],
)
def test_data_is_checked(changes: dict[str, Any], error: type[Exception]) -> None:
    (name,) = changes
    with pytest.raises(error, match=name):
        AssetData(**{"name": "n", "image_url": "i", "unique_name": True, **changes})


@pytest.mark.parametrize(
    ("value", "error"),
    [(1.5, TypeError), (True, TypeError), (None, TypeError), (Decimal("NaN"), ValueError), ("\ud800", ValueError)],
)
def test_the_value_of_an_attribute_is_exact(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="value"):
        AssetAttribute(trait_type="Base", value=value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("user_uid", "a/b", ValueError),
        ("collection_uid", "", ValueError),
        ("asset_external_id", " x", ValueError),
        ("asset_external_id", None, TypeError),
        ("data", {"name": "x"}, TypeError),
        ("sale_price_in_usd", 9.99, TypeError),
        ("sale_price_in_usd", "0", ValueError),
        ("sale_price_in_usd", "1e3", ValueError),
    ],
)
async def test_arguments_are_checked_before_anything_is_sent(
    original: OriginalClient, sandbox: OriginalSandbox, name: str, value: Any, error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"user_uid": USER, "collection_uid": COLLECTION, "asset_external_id": "x", "data": DATA}
    with pytest.raises(error, match=name):
        await original.create_asset(**{**arguments, name: value})
    if name == "data":
        with pytest.raises(error, match=name):
            await original.edit_asset("1", data=value)
    assert not sandbox.requests
