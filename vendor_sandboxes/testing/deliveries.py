"""Signed deliveries for tests of a route."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

from attrs import frozen

from vendor_sandboxes.options import OriginalOptions
from vendor_sandboxes.original import APP_UID, REWARDS, WEBHOOK_KEYS
from vendor_sandboxes.original_events import app_of, payload
from vendor_sandboxes.original_operations import timestamp
from vendor_sandboxes.original_state import Payment
from vendor_sandboxes.original_webhooks import signed_headers

_KINDS = {"reward.allocated": "allocation", "reward.claimed": "claim"}


@frozen(kw_only=True)
class SignedDelivery:
    """A delivery as the vendor sends it.

    Attributes:
        headers: The headers, the signature included.
        body: The raw body.
    """

    headers: Mapping[str, str]
    body: bytes


class SignDelivery(Protocol):
    """Return a signed delivery."""

    def __call__(self, name: str = "reward.allocated", /, **fields: Any) -> SignedDelivery:
        """Return a delivery of an event.

        Args:
            name: The event, such as `"reward.allocated"` or `"reward.claimed"`.
            fields: Fields of its resource, which replace those of a sample: `uid`, `status`, `amount`, `to_user_uid`, `nonce`
                and so on. Events of other names have only the fields given.
        """
        ...


def sign_delivery(name: str = "reward.allocated", /, **fields: Any) -> SignedDelivery:
    """Return a delivery of an event, signed with the sandbox's key; see `SignDelivery`."""
    kind = _KINDS.get(name)
    resource = {**(_sample(kind) if kind else {}), **fields}
    written = json.dumps({key: _json(value) for key, value in resource.items()})
    member = f'"{kind or name.partition(".")[0]}": {written}'
    unsent = payload(name, app_of(APP_UID), [member], kind or name, f"0x{uuid.uuid4().hex:0>64}", time.time())
    body = f'{unsent}, "sent_at": "{timestamp(time.time(), "+00:00")}"}}'.encode()
    return SignedDelivery(headers=signed_headers(body, WEBHOOK_KEYS, APP_UID, str(uuid.uuid4()), 1), body=body)


def _sample(kind: str) -> dict[str, Any]:
    claimed = kind == "claim"
    sample = Payment(
        kind=kind,
        uid=str(uuid.uuid4().int)[:12],
        reward_uid=REWARDS[0],
        user_uid="110985463782",
        amount=Decimal("1.23"),
        nonce=None if claimed else "order-1001",
        to_address="0x4881ab2f73c48a54b907a8b697b270f490768e6d" if claimed else None,
        committed_at=time.time(),
        status="done",
    )
    return dict(json.loads(sample.resource(OriginalOptions(amounts="string"), sample.committed_at)))


def _json(value: Any) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value
