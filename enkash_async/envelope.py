"""Read EnKash's answers: leniently where its documents contradict each other, strictly everywhere else.

Coin endpoints wrap every answer in an envelope. It is a success only if the HTTP status is 200 and the code in the body is 0. On
a failure `payload` is a text, so it is read only after the code.

A proxy, a maintenance page or a wrong address may answer in place of the token endpoint. Such an answer is not a rejection: if it
counted as one, a single redirect would stop all token requests of all processes until an operator empties the breaker file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar, cast

from attrs import evolve

from enkash_async.credentials import DOCUMENTED_LIFE, AccessToken, hide_token
from enkash_async.models import CoinConfiguration, CoinEvent
from rewards_core.errors import FieldError, RequestRejected, UnexpectedResponse
from rewards_core.http.messages import Answer, Refusal
from rewards_core.json import loads, structure
from rewards_core.text import hide

T = TypeVar("T")
Secrets = Callable[[], tuple[str, ...]]
"""Returns the values to redact from an error's text."""

CODES = ("response_code", "code")
MESSAGES = ("response_message", "message")
PAYLOADS = ("payload", "paylod")
INVALID = frozenset({400, 422})
"""The documented statuses of a request that is malformed or fails validation."""

_BODILESS = frozenset({407, 408, 429})
"""The 4xx answers to a token request whose meaning does not depend on the body."""
_OAUTH_REFUSALS = frozenset(
    {"access_denied", "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "invalid_token", "unauthorized"}
    | {"unauthorized_client", "unsupported_grant_type"}
)
"""The errors of a token endpoint (RFC 6749, section 5.2), and those that Spring adds."""
_OAUTH_OUTAGES = ("server_error", "temporarily_unavailable")
"""OAuth errors that say nothing about the credentials."""

_whole_number = re.compile(r"0|-?[1-9][0-9]{0,8}", re.ASCII).fullmatch


class Envelope(NamedTuple):
    """A success: its payload, EnKash's message and the whole object."""

    payload: Any
    message: str
    raw: Mapping[str, Any]


def read_success(answer: Answer, secrets: Secrets = tuple) -> Envelope:
    """Read a 2xx answer of a coin endpoint.

    Raises:
        RequestRejected: the code in the body is not 0.
        UnexpectedResponse: the status is not 200, or there is no readable code.
    """
    reply = loads(answer.body)
    if type(reply) is not dict:
        raise UnexpectedResponse("the answer is not a JSON object with a response_code")
    code = reply.get("response_code")
    if code != 0 or type(code) is not int or "code" in reply:
        code = _code(reply)
    if code is None:
        raise UnexpectedResponse("response_code: it is missing, not a whole number, or differs from `code`", path="response_code")
    if code != 0:
        raise _rejected(answer, secrets)
    if answer.status != 200:
        raise UnexpectedResponse(f"response code 0 came with HTTP {answer.status}; only HTTP 200 is a documented success")
    return Envelope(reply["payload"] if "payload" in reply else reply.get("paylod"), _text(reply, MESSAGES), reply)


def read_refusal(answer: Answer) -> Refusal:
    """Read a rejection by a coin endpoint or the token endpoint; it never raises."""
    reply = _object(answer.body) or {}
    code = _code(reply)
    return Refusal(
        message=_text(reply, (*MESSAGES, "error_description", "error")),
        code=None if code is None else str(code),
        details=_details(reply),
        invalid=answer.status in INVALID,
    )


def read_event(envelope: Envelope) -> CoinEvent:
    """Read the event in a success.

    Raises:
        UnexpectedResponse: there is no event; `path` names the offending member.
    """
    payload = envelope.payload
    if type(payload) is not dict:
        raise UnexpectedResponse("payload: not an object", path="payload")
    company_id = payload.get("companyId")  # missing in the answer to an update
    return CoinEvent(
        coin_config_id=_required(payload, "coinConfigId", str),
        configuration=_required(payload, "configuration", CoinConfiguration),
        event=_required(payload, "event", str),
        amount=_required(payload, "amount", int),
        company_id=None if company_id is None else structure(company_id, str, path="payload.companyId"),
        raw=payload,
    )


def read_token(answer: Answer, secrets: Secrets) -> AccessToken:
    """Read the token in a 2xx answer of the token endpoint.

    Raises:
        RequestRejected: the answer is a rejection.
        UnexpectedResponse: the answer is neither a token nor a rejection.
    """
    reply = _object(answer.body)
    if reply is None:
        raise UnexpectedResponse(f"HTTP {answer.status} without a JSON object")
    try:  # one EnKash page writes camel case
        value = hide_token(reply.get("access_token", reply.get("accessToken")))
    except (TypeError, ValueError):
        if _names_failure(reply) or _is_oauth_refusal(reply):
            raise _rejected(answer, secrets) from None
        raise UnexpectedResponse(f"HTTP {answer.status} with neither a token nor a rejection") from None
    return AccessToken(value=value, expires_in=_seconds(reply.get("expires_in", reply.get("expiresIn"))))


def is_foreign(answer: Answer) -> bool:
    """Return whether the answer is not the token endpoint's, but that of a gateway, a login page or a wrong address."""
    if 300 <= answer.status < 400:
        return True
    if not 400 <= answer.status < 500 or answer.status in _BODILESS:
        return False
    reply = _object(answer.body)
    if reply is None:
        return answer.status != 401 or answer.body.lstrip()[:1] == b"<"
    if reply.get("error") in _OAUTH_OUTAGES:
        return True
    is_refusal = _is_oauth_refusal(reply) or (answer.status in {403, 422} and _names_failure(reply))
    return not (answer.status in {400, 401} or is_refusal)


def _rejected(answer: Answer, secrets: Secrets) -> RequestRejected:
    refusal, hidden = read_refusal(answer), secrets()
    code = "" if refusal.code is None else f" with response code {refusal.code}"
    return RequestRejected(
        f"HTTP {answer.status}{code}: {hide(refusal.message, hidden) or 'no reason given'}",
        code=refusal.code,
        details=[evolve(each, message=hide(each.message, hidden)) for each in refusal.details],
    )


def _required(payload: Mapping[str, Any], key: str, cls: type[T]) -> T:
    path = f"payload.{key}"
    if key not in payload:
        raise UnexpectedResponse(f"{path}: missing", path=path)
    return structure(payload[key], cls, path=path)


def _object(body: bytes) -> Mapping[str, Any] | None:
    try:
        reply = loads(body)
    except UnexpectedResponse:
        return None
    return reply if isinstance(reply, dict) else None


def _code(reply: Mapping[str, Any]) -> int | None:
    """Return the code of a reply, None if there is none or two differ."""
    found = {_number(reply[name]) for name in CODES if name in reply}
    return found.pop() if len(found) == 1 else None


def _names_failure(reply: Mapping[str, Any]) -> bool:
    """Return whether a reply holds a code that is not 0 or cannot be read."""
    codes = (reply.get(name) for name in CODES)
    return any(code is not None and _number(code) != 0 for code in codes)


def _is_oauth_refusal(reply: Mapping[str, Any]) -> bool:
    error = reply.get("error")
    return isinstance(error, str) and error.lower() in _OAUTH_REFUSALS


def _details(reply: Mapping[str, Any]) -> list[FieldError]:
    """Return every text of a failure, each once: EnKash's documents disagree on where the reason is."""
    texts = [reply.get(name) for name in (*MESSAGES, *PAYLOADS, "error_description", "error", "detail")]
    texts += [text for each in texts if isinstance(each, dict) for text in each.values()]
    messages = dict.fromkeys(each for each in texts if isinstance(each, str) and each.strip())
    return [FieldError(field="", message=each) for each in messages]


def _number(value: object) -> int | None:
    if type(value) is int:
        return value
    return int(value) if isinstance(value, str) and _whole_number(value) else None


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return None
    return float(min(max(value, 0), DOCUMENTED_LIFE))  # the number may be too large for a float


def _text(reply: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((cast("str", reply[name]) for name in names if reply.get(name) and isinstance(reply[name], str)), "")
