"""What EnKash wraps every answer in, read leniently where its own documents differ and strictly everywhere else.

An answer is a success only if HTTP says 200 and the code in the body says 0. On a failure `payload` is a text, so it is never
looked at before the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from enkash_async.models import CoinConfiguration, CoinEvent
from rewards_core.errors import FieldError, RequestRejected, UnexpectedResponse
from rewards_core.http.messages import Answer, Refusal
from rewards_core.json import loads, structure
from rewards_core.secrets import hide, one_line

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
        raise UnexpectedResponse("the answer is no JSON object, so that it has no response_code")
    code = reply.get("response_code")
    if code != 0 or type(code) is not int or "code" in reply:
        code = read_code(reply)
    if code is None:
        raise UnexpectedResponse("response_code: it is missing, no whole number, or contradicts code", path="response_code")
    if code != 0:
        words = one_line(hide(_message(reply), secrets()))
        raise RequestRejected(
            f"HTTP {answer.status} with response code {code}: {words or 'no reason given'}",
            code=str(code),
            details=_details(reply, secrets()),
        )
    if answer.status != 200:
        raise UnexpectedResponse(f"response code 0 came with HTTP {answer.status}, and only HTTP 200 is documented as a success")
    return Envelope(reply["payload"] if "payload" in reply else reply.get("paylod"), _message(reply), reply)


def read_refusal(answer: Answer, secrets: Callable[[], tuple[str, ...]] = tuple) -> Refusal:
    """Read what a 4xx says, of the coin endpoints or the token endpoint; anything unreadable says nothing.

    Args:
        answer: The answer.
        secrets: Returns what must not get into an error.
    """
    reply = read_object(answer.body) or {}
    code = read_code(reply)
    words = one_line(hide(_message(reply) or _text(reply, ("error_description", "error")), secrets()))
    return Refusal(
        message=words,
        code=None if code is None else str(code),
        details=_details(reply, secrets()),
        invalid=answer.status in INVALID,
    )


def read_object(body: bytes) -> Mapping[str, Any] | None:
    """Return the JSON object in a body, None if it holds something else."""
    try:
        reply = loads(body)
    except UnexpectedResponse:
        return None
    return reply if isinstance(reply, dict) else None


def names_failure(reply: Mapping[str, Any]) -> bool:
    """Return whether a reply holds a code that is not 0 or cannot be read."""
    codes = (reply.get(name) for name in CODES)
    return any(code is not None and _number(code) != 0 for code in codes)


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
        raise UnexpectedResponse("payload: it is not an object", path="payload")
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
        raise UnexpectedResponse(f"{path}: it is missing", path=path)
    return structure(payload[key], cls, path=path)


def _details(reply: Mapping[str, Any], secrets: tuple[str, ...]) -> tuple[FieldError, ...]:
    """Return every text of a failure, each once: where EnKash writes the reason is not the same in all of its documents."""
    said = [reply.get(name) for name in (*MESSAGES, *PAYLOADS, "error_description", "error", "detail")]
    said += [text for each in said if isinstance(each, dict) for text in each.values()]
    words = dict.fromkeys(one_line(hide(each, secrets)) for each in said if isinstance(each, str))
    return tuple(FieldError(field="", message=each) for each in words if each)


def _number(value: object) -> int | None:
    if type(value) is int:
        return value
    return int(value) if isinstance(value, str) and _whole_number(value) else None


def _message(reply: Mapping[str, Any]) -> str:
    return _text(reply, MESSAGES)


def _text(reply: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((cast("str", reply[name]) for name in names if isinstance(reply.get(name), str)), "")
