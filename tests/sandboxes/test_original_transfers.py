"""Assets of the sandboxed Original are transferred, burned and deposited by its rules, and its books say who holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.sandboxes.conftest import COLLECTION, USER, WALLET, complaints, refusal
from tests.sandboxes.test_original_assets import flags
from vendor_sandboxes import OriginalSandbox

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]
NOW = 1_700_000_000.0


# what an asset must be for what


async def each_refused(caller: Caller, uid: str, user: str = USER) -> None:
    for answer in (await caller.edit(uid), await caller.transfer(uid, user=user), await caller.burn(uid, user=user)):
        assert refusal(answer)[:2] == (400, "bad_request")


async def test_asset_that_is_not_minted_stays_as_it_is(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        await each_refused(caller, (await caller.mint()).data["uid"])
        books = sandbox.books()
        assert books["edits"] == books["transfers"] == books["burns"] == []


@pytest.mark.parametrize("kind", ["edit", "transfer", "burn"])
async def test_one_thing_at_a_time_happens_to_an_asset(caller_of: CallerOf, kind: str) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        await caller.act(kind, uid)
        await each_refused(caller, uid)
        books = sandbox.books()
        assert [len(books[name]) for name in ("edits", "transfers", "burns")].count(1) == 1


async def test_only_the_holder_may_transfer_and_burn(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        for answer in (await caller.transfer(uid, user="another"), await caller.burn(uid, user="another")):
            assert refusal(answer) == (400, "bad_request", "The asset is not in the wallet of this user.")
        assert refusal(await caller.transfer("000")) == (404, "not_found", "Asset not found.")
        assert refusal(await caller.burn("000")) == (404, "not_found", "Asset not found.")


async def test_strict_sandbox_refuses_unknown_users_and_collections(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, strict=True) as sandbox:
        caller = caller_of(sandbox)
        user = (await caller.call("POST", "/user", {})).data["uid"]
        assert refusal(await caller.mint()) == (404, "not_found", "User not found.")
        assert refusal(await caller.mint(user_uid=user, collection_uid="0")) == (404, "not_found", "Collection not found.")
        uid = await caller.minted(sandbox, user_uid=user)
        for answer in (await caller.transfer(uid), await caller.burn(uid)):
            assert refusal(answer) == (404, "not_found", "User not found.")
        assert refusal(await caller.call("GET", f"/deposit?user_uid={USER}")) == (404, "not_found", "User not found.")
        unknown = await caller.call("GET", f"/deposit?user_uid={user}&collection_uid=0")
        assert refusal(unknown) == (404, "not_found", "Collection not found.")


async def test_collection_is_known_if_listed_or_minted_into(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, collections=["c-1"]) as sandbox:
        caller = caller_of(sandbox)
        assert (await caller.call("GET", "/collection/c-1")).data["status"] == "deployed"
        assert refusal(await caller.call("GET", "/collection/c-2")) == (404, "not_found", "Collection not found.")
        await caller.mint(collection_uid="c-2")
        assert (await caller.call("GET", "/collection/c-2")).data["editable_assets"] is True


# transfers


async def test_transfer_to_the_wallet_of_a_user_gives_the_asset_to_that_user(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        other = (await caller.asset(await caller.minted(sandbox, "asset_2", user_uid="other")))["owner_address"]
        transfer = (await caller.transfer(uid, f"0x{other[2:].upper()}")).data["uid"]
        read = (await caller.call("GET", f"/transfer/{transfer}")).data
        assert list(read) == ["uid", "status", "asset_uid", "from_user_uid", "to_address", "created_at"]
        assert (read["status"], read["asset_uid"], read["from_user_uid"]) == ("pending", uid, USER)
        during = await caller.asset(uid)
        assert (flags(during), during["owner_user_uid"]) == ({"is_minted", "is_transferring"}, USER)
        await sandbox.settle(transfer, kind="transfer")
        after = await caller.asset(uid)
        assert (flags(after), after["owner_user_uid"]) == ({"is_minted", "is_transferable"}, "other")
        assert (after["owner_address"].lower(), after["mint_for_user_uid"]) == (other, USER)
        assert (await caller.call("GET", f"/asset?user_uid={USER}")).data == []
        assert [one["uid"] for one in (await caller.call("GET", "/asset?user_uid=other")).data][-1] == uid
        (listed,) = (await caller.call("GET", f"/transfer?user_uid={USER}")).data
        assert (listed["uid"], listed["status"]) == (transfer, "done")
        assert (await caller.call("GET", "/transfer?user_uid=other")).data == []
        assert (await caller.burn(uid, user="other")).status == 201


async def test_transfer_out_of_the_app_leaves_no_user_as_owner(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        await sandbox.settle((await caller.transfer(uid)).data["uid"], kind="transfer")
        after = await caller.asset(uid)
        assert (after["owner_user_uid"], after["owner_address"]) == (None, WALLET)
        assert sandbox.books()["owners"] == {uid: {"user_uid": None, "address": WALLET}}
        for answer in (await caller.transfer(uid), await caller.burn(uid)):
            assert refusal(answer)[:2] == (400, "bad_request")
        assert (await caller.call("GET", f"/asset?user_uid={USER}")).data == []


async def test_cancelled_transfer_leaves_all_as_it_was(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        before = await caller.asset(uid)
        transfer = (await caller.transfer(uid)).data["uid"]
        await sandbox.settle(transfer, "cancelled", kind="transfer")
        assert (await caller.call("GET", f"/transfer/{transfer}")).data["status"] == "cancelled"
        assert await caller.asset(uid) == before
        assert (await caller.transfer(uid)).status == 201


async def test_transfers_are_cancelled_at_the_chosen_rate(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0), cancel_rate=1, fail_then_done=1) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint()).data["uid"]
        await sandbox.quiet()
        await caller.transfer(uid)
        await sandbox.quiet()
        books = sandbox.books()
        assert (books["transfers"][0]["history"], books["faults"]) == (["pending", "cancelled"], {"cancel_rate": 1})


async def test_transfer_and_burn_name_their_bad_fields(caller_of: CallerOf) -> None:
    async with OriginalSandbox() as sandbox:
        caller = caller_of(sandbox)
        assert complaints(await caller.transfer("", to_address="0x12")) == {("asset_uid", "blank"), ("to_address", "invalid")}
        assert complaints(await caller.call("POST", "/burn", {})) == {("asset_uid", "required"), ("from_user_uid", "required")}
        for path in ("/asset", "/transfer", "/burn", "/deposit"):
            assert complaints(await caller.call("GET", path)) == {("user_uid", "required")}


# burns


async def test_burned_asset_reads_as_burned_after_the_lag(caller_of: CallerOf) -> None:
    now = NOW
    async with OriginalSandbox(confirm=None, burn_lag=5, clock=lambda: now) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        burn = (await caller.burn(uid)).data["uid"]
        read = (await caller.call("GET", f"/burn/{burn}")).data
        assert list(read) == ["uid", "status", "asset_uid", "from_user_uid", "created_at"]
        assert (read["status"], read["asset_uid"]) == ("pending", uid)
        assert flags(await caller.asset(uid)) == {"is_minted"}
        await sandbox.settle(burn, kind="burn")
        assert [one["status"] for one in (await caller.call("GET", f"/burn?user_uid={USER}")).data] == ["done"]
        assert flags(await caller.asset(uid)) == {"is_minted"}
        await each_refused(caller, uid)
        books = sandbox.books()
        assert (books["assets"][0]["burned"], books["owners"]) == (True, {})
        now += 5
        assert flags(await caller.asset(uid)) == {"is_minted", "is_burned"}


@pytest.mark.parametrize("kind", ["transfer", "burn"])
async def test_transfer_or_burn_may_have_the_older_key_of_its_user(caller_of: CallerOf, kind: str) -> None:
    async with OriginalSandbox(confirm=None, from_user_key="from_app_user_uid") as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.act(kind, await caller.minted(sandbox))).data["uid"]
        read = (await caller.call("GET", f"/{kind}/{uid}")).data
        assert (read["from_app_user_uid"], "from_user_uid" in read) == (USER, False)
        assert (await caller.call("GET", f"/{kind}?user_uid={USER}")).data == [read]


# deposits


async def test_deposit_moves_an_asset_back_into_the_wallet_of_a_user(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        uid = await caller.minted(sandbox)
        await sandbox.settle((await caller.transfer(uid)).data["uid"], kind="transfer")
        await sandbox.deposit(uid, "finder")
        after = await caller.asset(uid)
        address = (await caller.call("GET", "/deposit?user_uid=finder")).data["wallet_address"]
        assert (after["owner_user_uid"], after["owner_address"]) == ("finder", address)
        assert [one["uid"] for one in (await caller.call("GET", "/asset?user_uid=finder")).data] == [uid]
        (entry,) = sandbox.books()["deposits"]
        assert (entry["asset_uid"], entry["user_uid"], entry["status"]) == (uid, "finder", "done")
        assert (await caller.burn(uid, user="finder")).status == 201


async def test_deposit_needs_an_asset_outside_of_the_app(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        pending, held = (await caller.mint("asset_2")).data["uid"], await caller.minted(sandbox)
        for uid in (pending, held):
            with pytest.raises(ValueError, match="outside"):
                await sandbox.deposit(uid, "finder")
        with pytest.raises(KeyError):
            await sandbox.deposit("000", "finder")
        assert sandbox.books()["deposits"] == []


async def test_deposit_details_lack_an_address_until_there_is_a_wallet(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        path = f"/deposit?user_uid={USER}&collection_uid={COLLECTION}"
        nothing = {"network": "Amoy", "chain_id": 80002, "wallet_address": None, "qr_code_data": None}
        assert (await caller.call("GET", path)).data == nothing
        address = (await caller.asset(await caller.minted(sandbox)))["owner_address"]
        told = {**nothing, "wallet_address": address, "qr_code_data": f"ethereum:{address}@80002"}
        assert (await caller.call("GET", path)).data == told
        assert (await caller.call("GET", f"/deposit?user_uid={USER}")).data == told


# deployments


async def test_collection_takes_no_assets_until_it_is_deployed(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sandbox.deploy_collection("new")
        before = (await caller.call("GET", "/collection/new")).data
        assert (before["status"], before["contract_address"], before["editable_assets"]) == ("deploying", None, True)
        for answer in (
            await caller.mint(collection_uid="new"),
            await caller.call("GET", f"/deposit?user_uid={USER}&collection_uid=new"),
        ):
            assert refusal(answer) == (400, "bad_request", "The collection is not deployed.")
        await sandbox.settle("new", kind="collection")
        after = (await caller.call("GET", "/collection/new")).data
        assert (after["status"], (await caller.mint(collection_uid="new")).status) == ("deployed", 201)
        assert after["contract_address"].startswith("0x")
        assert sandbox.books()["collections"][-1]["history"] == ["deploying", "deployed"]


async def test_reward_takes_no_allocations_until_it_is_deployed(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sandbox.deploy_reward("new")
        assert (await caller.call("GET", "/reward/new")).data["status"] == "deploying"
        for answer in (await caller.allocate(reward_uid="new"), await caller.claim(reward_uid="new")):
            assert refusal(answer) == (400, "bad_request", "The reward is not deployed.")
        await sandbox.settle("new", kind="reward")
        assert (await caller.call("GET", "/reward/new")).data["status"] == "deployed"
        assert (await caller.allocate(reward_uid="new")).status == 201
        assert sandbox.books()["rewards"][-1]["history"] == ["deploying", "deployed"]


async def test_deployments_are_confirmed_like_operations_and_never_fail(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0), fail_rate=1) as sandbox:
        sandbox.deploy_collection("c")
        sandbox.deploy_reward("r")
        await sandbox.quiet()
        caller = caller_of(sandbox)
        for path in ("/collection/c", "/reward/r"):
            assert (await caller.call("GET", path)).data["status"] == "deployed"


async def test_nothing_is_deployed_twice() -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        with pytest.raises(ValueError, match=f"a collection {COLLECTION} already"):
            sandbox.deploy_collection(COLLECTION)
        with pytest.raises(ValueError, match="a reward 764893807463 already"):
            sandbox.deploy_reward("764893807463")


# the ends that the vendor documents


async def test_failed_mint_stays_pending_for_ever(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=(0, 0), fail_rate=1) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint()).data["uid"]
        await sandbox.quiet()
        assert flags(await caller.asset(uid)) == set()
        books = sandbox.books()
        assert (books["assets"][0]["history"], books["faults"]) == (["pending"], {"fail_rate": 1})
        assert await sandbox.unconfirmed(0) == []


@pytest.mark.parametrize("kind", ["edit", "burn"])
async def test_failed_edit_or_burn_stays_pending_for_ever(caller_of: CallerOf, kind: str) -> None:
    async with OriginalSandbox(confirm=(0, 0)) as sandbox:
        caller = caller_of(sandbox)
        uid = (await caller.mint()).data["uid"]
        await sandbox.quiet()
        sandbox.options.fail_rate = 1
        await caller.act(kind, uid)
        await sandbox.quiet()
        assert sandbox.books()[f"{kind}s"][0]["history"] == ["pending"]
        assert "is_transferable" not in flags(await caller.asset(uid))


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_operation_has_only_the_ends_that_the_vendor_documents(caller_of: CallerOf, status: str) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        asset = (await caller.mint()).data["uid"]
        with pytest.raises(ValueError, match=f"{asset} .* '{status}'"):
            await sandbox.settle(asset, status, kind="asset")
        await sandbox.settle(asset, kind="asset")
        burn = (await caller.burn(asset)).data["uid"]
        with pytest.raises(ValueError, match="cannot end"):
            await sandbox.settle(burn, status, kind="burn")
        with pytest.raises(ValueError, match="is done already"):
            await sandbox.settle(asset, kind="asset")
        assert sandbox.books()["assets"][0]["history"] == ["pending", "done"]
        with pytest.raises(KeyError):
            await sandbox.settle("000", kind="transfer")
