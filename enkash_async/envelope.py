"""What EnKash wraps every answer in, read leniently where its own documents differ and strictly everywhere else.

An answer is a success only if HTTP says 200 and the code in the body says 0. On a failure `payload` is a text, so it is never
looked at before the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from enkash_async.models import CoinConfiguration, CoinEvent
from vendor_http.calls import Answer, Refusal
from vendor_http.codec import loads, structure
from vendor_http.errors import RequestRejected, UnexpectedResponse
from vendor_http.secrets import hide, one_line

T = TypeVar("T")

CODES = ("response_code", "code")
MESSAGES = ("response_message", "message")
PAYLOADS = ("payload", "paylod")
INVALID = frozenset({400, 422})
"""The statuses EnKash documents for a request that is malformed or fails validation."""

_whole_number = re.compile(r"0|-?[1-9][0-9]{0,8}", re.ASCII).fullmatch


class Envelope(NamedTuple):
    """A success: what it carries, EnKash's words and the whole object."""

    payload: Any
    message: str
    raw: Mapping[str, Any]


def read_success(answer: Answer, secrets: Callable[[], tuple[str, ...]] = tuple) -> Envelope:
    """Read a 2xx answer that says success twice.

    Args:
        answer: The answer.
        secrets: Returns what must not get into an error's text.

    Raises:
        RequestRejected: the code in the body is not 0.
        UnexpectedResponse: the status is another 2xx, or no code can be read.
    """
    reply = loads(answer.body)
    if type(reply) is not dict:
        raise UnexpectedResponse("expected a JSON object with response_code, got JSON of another type")
    code = reply.get("response_code")
    if code != 0 or type(code) is not int or "code" in reply:
        code = read_code(reply)
    if code is None:
        raise UnexpectedResponse("expected a whole number as response_code, got none that can be read", path="response_code")
    if code != 0:
        words = one_line(hide(_message(reply), secrets())) or "no reason given"
        raise RequestRejected(f"expected response code 0, got {code} with HTTP {answer.status}: {words}", code=str(code))
    if answer.status != 200:
        raise UnexpectedResponse(f"expected HTTP 200 with response code 0, got HTTP {answer.status}")
    return Envelope(reply["payload"] if "payload" in reply else reply.get("paylod"), _message(reply), reply)


def read_refusal(answer: Answer) -> Refusal:
    """Read what a 4xx says, of the coin endpoints or the token endpoint; anything unreadable says nothing."""
    try:
        reply = loads(answer.body)
    except UnexpectedResponse:
        reply = None
    if not isinstance(reply, dict):
        return Refusal(invalid=answer.status in INVALID)
    code = read_code(reply)
    words = _message(reply) or _text(reply, ("error_description", "error"))
    return Refusal(message=words, code=None if code is None else str(code), invalid=answer.status in INVALID)


def read_code(reply: Mapping[str, Any]) -> int | None:
    """Return the code of a reply, None if there is none or if two differ."""
    found = {_number(reply[name]) for name in CODES if name in reply}
    return found.pop() if len(found) == 1 else None


def read_event(envelope: Envelope) -> CoinEvent:
    """Read the event a success carries.

    Raises:
        UnexpectedResponse: it carries none; `path` names what is wrong.
    """
    payload = envelope.payload
    if type(payload) is not dict:
        raise UnexpectedResponse("payload: expected an object, got another type", path="payload")
    company_id = payload.get("companyId")  # left out by the answer to an update
    return CoinEvent(
        coin_config_id=_required(payload, "coinConfigId", str),
        configuration=_required(payload, "configuration", CoinConfiguration),
        event=_required(payload, "event", str),
        amount=_required(payload, "amount", int),
        company_id=None if company_id is None else structure(company_id, str, path="payload.companyId"),
        raw=payload,
    )


def read_balance(envelope: Envelope) -> int:
    """Read the bare number of coins a success carries.

    Raises:
        UnexpectedResponse: it carries something else.
    """
    return structure(envelope.payload, int, path="payload")


def _required(payload: Mapping[str, Any], key: str, cls: type[T]) -> T:
    path = f"payload.{key}"
    if key not in payload:
        raise UnexpectedResponse(f"{path}: expected a value, got none", path=path)
    return structure(payload[key], cls, path=path)


def _number(value: object) -> int | None:
    if type(value) is int:
        return value
    return int(value) if isinstance(value, str) and _whole_number(value) else None


def _message(reply: Mapping[str, Any]) -> str:
    return _text(reply, MESSAGES)


def _text(reply: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((cast("str", reply[name]) for name in names if isinstance(reply.get(name), str)), "")
