"""The OpenAPI files are valid, and what clients, sandboxes and `trigger` send is as they say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from enkash_async import EnkashClient, PasswordCredentials
from original_async import AssetAttribute, AssetData, OriginalClient
from rewards_core import RequestRejected
from tests.openapi_kit import Description
from vendor_sandboxes import EnkashSandbox, OriginalSandbox
from vendor_sandboxes.original import API_KEY, API_SECRET, COLLECTIONS, REWARDS
from vendor_sandboxes.testing.deliveries import sign_delivery
from webhooks.cli.trigger import Shape, sample_body

USER = "110985463782"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
SHAPES = ("allocation", "reward_allocation", "flat", "allocation_uid", "reward", "allocations")
ASSET_SHAPES = ("asset", "sample", "flat", "asset_uid", "with_operation")
OTHERS = ("reward.withdrawn", "asset.minted", "asset.transferred", "asset.burned", "asset.edited", "collection.deployed")


@pytest.fixture(scope="module")
def original() -> Description:
    return Description("original")


@pytest.fixture(scope="module")
def enkash() -> Description:
    return Description("enkash")


class Checked:
    """A sandbox that checks every request and its answer."""

    described: Description
    met: dict[tuple[str, int], int]

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        response: web.Response = await super().answer(method, path, request, body)  # type: ignore[misc]
        try:
            name = self.described.check_request(method, path, request.rel_url.query, request.headers, body)
            assert isinstance(response.body, bytes)
            self.described.check_answer(method, path, response.status, response.content_type, response.body)
        except AssertionError as problem:
            self.met[str(problem), 0] = 1
        else:
            self.met[name, response.status] = self.met.get((name, response.status), 0) + 1
        return response


class CheckedOriginal(Checked, OriginalSandbox):
    pass


class CheckedEnkash(Checked, EnkashSandbox):
    pass


@asynccontextmanager
async def original_client(sandbox: OriginalSandbox, **options: Any) -> AsyncIterator[OriginalClient]:
    async with sandbox, OriginalClient(API_KEY, API_SECRET, base_url=sandbox.url, **options) as client:
        yield client


def examples(part: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the place, schema and value of each example that stands beside or in a schema."""
    if isinstance(part, dict):
        schema = part.get("schema", part)
        given = [part["example"]] if "example" in part else part.get("examples", [])
        for value in given:
            yield above, {key: each for key, each in schema.items() if key not in {"example", "examples"}}, value
        for key, each in part.items():
            if key not in {"example", "examples"}:
                yield from examples(each, (*above, str(key)))
    elif isinstance(part, list):
        for number, each in enumerate(part):
            yield from examples(each, (*above, str(number)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["original", "enkash"])
def test_the_files_are_valid_openapi_and_so_are_their_examples(name: str) -> None:
    described = Description(name)
    assert [each.message for each in OpenAPIV31SpecValidator(described.content).iter_errors()] == []
    found = list(examples(described.content))
    assert len(found) > 10
    for place, schema, value in found:
        assert described.errors(schema, value) == [], place


@pytest.mark.parametrize("amounts", ["string", "number"])
@pytest.mark.parametrize("read_path", ["allocation", "allocate"])
async def test_what_the_client_of_original_sends_and_gets_is_described(
    original: Description, amounts: str, read_path: str
) -> None:
    sandbox = CheckedOriginal(amounts=amounts, read_path=read_path, strict=True)
    sandbox.described, sandbox.met = original, {}
    async with original_client(sandbox, read_path=read_path, amount_as=amounts) as client:
        user = sandbox.state.add_user(None, None)
        assert user is not None
        asked: dict[str, Any] = {"reward_uid": REWARDS[0], "to_user_uid": user.uid, "amount": "1.23"}
        allocation = await client.create_allocation(**asked, nonce="n-1")
        await sandbox.settle(allocation.uid)
        await client.create_allocation(**asked, nonce="n-1")
        await client.get_allocation(allocation.uid)
        await client.get_allocations_by_user_uid(user.uid)
        claim = await client.create_claim(reward_uid=REWARDS[0], from_user_uid=user.uid, to_address=WALLET)
        await client.get_claim(claim.uid)
        await client.get_claims_by_user_uid(user.uid)
        await client.get_reward(REWARDS[0])
        await client.get_balance(REWARDS[0], user_uid=user.uid)
        for refused in (
            client.get_allocation("1"),
            client.get_reward("1"),
            client.create_allocation(**{**asked, "to_user_uid": "1"}, nonce="n-2"),
        ):
            with pytest.raises(RequestRejected):
                await refused
    tail = "_older_path" if read_path == "allocation" else ""
    assert set(sandbox.met) == {
        *(("create_allocation", 201), ("create_allocation", 400), ("create_allocation", 404), ("create_claim", 201)),
        *((f"get_allocation{tail}", 200), (f"get_allocation{tail}", 404), (f"get_allocations_by_user_uid{tail}", 200)),
        *(("get_claim", 200), ("get_claims_by_user_uid", 200), ("get_reward", 200), ("get_reward", 404), ("get_balance", 200)),
    }


@pytest.mark.parametrize("older", [False, True])
async def test_what_the_client_of_original_sends_of_assets_is_described(original: Description, older: bool) -> None:
    shapes: dict[str, Any] = {}
    if older:
        shapes = {"user_shape": "wallet_address", "token_ids": "text", "from_user_key": "from_app_user_uid"}
    sandbox = CheckedOriginal(confirm="never", **shapes)
    sandbox.described, sandbox.met = original, {}
    async with original_client(sandbox) as client:
        user = await client.create_user(email="a@example.com", user_external_id="1")
        await client.create_user()
        await client.get_user_by_email("nobody@example.com")
        await client.get_user_by_user_external_id("1")
        await client.get_collection(COLLECTIONS[0])
        trait = AssetAttribute(trait_type="Level", value=1, display_type="number")
        data = AssetData(name="n", image_url="i", unique_name=True, description="d", external_url="e", attributes=[trait])
        ids: dict[str, Any] = {"user_uid": user.uid, "collection_uid": COLLECTIONS[0]}
        asset = await client.create_asset(**ids, asset_external_id="x", data=data, sale_price_in_usd="9.99")
        await client.get_asset(asset.uid)
        await sandbox.settle(asset.uid, kind="asset")
        await client.get_user(user.uid)
        await client.get_assets_by_user_uid(user.uid)
        await client.get_deposit(user.uid, collection_uid=COLLECTIONS[0])
        await client.edit_asset(asset.uid, data=data)
        await sandbox.settle(asset.uid, kind="edit")
        moved: dict[str, Any] = {"asset_uid": asset.uid, "from_user_uid": user.uid}
        transfer = await client.create_transfer(**moved, to_address=WALLET)
        await sandbox.settle(transfer.uid, "cancelled", kind="transfer")
        burn = await client.create_burn(**moved)
        await client.get_transfer(transfer.uid)
        await client.get_burn(burn.uid)
        await client.get_transfers_by_user_uid(user.uid)
        await client.get_burns_by_user_uid(user.uid)
        with pytest.raises(RequestRejected):
            await client.get_user("1")
        with pytest.raises(RequestRejected):
            await client.create_user(email="no address")
    created = {(f"create_{name}", 201) for name in ("user", "asset", "transfer", "burn")}
    names = ("user_by", "user", "collection", "asset", "assets_by_user_uid", "deposit", "transfer", "burn")
    read = {(f"get_{name}", 200) for name in (*names, "transfers_by_user_uid", "burns_by_user_uid")}
    assert set(sandbox.met) == created | read | {("edit_asset", 200), ("get_user", 404), ("create_user", 400)}


async def test_faults_and_rejected_credentials_of_original_are_described(original: Description) -> None:
    sandbox = CheckedOriginal()
    sandbox.described, sandbox.met = original, {}
    async with sandbox, OriginalClient(API_KEY, "x" * 40, base_url=sandbox.url) as client:
        with pytest.raises(RequestRejected):
            await client.get_reward(REWARDS[0])
    assert set(sandbox.met) == {("get_reward", 401)}
    for answer in (sandbox.overloaded(), sandbox.throttled("1")):
        assert isinstance(answer.body, bytes)
        original.check_answer("POST", "/reward/allocate", answer.status, answer.content_type, answer.body)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_the_client_of_enkash_sends_and_gets_is_described(enkash: Description, encrypted: bool) -> None:
    sandbox = CheckedEnkash(funds=10, duplicate_request="reject", encrypted=encrypted)
    sandbox.described, sandbox.met = enkash, {}
    credentials = PasswordCredentials(
        client_id=sandbox.client_id, client_secret=sandbox.client_secret, username=sandbox.username, password=sandbox.password
    )
    async with sandbox:
        options: dict[str, Any] = {"coins_base_url": sandbox.url, "auth_base_url": sandbox.url, "company_id": "CEK0TCW2W8"}
        async with EnkashClient(credentials=credentials, encryption=encrypted, **options) as client:
            event = await client.create_event(event="REFERRAL_EVENT", amount=6)
            await client.get_event(event.coin_config_id)
            await client.update_event(event.coin_config_id, amount=7)
            await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="r-1")
            await client.get_balance("EKQZVMQK")
            sandbox.expire_tokens()
            await client.get_balance("EKQZVMQK")
            with pytest.raises(RequestRejected):
                await client.get_event("WCC1")
            with suppress(RequestRejected):
                await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="r-2")
    assert set(sandbox.met) == {
        *(("request_token", 200), ("create_event", 200), ("get_event", 200), ("get_event", 404), ("update_event", 200)),
        *(("allocate_coins", 200), ("get_balance", 200), ("get_balance", 401)),
    }
    for answer in (sandbox.overloaded(), sandbox.throttled("1")):
        assert isinstance(answer.body, bytes)
        enkash.check_answer("POST", "/api/v0/enkash-coins/allocate-coin", answer.status, answer.content_type, answer.body)


@pytest.mark.slow
async def test_every_event_that_the_sandbox_sends_is_described(original: Description) -> None:
    came: list[tuple[str, Any, bytes]] = []

    async def keep(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        came.append((json.loads(body)["event"], request.headers.copy(), body))
        return web.Response()

    runner = web.ServerRunner(web.Server(keep))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sandbox = OriginalSandbox(webhook_url=f"http://127.0.0.1:{runner.addresses[0][1]}/", confirm="never")
    async with original_client(sandbox) as client:
        for shape in SHAPES:
            for body in ("full", "uid", "opaque"):
                sandbox.options.webhook_shape, sandbox.options.webhook_body = (shape,), (body,)
                sandbox.options.attempt_in_body = body == "uid"
                allocation = await client.create_allocation(
                    reward_uid=REWARDS[0], to_user_uid=USER, amount="1.23", nonce=f"{shape}-{body}"
                )
                await sandbox.settle(allocation.uid)
                claim = await client.create_claim(reward_uid=REWARDS[0], from_user_uid=USER, to_address=WALLET)
                await sandbox.settle(claim.uid, kind="claim")
        sandbox.options.attempt_in_body = False
        for shape in ASSET_SHAPES:
            for body in ("full", "uid", "opaque"):
                sandbox.options.asset_webhook_shape, sandbox.options.webhook_body = (shape,), (body,)
                data = AssetData(name="n", image_url="i", unique_name=False)
                ids: dict[str, Any] = {"user_uid": USER, "collection_uid": COLLECTIONS[0]}
                asset = await client.create_asset(**ids, asset_external_id=f"{shape}-{body}", data=data)
                await sandbox.settle(asset.uid, kind="asset")
                await client.edit_asset(asset.uid, data=AssetData(name="m", image_url="i", unique_name=False))
                await sandbox.settle(asset.uid, kind="edit")
                transfer = await client.create_transfer(asset_uid=asset.uid, from_user_uid=USER, to_address=WALLET)
                await sandbox.settle(transfer.uid, kind="transfer")
                await sandbox.deposit(asset.uid, USER)
                burn = await client.create_burn(asset_uid=asset.uid, from_user_uid=USER)
                await sandbox.settle(burn.uid, kind="burn")
        sandbox.deploy_collection("600000000001")
        await sandbox.settle("600000000001", kind="collection")
    await runner.cleanup()
    assert len(came) == 36 + 5 * 3 * len(ASSET_SHAPES) + 1
    for name, headers, content in came:
        original.check_event(name, headers, content)


@pytest.mark.parametrize("name", ["reward.allocated", "reward.claimed", *OTHERS])
def test_every_sample_is_described(original: Description, name: str) -> None:
    assert set(original.content["webhooks"]) == {"reward.allocated", "reward.claimed", *OTHERS}
    delivery = sign_delivery(name)
    original.check_event(name, delivery.headers, delivery.body)
    for shape in Shape:
        body = sample_body(name, shape=shape, uid="324167489835", status="done", amount="1.23", app_uid=None, overrides=[])
        original.check_event(name, delivery.headers, json.dumps(body).encode())
