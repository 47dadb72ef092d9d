"""The key and token of a request to Original, checked by hand: a library shared with the client could be wrong on both sides."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from vendor_sandboxes.original_replies import Refused, client_error
from vendor_sandboxes.received_json import read_json

_CACHED_TOKENS = 1000


def _part(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _bad_token() -> Refused:
    return client_error(401, "authentication_failed", "Incorrect authentication credentials.")


class Credentials:
    """The one key pair of the sandboxed app."""

    def __init__(self, key: str, secret: str, clock: Callable[[], float]) -> None:
        self._key = key
        self._secret = secret.encode()
        self._clock = clock
        self._known: dict[str, int | Decimal | None] = {}

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise `Refused` with 401 for missing or wrong credentials, and with 403 for a token without all permissions."""
        key = headers.get("X-API-KEY")
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if key is None or scheme.lower() != "bearer":
            raise client_error(401, "not_authenticated", "Authentication credentials were not provided.")
        if not hmac.compare_digest(key.encode("utf-8", "surrogateescape"), self._key.encode()):
            raise _bad_token()
        token = token.strip()
        if token not in self._known:
            if len(self._known) >= _CACHED_TOKENS:
                self._known.clear()
            self._known[token] = self._expiry_of(token)
        expiry = self._known[token]
        if expiry is not None and expiry <= self._clock():
            raise client_error(401, "authentication_failed", "Signature has expired.")

    def _expiry_of(self, token: str) -> int | Decimal | None:
        claims = self._claims_of(token)
        if any(claims.get(name) != "*" for name in ("user_id", "resource", "action")):
            raise client_error(403, "permission_denied", "You do not have permission to perform this action.")
        if claims.get("api_key", self._key) != self._key:
            raise client_error(403, "permission_denied", "You do not have permission to perform this action.")
        expiry = claims.get("exp")
        if expiry is None:
            return None
        if isinstance(expiry, bool) or not isinstance(expiry, int | Decimal):
            raise _bad_token()
        return expiry

    def _claims_of(self, token: str) -> dict[str, Any]:
        try:
            signed, _, signature = token.rpartition(".")
            header_part, claims_part = signed.split(".")
            header, claims = read_json(_part(header_part)), read_json(_part(claims_part))
            digest = _part(signature)
        except (ValueError, binascii.Error):
            raise _bad_token() from None
        right = hmac.new(self._secret, signed.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(digest, right) or not isinstance(header, dict) or header.get("alg") != "HS256":
            raise _bad_token()
        if not isinstance(claims, dict):
            raise _bad_token()
        return claims
