"""What Original's webhooks say. Only the envelope is documented, so the resource inside `data` is found by looking.

There is no failure event: the vendor sends events of successful completion only, and only polling learns `failed`.
See https://docs.getoriginal.com/docs/webhooks-configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from original_async.models import ALLOCATION, CLAIM, Allocation, Claim
from original_async.signature import Keyring, signature_of
from vendor_http.arguments import check_id, is_id
from vendor_http.codec import canonical, fits, loads_faithful
from vendor_http.errors import UnexpectedResponse
from vendor_http.operations import DEFAULT_SCOPE, Event, OperationRef, OperationStatus
from vendor_http.secrets import one_line

_KINDS_BY_EVENT = {"reward.allocated": ALLOCATION, "reward.claimed": CLAIM}
_MODELS: dict[str, type[Allocation | Claim]] = {ALLOCATION: Allocation, CLAIM: Claim}
_NO_OPERATIONS = frozenset({"app", "transaction_log", "user", "to_user", "from_user"})
_OF_A_CONTRACT = ("token_type", "token_name", "contract_address")
_IDENTITY_BYTES = 16
_LONGEST_HINT = 200


class OriginalWebhooks:
    """The webhooks of one app: how they are signed and what they say.

    Args:
        keys: Key id to webhook secret, as the console's Webhooks page shows them; several while keys are being rotated.
        scope: The scope of the app's operations, as given to its client.
        app_uid: The app's uid; an event that names another app then settles nothing.

    Raises:
        ValueError: there is no key, a key id cannot be one, a secret is empty, or `scope` or `app_uid` is no id.
        TypeError: one of these is not a str.
    """

    __slots__ = ("_app_uid", "_keys", "_scope")

    def __init__(self, keys: Mapping[str, str], *, scope: str = DEFAULT_SCOPE, app_uid: str | None = None) -> None:
        self._keys = Keyring(keys)
        self._scope = check_id(scope, "scope")
        self._app_uid = None if app_uid is None else check_id(app_uid, "app_uid")

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        return self._scope

    def sign(self, body: bytes) -> str:
        """Return the value of `x-webhook-signature` for a body, one pair for each key."""
        return self._keys.sign(body)

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of the key that signed these bytes.

        Args:
            headers: The delivery's headers; their names are compared without regard to case.
            body: The raw bytes, as they arrived.

        Raises:
            SignatureError: for whatever else arrives, and nothing but that.
        """
        return self._keys.verify(headers, body)

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Read a verified body; total: what cannot be used comes back with its `problem`.

        Args:
            body: The verified bytes.
            headers: Where the unsigned hints (correlation id, attempt) are taken from.
        """
        content, identity = _read(body)
        correlation_id, attempt = _hints(headers)
        name, occurred_at, problem = "", None, None
        ref: OperationRef | None = None
        resource: Mapping[str, Any] | None = None
        if content is None:
            problem = "expected a JSON object in the body, got something else"
        else:
            occurred_at = _short(content.get("event_time"))
            name = _short(content.get("event")) or ""
            data = content.get("data")
            if not name:
                problem = "expected the event's name in the body, got none"
            elif type(data) is dict:
                problem = self._other_app(data)
                found = _operation(name, data)
                if found is not None:
                    kind, resource = found
                    ref = OperationRef(self._scope, kind, resource["uid"])
                    if not _settles(kind, resource):
                        resource = None
        return Event(
            scope=self._scope,
            name=name,
            identity=identity,
            body=body,
            ref=ref,
            resource=resource,
            occurred_at=occurred_at,
            correlation_id=correlation_id,
            attempt=attempt,
            problem=problem,
            signature=None if headers is None else signature_of(headers),
        )

    def __repr__(self) -> str:
        return f"<OriginalWebhooks of {self._scope} with {self._keys!r}>"

    def _other_app(self, data: dict[str, Any]) -> str | None:
        if self._app_uid is None:
            return None
        app = data.get("app")
        uid = app.get("uid") if type(app) is dict else None
        if uid is None or uid == self._app_uid:
            return None
        return f"expected the app {self._app_uid}, got {one_line(str(uid), 80)}"


def _read(body: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """Return the body's JSON object, None if it is none, and the event's identity.

    `sent_at` is left out because the vendor may write it anew for each attempt.
    """
    content: dict[str, Any] | None = None
    identified = body
    try:
        value = loads_faithful(body)
        if type(value) is dict:
            value.pop("sent_at", None)
            identified = canonical(value)
            content = value
    except (UnexpectedResponse, RecursionError):
        pass  # not JSON, or nested too deeply to be written again
    return content, hashlib.sha256(identified).digest()[:_IDENTITY_BYTES]


def _operation(name: str, data: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return kind and resource of the operation an event speaks of.

    First comes what is labelled as the event's kind, by its key or its fields; then what bears no label; then another kind.
    """
    expected = _KINDS_BY_EVENT.get(name)
    unlabelled: dict[str, Any] | None = None
    other: tuple[str, dict[str, Any]] | None = None
    for key, value in data.items():
        if type(value) is not dict or key in _NO_OPERATIONS or not is_id(value.get("uid")):
            continue
        kind = _kind(key, value, expected)
        if kind is None:
            if unlabelled is None and not any(field in value for field in _OF_A_CONTRACT):
                unlabelled = value
        elif expected is None or kind == expected:
            return kind, value
        elif other is None:
            other = kind, value
    return (expected, unlabelled) if expected is not None and unlabelled is not None else other


def _kind(key: str, value: dict[str, Any], expected: str | None) -> str | None:
    word = key.lower()
    if "alloc" in word:
        return CLAIM if "claim" in word and expected == CLAIM else ALLOCATION
    if "claim" in word:
        return CLAIM
    if "reward_uid" in value:
        if "to_user_uid" in value:
            return ALLOCATION
        if "from_user_uid" in value:
            return CLAIM
    return None


def _settles(kind: str, resource: dict[str, Any]) -> bool:
    """Return whether a resource is complete and terminal, so that nobody needs to be asked."""
    return fits(resource, _MODELS[kind]) and OperationStatus(resource["status"]).terminal


def _hints(headers: Mapping[str, str] | None) -> tuple[str | None, str | None]:
    if headers is None:
        return None, None
    try:
        return _hint(headers, "x-webhook-correlation-id"), _hint(headers, "x-webhook-attempt")
    except Exception:  # noqa: BLE001 - unsigned and shown only: whatever a framework's headers do, the event stands
        return None, None


def _hint(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        value = next((value for key, value in headers.items() if key.lower() == name), None)
    return _short(value)


def _short(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value if value.isprintable() and len(value) <= _LONGEST_HINT else one_line(value, _LONGEST_HINT)
