"""JSON to models and back: strict about types, exact about money, open about what is new.

One cattrs converter over orjson. orjson makes floats of JSON numbers, so when a `Decimal` field meets a number the same bytes are
parsed once more by the standard library, which keeps every digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import orjson
from attrs import NOTHING, fields, has
from cattrs import Converter
from cattrs.errors import ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn, override

from rewards_core.errors import UnexpectedResponse
from rewards_core.operations import OpenEnum

T = TypeVar("T")

_MOST_DIGITS = 100
_PLAIN_DECIMAL = re.compile(rf"-?[0-9]{{1,{_MOST_DIGITS}}}(\.[0-9]{{1,{_MOST_DIGITS}}})?", re.ASCII)

OURS = {"ours": True}
"""Metadata of a model's field that no vendor sends: it is never read from their JSON, whatever keys that has."""


class _NeedsExactNumbers(Exception):
    """A money field met a JSON number that orjson has already rounded."""


class Mistyped(ValueError):
    """A value has another type than its field; becomes `UnexpectedResponse` with the path."""


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        Decimal: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _exactly(expected: type, words: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not expected:
            raise Mistyped(f"expected {words}, got {_kind(value)}")
        return value

    return structure


def _decimal(value: Any, _: Any) -> Decimal:
    kind = type(value)
    if kind is str:
        if _PLAIN_DECIMAL.fullmatch(value):
            return Decimal(value)
        raise Mistyped("expected a decimal number in plain digits, got a string that is none")
    if kind is Decimal or kind is int:
        number = Decimal(value)
        if number.is_finite() and -_MOST_DIGITS <= number.adjusted() < _MOST_DIGITS and len(str(number)) <= 2 * _MOST_DIGITS + 2:
            return number
        # 1e-999999999 is a short number, until somebody writes it in plain digits
        raise Mistyped(f"expected a number of up to {_MOST_DIGITS} digits and {_MOST_DIGITS} decimals, got another")
    if kind is float:
        raise _NeedsExactNumbers
    raise Mistyped(f"expected a decimal number as string or number, got {_kind(value)}")


def _datetime(value: Any, _: Any) -> datetime:
    if type(value) is not str:
        raise Mistyped(f"expected a timestamp as a string, got {_kind(value)}")
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise Mistyped("expected an ISO 8601 timestamp, got a string that is none") from None


def _open_enum(value: Any, cls: type[OpenEnum]) -> OpenEnum:
    if type(value) is not str:
        raise Mistyped(f"expected a string, got {_kind(value)}")
    return cls(value)


def _mapping(value: Any, _: Any) -> Mapping[str, Any]:
    if type(value) is not dict:
        raise Mistyped(f"expected an object, got {_kind(value)}")
    return cast("Mapping[str, Any]", value)


def _is_mapping(cls: Any) -> bool:
    return get_origin(cls) is Mapping


def _with_raw(cls: type[Any], converter: Converter) -> Callable[[Any, Any], Any]:
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
            raise Mistyped(f"expected an object, got {_kind(value)}")
        model = structure(value, cls)
        if keeps_raw:
            object.__setattr__(model, "raw", value)
        return model

    return read


def _converter(*, detailed: bool) -> Converter:
    converter = Converter(detailed_validation=detailed)
    scalars: dict[type, Callable[[Any, Any], Any]] = {
        str: _exactly(str, "a string"),
        int: _exactly(int, "a whole number"),
        bool: _exactly(bool, "a boolean"),
        Decimal: _decimal,
        datetime: _datetime,
    }
    for scalar, hook in scalars.items():
        converter.register_structure_hook(scalar, hook)
    converter.register_structure_hook(OpenEnum, _open_enum)  # a subclass of str, and nearer than it
    converter.register_structure_hook_func(_is_mapping, _mapping)
    converter.register_structure_hook_factory(has, lambda cls: _with_raw(cls, converter))
    return converter


_fast = _converter(detailed=False)
_thorough = _converter(detailed=True)


def loads(body: bytes) -> Any:
    """Parse JSON quickly; numbers with a fraction become floats.

    Raises:
        UnexpectedResponse: the bytes are not JSON.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    raise _no_json(body)


def loads_exact(body: bytes) -> Any:
    """Parse JSON with every number exact: fractions and exponents become `Decimal`, whole numbers `int` of any size.

    Raises:
        UnexpectedResponse: the bytes are not JSON, or hold NaN or Infinity, or nest too deeply.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, RecursionError, InvalidOperation):
        pass
    raise _no_json(body)


def loads_faithful(body: bytes) -> Any:
    """Parse JSON quickly where that loses nothing, exactly where a number would lose digits.

    Raises:
        UnexpectedResponse: as `loads_exact` does.
    """
    value = loads(body)
    return loads_exact(body) if _holds_float(value) else value


def _holds_float(value: Any) -> bool:
    """Return whether a number was rounded: orjson makes floats of fractions, exponents and whole numbers over 64 bits."""
    if type(value) is not dict and type(value) is not list:
        return type(value) is float
    nests = [value]
    while nests:
        nest = nests.pop()
        for item in nest.values() if type(nest) is dict else nest:
            kind = type(item)
            if kind is float:
                return True
            if kind is dict or kind is list:
                nests.append(item)
    return False


def _no_json(body: bytes) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"expected JSON, got {len(body)} bytes that are not; the vendor or something before it is in trouble"
    )


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def dumps(value: Any) -> bytes:
    """Write JSON compactly; a `Decimal` is refused, because its place is a string."""
    return orjson.dumps(value)


def canonical(value: Any) -> bytes:
    """Write JSON so that equal values give equal bytes, and others do not: sorted keys, exact numbers.

    A `Decimal` is written as `{"number": "1.5"}`, an object that looks like one as `{"number": ["1.5"]}`.
    """
    data = _sorted(value)
    if _NUMBER_MARK in data:
        try:
            return _sorted(_told_apart(value))
        except RecursionError:  # nests deeper than anything that is meant
            return data
    return data


_NUMBER = "number"
_NUMBER_MARK = b'{"number":'


def _sorted(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # Decimals, or whole numbers over 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_number_text).encode(
            "utf-8", "surrogatepass"
        )


def _number_text(value: object) -> Any:
    if isinstance(value, Decimal):
        return {_NUMBER: str(value)}
    raise TypeError(f"expected a JSON value, got {type(value).__name__}")


def _told_apart(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_told_apart(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and type(value.get(_NUMBER)) in {str, list}:
        return {_NUMBER: [_told_apart(value[_NUMBER])]}
    return {key: _told_apart(item) for key, item in value.items()}


def decode(body: bytes, cls: type[T], *, inside: tuple[str, ...] = ()) -> T:
    """Read a model from a reply's bytes.

    Args:
        body: The reply.
        cls: The model, or `list[model]`.
        inside: The keys that lead to it, such as `("data",)`.

    Raises:
        UnexpectedResponse: not JSON, or a type is wrong; `path` names where.
    """
    try:
        return _read(loads(body), cls, inside)
    except _NeedsExactNumbers:
        pass
    return _read(loads_exact(body), cls, inside)


def structure(value: Any, cls: type[T], *, path: str = "") -> T:
    """Read a model from a parsed JSON value.

    Raises:
        UnexpectedResponse: a type is wrong, or a money field was parsed as a float.
    """
    try:
        return _structure(value, cls, path)
    except _NeedsExactNumbers:
        pass
    raise UnexpectedResponse(f"{path or 'the value'}: expected money as Decimal, string or whole number, got a float", path=path)


def fits(value: Any, cls: type[Any]) -> bool:
    """Return whether `structure` would read a flat model from the value, without building it."""
    if type(value) is not dict:
        return False
    expected = _expected.get(cls)
    if expected is None:
        expected = _expected[cls] = _expect(cls)
    texts, others = expected
    for name in texts:
        if type(value.get(name)) is not str:
            return False
    try:
        for name, kind, read, may_lack, may_be_null in others:
            item = value.get(name)
            if item is not None:
                read(item, kind)
            elif not (may_be_null if name in value else may_lack):
                return False
    except (Mistyped, _NeedsExactNumbers):
        return False
    return True


_Expected = tuple[tuple[str, ...], tuple[tuple[str, Any, Callable[[Any, Any], Any], bool, bool], ...]]
_expected: dict[type[Any], _Expected] = {}


def _expect(cls: type[Any]) -> _Expected:
    """Return the names of a model's mandatory texts; and of its other fields how each is read, and if it may lack or be null."""
    texts: list[str] = []
    others: list[tuple[str, Any, Callable[[Any, Any], Any], bool, bool]] = []
    hints = get_type_hints(cls)
    for attribute in fields(cls):
        if attribute.name == "raw" or attribute.metadata.get("ours"):
            continue
        kinds = [kind for kind in get_args(hints[attribute.name]) or (hints[attribute.name],) if kind is not type(None)]
        may_lack, may_be_null = attribute.default is not NOTHING, len(kinds) < len(get_args(hints[attribute.name]))
        if not may_lack and not may_be_null and (kinds[0] is str or issubclass(kinds[0], OpenEnum)):
            texts.append(attribute.name)
        else:
            others.append((attribute.name, kinds[0], _fast.get_structure_hook(kinds[0]), may_lack, may_be_null))
    return tuple(texts), tuple(others)


def _structure(value: Any, cls: type[T], path: str) -> T:
    try:
        return _fast.structure(value, cls)
    except _NeedsExactNumbers:
        raise
    except Exception as problem:  # noqa: BLE001 - whatever a converter meets becomes one error with a path
        kind = type(problem).__name__
    raise _located(value, cls, path, kind)


def _read(value: Any, cls: type[T], inside: tuple[str, ...]) -> T:
    path = ""
    for key in inside:
        if type(value) is not dict or key not in value:
            missing = f"{path}.{key}" if path else key
            raise UnexpectedResponse(f"expected {missing} in the reply, got {_kind(value)} without it", path=missing)
        value = value[key]
        path = f"{path}.{key}" if path else key
    return _structure(value, cls, path)


def _located(value: Any, cls: type[Any], path: str, kind: str) -> UnexpectedResponse:
    """Structure once more with the slow converter, to learn where it went wrong."""
    try:
        _thorough.structure(value, cls)
    except Exception as problem:  # noqa: BLE001 - only to find the place
        where, what = _deepest(problem, path)
        return UnexpectedResponse(f"{where or 'the reply'}: {what}", path=where)
    raise AssertionError(f"the fast converter alone refused a {cls.__name__}: {kind}")


def _deepest(problem: BaseException, path: str) -> tuple[str, str]:
    while isinstance(problem, (ClassValidationError, IterableValidationError)):
        inner = problem.exceptions[0]
        for note in getattr(inner, "__notes__", ()):
            name, index = getattr(note, "name", None), getattr(note, "index", None)
            path = f"{path}[{index}]" if name is None else f"{path}.{name}" if path else str(name)
        problem = inner
    if isinstance(problem, KeyError):
        key = str(problem.args[0])
        return (path if path.endswith(key) else f"{path}.{key}" if path else key), "expected a value, got none"
    if isinstance(problem, Mistyped):
        return path, str(problem)
    return path, f"could not be read ({type(problem).__name__})"
