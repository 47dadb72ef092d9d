"""The bodies of Original's events, in every shape that the options offer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vendor_sandboxes.original_operations import timestamp
from vendor_sandboxes.original_resources import Asset, Burn, Collection, Deposit, Edit, Transfer
from vendor_sandboxes.original_state import Payment
from vendor_sandboxes.original_users import CHAIN_ID

if TYPE_CHECKING:
    from vendor_sandboxes.faults import FaultPlan
    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.original_operations import Operation

EVENTS = {
    "allocation": "reward.allocated",
    "claim": "reward.claimed",
    "asset": "asset.minted",
    "edit": "asset.edited",
    "transfer": "asset.transferred",
    "deposit": "asset.transferred",
    "burn": "asset.burned",
    "collection": "collection.deployed",
}
"""The event of each kind of operation; a reward contract has none."""

_LOG_TYPES = {
    "asset": "mint_asset",
    "edit": "edit_asset",
    "transfer": "transfer_asset",
    "deposit": "transfer_asset",
    "burn": "burn_asset",
    "collection": "deploy_collection",
}


def app_of(uid: str) -> dict[str, str]:
    """Return the vendor's entry of an app."""
    return {"uid": uid, "name": "Sandbox", "region": "EU", "environment": "Development"}


def event_body(operation: Operation, app: Mapping[str, str], options: OriginalOptions, plan: FaultPlan, now: float) -> str:
    """Return the body of the event of a done operation as `payload` does, in the shapes of the options."""
    members = _members(operation, options, plan, now)
    transaction_hash = f"0x{plan.stream('hash').getrandbits(256):064x}"
    log_type = _LOG_TYPES.get(operation.kind, operation.kind)
    return payload(EVENTS[operation.kind], app, members, log_type, transaction_hash, now)


def payload(
    event: str, app: Mapping[str, str], members: Iterable[str], log_type: str, transaction_hash: str, happened_at: float
) -> str:
    """Return the body of an event without the time it is sent and the closing brace; `members` are JSON text inside `data`."""
    log = {"type": log_type, "chain_id": CHAIN_ID, "transaction_hash": transaction_hash}
    data = ", ".join([f'"app": {json.dumps(app)}', *members, f'"transaction_log": {json.dumps(log)}'])
    return f'{{"data": {{{data}}}, "event": {json.dumps(event)}, "event_time": "{timestamp(happened_at, "+00:00")}"'


def _members(operation: Operation, options: OriginalOptions, plan: FaultPlan, now: float) -> list[str]:
    body = plan.pick("webhook_body", options.webhook_body)
    whole = body == "full"
    match operation:
        case Payment():
            shape = plan.pick("webhook_shape", options.webhook_shape)
            members = [_reward_member(operation, shape, operation.resource(options, now) if whole else _uid(operation))]
        case Asset() | Edit() | Transfer() | Burn() | Deposit():
            shape = plan.pick("asset_webhook_shape", options.asset_webhook_shape)
            members = _asset_members(operation, shape, options, now, whole=whole)
        case Collection():
            members = [f'"collection": {operation.summary() if whole else _uid(operation)}']
        case _:
            raise AssertionError(f"{operation.kind} has no event")
    return [] if body == "opaque" else members


def _asset_members(
    operation: Asset | Edit | Transfer | Burn | Deposit, shape: str, options: OriginalOptions, now: float, *, whole: bool
) -> list[str]:
    asset = operation if isinstance(operation, Asset) else operation.asset
    shown = asset.summary() if shape == "sample" else asset.resource(options, now)
    resource = shown if whole else _uid(asset)
    if shape == "asset_uid":
        return [f'"asset_uid": "{asset.uid}"']
    if shape == "flat":
        return [resource[1:-1]]
    members = [f'"asset": {resource}']
    if shape == "with_operation" and isinstance(operation, Transfer | Burn):
        members.append(f'"{operation.kind}": {operation.resource(options, now) if whole else _uid(operation)}')
    return members


def _uid(operation: Operation) -> str:
    return f'{{"uid": {json.dumps(operation.uid)}}}'


def _reward_member(operation: Payment, shape: str, resource: str) -> str:
    kind = operation.kind
    match shape:
        case "flat":
            return resource[1:-1]
        case "allocation_uid":
            return f'"{kind}_uid": "{operation.uid}"'
        case "reward":
            return f'"reward": {{"uid": {json.dumps(operation.reward_uid)}, "{kind}_uid": "{operation.uid}"}}'
        case "allocations":
            return f'"{kind}s": [{resource}]'
        case _:
            return f'"{shape.replace("allocation", kind)}": {resource}'
