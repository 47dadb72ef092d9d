"""JSON to models and back: strict about types, exact about numbers, open about what is new.

msgspec reads and writes the bytes, every number exact and never a float; one cattrs converter makes models of the values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from types import NoneType
from typing import Any, TypeVar, get_origin

from attrs import fields, has
from cattrs import Converter
from cattrs.errors import ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override
from msgspec import DecodeError, Raw
from msgspec.json import Decoder, Encoder
from msgspec.json import format as indented

from rewards_core.errors import UnexpectedResponse
from rewards_core.operations import OpenEnum

T = TypeVar("T")

OURS = {"ours": True}
"""Metadata of a model's field that no vendor sends: it is never read from their JSON, whatever keys that has."""


def _as_json(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def _number(text: str) -> Decimal:
    # in Python on purpose: between two fractions of a large body that is read in a thread the loop gets its turn
    number = Decimal(text)
    if number.is_finite():
        return number
    raise InvalidOperation  # a context that does not trap it makes NaN of an exponent that no Decimal holds


_decoder = Decoder(float_hook=_number)
_encoder = Encoder(decimal_format="number", enc_hook=_as_json)
_canonical_encoder = Encoder(decimal_format="number", enc_hook=_as_json, order="deterministic")


def loads(body: bytes) -> Any:
    """Parse JSON with every number exact: fractions and exponents become `Decimal`, whole numbers `int`.

    Raises:
        UnexpectedResponse: the bytes are not JSON, nest too deeply, or hold half a surrogate pair, a whole number of over 4,300
            digits or an exponent that no `Decimal` holds.
    """
    try:
        return _decoder.decode(body)
    except (DecodeError, UnicodeDecodeError, InvalidOperation, RecursionError):
        pass
    raise UnexpectedResponse(
        f"expected JSON, got {len(body)} bytes that are not; the vendor or something before it is in trouble"
    )


dumps: Callable[[Any], bytes] = _encoder.encode
"""Write JSON compactly; a `Decimal` becomes a number with all its digits.

Raises:
    TypeError: a value has no place in JSON.
    ValueError: a text holds half a surrogate pair.
    RecursionError: the value nests too deeply.
"""


def number_of(digits: str) -> Any:
    """Return what `dumps` writes as a number of exactly these digits.

    Args:
        digits: A plain number, which is not checked.
    """
    return Raw(digits)


def pretty(body: bytes) -> str:
    """Format JSON for people, indented, with every digit of its numbers.

    Raises:
        UnexpectedResponse: as for `loads`.
    """
    return indented(dumps(loads(body))).decode()


canonical: Callable[[Any], bytes] = _canonical_encoder.encode
"""Write JSON so that only equal values give equal bytes, in whatever order the keys of their objects are.

A number keeps its digits: 1.5 and 1.50 give different bytes, as do 1.5 and "1.5".

Raises:
    TypeError, ValueError, RecursionError: as for `dumps`.
"""


def decode(body: bytes, cls: type[T], *, inside: tuple[str, ...] = ()) -> T:
    """Read a model from a reply's bytes.

    Args:
        body: The reply.
        cls: The model, or `list[model]`.
        inside: The keys that lead to it, such as `("data",)`.

    Raises:
        UnexpectedResponse: not JSON, or a type is wrong; `path` names where.
    """
    value, path = loads(body), ""
    for key in inside:
        path = f"{path}.{key}" if path else key
        if type(value) is not dict or key not in value:
            raise UnexpectedResponse(f"expected {path} in the reply, got {_kind(value)} without it", path=path)
        value = value[key]
    return structure(value, cls, path=path)


def structure(value: Any, cls: type[T], *, path: str = "") -> T:
    """Read a model from a parsed JSON value.

    Args:
        value: What `loads` returned, or a part of it.
        cls: The model, or `list[model]`.
        path: The keys that led to the value, for the error.

    Raises:
        UnexpectedResponse: a type is wrong, or a number of money is a float; `path` names where.
    """
    try:
        return _converter.structure(value, cls)
    except Exception as problem:  # noqa: BLE001 - whatever a converter meets becomes one error with a path
        where, what = _deepest(problem, path)
    raise UnexpectedResponse(f"{where or 'the reply'}: {what}", path=where)


class _Mistyped(ValueError):
    """A value has another type than its field."""


_KINDS = {
    NoneType: "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    Decimal: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _exactly(expected: type, words: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not expected:
            raise _Mistyped(f"expected {words}, got {_kind(value)}")
        return value

    return structure


_MAX_DIGITS = 100
_PLAIN_DECIMAL = re.compile(rf"-?[0-9]{{1,{_MAX_DIGITS}}}(\.[0-9]{{1,{_MAX_DIGITS}}})?", re.ASCII)


def _decimal(value: Any, _: Any) -> Decimal:
    kind = type(value)
    if kind is str:
        if _PLAIN_DECIMAL.fullmatch(value):
            return Decimal(value)
        raise _Mistyped("expected a decimal number in plain digits, got a string that is none")
    if kind is Decimal or kind is int:
        number = Decimal(value)
        if number.is_finite() and -_MAX_DIGITS <= number.adjusted() < _MAX_DIGITS and len(str(number)) <= 2 * _MAX_DIGITS + 2:
            return number
        # 1e-999999999 is a short number, until somebody writes it in plain digits
        raise _Mistyped(f"expected a number of up to {_MAX_DIGITS} digits and {_MAX_DIGITS} decimals, got another")
    if kind is float:
        raise _Mistyped("expected money as Decimal, string or whole number, got a float")
    raise _Mistyped(f"expected a decimal number as string or number, got {_kind(value)}")


def _datetime(value: Any, _: Any) -> datetime:
    if type(value) is not str:
        raise _Mistyped(f"expected a timestamp as a string, got {_kind(value)}")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise _Mistyped("expected an ISO 8601 timestamp, got a string that is none") from None


def _open_enum(value: Any, cls: type[OpenEnum]) -> OpenEnum:
    if type(value) is not str:
        raise _Mistyped(f"expected a string, got {_kind(value)}")
    return cls(value)


def _model(cls: type[Any], converter: Converter) -> Callable[[Any, Any], Any]:
    """Structure a model strictly from an object, and keep that object in its `raw` field if it has one."""
    keeps_raw = any(attribute.name == "raw" for attribute in fields(cls))
    omitted: dict[str, Any] = {
        attribute.name: override(omit=True)
        for attribute in fields(cls)
        if attribute.name == "raw" or attribute.metadata.get("ours")
    }
    structure = make_dict_structure_fn(cls, converter, **omitted)

    def read(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _Mistyped(f"expected an object, got {_kind(value)}")
        model = structure(value, cls)
        if keeps_raw:
            object.__setattr__(model, "raw", value)
        return model

    return read


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) is Mapping


def _make_converter() -> Converter:
    converter = Converter()
    scalars: dict[type, Callable[[Any, Any], Any]] = {
        str: _exactly(str, "a string"),
        int: _exactly(int, "a whole number"),
        bool: _exactly(bool, "a boolean"),
        Decimal: _decimal,
        datetime: _datetime,
        OpenEnum: _open_enum,  # a subclass of str, and nearer than it
    }
    for scalar, hook in scalars.items():
        converter.register_structure_hook(scalar, hook)
    converter.register_structure_hook_func(_is_mapping, _exactly(dict, "an object"))
    converter.register_structure_hook_factory(has, lambda cls: _model(cls, converter))
    return converter


_converter = _make_converter()


def _deepest(problem: BaseException, path: str) -> tuple[str, str]:
    """Return the path to the first value that could not be read, and what is wrong with it."""
    while isinstance(problem, (ClassValidationError, IterableValidationError)):
        inner = problem.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            name, index = getattr(note, "name", None), getattr(note, "index", None)
            path = f"{path}[{index}]" if name is None else f"{path}.{name}" if path else str(name)
        problem = inner
    if isinstance(problem, KeyError):
        key = str(problem.args[0])
        return (path if path.endswith(key) else f"{path}.{key}" if path else key), "expected a value, got none"
    if isinstance(problem, _Mistyped):
        return path, str(problem)
    return path, f"could not be read ({type(problem).__name__})"
