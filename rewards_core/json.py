"""JSON to models and back: strict about types, exact about numbers, tolerant of unknown keys.

msgspec reads and writes the bytes, with every number exact and never a float; one cattrs converter builds the models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

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
"""Metadata of a model's field that is never read from a vendor's JSON."""
TEXT_OR_NUMBER = {"read": "text"}
"""Metadata of a `str` field that a vendor also writes as a whole number."""
ANY = {"read": "any"}
"""Metadata of a field that holds whatever the vendor writes."""


def older(name: str) -> dict[str, str]:
    """Return the metadata of a field that had another name in a vendor's older answers."""
    return {"older": name}


def _as_json(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _number(text: str) -> Decimal:
    # in Python on purpose: a large body is parsed in a thread, and between two fractions the loop gets the GIL
    number = Decimal(text)
    if number.is_finite():
        return number
    raise InvalidOperation  # a context that does not trap it returns NaN for an exponent that no Decimal holds


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
    raise UnexpectedResponse(f"the body is not JSON ({len(body)} bytes)")


dumps: Callable[[Any], bytes] = _encoder.encode
"""Write compact JSON; a `Decimal` becomes a number with all its digits.

Raises:
    TypeError: a value cannot be written as JSON.
    ValueError: a text holds half a surrogate pair.
    RecursionError: the value nests too deeply.
"""


def number_of(digits: str) -> Any:
    """Return a value that `dumps` writes as a number of exactly these digits, which are not checked."""
    return Raw(digits)


def pretty(body: bytes) -> str:
    """Format JSON for people, indented, with every digit of its numbers.

    Raises:
        UnexpectedResponse: as for `loads`.
    """
    return indented(dumps(loads(body))).decode()


canonical: Callable[[Any], bytes] = _canonical_encoder.encode
"""Write JSON with sorted keys, so that equal values give equal bytes.

A number keeps its digits: 1.5 and 1.50 give different bytes, as do 1.5 and "1.5". Raises as `dumps`.
"""


def decode(body: bytes, cls: type[T], *, inside: tuple[str, ...] = ()) -> T:
    """Read a model from the bytes of an answer.

    Args:
        body: The answer.
        cls: The model, or `list[model]`.
        inside: The keys that lead to it, such as `("data",)`.

    Raises:
        UnexpectedResponse: the body is not JSON, or a value is missing or has the wrong type; `path` is its place.
    """
    value, path = loads(body), ""
    for key in inside:
        path = f"{path}.{key}" if path else key
        if type(value) is not dict or key not in value:
            raise UnexpectedResponse(f"{path}: the value is missing", path=path)
        value = value[key]
    return structure(value, cls, path=path)


def structure(value: Any, cls: type[T], *, path: str = "") -> T:
    """Read a model from a parsed JSON value.

    Args:
        value: A result of `loads`, or a part of it.
        cls: The model, or `list[model]`.
        path: The keys that led to the value, for the error.

    Raises:
        UnexpectedResponse: a value is missing or has the wrong type, or an amount is a float; `path` is its place.
    """
    try:
        return _converter.structure(value, cls)
    except Exception as problem:  # noqa: BLE001 - any error of the converter becomes one with a path
        where, what = _deepest(problem, path)
    raise UnexpectedResponse(f"{where or 'the body'}: {what}", path=where)


class _Mistyped(ValueError):
    """A value does not have the type of its field."""


_KINDS = {
    NoneType: "null",
    bool: "a boolean",
    int: "a number",
    float: "a float",
    Decimal: "a fraction",
    str: "a string",
    list: "a list",
    dict: "an object",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _exactly(expected: type, words: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not expected:
            raise _Mistyped(f"must be {words}, not {_kind(value)}")
        return value

    return structure


_MAX_DIGITS = 100
_PLAIN_DECIMAL = re.compile(rf"-?[0-9]{{1,{_MAX_DIGITS}}}(\.[0-9]{{1,{_MAX_DIGITS}}})?", re.ASCII)


def _decimal(value: Any, _: Any) -> Decimal:
    kind = type(value)
    if kind is str:
        if _PLAIN_DECIMAL.fullmatch(value):
            return Decimal(value)
        raise _Mistyped("must be a decimal number in plain digits, not another string")
    if kind is Decimal or kind is int:
        number = Decimal(value)
        if number.is_finite() and -_MAX_DIGITS <= number.adjusted() < _MAX_DIGITS and len(str(number)) <= 2 * _MAX_DIGITS + 2:
            return number
        # 1e-999999999 is short as JSON and a gigabyte in plain digits
        raise _Mistyped(f"must be a number of up to {_MAX_DIGITS} digits and {_MAX_DIGITS} decimals")
    if kind is float:
        raise _Mistyped("must be a Decimal, a string or a whole number, not a float, which has lost digits")
    raise _Mistyped(f"must be a decimal number, as string or number, not {_kind(value)}")


def _text_or_number(value: Any, _: Any = None) -> str | None:
    if value is None or type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise _Mistyped(f"must be a string or a whole number, not {_kind(value)}")


_READINGS: Mapping[str, Callable[..., Any]] = {"text": _text_or_number, "any": lambda value, _: value}


def _datetime(value: Any, _: Any) -> datetime:
    if type(value) is not str:
        raise _Mistyped(f"must be a timestamp as a string, not {_kind(value)}")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise _Mistyped("must be an ISO 8601 timestamp, not another string") from None


def _open_enum(value: Any, cls: type[OpenEnum]) -> OpenEnum:
    if type(value) is not str:
        raise _Mistyped(f"must be a string, not {_kind(value)}")
    return cls(value)


def _model(cls: type[Any], converter: Converter) -> Callable[[Any, Any], Any]:
    """Return a strict hook for a model, which keeps the object in the model's `raw` field if it has one."""
    keeps_raw = any(attribute.name == "raw" for attribute in fields(cls))
    overrides: dict[str, Any] = {
        attribute.name: override(omit=True)
        for attribute in fields(cls)
        if attribute.name == "raw" or attribute.metadata.get("ours")
    }
    for attribute in fields(cls):
        if "read" in attribute.metadata:
            overrides[attribute.name] = override(struct_hook=_READINGS[attribute.metadata["read"]])
    structure = make_dict_structure_fn(cls, converter, **overrides)
    renamed = {each.name: each.metadata["older"] for each in fields(cls) if "older" in each.metadata}

    def read(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _Mistyped(f"must be an object, not {_kind(value)}")
        names = {name: value[old] for name, old in renamed.items() if name not in value and old in value}
        model = structure(value | names if names else value, cls)
        if keeps_raw:
            object.__setattr__(model, "raw", value)
        return model

    return read


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) is Mapping


def _is_optional(cls: Any) -> bool:
    return get_origin(cls) in {Union, UnionType} and len(get_args(cls)) == 2 and NoneType in get_args(cls)


def _optional(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Return a hook for `X | None`; cattrs' own looks the hook of X up again for each value, which costs more than the rest."""
    (inner,) = (each for each in get_args(cls) if each is not NoneType)
    structure = converter.get_structure_hook(inner)
    return lambda value, _: None if value is None else structure(value, inner)


def _is_tuple(cls: Any) -> bool:
    return get_origin(cls) is tuple and get_args(cls)[1:] == (...,)


def _tuple(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Return a hook for `tuple[X, ...]`, for the same reason."""
    inner = get_args(cls)[0]
    structure, whole = converter.get_structure_hook(inner), list[inner]  # type: ignore[valid-type]

    def read(value: Any, _: Any) -> Any:
        if type(value) is not list:
            raise _Mistyped(f"must be a list, not {_kind(value)}")
        try:
            return tuple([structure(each, inner) for each in value])
        except Exception:  # noqa: BLE001 - cattrs names the place
            return tuple(converter.structure(value, whole))

    return read


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
    converter.register_structure_hook_factory(_is_optional, lambda cls: _optional(cls, converter))
    converter.register_structure_hook_factory(_is_tuple, lambda cls: _tuple(cls, converter))
    converter.register_structure_hook_factory(has, lambda cls: _model(cls, converter))
    return converter


_converter = _make_converter()


def _deepest(problem: BaseException, path: str) -> tuple[str, str]:
    """Return the path of the first value that could not be read, and what is wrong with it."""
    while isinstance(problem, (ClassValidationError, IterableValidationError)):
        inner = problem.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            name, index = getattr(note, "name", None), getattr(note, "index", None)
            path = f"{path}[{index}]" if name is None else f"{path}.{name}" if path else str(name)
        problem = inner
    if isinstance(problem, KeyError):
        key = str(problem.args[0])
        return (path if path.endswith(key) else f"{path}.{key}" if path else key), "the value is missing"
    if isinstance(problem, _Mistyped):
        return path, str(problem)
    return path, f"could not be read ({type(problem).__name__})"
