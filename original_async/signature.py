"""Sign and verify webhooks of Original: `x-webhook-signature: "keyid,hex keyid,hex"`, one pair per active key of the app.

A digest is the HMAC-SHA256 of the raw body under the key's webhook secret (not the API secret) as UTF-8 text, in hex.
See https://docs.getoriginal.com/docs/verifying-webhooks.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence

from rewards_core.errors import SignatureError
from rewards_core.keys import is_key_id
from rewards_core.secrets import Secret, SecretHolder, shielded
from rewards_core.validation import check_bytes, check_mapping, check_str, kind_of, shown

SIGNATURE_HEADER = "x-webhook-signature"

_HEADER_LENGTH = len(SIGNATURE_HEADER)
_MAX_HEADER = 8_190
_ADVICE: Mapping[str, str] = {
    "missing": f"The header {SIGNATURE_HEADER} is missing: the sender is not the vendor, or a proxy drops the header.",
    "malformed": f'The header {SIGNATURE_HEADER} is not of the form "keyid,hex keyid,hex": the sender is not the vendor.',
    "unknown_key": "It is signed with keys that are not configured here: compare their ids with the console's Webhooks page.",
    "mismatch": "The signature does not match the body: a proxy changed the body, or the secret of the key is wrong.",
}
_find_pairs = re.compile(r"(?<![^\s,])([^\s,]+),([0-9A-Fa-f]{64})(?![^\s,])").findall
"""Key ids and digests. The vendor separates the pairs by white space; a proxy that joins repeated headers adds commas."""


@shielded
def sign(body: bytes, keys: Mapping[str, str]) -> str:
    """Return the value of `x-webhook-signature` for a body, one pair per key, in the mapping's order.

    Args:
        body: The raw bytes that will be sent.
        keys: Webhook secrets by key id.

    Raises:
        ValueError: there is no key, or an id or a secret is invalid.
        TypeError: an id or a secret is not a str.
    """
    return Keyring(keys).sign(body)


class Keyring(SecretHolder):
    """Webhook secrets by key id, ready to sign and verify; no repr shows them, and they cannot be copied or pickled.

    Args:
        keys: Webhook secrets by key id, at least one; several while keys are rotated.

    Raises:
        ValueError: there is no key, an id holds white space, a comma or another invalid character, or a secret is empty.
        TypeError: an id or a secret is not a str.
    """

    __slots__ = ("__secrets",)

    @shielded
    def __init__(self, keys: Mapping[str, str]) -> None:
        if not check_mapping(keys, "webhook keys", "a mapping of key ids to secrets"):
            raise ValueError("webhook keys: give at least one key id with its secret, from the console's Webhooks page.")
        self.__secrets = {_checked_id(key_id): _secret_bytes(key_id, secret) for key_id, secret in keys.items()}

    def sign(self, body: bytes) -> str:
        """Return the value of `x-webhook-signature` for a body, one pair per key.

        Args:
            body: The raw bytes that will be sent.

        Raises:
            TypeError: the body is not bytes.
        """
        check_bytes(body, "body")
        return " ".join(f"{key_id},{_digest(secret, body)}" for key_id, secret in self.__secrets.items())

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of the key that signed these bytes.

        Args:
            headers: The delivery's headers; names are case-insensitive, and repeated headers count as one.
            body: The raw bytes, as they arrived.

        Raises:
            SignatureError: the body is not signed by a key held here; no other error is raised, whatever arrives. `reason` is
                `"missing"` (no header), `"malformed"` (no pair in it), `"unknown_key"` (no pair of a key held here) or
                `"mismatch"`.
        """
        if not _is_bytes(body):
            raise SignatureError(f"The body is {kind_of(body)}, not bytes. Verify the raw body.", reason="malformed")
        key_id, reason, claimed = self._find(headers, body)
        if key_id is None:
            raise SignatureError(_ADVICE[reason], reason=reason, key_ids=claimed)
        return key_id

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether the headers hold a pair of a key held here; without one, `verify` rejects every body.

        Args:
            headers: The delivery's headers; names are case-insensitive.
        """
        return any(key_id in self.__secrets for key_id in claimed_key_ids(headers))

    def _find(self, headers: Mapping[str, str], body: bytes) -> tuple[str | None, str, Sequence[str]]:
        """Return the id of the key that signed these bytes, or None, the reason, and the key ids that the headers claim.

        It never raises: a traceback would expose the secrets in its frame.
        """
        claimed: dict[str, None] = {}
        computed: dict[str, str] = {}
        reason = "missing"
        for value in _header_values(headers):
            if reason == "missing":
                reason = "malformed"
            if not isinstance(value, str):
                continue
            for key_id, given in _find_pairs(value):
                claimed[key_id] = None
                expected = computed.get(key_id)
                if expected is None:
                    secret = self.__secrets.get(key_id)
                    if secret is None:
                        if reason == "malformed":
                            reason = "unknown_key"
                        continue
                    expected = computed[key_id] = _digest(secret, body)
                    reason = "mismatch"
                if hmac.compare_digest(expected, given.lower()):
                    return key_id, "", ()
        return None, reason, list(claimed)

    def __repr__(self) -> str:
        return f"<Keyring of {', '.join(self.__secrets)}>"


def _digest(secret: bytes, body: bytes) -> str:
    return hmac.digest(secret, body, "sha256").hex()


def _is_bytes(body: object) -> bool:
    return isinstance(body, bytes)


def signature_of(headers: Mapping[str, str]) -> str | None:
    """Return the signature header as it arrived, repeated ones joined; None if it is missing or cannot be forwarded."""
    value = " ".join(value for value in _header_values(headers) if isinstance(value, str))
    return value if 0 < len(value) <= _MAX_HEADER and value.isascii() and value.isprintable() else None


def claimed_key_ids(headers: Mapping[str, str]) -> list[str]:
    """Return the key ids in the signature header, each once."""
    values = (value for value in _header_values(headers) if isinstance(value, str))
    return list(dict.fromkeys(key_id for value in values for key_id, _ in _find_pairs(value)))


def _header_values(headers: object) -> Iterable[object]:
    """Return every value of the signature header; none if `headers` cannot be read as a mapping."""
    try:
        if isinstance(headers, dict):
            items: Iterable[tuple[object, object]] = headers.items()
        else:
            getall = getattr(headers, "getall", None)  # a multidict folds case and keeps repeated headers
            if getall is not None:
                return list(getall(SIGNATURE_HEADER, ()))
            items = headers.items()  # type: ignore[attr-defined]
        return [
            value
            for name, value in items
            if isinstance(name, str) and len(name) == _HEADER_LENGTH and name.lower() == SIGNATURE_HEADER
        ]
    except Exception:  # noqa: BLE001 - whatever a framework's headers raise, `verify` raises only SignatureError
        return ()


def _checked_id(key_id: object) -> str:
    text = check_str(key_id, "webhook key ids")
    if not is_key_id(text):
        raise ValueError(f"webhook keys: give key ids like '4o3vfxtcmo7b', without white space or commas, not {shown(text)}.")
    return text


def _secret_bytes(key_id: str, secret: str) -> bytes:
    return Secret(secret, f"webhook secret of {key_id}").reveal().encode("utf-8")
