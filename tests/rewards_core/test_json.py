from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import example, given
from hypothesis import strategies as st

from rewards_core import json as codec
from rewards_core.errors import UnexpectedResponse
from rewards_core.operations import OperationRef, OperationStatus


@frozen(kw_only=True)
class Coin:
    uid: str
    amount: Decimal | None
    count: int = 0
    fresh: bool = False
    status: OperationStatus = OperationStatus.PENDING
    created_at: datetime | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen
class Pair:
    left: Coin


def body(**fields: Any) -> bytes:
    return json.dumps({"data": {"uid": "1", "amount": "1.5", **fields}}).encode()


def read(data: bytes) -> Coin:
    return codec.decode(data, Coin, inside=("data",))


digits = st.from_regex(r"[1-9][0-9]{0,29}(\.[0-9]{1,18})?", fullmatch=True)


@given(digits, st.booleans())
@example("123456789.123456789012345678", False)
@example("100000000000000000000000000000", False)
@example("0.1", False)
def test_money_survives_to_the_last_digit_as_string_or_number(text: str, quoted: bool) -> None:
    shown = f'"{text}"' if quoted else text
    coin = read(b'{"data":{"uid":"1","amount":%s}}' % shown.encode())
    assert coin.amount is not None
    assert format(coin.amount, "f") == text


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"uid": 1}, "data.uid"),
        ({"uid": None}, "data.uid"),
        ({"amount": True}, "data.amount"),
        ({"amount": []}, "data.amount"),
        ({"amount": "1_000"}, "data.amount"),
        ({"amount": "٣"}, "data.amount"),
        ({"amount": " 1"}, "data.amount"),
        ({"amount": "1e3"}, "data.amount"),
        ({"amount": "NaN"}, "data.amount"),
        ({"count": "1"}, "data.count"),
        ({"count": 1.5}, "data.count"),
        ({"count": True}, "data.count"),
        ({"fresh": 1}, "data.fresh"),
        ({"status": 7}, "data.status"),
        ({"created_at": 7}, "data.created_at"),
        ({"created_at": "yesterday"}, "data.created_at"),
        ({"extra": []}, "data.extra"),
    ],
)
def test_wrong_type_names_the_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        read(body(**fields))
    assert caught.value.path == path
    assert path in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"", ""),
        (b"<html>", ""),
        (b'{"data":{"uid":"1","amount":NaN}}', ""),
        (b"[]", "data"),
        (b'{"other":1}', "data"),
        (b'{"data":null}', "data"),
        (b'{"data":{"amount":"1"}}', "data.uid"),
        (b"\xff", ""),
    ],
)
def test_reply_that_is_no_such_reply_says_where(data: bytes, path: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        read(data)
    assert caught.value.path == path


def test_items_of_a_list_are_numbered_in_the_path() -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        codec.decode(b'{"data":[{"uid":"1","amount":"1"},{"uid":2,"amount":"1"}]}', list[Coin], inside=("data",))
    assert caught.value.path == "data[1].uid"


def test_nested_models_name_the_whole_path() -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        codec.structure({"left": {"uid": "1", "amount": {}}}, Pair)
    assert caught.value.path == "left.amount"


def test_unknown_keys_stay_in_raw() -> None:
    coin = read(body(colour="red"))
    assert coin.raw["colour"] == "red"


def test_money_that_was_already_rounded_is_not_taken() -> None:
    with pytest.raises(UnexpectedResponse, match="expected money as Decimal"):
        codec.structure({"uid": "1", "amount": 1.5}, Coin)


@pytest.mark.parametrize("number", ["1e-999999999", "0e-999999999", "1e100", "9" * 101, f"1.{'1' * 250}", f"1{'1' * 120}.5"])
def test_money_that_nobody_could_write_in_plain_digits_is_refused(number: str) -> None:
    with pytest.raises(
        UnexpectedResponse, match=r"data\.amount: expected a number of up to 100 digits and 100 decimals"
    ) as caught:
        read(b'{"data":{"uid":"1","amount":%s}}' % number.encode())
    assert caught.value.path == "data.amount"


@pytest.mark.parametrize("number", ["1e-100", "9.9e99", "0", "0.0", "-1.5e-7", "9" * 100, f"0.{'1' * 100}"])
def test_every_number_that_can_be_written_is_taken(number: str) -> None:
    assert read(b'{"data":{"uid":"1","amount":%s}}' % number.encode()).amount == Decimal(number)


def test_exact_numbers_may_be_given_parsed() -> None:
    assert codec.structure({"uid": "1", "amount": Decimal("1.5")}, Coin).amount == Decimal("1.5")
    assert codec.structure({"uid": "1", "amount": 7}, Coin).amount == 7
    with pytest.raises(UnexpectedResponse):
        codec.structure({"uid": "1", "amount": Decimal("NaN")}, Coin)


def test_timestamps_keep_their_zone() -> None:
    assert read(body(created_at="2023-08-10T14:07:14.494142Z")).created_at == datetime(2023, 8, 10, 14, 7, 14, 494142, tzinfo=UTC)


@pytest.mark.parametrize("word", ["done", "Done", "DONE"])
def test_enumerations_fold_case(word: str) -> None:
    assert read(body(status=word)).status is OperationStatus.DONE


def test_unknown_status_is_kept_and_is_not_terminal() -> None:
    status = read(body(status="Melting")).status
    assert status == "melting"
    assert not status.terminal
    assert pickle.loads(pickle.dumps(status)) == status
    assert copy.deepcopy(status) == status
    assert status != OperationStatus("boiling")
    assert len(OperationStatus) == 3
    with pytest.raises(ValueError, match="7"):
        OperationStatus(7)  # type: ignore[arg-type]


def test_terminal_statuses() -> None:
    assert OperationStatus.DONE.terminal
    assert OperationStatus.FAILED.terminal
    assert not OperationStatus.PENDING.terminal


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False, places=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_bytes_depend_on_the_value_alone(value: Any) -> None:
    def written(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ",".join(f"{json.dumps(k)} : {written(v)}" for k, v in reversed(item.items())) + "}"
        if isinstance(item, list):
            return "[ " + ", ".join(written(i) for i in item) + "]"
        return format(item, "f") if isinstance(item, Decimal) else json.dumps(item)

    def shuffled(item: Any) -> Any:
        return json.loads(written(item).encode(), parse_float=Decimal)

    first = codec.canonical(codec.loads_faithful(written(value).encode("utf-8", "surrogatepass")))
    assert first == codec.canonical(shuffled(value))


def test_canonical_tells_apart_what_a_float_would_not() -> None:
    one, other = (
        codec.canonical(codec.loads_faithful(b'{"a":%s}' % text))
        for text in (b"0.12345678901234567890", b"0.12345678901234567891")
    )
    assert one != other
    assert codec.canonical({"a": 1}) != codec.canonical({"a": "1"})
    with pytest.raises(TypeError, match="expected a JSON value"):
        codec.canonical({"a": {1}, "b": Decimal(1)})


@given(st.binary(max_size=60))
def test_parsing_raises_nothing_but_unexpected_response(data: bytes) -> None:
    for parse in (codec.loads, codec.loads_exact, codec.loads_faithful):
        try:
            parse(data)
        except UnexpectedResponse:
            continue


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":1e999999999999999999999}',
        b"9" * 5000,
    ],
)
def test_hostile_json_is_an_ordinary_error_or_value(data: bytes) -> None:
    for parse in (codec.loads, codec.loads_exact, codec.loads_faithful):
        try:
            parse(data)
        except UnexpectedResponse:
            continue


def test_dumps_refuses_decimals() -> None:
    assert codec.dumps({"a": "1"}) == b'{"a":"1"}'
    with pytest.raises(TypeError):
        codec.dumps({"a": Decimal(1)})


def test_ref_shows_its_parts() -> None:
    assert str(OperationRef("default", "allocation", "1")) == "default/allocation/1"


def test_models_without_raw_and_types_nobody_can_read() -> None:
    assert codec.structure({"left": {"uid": "1", "amount": None}}, Pair).left.amount is None
    with pytest.raises(UnexpectedResponse, match="could not be read"):
        codec.structure({"a": 1}, object)
    with pytest.raises(UnexpectedResponse):
        codec.loads_exact(b"[NaN]")


LOOK_ALIKES = [
    b'{"v":1.5}',
    b'{"v":{"number":"1.5"}}',
    b'{"v":{"number":["1.5"]}}',
    b'{"v":{"number":[["1.5"]]}}',
    b'{"v":{"number":1.5}}',
    b'{"v":{"number":[1.5]}}',
    b'{"v":{"number":{"number":"1.5"}}}',
    b'{"v":{"number":[{"number":"1.5"}]}}',
    b'{"v":{"number":null}}',
    b'{"v":{"number":"1.5","more":1}}',
    b'{"v":[{"number":"1.5"}]}',
    b'{"v":["1.5"]}',
]


def test_canonical_tells_a_number_from_an_object_that_looks_like_one() -> None:
    written = {codec.canonical(codec.loads_faithful(body)) for body in LOOK_ALIKES}
    assert len(written) == len(LOOK_ALIKES)


def test_canonical_bytes_of_ordinary_bodies_are_those_of_every_release() -> None:
    for body, known in {
        b'{"b":[1,"x",null,true],"a":{"uid":"1"}}': b'{"a":{"uid":"1"},"b":[1,"x",null,true]}',
        b'{"amount":1.50}': b'{"amount":{"number":"1.50"}}',
        b'{"number":5,"a":1}': b'{"a":1,"number":5}',
        b'{"number":5}': b'{"number":5}',
        b'{"v":{"number":{"a":1}}}': b'{"v":{"number":{"a":1}}}',
    }.items():
        assert codec.canonical(codec.loads_faithful(body)) == known


def test_canonical_writes_what_nests_deeper_than_anything_that_is_meant() -> None:
    deep: Any = {"number": "1.5"}
    for _ in range(700):
        deep = [deep]
    try:
        written = codec.canonical(deep)
    except RecursionError:
        pytest.fail("it was written before it was told apart, and so it can be kept")
    assert written.startswith(b"[[[")
