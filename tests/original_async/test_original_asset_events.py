"""Events of assets and collections: what they mention, in every shape, and that only the vendor's answer settles an asset."""

from __future__ import annotations

import json
from typing import Any

import pytest

from original_async import OriginalWebhooks
from rewards_core.operations import OperationRef

APP = {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"}
TIME = "2023-08-01T11:24:36.531141+00:00"
IMAGE = "https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png"
METADATA = {
    "name": "Dave Starbelly",
    "image": IMAGE,
    "original_id": "1ca4a4b0-0f2c-4b0e-8a5a-5d6ae2a0b7f6",
    "org_image_url": IMAGE,
    "attributes": [{"trait_type": "Base", "value": "Starfish"}],
}
SAMPLE = {"uid": "151854912345", "name": "Dave Starbelly", "metadata": METADATA}
FULL = {**SAMPLE, "collection_uid": "471616646163", "is_minted": True, "owner_user_uid": "885810911461"}
TRANSFER = {
    "uid": "213134081289",
    "status": "done",
    "asset_uid": "151854912345",
    "from_user_uid": "223144788242",
    "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
BURN = {name: value for name, value in TRANSFER.items() if name != "to_address"}
COLLECTION = {"uid": "471616646163", "name": "CollectionName", "type": "ERC721", "symbol": "", "website": None}
LOG = {"type": "mint", "chain_id": 80002, "transaction_hash": "0x00", "uid": "999"}

ASSET_REF = OperationRef("default", "asset", "151854912345")
TRANSFER_REF = OperationRef("default", "transfer", "213134081289")
BURN_REF = OperationRef("default", "burn", "213134081289")
COLLECTION_REF = OperationRef("default", "collection", "471616646163")

source = OriginalWebhooks({"4o3vfxtcmo7b": "webhook-secret-one"})
ASSET_EVENTS = ["asset.minted", "asset.edited", "asset.transferred", "asset.burned"]


def body(name: str, /, *, at: str = TIME, **data: Any) -> bytes:
    return json.dumps({"data": {"app": APP, **data}, "event": name, "event_time": at, "sent_at": TIME}).encode()


@pytest.mark.parametrize("name", ASSET_EVENTS)
@pytest.mark.parametrize(
    "data",
    [
        {"asset": SAMPLE},
        {"asset": FULL, "transaction_log": LOG},
        {"asset": {"uid": "151854912345"}},
        {"asset": SAMPLE, "collection": COLLECTION},
        {"asset": SAMPLE, "user": {"uid": "885810911461", "email": "a@example.com"}},
        {"asset_uid": "151854912345"},
        {"assets": [SAMPLE]},
        FULL,
        {"uid": "151854912345"},
        {"thing": FULL},
    ],
)
def test_an_event_of_an_asset_mentions_it_and_settles_nothing(name: str, data: dict[str, Any]) -> None:
    event = source.parse(body(name, **data))
    assert (event.name, event.ref, event.also, event.resource, event.key) == (name, ASSET_REF, (), None, None)


def test_what_is_done_to_an_asset_is_found_beside_it() -> None:
    event = source.parse(body("asset.transferred", asset=SAMPLE, transfer=TRANSFER))
    assert (event.ref, event.also, event.resource) == (ASSET_REF, (TRANSFER_REF,), None)
    event = source.parse(body("asset.burned", burn=BURN))
    assert (event.ref, event.also, event.resource) == (ASSET_REF, (BURN_REF,), None)
    event = source.parse(body("asset.transferred", asset=SAMPLE, transfer_uid="213134081289"))
    assert {event.ref, *event.also} == {ASSET_REF, TRANSFER_REF}


@pytest.mark.parametrize(("resource", "ref"), [(TRANSFER, TRANSFER_REF), (BURN, BURN_REF)])
def test_a_transfer_or_burn_is_known_by_its_fields(resource: dict[str, Any], ref: OperationRef) -> None:
    event = source.parse(body("some.event", thing=resource))
    assert {event.ref, *event.also} == {ASSET_REF, ref}
    assert event.resource is None


@pytest.mark.parametrize("word", ["done", "Cancelled"])
def test_no_transfer_is_settled_by_an_event(word: str) -> None:
    event = source.parse(body("some.event", transfer={**TRANSFER, "status": word, "asset_uid": "a/b"}))
    assert (event.ref, event.also, event.resource, event.key) == (TRANSFER_REF, (), None, None)


def test_the_refs_of_assets_and_collections_are_about_themselves() -> None:
    event = source.parse(body("asset.transferred", asset=SAMPLE, transfer_uid="213134081289"))
    assert [each.about for each in (event.ref, *event.also) if each] == ["asset/151854912345", None]
    deployed = source.parse(body("collection.deployed", collection=COLLECTION)).ref
    assert deployed is not None
    assert deployed.about == "collection/471616646163"


def test_a_deployed_collection() -> None:
    event = source.parse(body("collection.deployed", collection=COLLECTION, transaction_log=LOG))
    assert (event.ref, event.also, event.resource) == (COLLECTION_REF, (), None)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("asset.minted", {"collection": COLLECTION}),
        ("asset.minted", {"allocation": {"uid": "1"}}),
        ("reward.allocated", {"asset": SAMPLE}),
        ("reward.allocated", {"transfer": TRANSFER}),
        ("collection.deployed", {"asset": SAMPLE}),
        ("user.updated", {"collection": COLLECTION}),
        ("asset.minted", {"asset": {"uid": "a/b"}}),
        ("asset.minted", {"asset": {"uid": 7}}),
    ],
)
def test_what_an_event_does_not_mention(name: str, data: dict[str, Any]) -> None:
    event = source.parse(body(name, **data))
    assert (event.ref, event.also, event.problem) == (None, (), None)


def test_two_events_about_one_asset_are_two_events() -> None:
    first = source.parse(body("asset.edited", asset=SAMPLE))
    later = source.parse(body("asset.edited", at="2023-08-01T11:24:37.000000+00:00", asset=SAMPLE))
    other = source.parse(body("asset.burned", asset=SAMPLE))
    again = source.parse(body("asset.edited", asset=SAMPLE))
    assert len({first.identity, later.identity, other.identity}) == 3
    assert again.identity == first.identity


def test_without_a_time_of_the_event_the_time_of_sending_tells_two_apart() -> None:
    def sent(at: str) -> bytes:
        return json.dumps({"data": {"app": APP, "asset": SAMPLE}, "event": "asset.edited", "sent_at": at}).encode()

    assert source.parse(sent(TIME)).identity != source.parse(sent("2023-08-02T00:00:00+00:00")).identity


@pytest.mark.parametrize("name", ASSET_EVENTS)
def test_a_status_that_an_asset_does_not_have_settles_nothing(name: str) -> None:
    event = source.parse(body(name, asset={**FULL, "status": "done"}))
    assert (event.ref, event.resource) == (ASSET_REF, None)
