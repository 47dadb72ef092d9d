"""Assets of the sandboxed Original are minted and edited by the rules that the vendor documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.sandboxes.conftest import COLLECTION, LOOK, USER, complaints, refusal
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
FLAGS = ("is_minted", "is_burned", "is_transferring", "is_transferable", "is_editing")
MEMBERS = [
    *("uid", "name", "asset_external_id", "collection_uid", "collection_name", "token_id", "created_at"),
    *FLAGS,
    *("mint_for_user_uid", "mint_for_address", "owner_user_uid", "owner_address"),
    *("metadata", "explorer_url", "token_uri", "token_address", "sale_price_in_usd"),
]


def flags(asset: Any) -> set[str]:
    """Return the flags that are true."""
    return {flag for flag in FLAGS if asset[flag]}


# minting


async def test_asset_is_created_without_a_token_and_minted_later(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        created = await caller.mint("asset_1", sale_price_in_usd=9.99)
        assert (created.status, set(created.data)) == (201, {"uid"})
        uid = created.data["uid"]
        before = await caller.asset(uid)
        assert list(before) == MEMBERS
        assert flags(before) == set()
        assert {before[name] for name in ("token_id", "owner_user_uid", "owner_address", "token_uri", "explorer_url")} == {None}
        assert (before["name"], before["asset_external_id"], before["collection_uid"]) == ("Dave", "asset_1", COLLECTION)
        assert (before["mint_for_user_uid"], before["mint_for_address"]) == (USER, None)
        assert before["sale_price_in_usd"] == Decimal("9.99")
        await sandbox.settle(uid, kind="asset")
        after = await caller.asset(uid)
        assert flags(after) == {"is_minted", "is_transferable"}
        assert (after["token_id"], after["name"], after["owner_user_uid"]) == (1, "Dave #1", USER)
        assert after["owner_address"] == after["mint_for_address"] is not None
        assert (await caller.call("GET", f"/asset?user_uid={USER}")).data == [after]
        assert (await caller.call("GET", "/asset?user_uid=nobody")).data == []


async def test_metadata_are_those_that_were_sent(caller_of: CallerOf) -> None:
    attributes: list[dict[str, Any]] = [
        {"trait_type": "Base", "value": "Starfish"},
        {"trait_type": "Speed", "display_type": "boost", "value": 1.5},
    ]
    look = {**LOOK, "description": "A dog", "external_url": "https://example.com", "attributes": attributes}
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint(look=look)).data["uid"]
        answer = await caller.call("GET", f"/asset/{uid}")
        assert answer.data["metadata"] == {
            "name": "Dave",
            "image": LOOK["image_url"],
            "original_id": uid,
            "org_image_url": LOOK["image_url"],
            "description": "A dog",
            "external_url": "https://example.com",
            "attributes": [attributes[0], {**attributes[1], "value": Decimal("1.5")}],
        }


@pytest.mark.parametrize("number", ["1.230", "12345678901234567890.123456789012345678", "7", "1e2"])
async def test_numbers_of_attributes_and_prices_are_exact(caller_of: CallerOf, number: str) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sent = (
            f'{{"user_uid": "u", "collection_uid": "c", "asset_external_id": "e", "sale_price_in_usd": {number}, "data": '
            f'{{"name": "n", "unique_name": true, "image_url": "i", "store_image_on_ipfs": false, '
            f'"attributes": [{{"trait_type": "t", "value": {number}}}]}}}}'
        )
        uid = (await caller.call("POST", "/asset", sent.encode())).data["uid"]
        read = await caller.asset(uid)
        assert read["sale_price_in_usd"] == read["metadata"]["attributes"][0]["value"] == Decimal(number)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('"more"', "[" * 700 + "]" * 700, "parse_error"),
        ('"more"', f'[{{"deep": -1e{"9" * 20}}}]', "invalid"),
        ('"more"', "1e400", "invalid"),
        ('"trait"', f"1e{'9' * 20}", "invalid"),
        ('"image"', '"\\ud800"', "surrogate_characters_not_allowed"),
        ('"user"', '"\\udfff"', "surrogate_characters_not_allowed"),
    ],
)
async def test_what_could_not_be_shown_again_is_refused_and_not_stored(
    caller_of: CallerOf, old: str, new: str, code: str
) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sent = (
            '{"user_uid": "user", "collection_uid": "c", "asset_external_id": "e", "data": {"name": "n", "unique_name": true, '
            '"image_url": "image", "store_image_on_ipfs": false, '
            '"attributes": [{"trait_type": "t", "value": "trait", "x": "more"}]}}'
        )
        answer = await caller.call("POST", "/asset", sent.replace(old, new).encode())
        assert (answer.status, answer.error["detail"]["code"]) == (400, code)
        assert sandbox.books()["assets"] == []
        assert (await caller.call("POST", "/asset", sent.encode())).status == 201
        assert len(sandbox.books()["assets"]) == 1


async def test_number_too_small_for_any_type_is_nothing(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint(look={**LOOK, "attributes": [{"trait_type": "t", "value": 1}]})).data["uid"]
        sent = json.dumps({"data": {**LOOK, "attributes": [{"trait_type": "t", "value": 1}]}}).replace("1}", f"1e-{'9' * 20}}}")
        await sandbox.settle(uid, kind="asset")
        assert (await caller.call("PUT", f"/asset/{uid}", sent.encode())).status == 200
        await sandbox.settle(uid, kind="edit")
        assert (await caller.asset(uid))["metadata"]["attributes"][0]["value"] == 0


async def test_image_kept_on_ipfs_has_another_address(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint(look={**LOOK, "store_image_on_ipfs": True})).data["uid"]
        metadata = (await caller.asset(uid))["metadata"]
        assert metadata["org_image_url"] == LOOK["image_url"]
        assert metadata["image"].startswith("ipfs://")


async def test_token_ids_grow_in_each_collection_as_assets_are_confirmed(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        first, second = [(await caller.mint(f"asset_{number}")).data["uid"] for number in range(2)]
        await sandbox.settle(second, kind="asset")
        await sandbox.settle(first, kind="asset")
        other = await caller.minted(sandbox, "asset_2", collection_uid="221137489875")
        assert [(await caller.asset(uid))["token_id"] for uid in (second, first, other)] == [1, 2, 1]
        assert [entry["tokens"] for entry in sandbox.books()["collections"]] == [2, 1]


@pytest.mark.parametrize(("token_ids", "shown"), [("number", 1), ("text", "1")])
async def test_token_ids_are_written_as_chosen(caller_of: CallerOf, token_ids: str, shown: object) -> None:
    async with OriginalSandbox(confirm=None, token_ids=token_ids) as sandbox:
        caller = caller_of(sandbox)
        pending = (await caller.mint("asset_0")).data["uid"]
        assert (await caller.asset(await caller.minted(sandbox)))["token_id"] == shown
        assert (await caller.asset(pending))["token_id"] is None


async def test_minting_gives_the_user_a_wallet(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        user = (await caller.call("POST", "/user", {})).data["uid"]
        pending = (await caller.mint(user_uid=user)).data["uid"]
        assert (await caller.call("GET", f"/user/{user}")).data["wallets"] == []
        await sandbox.settle(pending, kind="asset")
        (wallet,) = (await caller.call("GET", f"/user/{user}")).data["wallets"]
        assert (await caller.asset(pending))["owner_address"] == wallet["address"]
        second = (await caller.mint("asset_2", user_uid=user)).data["uid"]
        assert (await caller.asset(second))["mint_for_address"] == wallet["address"]


async def test_user_may_have_the_older_shape(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, user_shape="wallet_address") as sandbox:
        caller = caller_of(sandbox)
        user = (await caller.call("POST", "/user", {})).data["uid"]
        before = (await caller.call("GET", f"/user/{user}")).data
        assert (set(before), before["wallet_address"]) == (
            {"uid", "created_at", "email", "user_external_id", "wallet_address"},
            None,
        )
        uid = await caller.minted(sandbox, user_uid=user)
        assert (await caller.call("GET", f"/user/{user}")).data["wallet_address"] == (await caller.asset(uid))["owner_address"]


async def test_known_external_id_creates_another_asset(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        first, second = [(await caller.mint()).data["uid"] for _ in range(2)]
        books = sandbox.books()
        assert [entry["uid"] for entry in books["assets"]] == [first, second]
        assert (books["assets_created"], books["assets_asked"]) == ({"asset_1": 2}, {"asset_1": 2})


async def test_known_external_id_is_refused_on_request(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, duplicate_external_id="reject") as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.mint()).status == 201
        assert refusal(await caller.mint())[:2] == (400, "bad_request")
        books = sandbox.books()
        assert (books["assets_created"], books["assets_asked"]) == ({"asset_1": 1}, {"asset_1": 2})


async def test_known_external_id_is_answered_with_the_first_uid_on_request(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, duplicate_external_id="replay") as sandbox:
        caller = caller_of(sandbox)
        first, again = [await caller.mint() for _ in range(2)]
        assert (again.status, again.data) == (201, first.data)
        assert sandbox.books()["assets_created"] == {"asset_1": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"user_uid": ..., "collection_uid": ""}, {("user_uid", "required"), ("collection_uid", "blank")}),
        ({"asset_external_id": None}, {("asset_external_id", "null")}),
        ({"sale_price_in_usd": -1}, {("sale_price_in_usd", "min_value")}),
        ({"sale_price_in_usd": "much"}, {("sale_price_in_usd", "invalid")}),
        ({"look": ...}, {("data", "required")}),
        ({"look": None}, {("data", "null")}),
        ({"look": []}, {("data", "invalid")}),
        (
            {"look": {}},
            {(f"data.{name}", "required") for name in ("name", "unique_name", "image_url", "store_image_on_ipfs")},
        ),
        ({"look": {**LOOK, "unique_name": "yes", "name": 1}}, {("data.unique_name", "invalid"), ("data.name", "invalid")}),
        ({"look": {**LOOK, "attributes": {}}}, {("data.attributes", "invalid")}),
        ({"look": {**LOOK, "attributes": [{"value": []}]}}, {
            ("data.attributes.trait_type", "required"),
            ("data.attributes.value", "invalid"),
        }),
    ],
)  # fmt: skip
async def test_bad_fields_of_an_asset_are_named(
    caller_of: CallerOf, changes: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    async with OriginalSandbox() as sandbox:
        assert complaints(await caller_of(sandbox).mint(**changes)) == expected
        assert sandbox.books()["assets"] == []


async def test_price_may_be_nothing(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uids = [(await caller.mint(sale_price_in_usd=price)).data["uid"] for price in (0, None, ...)]
        assert [(await caller.asset(uid))["sale_price_in_usd"] for uid in uids] == [0, None, None]


# names


async def test_unique_name_is_refused_if_taken_in_the_collection(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        unique = {**LOOK, "unique_name": True}
        await caller.mint("asset_1")
        assert refusal(await caller.mint("asset_2", look=unique))[:2] == (400, "bad_request")
        assert (await caller.mint("asset_3", look=unique, collection_uid="221137489875")).status == 201
        uid = await caller.minted(sandbox, "asset_4", look={**unique, "name": "Eve"})
        assert (await caller.asset(uid))["name"] == "Eve"


async def test_edit_to_a_taken_unique_name_changes_nothing(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        await caller.mint("asset_1", look={**LOOK, "name": "Eve"})
        uid = await caller.minted(sandbox, "asset_2")
        before = await caller.asset(uid)
        assert refusal(await caller.edit(uid, name="Eve", unique_name=True))[:2] == (400, "bad_request")
        assert await caller.asset(uid) == before
        assert sandbox.books()["edits"] == []


async def test_name_is_kept_for_an_edit_under_way_and_free_after_it(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        first, second = [await caller.minted(sandbox, f"asset_{n}", look={**LOOK, "name": f"Dog {n}"}) for n in (1, 2)]
        assert (await caller.edit(first, name="Dog 1", unique_name=True)).status == 200
        await sandbox.settle(first, kind="edit")
        assert (await caller.edit(first, name="Cat", unique_name=True)).status == 200
        for name in ("Dog 1", "Cat"):
            assert (await caller.edit(second, name=name, unique_name=True)).status == 400
        await sandbox.settle(first, kind="edit")
        assert (await caller.edit(second, name="Cat", unique_name=True)).status == 400
        assert (await caller.edit(second, name="Dog 1", unique_name=True)).status == 200


# edits


async def test_edit_replaces_the_metadata_in_full_once_confirmed(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        look = {**LOOK, "description": "A dog", "attributes": [{"trait_type": "a", "value": "b"}]}
        uid = await caller.minted(sandbox, look=look)
        edited = await caller.edit(uid, name="Eve", image_url="https://example.com/4.png", store_image_on_ipfs=...)
        assert (edited.status, edited.body) == (200, {"success": True, "data": None})
        during = await caller.asset(uid)
        assert flags(during) == {"is_minted", "is_editing"}
        assert during["metadata"]["description"] == "A dog"
        await sandbox.settle(uid, kind="edit")
        after = await caller.asset(uid)
        assert (flags(after), after["name"]) == ({"is_minted", "is_transferable"}, "Eve #1")
        image = "https://example.com/4.png"
        assert after["metadata"] == {"name": "Eve", "image": image, "original_id": uid, "org_image_url": image}
        (entry,) = sandbox.books()["edits"]
        assert (entry["asset_uid"], entry["history"], entry["name"]) == (uid, ["pending", "done"], "Eve")


async def test_assets_of_a_fixed_collection_cannot_be_edited(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sandbox.deploy_collection("fixed", editable=False)
        await sandbox.settle("fixed", kind="collection")
        uid = await caller.minted(sandbox, collection_uid="fixed")
        assert refusal(await caller.edit(uid))[:2] == (400, "bad_request")
        assert (await caller.call("GET", "/collection/fixed")).data["editable_assets"] is False


async def test_edit_names_its_bad_fields(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        assert complaints(await caller.edit(uid, image_url=..., unique_name=None)) == {
            ("data.image_url", "required"),
            ("data.unique_name", "null"),
        }
        assert refusal(await caller.edit("000")) == (404, "not_found", "Asset not found.")
