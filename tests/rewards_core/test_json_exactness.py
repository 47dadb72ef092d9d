"""Bytes to values and back: no number is rounded, and only equal values give equal canonical bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal, ExtendedContext, localcontext
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import canonical, dumps, loads


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 123456789.123456789012345678}', {"a": Decimal("123456789.123456789012345678")}),
        (b'{"a" \n:\t1.10}', {"a": Decimal("1.10")}),
        (b'[1, 2, {"b": [[1.5]]}]', [1, 2, {"b": [[Decimal("1.5")]]}]),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b"[18446744073709551615,18446744073709551616]", [2**64 - 1, 2**64]),
        (b"[-9223372036854775808,-9223372036854775809]", [-(2**63), -(2**63) - 1]),
        (b"9" * 4300, int("9" * 4300)),
        (b"1.5", Decimal("1.5")),
        (b"1E400", Decimal("1E+400")),
        (b"1e-999999999", Decimal("1E-999999999")),
        (b"0.1e1", Decimal(1)),
        (b"1", 1),
        (b"-0", 0),
        (b"-0.0", Decimal("-0.0")),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"12:34.5"', "12:34.5"),
        (b'"\\ud83d\\ude00\\u0000"', "😀\x00"),
        (b'{"at": "11:24:36.531141", "n": [null, true, 7]}', {"at": "11:24:36.531141", "n": [None, True, 7]}),
    ],
)
def test_no_number_is_rounded(body: bytes, value: Any) -> None:
    read = loads(body)
    assert read == value
    assert repr(read) == repr(value)


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,6})?", fullmatch=True)


@pytest.mark.slow
@given(numbers)
@example("0.1")
@example("1e22")
@example("9007199254740993")
def test_a_number_is_read_as_it_is_written(text: str) -> None:
    read = loads(b'{"amount":%s}' % text.encode())["amount"]
    assert read == Decimal(text)
    assert type(read) is (Decimal if set(text) & set(".eE") else int)
    again = loads(dumps([read]))[0]
    assert Decimal(again).as_tuple()[1:] == Decimal(read).as_tuple()[1:]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@pytest.mark.slow
@pytest.mark.repeats_itself
@given(plain)
def test_json_without_fractions_comes_back_as_it_was(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(dumps(value)) == value
    assert json.loads(canonical(value)) == value


@given(st.binary(max_size=60))
def test_parsing_raises_nothing_but_unexpected_response(data: bytes) -> None:
    with suppress(UnexpectedResponse):
        loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"<html>",
        b"[NaN]",
        b"[Infinity]",
        b"-Infinity",
        b"[1,]",
        b"01",
        b"1.",
        b"1 2",
        b"{} \x00",
        b'"\t"',
        b"'a'",
        b"\xef\xbb\xbf{}",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'{"\xff":1}',
        b'"\\ud800"',
        b'"\\udc00"',
        b'{"\\ud800\\ud800":1}',
        b"1e99999999999999999999",
        b"1e-99999999999999999999",
        b"9" * 5_000,
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda data: f"{data[:12]!r}",
)
def test_what_is_not_json_or_too_much_of_it_is_an_unexpected_response(data: bytes) -> None:
    with pytest.raises(UnexpectedResponse, match=f"{len(data)} bytes") as caught:
        loads(data)
    assert caught.value.__context__ is None


@pytest.mark.slow
def test_megabytes_are_read() -> None:
    assert loads(b'"%s"' % (b"a" * 10_000_000)) == "a" * 10_000_000
    assert loads(b"1.%s" % (b"9" * 1_000_000)) == Decimal("1." + "9" * 1_000_000)
    assert sum(loads(b"[%s1]" % (b"0.1," * 100_000))) == 10_001


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"b": "1", "a": (None, True)}, b'{"b":"1","a":[null,true]}'),
        ({"a": Decimal("123456789.123456789012345678")}, b'{"a":123456789.123456789012345678}'),
        ([Decimal("1E-999999999"), Decimal("-0.00"), 10**30], b"[1E-999999999,-0.00,1000000000000000000000000000000]"),
        (MappingProxyType({"a": MappingProxyType({})}), b'{"a":{}}'),
    ],
)
def test_every_digit_is_written(value: Any, body: bytes) -> None:
    assert dumps(value) == body


@pytest.mark.parametrize("write", [dumps, canonical])
@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), ({"a": 1j}, TypeError), ("\ud800", ValueError)])
def test_what_has_no_place_in_json_is_not_written(write: Any, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        write(value)


parsed = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | numbers.map(lambda text: loads(text.encode())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def spelled(value: Any) -> str:
    """Write a value with its keys in reverse, other white space and other escapes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)} :\n{spelled(each)}" for key, each in reversed(value.items())) + " }"
    if isinstance(value, list):
        return "[ " + ", ".join(spelled(each) for each in value) + "]"
    if isinstance(value, Decimal):
        text = str(value).replace("E", "e")
        return text if set(text) & set(".e") else f"{text}e0"  # else it would be read as a whole number, and -0 as 0
    return json.dumps(value)


@pytest.mark.slow
@given(parsed)
def test_canonical_bytes_depend_on_the_value_alone(value: Any) -> None:
    assert canonical(loads(spelled(value).encode())) == canonical(value)


def told_apart(value: Any) -> Any:
    """Return what two values share only if they are equal, types included."""
    if isinstance(value, dict):
        return {key: told_apart(each) for key, each in value.items()}
    if isinstance(value, list):
        return [told_apart(each) for each in value]
    return ("number", Decimal(value)) if type(value) in {int, Decimal} else (type(value).__name__, value)


@pytest.mark.slow
@given(parsed, parsed)
@example({"a": 1}, {"a": "1"})
@example([True], [1])
@example({"a": [None]}, {"a": ["null"]})
def test_other_values_give_other_canonical_bytes(one: Any, other: Any) -> None:
    assert canonical(one) != canonical(other) or told_apart(one) == told_apart(other)


LOOK_ALIKES = [
    b'{"v":1.5}',
    b'{"v":1.50}',
    b'{"v":"1.5"}',
    b'{"v":1}',
    b'{"v":1.0}',
    b'{"v":true}',
    b'{"v":"1"}',
    b'{"v":0.12345678901234567890}',
    b'{"v":0.12345678901234567891}',
    b'{"v":18446744073709551616}',
    b'{"v":18446744073709551617}',
    b'{"v":{"number":"1.5"}}',
    b'{"v":{"number":["1.5"]}}',
    b'{"v":{"number":1.5}}',
    b'{"v":{"number":null}}',
    b'{"v":["1.5"]}',
    b'{"v":null}',
    b'{"v":"null"}',
    b"{}",
]


def test_canonical_tells_look_alikes_apart() -> None:
    assert len({canonical(loads(body)) for body in LOOK_ALIKES}) == len(LOOK_ALIKES)


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (b'{"b":[1,"x",null,true],"a":{"uid":"1"}}', b'{"a":{"uid":"1"},"b":[1,"x",null,true]}'),
        (b'{"amount":1.50}', b'{"amount":1.50}'),
        (b'{"amount":1e0}', b'{"amount":1}'),
        (b'{"amount":1.5e3}', b'{"amount":1.5E+3}'),
        ('{"é":1,"z":2,"\U0001f600":3,"\uffff":4}'.encode(), '{"z":2,"é":1,"\uffff":4,"\U0001f600":3}'.encode()),
    ],
)
def test_canonical_bytes_of_ordinary_bodies_are_those_of_every_release(body: bytes, known: bytes) -> None:
    assert canonical(loads(body)) == known


@pytest.mark.slow
@pytest.mark.repeats_itself
@given(plain.filter(lambda value: "number" not in json.dumps(value)))
def test_canonical_bytes_without_fractions_are_those_of_the_first_release(value: Any) -> None:
    try:
        known = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # whole numbers over 64 bits
        known = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert canonical(value) == known


def test_what_nests_deeply_is_written_or_refused_and_never_crashes() -> None:
    deep: Any = {"number": "1.5"}
    for _ in range(700):
        deep = [deep]
    assert canonical(deep).startswith(b"[[[")
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        canonical(deep)


def test_a_number_that_no_decimal_holds_is_refused_in_every_context() -> None:
    with localcontext(ExtendedContext), pytest.raises(UnexpectedResponse):
        loads(b'{"a":1e9999999999999999999}')
