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
from tests.texts import said


@frozen(kw_only=True)
class Coin:
    uid: str
    amount: Decimal | None
    count: int = 0
    fresh: bool = False
    status: OperationStatus = OperationStatus.PENDING
    created_at: datetime | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    scope: str = field(default="ours", metadata=codec.OURS)
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen
class Pair:
    left: Coin


def body(**fields: Any) -> bytes:
    return json.dumps({"data": {"uid": "1", "amount": "1.5", **fields}}).encode()


def read(data: bytes) -> Coin:
    return codec.decode(data, Coin, inside=("data",))


digits = st.from_regex(r"[1-9][0-9]{0,29}(\.[0-9]{1,18})?", fullmatch=True)


@pytest.mark.slow
@given(digits, st.booleans())
@example("123456789.123456789012345678", False)
@example("100000000000000000000000000000", False)
@example("0.1", False)
def test_money_survives_to_the_last_digit_as_string_or_number(text: str, quoted: bool) -> None:
    shown = f'"{text}"' if quoted else text
    coin = read(b'{"data":{"uid":"1","amount":%s}}' % shown.encode())
    assert coin.amount is not None
    assert format(coin.amount, "f") == text


WRONG_TYPES: list[tuple[str, object]] = [
    ("uid", 1),
    ("uid", None),
    ("amount", True),
    ("amount", []),
    ("amount", "1_000"),
    ("amount", "٣"),
    ("amount", " 1"),
    ("amount", "1e3"),
    ("amount", "NaN"),
    ("count", "1"),
    ("count", 1.5),
    ("count", True),
    ("fresh", 1),
    ("status", 7),
    ("created_at", 7),
    ("created_at", "yesterday"),
    ("extra", []),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_wrong_type_names_the_path(name: str, value: object) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        read(body(**{name: value}))
    assert caught.value.path == f"data.{name}"
    assert caught.value.path in str(caught.value)
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


def test_unknown_keys_stay_in_raw_with_every_number_exact() -> None:
    coin = read(b'{"data":{"uid":"1","amount":"1.5","weight":0.12345678901234567890}}')
    assert coin.raw["weight"] == Decimal("0.12345678901234567890")


def test_a_field_of_ours_is_not_read_from_the_vendors_json() -> None:
    coin = read(body(scope="theirs"))
    assert (coin.scope, coin.raw["scope"]) == ("ours", "theirs")


def test_money_that_was_already_rounded_is_not_taken() -> None:
    with pytest.raises(UnexpectedResponse) as caught:
        codec.structure({"uid": "1", "amount": 1.5}, Coin, path="data")
    assert caught.value.path == "data.amount"


@pytest.mark.parametrize("number", ["1e-999999999", "0e-999999999", "1e100", "9" * 101, f"1.{'1' * 250}", f"1{'1' * 120}.5"])
def test_money_that_nobody_could_write_in_plain_digits_is_refused(number: str) -> None:
    with pytest.raises(UnexpectedResponse) as caught:
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
    assert len(OperationStatus) == 4
    with pytest.raises(ValueError, match="7"):
        OperationStatus(7)  # type: ignore[arg-type]


def test_terminal_statuses() -> None:
    assert OperationStatus.DONE.terminal
    assert OperationStatus.FAILED.terminal
    assert not OperationStatus.PENDING.terminal


def test_ref_shows_its_parts() -> None:
    assert str(OperationRef("default", "allocation", "1")) == "default/allocation/1"


def test_models_without_raw_and_types_nobody_can_read() -> None:
    assert codec.structure({"left": {"uid": "1", "amount": None}}, Pair).left.amount is None
    with pytest.raises(UnexpectedResponse):
        codec.structure({"a": 1}, object)


def test_each_error_says_where_and_what_the_value_must_be() -> None:
    bodies = [
        b"<html>",
        b'{"other":1}',
        b'{"data":[]}',
        b'{"data":{"amount":"1"}}',
        b'{"data":{"uid":"1","amount":1e999999}}',
        *(body(**{name: value}) for name, value in WRONG_TYPES),
    ]
    lines = []
    for data in bodies:
        with pytest.raises(UnexpectedResponse) as caught:
            read(data)
        lines.append(f"{data.decode()}\n    {caught.value}")
    for value in ({"uid": "1", "amount": 1.5}, {"uid": "1", "amount": Decimal("NaN")}):
        with pytest.raises(UnexpectedResponse) as caught:
            codec.structure(value, Coin)
        lines.append(f"{value}\n    {caught.value}")
    with pytest.raises(UnexpectedResponse) as caught:
        codec.structure({"a": 1}, object)
    said("json: what cannot be read", "\n".join([*lines, f"a type without a hook\n    {caught.value}"]))
