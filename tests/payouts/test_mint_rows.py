"""Rows of assets: what a file may say, and what the ledger keeps of it."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pytest

from payouts import InvalidRow, Layout, MintRow, derive_key, read_rows
from payouts.details import changed_details, read_details, write_details
from payouts.ledger.fingerprints import fingerprint, recipient_bounds
from payouts.source.checks import Checked, check_rows
from payouts.source.mistakes import Mistake
from payouts.spelling import Misspelling, NotText
from payouts.vendors import vendor_of
from tests.payouts.mint_kit import COLLECTION, HEADER, MINT, mint_row

CSV = Layout(vendor=MINT)
JSONL = Layout(vendor=MINT, form="jsonl")
ROW = f"r1,12345,{COLLECTION},Badge,https://img.example/1.png"


def rows_of(text: str, layout: Layout = CSV) -> list[Any]:
    return list(read_rows(io.BytesIO(text.encode()), layout))


def checked(text: str, layout: Layout = CSV) -> tuple[Checked, list[Mistake]]:
    found: list[Mistake] = []
    return check_rows(io.BytesIO(text.encode()), layout, on_mistake=found.append), found


def mistakes(text: str, layout: Layout = CSV) -> list[tuple[int, str, str]]:
    return [(each.line, each.name, each.message) for each in checked(text, layout)[1]]


def test_the_key_of_a_row_is_the_same_for_ever() -> None:
    assert derive_key(MINT, "diwali-2026", "order-17") == "xnb4koigqsdkfikuwlfnmbaezn"
    assert derive_key(MINT, "diwali-2026", "order-17", retry=1) == "zlv33cewjbxc3xpsoo5ufcbx5k"
    assert derive_key("original", "diwali-2026", "order-17") != derive_key(MINT, "diwali-2026", "order-17")


def test_the_shortest_file_names_user_collection_name_and_image() -> None:
    (row,) = rows_of(HEADER + ROW)
    assert (row.recipient, row.item, row.amount, row.given_key) == ("12345", COLLECTION, None, None)
    assert read_details(row.details) == {
        "name": "Badge",
        "image_url": "https://img.example/1.png",
        "unique_name": False,
        "store_image_on_ipfs": False,
    }


def test_every_column_is_read_in_any_order() -> None:
    header = (
        "attributes,sale_price_in_usd,external_url,description,store_image_on_ipfs,unique_name,asset_external_id,image_url,name,"
        "collection_uid,user_uid,id\n"
    )
    traits = '"[{""trait_type"": ""Size"", ""value"": 1.50}]"'
    line = f'{traits},12.50,https://e.example,"A, b",TRUE,false,order-17,i,n,{COLLECTION},32,r1\n'
    (row,) = rows_of(header + line)
    assert row == MintRow(
        id="r1",
        user_uid="32",
        collection_uid=COLLECTION,
        name="n",
        image_url="i",
        asset_external_id="order-17",
        unique_name=False,
        store_image_on_ipfs=True,
        description="A, b",
        external_url="https://e.example",
        sale_price_in_usd="12.5",
        attributes='[{"trait_type": "Size", "value": 1.50}]',
        line=2,
    )
    assert row.given_key == "order-17"


def test_json_lines_may_have_logical_values_and_leave_things_out() -> None:
    line = {"id": "r1", "user_uid": "32", "collection_uid": COLLECTION, "name": "n", "image_url": "i", "unique_name": True}
    (row,) = rows_of(json.dumps({**line, "description": None, "sale_price_in_usd": 3}), JSONL)
    assert (row.unique_name, row.store_image_on_ipfs, row.description, row.sale_price_in_usd) == (True, False, None, "3")


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("unique_name", "yes", '"yes" is neither true nor false'),
        ("store_image_on_ipfs", "1", '"1" is neither true nor false'),
        ("sale_price_in_usd", "12,50", "decimal comma"),
        ("sale_price_in_usd", "0", "pays nothing"),
        ("asset_external_id", "1.1E+11", "scientific notation"),
        ("asset_external_id", "order 17", "white space"),
        ("attributes", "Base: Starfish", "not a JSON list"),
        ("attributes", '{""trait_type"": ""Base""}', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""Base""}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""Base"", ""value"": true}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""Base"", ""value"": NaN}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": """", ""value"": ""x""}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""Base"", ""value"": 1, ""colour"": 2}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""\\ud800"", ""value"": 1}]', "not a JSON list"),
        ("attributes", '[{""trait_type"": ""Base"", ""value"": ""\\udfff""}]', "not a JSON list"),
        ("external_url", "#REF!", "spreadsheet error"),
    ],
)
def test_a_value_that_cannot_be_sent_is_a_mistake_in_its_column(column: str, value: str, told: str) -> None:
    ((line, name, message),) = mistakes(f'{HEADER.strip()},{column}\n{ROW},"{value}"\n')
    assert (line, name) == (2, column)
    assert told in message


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"id": "123.0"}, "id"),
        ({"user_uid": "1.1E+11"}, "user_uid"),
        ({"collection_uid": "471,616,646,163"}, "collection_uid"),
        ({"name": " Badge"}, "name"),
        ({"name": "n" * 256}, "name"),
        ({"image_url": ""}, "image_url"),
        ({"description": "  "}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"description": NotText("1", Misspelling("number", "a number"))}, "description"),
        ({"attributes": ["Base"]}, "attributes"),
        ({"attributes": "[" * 100_000}, "attributes"),
        ({"attributes": '[{"trait_type": "Base", "value": 1e999999999999999999999}]'}, "attributes"),
        ({"sale_price_in_usd": 1.5}, "sale_price_in_usd"),
    ],
)
def test_a_row_that_cannot_be_sent_is_refused(changed: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRow) as refused:
        mint_row("r1", **changed)
    assert refused.value.name == name


def test_all_mistakes_of_a_line_are_told_together() -> None:
    found = mistakes(f"{HEADER.strip()},unique_name,attributes\nr1,1.1E+11,{COLLECTION},,https://img.example/1.png,no,x\n")
    assert [name for _, name, _ in found] == ["user_uid", "name", "unique_name", "attributes"]


def test_an_external_id_is_used_once() -> None:
    text = f"{HEADER.strip()},asset_external_id\n{ROW},a\n{ROW.replace('r1', 'r2')},a\n"
    assert [(line, name) for line, name, _ in mistakes(text)] == [(3, "asset_external_id")]


def test_a_missing_column_is_named_with_its_option() -> None:
    (told,) = [message for _, _, message in mistakes("id,user_uid,collection_uid,name\nr1,1,2,n\n")]
    assert "--image-url-column" in told


def test_equal_content_gives_equal_details_and_prices_are_compared_as_numbers() -> None:
    assert mint_row("r1", sale_price_in_usd="12.50").details == mint_row("r1", sale_price_in_usd=Decimal("12.5")).details
    assert mint_row("r1", unique_name="true").details == mint_row("r1", unique_name=True).details
    assert mint_row("r1").details == mint_row("r1", description=None, attributes=None).details


def test_each_changed_detail_is_named() -> None:
    before, now = write_details({"name": "a", "unique_name": False}), write_details({"name": "b", "description": "d"})
    assert list(changed_details(before, now)) == [
        ("name", "a", "b"),
        ("unique_name", "false", "nothing"),
        ("description", "nothing", "d"),
    ]
    assert list(changed_details(before, before)) == []


def test_grants_are_alike_if_recipient_collection_and_name_are() -> None:
    def alike(**changed: Any) -> str:
        row = mint_row("r1", **changed)
        return fingerprint(row.recipient, row.item, row.amount, row.details)

    assert alike() == alike(image_url="https://img.example/other.png", name="BADGE R1", unique_name=True)
    assert len({alike(), alike(name="Medal"), alike(user_uid="33"), alike(collection_uid="22")}) == 4
    begin, end = recipient_bounds("user-r1")
    assert begin <= alike() < end


def test_vendor_and_kind_name_what_the_ledger_holds() -> None:
    assert [vendor_of("original", None), vendor_of("original", "mint"), vendor_of(None, "mint")] == ["original", MINT, MINT]
    assert [vendor_of(None, None), vendor_of(None, "allocation"), vendor_of("enkash", "allocation")] == [
        None,
        "original",
        "enkash",
    ]
    with pytest.raises(ValueError, match="EnKash mints nothing"):
        vendor_of("enkash", "mint")
