"""Original's envelopes, error codes and checks of fields, as its documents and tools show them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from vendor_sandboxes.serving import json_reply

if TYPE_CHECKING:
    from aiohttp import web

_AMOUNT = re.compile(r"[0-9]{1,60}(\.[0-9]{1,30})?", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", re.ASCII)
_LARGEST_EXPONENT = 60

NOT_ALLOWED = "method_not_allowed"


class Refused(Exception):
    """The request is answered with an error; carries the whole answer."""

    def __init__(self, status: int, kind: str, detail: object) -> None:
        super().__init__(kind)
        self.status = status
        self.kind = kind
        self.detail = detail

    def reply(self) -> web.Response:
        """Return the vendor's error envelope."""
        text = json.dumps({"success": False, "error": {"type": self.kind, "detail": self.detail}})
        return json_reply(text, self.status)


def client_error(status: int, code: str, message: str) -> Refused:
    """Return the refusal for something the caller did."""
    return Refused(status, "client_error", {"code": code, "message": message})


def not_found(what: str) -> Refused:
    """Return the refusal for an unknown uid."""
    return client_error(404, "not_found", f"{what} not found.")


def server_error(status: int) -> Refused:
    """Return the vendor's own failure."""
    return Refused(status, "server_error", {"code": "error", "message": "Something went wrong, we are on top of it!"})


def success(data: str, status: int = 200) -> web.Response:
    """Return the success envelope around `data`, which is JSON text."""
    return json_reply(f'{{"success":true,"data":{data}}}', status)


def created(uid: str) -> web.Response:
    """Return the answer of every creation: only the uid."""
    return json_reply(f'{{"success":true,"data":{{"uid":"{uid}"}}}}', 201)


def no_match() -> web.Response:
    """Return the answer of a search that found nobody, which is no error."""
    return json_reply('{"success":false,"data":null}')


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def read_body(request: web.BaseRequest, body: bytes) -> dict[str, Any]:
    """Return the request's JSON object with every number exact.

    Raises:
        Refused: it is none.
    """
    if request.content_type != "application/json":
        raise client_error(415, "unsupported_media_type", f'Unsupported media type "{request.content_type}" in request.')
    try:
        value = json.loads(body, parse_float=Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise client_error(400, "parse_error", "JSON parse error") from None
    if not isinstance(value, dict):
        raise Refused(400, "validation_error", {"code": "invalid", "message": "Invalid data. Expected a dictionary."})
    return value


class Fields:
    """Read the fields of one request and collect what is wrong with them."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._wrong: list[dict[str, str]] = []

    def _complain(self, name: str, code: str, message: str) -> None:
        self._wrong.append({"code": code, "message": message, "field_name": name})

    def _present(self, name: str) -> bool:
        if name not in self._body:
            self._complain(name, "required", "This field is required.")
        elif self._body[name] is None:
            self._complain(name, "null", "This field may not be null.")
        else:
            return True
        return False

    def text(self, name: str) -> str:
        """Return a mandatory string, empty after a complaint."""
        if not self._present(name):
            return ""
        value = self._body[name]
        if not isinstance(value, str):
            self._complain(name, "invalid", "Not a valid string.")
        elif not value.strip():
            self._complain(name, "blank", "This field may not be blank.")
        else:
            return value
        return ""

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None if it is absent or null."""
        return None if self._body.get(name) is None else self.text(name)

    def email(self, name: str) -> str | None:
        """Return an optional e-mail address."""
        value = self.optional_text(name)
        if value and not _EMAIL.fullmatch(value):
            self._complain(name, "invalid", "Enter a valid email address.")
        return value

    def address(self, name: str) -> str:
        """Return a mandatory wallet address."""
        value = self.text(name)
        if value and not _ADDRESS.fullmatch(value):
            self._complain(name, "invalid", "Enter a valid wallet address.")
        return value

    def amount(self, name: str) -> Decimal:
        """Return a mandatory amount above 0, given as string or number, to its last digit."""
        if not self._present(name):
            return Decimal(0)
        value = self._body[name]
        digits = ""
        if isinstance(value, str):
            digits = value
        elif isinstance(value, Decimal):
            digits = format(value, "f") if abs(value.adjusted()) <= _LARGEST_EXPONENT else ""
        elif type(value) is int:
            digits = str(value) if abs(value) < 10**_LARGEST_EXPONENT else ""
        if not _AMOUNT.fullmatch(digits.removeprefix("-")):
            self._complain(name, "invalid", "A valid number is required.")
            return Decimal(0)
        amount = Decimal(digits)
        if amount <= 0:
            self._complain(name, "min_value", "Ensure this value is greater than 0.")
        return amount

    def check(self) -> None:
        """Refuse the request if anything was wrong: one complaint as an object, several as a list.

        Raises:
            Refused: with every complaint.
        """
        if self._wrong:
            raise Refused(400, "validation_error", self._wrong[0] if len(self._wrong) == 1 else self._wrong)
