"""Make a delivery fit to be shown to everybody: every id, address, amount and time becomes a made-up one of the same shape.

The same value becomes the same made-up one wherever it stands, in headers too, for as long as the process runs. What stays are
the names of members, white space, words that say how the vendor works (the event's name, statuses, networks), null, true and
false, and whole numbers of up to two digits.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterator
from datetime import datetime, timedelta

from webhooks.cli.capture.json_text import Path, rewritten
from webhooks.cli.capture.redaction import REDACTED, Headers

_KEPT_MEMBERS = frozenset(
    {"chain", "chain_id", "display_type", "environment", "event", "network", "region", "status", "token_type", "type"}
)
_KEPT_HEADERS = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "user-agent",
        "x-forwarded-proto",
        "x-webhook-attempt",
    }
)
_a_word = re.compile(r"[A-Za-z0-9_.-]{1,40}").fullmatch
_a_short_number = re.compile(r"-?[0-9]{1,2}").fullmatch
_a_number = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?").fullmatch
_a_moment = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2})(.*)", re.DOTALL).fullmatch
_hex_run = re.compile(r"(?<![0-9A-Za-z])(0x)?([0-9A-Fa-f]{8,})(?![0-9A-Za-z])")
_part = re.compile(r"[^\s,;=]+").sub
_a_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch
_personal_name = re.compile(r"@|[0-9]{6}|^0x[0-9A-Fa-f]").search
_hosted = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://|[^@\s/]+@)(?P<host>[^/\s:?#]+)(?P<after>.*)", re.DOTALL | re.IGNORECASE
).fullmatch
_LONGEST_MARK = 6
_ID_LENGTH = 8
_TELLING_LENGTH = 4


class MakeUp:
    """Replace values by made-up ones, the same by the same.

    Args:
        seed: What the made-up values come from; by default nobody knows it, so that they cannot be led back.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed = secrets.token_bytes(32) if seed is None else seed
        self._made: dict[str, str] = {}
        numbers = self._digits("moved", b"the time")
        self._moved = timedelta(days=400 + 4 * next(numbers), seconds=300 * next(numbers) + next(numbers))

    def body(self, text: str) -> str:
        """Return a JSON text with made-up values; `sentence` then knows them, and those of its headers, until the next one."""
        self._made.clear()
        return rewritten(text, self._instead, self._name)

    def headers(self, headers: Headers, length: int) -> list[tuple[str, str]]:
        """Return headers with made-up values, for a body of so many bytes."""
        return [(name, self._header(name.lower(), value, length)) for name, value in headers]

    def sentence(self, text: str) -> str:
        """Return a text in which the values of the body and headers before it are made up."""
        if text in self._made:
            return self._made[text]
        for value in sorted(self._made, key=len, reverse=True):
            if len(value) >= _TELLING_LENGTH:
                text = text.replace(value, self._made[value])
        return text

    def value(self, text: str) -> str:
        """Return a made-up text of the same shape."""
        made = self._made[text] = self._value(text)
        return made

    def _value(self, text: str) -> str:
        moment = _a_moment(text)
        if moment is not None:
            return self._moment(moment[1], moment[2])
        if _a_number(text):
            return self._number(text)
        if _a_uuid(text):
            return self._shaped(text, _HEXADECIMAL)
        hosted = _hosted(text)
        if hosted is not None:
            before, after = hosted["before"], hosted["after"]
            made = before if "://" in before else self._shaped(before, _ANYTHING)
            host = ".".join([*(self._shaped(label, _ANYTHING) for label in hosted["host"].split(".")[:-1]), "example"])
            return f"{made}{host}{self._runs(after)}"
        return self._runs(text)

    def _instead(self, path: Path, text: str | None) -> str | None:
        if text is None or text in {"null", "true", "false"}:
            return None
        member = next((step for step in reversed(path) if not step.isdigit()), "")
        if not text.startswith('"'):
            return None if member in _KEPT_MEMBERS or _a_short_number(text) else self._number(text)
        value = json.loads(text)
        if value == REDACTED or not value or _a_short_number(value) or (member in _KEPT_MEMBERS and _says_how(value)):
            return None
        made = json.dumps(self.value(value), ensure_ascii="\\u" in text)
        return made.replace("/", "\\/") if "\\/" in text else made

    def _name(self, name: str) -> str:
        return self.value(name) if _personal_name(name) else name

    def _header(self, name: str, value: str, length: int) -> str:
        if name == "content-length":
            return str(length)
        if name == "host":
            return "listener.example"
        if name in _KEPT_HEADERS or value == REDACTED or _a_short_number(value):
            return value
        shortest = _LONGEST_MARK if "signature" in name else 0  # `v1` and `sha256` say how a signature is written
        return _part(lambda found: self.value(found[0]) if len(found[0]) > shortest else found[0], value)

    def _moment(self, seconds: str, rest: str) -> str:
        try:
            moved = datetime.fromisoformat(seconds) - self._moved
        except (ValueError, OverflowError):
            return self._runs(seconds + rest)
        return moved.isoformat(seconds[10]) + rest

    def _number(self, text: str) -> str:
        """Return another number with as many digits, its zeros where they were; a long one is an id, and so are its zeros."""
        mantissa, mark, exponent = re.split(r"([eE])", text, maxsplit=1) if re.search("[eE]", text) else (text, "", "")
        if len(mantissa) >= _ID_LENGTH and mantissa.isdigit():
            return self._shaped(mantissa, _DIGITS) + mark + exponent
        digits = self._digits("number", mantissa.encode())
        made = (_another(each, "123456789", next(digits)) if each in "123456789" else each for each in mantissa)
        return "".join(made) + mark + exponent

    def _runs(self, text: str) -> str:
        """Replace what looks like hex by hex, and every other letter and digit by another."""
        parts: list[str] = []
        done = 0
        for found in _hex_run.finditer(text):
            parts += [self._shaped(text[done : found.start()], _ANYTHING), found[1] or "", self._shaped(found[2], _HEXADECIMAL)]
            done = found.end()
        return "".join([*parts, self._shaped(text[done:], _ANYTHING)])

    def _shaped(self, text: str, kinds: tuple[str, ...]) -> str:
        digits = self._digits("text", text.encode("utf-8", "surrogatepass"))
        made = []
        for place, each in enumerate(text):
            kind = next((kind for kind in kinds if each in kind), "")
            if kind:
                made.append(_another(each, kind.replace("0", "") if place == 0 and each != "0" else kind, next(digits)))
            else:
                made.append("é" if each.isalpha() and not each.isascii() else each)
        return "".join(made)

    def _digits(self, kind: str, text: bytes) -> Iterator[int]:
        """Yield numbers below 256 that depend on the text and on nothing else that anybody knows."""
        block = 0
        while True:
            yield from hashlib.blake2b(text, key=self._seed, salt=kind.encode(), person=block.to_bytes(8, "big")).digest()
            block += 1


def _another(letter: str, kind: str, number: int) -> str:
    """Return another letter of a kind, by a number below 256."""
    return kind[(kind.index(letter) + 1 + number % (len(kind) - 1)) % len(kind)]


def _says_how(value: str) -> bool:
    return bool(_a_word(value)) and not _personal_name(value)


_DIGITS = (string.digits,)
_HEXADECIMAL = (string.digits, "abcdef", "ABCDEF")
_ANYTHING = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
