"""Original's envelopes, error codes and validation of fields, as in its documentation and tools."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from vendor_sandboxes.received_json import read_json
from vendor_sandboxes.server import json_reply

if TYPE_CHECKING:
    from aiohttp import web

_AMOUNT = re.compile(r"[0-9]{1,60}(\.[0-9]{1,30})?", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGEST_EXPONENT = 60


class Refused(Exception):
    """The request is answered with this error."""

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
    """Return the error of a mistake of the caller."""
    return Refused(status, "client_error", {"code": code, "message": message})


def not_found(what: str) -> Refused:
    """Return the error of an unknown uid."""
    return client_error(404, "not_found", f"{what} not found.")


def server_error(status: int) -> Refused:
    """Return the error of the vendor itself."""
    return Refused(status, "server_error", {"code": "error", "message": "Something went wrong, we are on top of it!"})


def success(data: str) -> web.Response:
    """Return the success envelope around `data`, which is JSON text."""
    return json_reply(f'{{"success":true,"data":{data}}}')


def created(uid: str) -> web.Response:
    """Return the answer of every creation, with only the uid."""
    return json_reply(f'{{"success":true,"data":{{"uid":"{uid}"}}}}', 201)


def no_content(_: str) -> web.Response:
    """Return the answer of an edit, which has no uid."""
    return success("null")


def no_match() -> web.Response:
    """Return the answer of a search without a result, which is not an error."""
    return json_reply('{"success":false,"data":null}')


def read_body(request: web.BaseRequest, body: bytes) -> dict[str, Any]:
    """Return the request's JSON object, or raise `Refused`."""
    if request.content_type != "application/json":
        raise client_error(415, "unsupported_media_type", f'Unsupported media type "{request.content_type}" in request.')
    try:
        value = read_json(body)
    except ValueError:
        raise client_error(400, "parse_error", "JSON parse error") from None
    if not isinstance(value, dict):
        raise Refused(400, "validation_error", {"code": "invalid", "message": "Invalid data. Expected a dictionary."})
    return value


class Fields:
    """Read the fields of one request, and collect their errors."""

    def __init__(self, body: Mapping[str, Any], prefix: str = "", errors: list[dict[str, str]] | None = None) -> None:
        self._body = body
        self._prefix = prefix
        self._errors: list[dict[str, str]] = [] if errors is None else errors

    def _add_error(self, name: str, code: str, message: str) -> None:
        self._errors.append({"code": code, "message": message, "field_name": self._prefix + name})

    def _present(self, name: str) -> bool:
        if name not in self._body:
            self._add_error(name, "required", "This field is required.")
        elif self._body[name] is None:
            self._add_error(name, "null", "This field may not be null.")
        else:
            return True
        return False

    def text(self, name: str) -> str:
        """Return a mandatory string, empty after an error."""
        if not self._present(name):
            return ""
        value = self._body[name]
        if not isinstance(value, str):
            self._add_error(name, "invalid", "Not a valid string.")
        elif not value.strip():
            self._add_error(name, "blank", "This field may not be blank.")
        elif surrogate := _SURROGATE.search(value):
            message = f"Surrogate characters are not allowed: U+{ord(surrogate[0]):X}."
            self._add_error(name, "surrogate_characters_not_allowed", message)
        else:
            return value
        return ""

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None if it is missing or null."""
        return None if self._body.get(name) is None else self.text(name)

    def email(self, name: str) -> str | None:
        """Return an optional e-mail address."""
        value = self.optional_text(name)
        if value and not _EMAIL.fullmatch(value):
            self._add_error(name, "invalid", "Enter a valid email address.")
        return value

    def address(self, name: str) -> str:
        """Return a mandatory wallet address."""
        value = self.text(name)
        if value and not _ADDRESS.fullmatch(value):
            self._add_error(name, "invalid", "Enter a valid wallet address.")
        return value

    def flag(self, name: str, *, optional: bool = False) -> bool:
        """Return true or false, and false if it is missing."""
        if optional and name not in self._body:
            return False
        if not self._present(name):
            return False
        value = self._body[name]
        if not isinstance(value, bool):
            self._add_error(name, "invalid", "Must be a valid boolean.")
        return value is True

    def inner(self, name: str) -> Fields:
        """Return the fields of a mandatory object, which add their errors to these."""
        value = self._body[name] if self._present(name) else None
        if isinstance(value, dict):
            return Fields(value, f"{self._prefix}{name}.", self._errors)
        if value is not None:
            self._add_error(name, "invalid", "Invalid data. Expected a dictionary.")
        return Fields({})

    def attributes(self, name: str) -> tuple[dict[str, Any], ...] | None:
        """Return the attributes of an asset as they were sent, or None if they are missing or null."""
        sent = self._body.get(name)
        if sent is None:
            return None
        if not isinstance(sent, list) or not all(isinstance(each, dict) for each in sent):
            self._add_error(name, "invalid", "Expected a list of dictionaries.")
            return None
        for each in sent:
            fields = Fields(each, f"{self._prefix}{name}.", self._errors)
            fields.text("trait_type")
            fields.optional_text("display_type")
            if fields._present("value") and not isinstance(each["value"], str | int | Decimal):
                fields._add_error("value", "invalid", "Not a valid string.")
            elif not _is_finite(each):
                self._add_error(name, "invalid", "Value must be valid JSON.")
        return tuple(sent)

    def amount(self, name: str) -> Decimal:
        """Return a mandatory amount above 0, from a string or number, exactly."""
        amount = self._number(name)
        if amount is not None and amount <= 0:
            self._add_error(name, "min_value", "Ensure this value is greater than 0.")
        return amount or Decimal(0)

    def price(self, name: str) -> Decimal | None:
        """Return an optional amount of 0 or more, from a string or number, exactly."""
        amount = self._number(name) if self._body.get(name) is not None else None
        if amount is not None and amount < 0:
            self._add_error(name, "min_value", "Ensure this value is greater than or equal to 0.")
        return amount

    def _number(self, name: str) -> Decimal | None:
        if not self._present(name):
            return None
        value = self._body[name]
        digits = ""
        if isinstance(value, str):
            digits = value
        elif isinstance(value, Decimal):
            digits = format(value, "f") if abs(value.adjusted()) <= _LARGEST_EXPONENT else ""
        elif type(value) is int:
            digits = str(value) if abs(value) < 10**_LARGEST_EXPONENT else ""
        if not _AMOUNT.fullmatch(digits.removeprefix("-")):
            self._add_error(name, "invalid", "A valid number is required.")
            return None
        return Decimal(digits)

    def check(self) -> None:
        """Raise `Refused` with all errors: one as an object, several as a list."""
        if self._errors:
            raise Refused(400, "validation_error", self._errors[0] if len(self._errors) == 1 else self._errors)


def _is_finite(value: Any) -> bool:
    """Whether a value holds no infinity, which JSON cannot express."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Decimal) or value.is_finite()
