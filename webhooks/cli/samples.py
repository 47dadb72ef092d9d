"""Sample deliveries in the form that the vendor documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import loads
from rewards_core.validation import shown

SAMPLE_APP = {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"}

_RESOURCES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "reward.allocated": ("allocation", {"to_user_uid": "754566475542", "nonce": "sample_nonce"}),
    "reward.claimed": ("claim", {"from_user_uid": "754566475542", "to_address": "0x4881ab2f73c48a54b907a8b697b270f490768e6d"}),
}


class Shape(StrEnum):
    """How much of the resource a sample holds: all, its uid only, or nothing."""

    FULL = "full"
    UID = "uid"
    OPAQUE = "opaque"


def sample_body(
    name: str, *, shape: Shape, uid: str, status: str, amount: str, app_uid: str | None, overrides: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """Return the body of a sample event, with values put at dotted paths; without an app uid, that of the vendor's documentation.

    Raises:
        ValueError: a path leads through a value that is no object.
    """
    now = datetime.now(UTC).isoformat()
    data: dict[str, Any] = {"app": {**SAMPLE_APP, **({} if app_uid is None else {"uid": app_uid})}}
    key, more = _RESOURCES.get(name, (name.partition(".")[0] or "resource", {}))
    if shape is Shape.UID:
        data[key] = {"uid": uid}
    elif shape is Shape.FULL:
        data[key] = {
            "uid": uid,
            "status": status,
            "reward_uid": "151854912345",
            **more,
            "amount": amount,
            "created_at": "2023-08-10T14:07:14.494142Z",
        }
    body: dict[str, Any] = {"data": data, "event": name, "event_time": now, "sent_at": now}
    for path, value in overrides:
        _put(body, path, value)
    return body


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `PATH=VALUE`, the value as JSON or else as text.

    Raises:
        ValueError: there is no `=`, or no path before it.
    """
    path, equals, value = text.partition("=")
    if not equals or not path or "" in path.split("."):
        raise ValueError(f"--set: give PATH=VALUE such as data.allocation.nonce=n1, not {shown(text)}.")
    try:
        return path, loads(value.encode("utf-8", "surrogatepass"))
    except UnexpectedResponse:
        return path, value


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *steps, last = path.split(".")
    place = body
    for step in steps:
        inner = place.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ValueError(  # noqa: TRY004 - the path is wrong, not a type
                f"--set: {shown(path)} leads through {step!a}, which is no object in this event. Give another path."
            )
        place = inner
    place[last] = value
