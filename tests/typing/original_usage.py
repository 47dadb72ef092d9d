"""How `original_async` looks to a type checker; it is checked and never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, assert_type

from original_async import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Asset,
    AssetAttribute,
    AssetData,
    AssetRequest,
    Balance,
    Burn,
    Claim,
    ClaimFailed,
    ClaimRequest,
    Collection,
    DeploymentStatus,
    Deposit,
    Edit,
    OriginalClient,
    OriginalWebhooks,
    Reward,
    Transfer,
    TransferCancelled,
    TransferRequest,
    User,
    sign,
)
from rewards_core import (
    CallEnded,
    Conflict,
    Event,
    EventSource,
    KeyedRequest,
    Limits,
    Operation,
    OperationReader,
    OperationRef,
    OperationStatus,
    OutcomeUnknown,
    RetryPolicy,
    Timeouts,
)
from webhooks import Completions


class Watcher:
    def on_end(self, record: CallEnded) -> None:
        assert_type(record.elapsed, float)


async def create(original: OriginalClient) -> Allocation:
    try:
        allocation = await original.create_allocation(reward_uid="1", to_user_uid="2", amount="1.23", nonce="nonce_1")
    except Conflict as conflict:
        assert_type(conflict.existing, Any)
        raise
    except OutcomeUnknown as unknown:
        assert_type(unknown.idempotency_key, str | None)
        raise
    assert_type(allocation, Allocation)
    assert_type(allocation.amount, Decimal)
    assert_type(allocation.status, OperationStatus)
    assert_type(allocation.created_at, datetime | None)
    assert_type(allocation.ref, OperationRef)
    assert_type(allocation.raw, Mapping[str, Any])
    assert_type(allocation.recovered, bool)
    assert_type(allocation.key, str)
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount=7, nonce="nonce_2")
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount=Decimal("1.23"), nonce="nonce_3", timeout=None)
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount="1.23", nonce="nonce_3", repeated=True, timeout=5)
    return allocation


async def read(original: OriginalClient) -> None:
    assert_type(await original.get_allocation("1"), Allocation)
    assert_type(await original.get_allocations_by_user_uid("2"), list[Allocation])
    assert_type(await original.find_allocation("2", nonce="nonce_1"), Allocation | None)
    assert_type(await original.find_allocation(to_user_uid="2", nonce="nonce_1", reward_uid="1"), Allocation | None)
    claim = await original.create_claim(reward_uid="1", from_user_uid="2", to_address="0x0")
    assert_type(claim, Claim)
    assert_type(claim.amount, Decimal | None)
    assert_type(await original.get_claim("1"), Claim)
    assert_type(await original.get_claims_by_user_uid("2"), list[Claim])
    reward = await original.get_reward("1")
    assert_type(reward, Reward)
    assert_type(reward.status, DeploymentStatus)
    assert_type(await original.get_balance("1", user_uid="2"), Balance)
    assert_type((await original.get_balance(reward_uid="1", user_uid="2")).amount, Decimal)
    assert_type(claim.key, None)
    assert_type(claim.recovered, bool)


async def read_in_time(original: OriginalClient) -> None:
    await original.get_allocation("1", timeout=5)
    await original.get_allocations_by_user_uid("2", timeout=0.5)
    await original.find_allocation("2", nonce="nonce_1", timeout=None)
    await original.create_claim(reward_uid="1", from_user_uid="2", to_address="0x0", timeout=5.0)
    await original.get_claim("1", timeout=5.0)
    await original.get_claims_by_user_uid("2", timeout=5.0)
    await original.get_reward("1", timeout=5.0)
    await original.get_balance("1", user_uid="2", timeout=5.0)
    await original.find_allocation("2", "nonce_1")  # type: ignore[call-arg]
    await original.get_balance("1", "2")  # type: ignore[call-arg]


async def find(original: OriginalClient, unknown: OutcomeUnknown, final: Allocation) -> None:
    assert_type(unknown.request, object | None)
    if isinstance(unknown.request, AllocationRequest):
        request: KeyedRequest = unknown.request
        assert_type(await original.find_operations([unknown.request]), Sequence[Allocation])
        assert_type(original.conclude(request, final), Operation)
        assert_type(request.is_met_by(final), bool)
    ClaimRequest(reward_uid="1", from_user_uid="2", to_address="0x0")


async def users(original: OriginalClient) -> None:
    assert_type(await original.create_user(), User)
    assert_type(await original.create_user(email="a@example.com", user_external_id="1", timeout=5), User)
    assert_type(await original.get_user("1"), User)
    assert_type(await original.get_user_by_email("a@example.com"), User | None)
    user = await original.get_user_by_user_external_id("1")
    assert_type(user, User | None)
    if user is not None:
        assert_type(user.addresses, tuple[str, ...])
        assert_type(user.email, str | None)


async def assets(original: OriginalClient, completions: Completions) -> None:
    data = AssetData(name="Badge", image_url="https://example.com/1.png", unique_name=False)
    AssetData(name="x", image_url="y", unique_name=True, attributes=[AssetAttribute(trait_type="Level", value=Decimal("1.5"))])
    AssetData(name="x", image_url="y", unique_name=True, attributes=5)  # type: ignore[arg-type]
    asset = await original.create_asset(
        user_uid="1", collection_uid="2", asset_external_id="3", data=data, sale_price_in_usd="9.99"
    )
    assert_type(asset, Asset)
    assert_type(asset.status, OperationStatus)
    assert_type(asset.token_id, str | None)
    assert_type(asset.sale_price_in_usd, Decimal | None)
    assert_type(await completions.wait(asset, timeout=300), Asset)
    assert_type(await original.find_asset("1", asset_external_id="3"), Asset | None)
    await original.find_asset("1", "3")  # type: ignore[call-arg]
    assert_type(await original.get_assets_by_user_uid("1"), list[Asset])
    edit = await original.edit_asset(asset.uid, data=data)
    assert_type(edit, Edit)
    assert_type((await completions.wait(edit)).asset, Asset | None)
    collection = await original.get_collection("2")
    assert_type(collection, Collection)
    assert_type(collection.status, DeploymentStatus)
    assert_type(await completions.wait(collection), Collection)
    assert_type(await completions.wait(await original.get_reward("1")), Reward)


async def transfers(original: OriginalClient, completions: Completions) -> None:
    transfer = await original.create_transfer(asset_uid="1", from_user_uid="2", to_address="0x0")
    assert_type(transfer, Transfer)
    try:
        assert_type(await completions.wait(transfer, timeout=300), Transfer)
    except TransferCancelled as cancelled:
        assert_type(cancelled.operation, Transfer)
    except OutcomeUnknown as unknown:
        if isinstance(unknown.request, TransferRequest | AssetRequest):
            request: KeyedRequest = unknown.request
            assert_type(request.key, str)
            assert_type(await completions.wait(unknown), Operation)
    assert_type(await original.get_transfers_by_user_uid("2"), list[Transfer])
    burn = await original.create_burn(asset_uid="1", from_user_uid="2")
    assert_type(burn, Burn)
    async with completions.as_completed([burn, burn], timeout=300) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome.operation, Burn | None)
    assert_type(await original.get_deposit("2"), Deposit)
    await original.get_deposit("2", "3")  # type: ignore[call-arg]


async def make() -> None:
    async with OriginalClient("key", "secret") as original:
        assert_type(original, OriginalClient)
        await create(original)
    assert_type(OriginalClient.from_env(), OriginalClient)
    OriginalClient.from_env(base_url="https://example.com/v1", read_path="allocation", token_lifetime=None)
    OriginalClient(
        "key",
        "secret",
        environment="development",
        timeouts=Timeouts(total=10.0),
        retry=RetryPolicy(attempts=2),
        limits=Limits(connections=10),
        observers=[Watcher()],
        amount_as="number",
        scope="second",
    )


async def handle(original: OriginalClient, event: Event) -> None:
    operation = original.operation_of(event)
    assert_type(operation, Allocation | Claim | Asset | Edit | Transfer | Burn | Collection | Reward | None)
    if isinstance(operation, Allocation):
        assert_type(operation.amount, Decimal)
    assert_type(OriginalWebhooks({"4o3vfxtcmo7b": "secret"}).event_names, frozenset[str])


def failed(error: AllocationFailed | ClaimFailed) -> None:
    if isinstance(error, AllocationFailed):
        assert_type(error.operation, Allocation)
    else:
        assert_type(error.operation, Claim)


def wire(original: OriginalClient, allocation: Allocation) -> None:
    reader: OperationReader = original
    source: EventSource = OriginalWebhooks({"4o3vfxtcmo7b": "secret"}, app_uid="UB2DG8MW5KBQ")
    operation: Operation = allocation
    assert_type(reader.ref_of(operation), OperationRef)
    assert_type(source.verify({}, b""), str)
    assert_type(source.parse(b"", {}), Event)
    assert_type(sign(b"", {"4o3vfxtcmo7b": "secret"}), str)


async def refused(original: OriginalClient) -> None:
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount=1.5, nonce="nonce_1")  # type: ignore[arg-type]
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount="1")  # type: ignore[call-arg]
    await original.create_allocation("1", "2", "1.5", "nonce_1")  # type: ignore[call-arg]
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount="1", nonce="n", timeout="5")  # type: ignore[arg-type]
    await original.create_allocation(reward_uid="1", to_user_uid="2", amount="1", nonce="n", repeated=None)  # type: ignore[arg-type]
    await original.get_allocation("1", 5.0)  # type: ignore[call-arg]
    await original.find_operations([ClaimRequest(reward_uid="1", from_user_uid="2", to_address="0x0")])  # type: ignore[list-item]
    await original.get_allocation(1)  # type: ignore[arg-type]
    OriginalClient("key", "secret", environment="staging")  # type: ignore[arg-type]
    OriginalClient("key", "secret", read_path="claim")  # type: ignore[arg-type]
    OriginalClient.from_env(no_such_argument=1)  # type: ignore[call-arg]
