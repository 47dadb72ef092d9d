"""Anonymize a delivery, so that it is safe to share: every id, address, amount and time is made up, in the same form.

Equal values get equal replacements, in headers too, as long as the process runs. Kept are the names of members, white space, the
vendor's own words (the event's name, statuses, networks), null, true and false, and whole numbers of up to two digits.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterator
from datetime import datetime, timedelta

from webhooks.cli.capture.redaction import REDACTED, Headers, Path, rewrite_json

_KEPT_MEMBERS = frozenset(
    {"chain", "chain_id", "display_type", "environment", "event", "network", "region", "status", "token_type", "type"}
)
_is_kept_header = re.compile(
    "accept(-(charset|encoding|language))?|connection|content-(encoding|length|type)|expect|host|transfer-encoding|user-agent|x-forwarded-proto|"
    "x-webhook-attempt"
).fullmatch
_a_word = re.compile(r"[A-Za-z0-9_.-]{1,40}").fullmatch
_a_short_number = re.compile(r"-?[0-9]{1,2}").fullmatch
_a_number = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?").fullmatch
_a_time = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2})(.*)", re.DOTALL).fullmatch
_a_uuid = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}").fullmatch
_an_address = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://|[^@\s/]+@)(?P<host>[^/\s:?#]+)(?P<after>.*)", re.DOTALL | re.IGNORECASE
).fullmatch
_hex_run = re.compile(r"(?<![0-9A-Za-z])(0x)?([0-9A-Fa-f]{8,})(?![0-9A-Za-z])")
_replace_parts = re.compile(r"[^\s,;=]+").sub
_identifies = re.compile(r"@|[0-9]{6}|^0x[0-9A-Fa-f]").search
_MAX_SIGNATURE_LABEL = 6
_MIN_ID_DIGITS = 8
_MIN_REPLACED = 4
_DIGITS = (string.digits,)
_HEXADECIMAL = (string.digits, "abcdef", "ABCDEF")
_ALPHANUMERIC = (string.digits, string.ascii_lowercase, string.ascii_uppercase)


class Anonymizer:
    """Replace values, equal ones by equal ones.

    Args:
        seed: The key of the replacements; by default random and not stored, so that they cannot be reversed.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._seed = secrets.token_bytes(32) if seed is None else seed
        self._replaced: dict[str, str] = {}
        numbers = self._random_bytes("moved", b"the time")
        self._moved = timedelta(days=400 + 4 * next(numbers), seconds=300 * next(numbers) + next(numbers))

    def body(self, text: str) -> str:
        """Return a JSON text with values replaced; `sentence` then replaces the same values, until the next body."""
        self._replaced.clear()
        return rewrite_json(text, self._json_value, self._name)

    def headers(self, headers: Headers, length: int) -> list[tuple[str, str]]:
        """Return headers with values replaced, for a body of this many bytes."""
        return [(name, self._header(name.lower(), value, length)) for name, value in headers]

    def sentence(self, text: str) -> str:
        """Return a text with the values of the latest body and headers replaced."""
        if text in self._replaced:
            return self._replaced[text]
        for value in sorted(self._replaced, key=len, reverse=True):
            if len(value) >= _MIN_REPLACED:
                text = text.replace(value, self._replaced[value])
        return text

    def value(self, text: str) -> str:
        """Return a replacement of the same form."""
        made = self._replaced[text] = self._replacement(text)
        return made

    def _replacement(self, text: str) -> str:
        time = _a_time(text)
        if time is not None:
            return self._time(time[1], time[2])
        if _a_number(text):
            return self._number(text)
        if _a_uuid(text):
            return self._letters(text, _HEXADECIMAL)
        address = _an_address(text)
        if address is None:
            return self._text(text)
        before, host = address["before"], address["host"]
        made = before if "://" in before else self._letters(before, _ALPHANUMERIC)
        labels = [self._letters(label, _ALPHANUMERIC) for label in host.split(".")[:-1]]
        return f"{made}{'.'.join([*labels, 'example'])}{self._text(address['after'])}"

    def _json_value(self, path: Path, text: str | None) -> str | None:
        if text is None or text in {"null", "true", "false"}:
            return None
        kept = next((step for step in reversed(path) if not step.isdigit()), "") in _KEPT_MEMBERS
        if not text.startswith('"'):
            return None if kept or _a_short_number(text) else self._number(text)
        value = json.loads(text)
        if value == REDACTED or not value or _a_short_number(value) or (kept and _is_vendor_word(value)):
            return None
        made = json.dumps(self.value(value), ensure_ascii="\\u" in text)
        return made.replace("/", "\\/") if "\\/" in text else made

    def _name(self, name: str) -> str:
        return self.value(name) if _identifies(name) else name

    def _header(self, name: str, value: str, length: int) -> str:
        if name == "content-length":
            return str(length)
        if name == "host":
            return "listener.example"
        if value == REDACTED or _is_kept_header(name) or _a_short_number(value):
            return value
        longest_kept = _MAX_SIGNATURE_LABEL if "signature" in name else 0  # labels such as `v1` and `sha256`
        return _replace_parts(lambda found: self.value(found[0]) if len(found[0]) > longest_kept else found[0], value)

    def _time(self, seconds: str, rest: str) -> str:
        try:
            moved = datetime.fromisoformat(seconds) - self._moved
        except (ValueError, OverflowError):
            return self._text(seconds + rest)
        return moved.isoformat(seconds[10]) + rest

    def _number(self, text: str) -> str:
        """Return another number with as many digits; zeros stay, except in numbers long enough to be ids."""
        mantissa, mark, exponent = re.split(r"([eE])", text, maxsplit=1) if re.search("[eE]", text) else (text, "", "")
        if len(mantissa) >= _MIN_ID_DIGITS and mantissa.isdigit():
            return self._letters(mantissa, _DIGITS) + mark + exponent
        numbers = self._random_bytes("number", mantissa.encode())
        made = (_another(each, "123456789", next(numbers)) if each in "123456789" else each for each in mantissa)
        return "".join(made) + mark + exponent

    def _text(self, text: str) -> str:
        """Replace runs of hex digits by hex digits, and other letters and digits by others."""
        parts: list[str] = []
        done = 0
        for found in _hex_run.finditer(text):
            between = self._letters(text[done : found.start()], _ALPHANUMERIC)
            parts += [between, found[1] or "", self._letters(found[2], _HEXADECIMAL)]
            done = found.end()
        return "".join([*parts, self._letters(text[done:], _ALPHANUMERIC)])

    def _letters(self, text: str, kinds: tuple[str, ...]) -> str:
        """Replace each letter and digit by another of its kind; other letters become é."""
        numbers = self._random_bytes("text", text.encode("utf-8", "surrogatepass"))
        made = []
        for place, each in enumerate(text):
            kind = next((kind for kind in kinds if each in kind), "")
            if kind:
                made.append(_another(each, kind.replace("0", "") if place == 0 and each != "0" else kind, next(numbers)))
            else:
                made.append("é" if each.isalpha() and not each.isascii() else each)
        return "".join(made)

    def _random_bytes(self, kind: str, text: bytes) -> Iterator[int]:
        """Yield numbers below 256 that depend on the text and the seed only."""
        block = 0
        while True:
            yield from hashlib.blake2b(text, key=self._seed, salt=kind.encode(), person=block.to_bytes(8, "big")).digest()
            block += 1


def _another(letter: str, kind: str, number: int) -> str:
    """Return another letter of the same alphabet; `number`, from 0 to 255, chooses it."""
    return kind[(kind.index(letter) + 1 + number % (len(kind) - 1)) % len(kind)]


def _is_vendor_word(value: str) -> bool:
    return bool(_a_word(value)) and not _identifies(value)
