"""Bodies of the vendor's events about rewards."""

from __future__ import annotations

import json
from typing import Any

from original_async.webhooks import OriginalWebhooks
from rewards_core.operations import OperationRef
from tests.original_async import reward_kit

APP = {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"}
ALLOCATION = {**reward_kit.ALLOCATION, "status": "done"}
CLAIM = {**reward_kit.CLAIM, "status": "done"}
CONTRACT = {"uid": "112144981245", "name": "Gold", "token_type": "ERC20", "token_name": "TORI", "contract_address": None}
LOG = {"type": "allocate", "chain_id": 80002, "transaction_hash": "0x00", "uid": "999"}
TIME = "2024-08-01T11:24:36.531141+00:00"
ALLOCATION_REF = OperationRef("default", "allocation", "213134081289")
CLAIM_REF = OperationRef("default", "claim", "213134081289")

source = OriginalWebhooks({"4o3vfxtcmo7b": "webhook-secret-one"})


def body(event: Any = "reward.allocated", **data: Any) -> bytes:
    return json.dumps({"data": {"app": APP, **data}, "event": event, "event_time": TIME, "sent_at": TIME}).encode()
