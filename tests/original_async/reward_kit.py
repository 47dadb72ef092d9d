"""The vendor's samples of an allocation and a claim."""

from __future__ import annotations

from typing import Any

from original_async import Allocation, OriginalClient
from tests.original_async.conftest import BASE, REWARD, USER

CREATED: Any = {"success": True, "data": {"uid": "324167489835"}}
ALLOCATION: Any = {
    "uid": "213134081289",
    "status": "pending",
    "reward_uid": "112144981245",
    "to_user_uid": "223144788242",
    "amount": "1.23",
    "nonce": "nonce_1",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
CLAIM: Any = {
    "uid": "213134081289",
    "status": "pending",
    "reward_uid": "112144981245",
    "from_user_uid": "223144788242",
    "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
    "amount": "1.23",
    "created_at": "2023-08-10T14:07:14.494142Z",
}
LIST = f"{BASE}/reward/allocate?user_uid={USER}"


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


async def allocate(client: OriginalClient, **changes: Any) -> Allocation:
    arguments = {"reward_uid": REWARD, "to_user_uid": USER, "amount": "1.23", "nonce": "nonce_1", **changes}
    return await client.create_allocation(**arguments)
