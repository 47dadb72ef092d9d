"""Parse webhooks of Original. Only the envelope is documented, so the resource inside `data` is searched for.

There is no failure event: the vendor sends events only for successful completion, and only polling shows `failed`.
See https://docs.getoriginal.com/docs/webhooks-configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice
from typing import Any, Self

from original_async.kinds import ALLOCATION, ASSET, BURN, CLAIM, COLLECTION, TRANSFER
from original_async.models.rewards import Allocation, Claim
from original_async.settings import WEBHOOK_KEYS
from original_async.signature import Keyring, signature_of
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import canonical, loads, structure
from rewards_core.keys import read_keys_variable
from rewards_core.operations import DEFAULT_SCOPE, TERMINAL, Event, OperationRef, subject_of
from rewards_core.secrets import shielded
from rewards_core.text import one_line
from rewards_core.validation import MAX_TEXT, check_bytes, check_id, is_id, plain_id

EVENT_NAMES = frozenset(
    {
        "asset.burned",
        "asset.edited",
        "asset.minted",
        "asset.transferred",
        "collection.deployed",
        "reward.allocated",
        "reward.claimed",
        "reward.withdrawn",
    }
)
"""The documented event names; there may be more. See https://docs.getoriginal.com/docs/webhooks-configuration."""

_EXPECTED = {
    "reward.allocated": ALLOCATION,
    "reward.claimed": CLAIM,
    "asset.minted": ASSET,
    "asset.edited": ASSET,
    "asset.transferred": ASSET,
    "asset.burned": ASSET,
    "collection.deployed": COLLECTION,
}
"""The kind that an event is about."""
_FAMILIES = {
    "reward": frozenset({ALLOCATION, CLAIM}),
    "asset": frozenset({ASSET, TRANSFER, BURN}),
    "collection": frozenset({COLLECTION}),
}
"""The kinds that an event of a family may mention, by the first word of its name: an asset's event also holds its collection."""
_ALL_KINDS = frozenset({ALLOCATION, CLAIM, ASSET, TRANSFER, BURN})
_UID_FIELDS = {"allocation_uid": ALLOCATION, "claim_uid": CLAIM, "asset_uid": ASSET, "transfer_uid": TRANSFER, "burn_uid": BURN}
_SETTLING: Mapping[str, tuple[type[Any], str | None]] = {
    ALLOCATION: (Allocation, "nonce"),
    CLAIM: (Claim, None),
}
"""The kinds that an event can settle, with the field of their key. Of any other kind, the vendor is asked."""
_MOVERS = frozenset({"from_user_uid", "from_app_user_uid"})
_OF_THEMSELVES = frozenset({ASSET, COLLECTION})
_ALL_UID_FIELDS = frozenset({"uid", *_UID_FIELDS})
_OTHER_OBJECTS = frozenset({"app", "transaction_log", "transactionlog", "user", "to_user", "touser", "from_user", "fromuser"})
# without `from_app_user_uid`, which only transfers and burns have: their `asset_uid` labels them
_OPERATION_FIELDS = frozenset({"reward_uid", "to_user_uid", "from_user_uid", "to_address", "amount", "nonce"})
_FOREIGN_FIELDS = frozenset({"token_type", "token_name", "contract_address", "name", "email", "wallet_address", "asset_uid"})
_MAX_OPERATIONS = 1_001  # one in Event.ref, the others in Event.also
_DOCUMENTED_MEMBERS = frozenset({"data", "event", "event_time", "sent_at"})
_DELIVERY_MEMBERS = frozenset(
    prefix + name for prefix in ("", "x", "webhook", "xwebhook") for name in ("attempt", "correlationid", "appuid")
)
_IDENTITY_BYTES = 16
_MAX_HINT = 200


class OriginalWebhooks(Keyring):
    """Verify and parse the webhooks of one app.

    See https://docs.getoriginal.com/docs/verifying-webhooks.

    Args:
        keys: Webhook secrets by key id, from the console's Webhooks page; several while keys are rotated.
        scope: The scope of the app's operations, the same as its client's.
        app_uid: The app's uid, such as `"UB2DG8MW5KBQ"`: an event that names another app then settles nothing.

    Raises:
        ValueError: there is no key, a key id is invalid, a secret is empty, or `scope` or `app_uid` is not an id.
        TypeError: an argument has the wrong type.
    """

    __slots__ = ("_app_uid", "_scope")

    @shielded
    def __init__(self, keys: Mapping[str, str], *, scope: str = DEFAULT_SCOPE, app_uid: str | None = None) -> None:
        super().__init__(keys)
        self._scope = check_id(scope, "scope")
        self._app_uid = None if app_uid is None else check_id(app_uid, "app_uid")

    @classmethod
    def from_env(cls, *, scope: str = DEFAULT_SCOPE, app_uid: str | None = None) -> Self:
        """Read the keys from `ORIGINAL_WEBHOOK_KEYS`: `ID:SECRET` pairs separated by commas or spaces, or a JSON object.

        Args:
            scope: The scope of the app's operations, the same as its client's.
            app_uid: The app's uid: an event that names another app then settles nothing.

        Raises:
            ValueError: the variable is missing or holds no readable keys, or `scope` or `app_uid` is not an id.
        """
        return cls(read_keys_variable(WEBHOOK_KEYS), scope=scope, app_uid=app_uid)

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        return self._scope

    @property
    def event_names(self) -> frozenset[str]:
        """The documented event names; there may be more."""
        return EVENT_NAMES

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Parse a verified body. An event that cannot be used is returned with its `problem`; nothing is raised.

        Args:
            body: The verified bytes.
            headers: The delivery's headers, for its signature and for the unsigned correlation id and attempt.

        Raises:
            TypeError: the body is not bytes.
        """
        if type(body) is not bytes:
            check_bytes(body, "body")
        content, identity = _read(body)
        correlation_id, attempt = _hints(headers)
        name, occurred_at, problem = "", None, None
        found: _Found = {}
        if content is None:
            problem = "the body is not a readable JSON object"
        else:
            occurred_at = _short(content.get("event_time"))
            name = _short(content.get("event")) or ""
            data = content.get("data")
            if not name:
                problem = "the body does not name its event"
            elif type(data) is dict:
                problem = self._other_app(data)
                found = _operations(name, data)
        refs = [self._ref(kind, uid) for kind, uid in islice(found, _MAX_OPERATIONS)]
        resource = next(iter(found.values()), None)
        return Event(
            scope=self._scope,
            name=name,
            identity=identity,
            body=body,
            ref=refs[0] if refs else None,
            also=tuple(refs[1:]),
            key=_key_of(refs[0].kind, resource) if refs else None,
            resource=resource if len(refs) == 1 and _settles(refs[0].kind, resource) else None,
            occurred_at=occurred_at,
            correlation_id=correlation_id,
            attempt=attempt,
            problem=problem,
            signature=None if headers is None else signature_of(headers),
        )

    def __repr__(self) -> str:
        return f"<OriginalWebhooks of {self._scope} with {super().__repr__()}>"

    def _ref(self, kind: str, uid: str) -> OperationRef:
        # an asset or a collection is looked up only if somebody waits for it: its events come for all assets of the app
        return OperationRef(self._scope, kind, uid, subject_of(kind, uid) if kind in _OF_THEMSELVES else None)

    def _other_app(self, data: dict[str, Any]) -> str | None:
        if self._app_uid is None:
            return None
        app = data.get("app")
        uid = app.get("uid") if type(app) is dict else None
        if uid is None or uid == self._app_uid:
            return None
        other = f"app {one_line(uid, 80)}" if type(uid) is str else "an app whose uid is not text"
        return f"the event belongs to {other}; this source is configured for app {self._app_uid}"


def _read(body: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """Return the body's JSON object, None if it is none, and the event's identity."""
    content: dict[str, Any] | None = None
    identified = body
    try:
        value = loads(body)
        if type(value) is dict:
            _drop_delivery_members(value)
            identified = canonical(value)
            content = value
    except (UnexpectedResponse, RecursionError):
        pass  # not JSON, or nested too deeply to be serialized again
    return content, hashlib.sha256(identified).digest()[:_IDENTITY_BYTES]


def _drop_delivery_members(content: dict[str, Any]) -> None:
    """Drop the members that may differ between two deliveries of one event.

    Without `event_time`, only `sent_at` distinguishes two otherwise equal events. An older page of the vendor says that attempt,
    correlation id and app uid are also in the body, but not where.
    """
    if content.get("event_time"):
        content.pop("sent_at", None)
    if content.keys() <= _DOCUMENTED_MEMBERS:
        return
    for members in (content, content.get("metadata"), content.get("headers")):
        if type(members) is dict:
            for name in [name for name in members if _folded(name) in _DELIVERY_MEMBERS]:
                del members[name]


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


_Found = dict[tuple[str, str], dict[str, Any] | None]
"""The object that describes each operation, by kind and uid; an empty object where several describe it."""


def _operations(name: str, data: dict[str, Any]) -> _Found:
    """Return the operations that an event names, those of the event's own kind first.

    An object labelled neither by its key nor by its fields counts as an operation only if no other one of the event's kind is
    found.
    """
    expected = _EXPECTED.get(name)
    found = _Finder(_FAMILIES.get(name.partition(".")[0], _ALL_KINDS))
    unlabelled: dict[str, Any] | None = None
    for key, value in data.items():
        if type(value) is dict:
            word = key.lower()
            if word in _OTHER_OBJECTS or found.add_labelled(_kind_of_key(word), value):
                continue
            if unlabelled is None and not word.endswith(("reward", "contract")) and not _OPERATION_FIELDS.isdisjoint(value):
                unlabelled = _unless_foreign(value)
        elif type(value) is list and (kind := _kind_of_key(key.lower())):
            for item in value[:_MAX_OPERATIONS]:
                if type(item) is dict:
                    found.add_labelled(kind, item)
    if not _ALL_UID_FIELDS.isdisjoint(data) and not found.add_labelled(None, data) and unlabelled is None:
        unlabelled = _unless_foreign(data)
    operations = found.operations
    if expected is None:
        return operations
    if unlabelled is not None and not any(kind == expected for kind, _ in operations):
        operations[expected, unlabelled["uid"]] = unlabelled
    return operations if len(operations) < 2 else dict(sorted(operations.items(), key=lambda item: item[0][0] != expected))


class _Finder:
    """Collect the operations that an event names, of the kinds that it may mention."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self.operations: _Found = {}

    def add_labelled(self, kind: str | None, value: dict[str, Any]) -> bool:
        """Add the operation that an object is, by its key's kind or by its fields, and those that it names.

        Return whether there is any.
        """
        uid = value.get("uid")
        has_uid = _is_id(uid)
        if kind is not None and kind in self._kinds and has_uid:
            self._add(kind, uid, value)
            if kind in {TRANSFER, BURN}:
                self._add_named(value)
            return True
        kind = _kind_of_fields(value) if has_uid else None
        if kind not in self._kinds:
            kind = None
        named = self._add_named(value)
        if kind is not None and kind not in named:
            self._add(kind, uid, value)
        return bool(named) or kind is not None

    def _add_named(self, value: dict[str, Any]) -> set[str]:
        """Add the operations whose uids stand in fields of an object, and return their kinds."""
        named = set()
        for field, kind in _UID_FIELDS.items():
            uid = value.get(field)
            if kind in self._kinds and _is_id(uid):
                self._add(kind, uid, None)
                named.add(kind)
        return named

    def _add(self, kind: str, uid: Any, resource: dict[str, Any] | None) -> None:
        known = self.operations.setdefault((kind, uid), resource)
        if resource is not None and known is not resource:
            # two objects may contradict each other: only a look-up tells
            self.operations[kind, uid] = resource if known is None else {}


def _is_id(value: object) -> bool:
    return type(value) is str and (plain_id(value) is not None or is_id(value))


def _kind_of_key(word: str) -> str | None:
    return next(
        (kind for kind in (ALLOCATION, CLAIM, ASSET, TRANSFER, BURN, COLLECTION) if word.endswith((kind, f"{kind}s"))), None
    )


def _kind_of_fields(value: dict[str, Any]) -> str | None:
    if "asset_uid" in value:
        return TRANSFER if "to_address" in value else BURN if _MOVERS & value.keys() else None
    if "metadata" in value or "is_minted" in value:
        return ASSET
    if value.get("reward_uid", value["uid"]) == value["uid"]:  # a reward contract
        return None
    if "to_user_uid" in value:
        return ALLOCATION
    return CLAIM if "from_user_uid" in value else None


def _unless_foreign(value: dict[str, Any]) -> dict[str, Any] | None:
    """Return an object that has a uid and no field of a reward contract or a user."""
    return value if _is_id(value.get("uid")) and _FOREIGN_FIELDS.isdisjoint(value) else None


def _settles(kind: str, resource: dict[str, Any] | None) -> bool:
    """Return whether a resource is complete and terminal, so that no look-up is needed."""
    if resource is None:
        return False
    status = resource.get("status")
    if type(status) is not str or status.lower() not in TERMINAL or kind not in _SETTLING:
        return False
    try:
        structure(resource, _SETTLING[kind][0])
    except UnexpectedResponse:
        return False
    return True


def _key_of(kind: str, resource: dict[str, Any] | None) -> str | None:
    _, field = _SETTLING.get(kind, (None, None))
    key = None if resource is None or field is None else resource.get(field)
    return key if type(key) is str and 0 < len(key) <= MAX_TEXT and key.isprintable() else None


def _hints(headers: Mapping[str, str] | None) -> tuple[str | None, str | None]:
    if headers is None:
        return None, None
    try:
        return _hint(headers, "x-webhook-correlation-id"), _hint(headers, "x-webhook-attempt")
    except Exception:  # noqa: BLE001 - hints are only shown: whatever a framework's headers raise, the event counts
        return None, None


def _hint(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    if value is None:
        value = next((value for key, value in headers.items() if key.lower() == name), None)
    return _short(value)


def _short(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value if value.isprintable() and len(value) <= _MAX_HINT else one_line(value, _MAX_HINT)
