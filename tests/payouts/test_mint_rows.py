"""Rows of assets: what a file may say, and what the ledger keeps of it."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pytest

from original_async import AssetData
from payouts import InvalidRow, Layout, MintRow, derive_key, read_rows
from payouts.details import changed_details, read_details, write_details
from payouts.ledger.fingerprints import fingerprint, recipient_bounds
from payouts.source.checks import FileSummary, check_rows
from payouts.source.mistakes import Mistake
from payouts.spelling import Misspelling, NotText
from payouts.vendors import ROW_TYPES, options_of, vendor_of
from tests.payouts.mint_kit import COLLECTION, HEADER, MINT, mint_row
from tests.texts import said

CSV = Layout(vendor=MINT)
JSONL = Layout(vendor=MINT, form="jsonl")
ROW = f"r1,12345,{COLLECTION},Badge,https://img.example/1.png"


def rows_of(text: str, layout: Layout = CSV) -> list[Any]:
    return list(read_rows(io.BytesIO(text.encode()), layout))


def checked(text: str, layout: Layout = CSV) -> tuple[FileSummary, list[Mistake]]:
    found: list[Mistake] = []
    return check_rows(io.BytesIO(text.encode()), layout, on_mistake=found.append), found


def mistakes(text: str, layout: Layout = CSV) -> list[tuple[int, str, str]]:
    return [(each.line, each.name, each.message) for each in checked(text, layout)[1]]


def json_line(**changed: Any) -> dict[str, Any]:
    line = {"id": "r1", "user_uid": "32", "collection_uid": COLLECTION, "name": "n", "image_url": "https://img.example/1.png"}
    return line | changed


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
    line = f'{traits},12.50,https://e.example,"A, b",TRUE,false,order-17,ipfs://i,n,{COLLECTION},32,r1\n'
    (row,) = rows_of(header + line)
    assert row == MintRow(
        id="r1",
        user_uid="32",
        collection_uid=COLLECTION,
        name="n",
        image_url="ipfs://i",
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
    line = {**json_line(), "unique_name": True}
    (row,) = rows_of(json.dumps({**line, "description": None, "sale_price_in_usd": 3}), JSONL)
    assert (row.unique_name, row.store_image_on_ipfs, row.description, row.sale_price_in_usd) == (True, False, None, "3")


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("unique_name", "yes", '"yes" is neither true nor false'),
        ("store_image_on_ipfs", "1", '"1" is neither true nor false'),
        ("sale_price_in_usd", "12,50", "decimal comma"),
        ("sale_price_in_usd", "0", "leave it out"),
        ("sale_price_in_usd", "-1", "above 0"),
        ("sale_price_in_usd", "nan", "leave it out"),
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
        ("external_url", "www.example.com", "https://example.com"),
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
        ({"name": "two\nlines"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": 17}, "name"),
        ({"image_url": ""}, "image_url"),
        ({"image_url": "https://img.example/" + "n" * 2_029}, "image_url"),
        ({"image_url": "https://img.example/\u200d1.png"}, "image_url"),
        ({"image_url": "C:\\badges\\1.png"}, "image_url"),
        ({"image_url": "file:///badges/1.png"}, "image_url"),
        ({"image_url": "badges/1.png"}, "image_url"),
        ({"image_url": "https:"}, "image_url"),
        ({"image_url": None}, "image_url"),
        ({"description": "  "}, "description"),
        ({"description": "\ud800"}, "description"),
        ({"description": NotText("1", Misspelling("number", "a number"))}, "description"),
        ({"attributes": ["Base"]}, "attributes"),
        ({"attributes": "[" * 100_000}, "attributes"),
        ({"attributes": '[{"trait_type": "Base", "value": 1, "value": 2}]'}, "attributes"),
        ({"attributes": '[{"trait_type": "Base", "value": 1e999999999999999999999}]'}, "attributes"),
        ({"sale_price_in_usd": 1.5}, "sale_price_in_usd"),
    ],
)
def test_a_row_that_cannot_be_sent_is_refused(changed: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidRow) as refused:
        mint_row("r1", **changed)
    assert refused.value.name == name


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d🚀",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "क्\u200dष",
        "ガチャ\uff01",
        "۱۲",
        "Tier 1 ⚔\ufe0f",
        "a/b?c#d%",
        "n" * 255,
    ],
)
def test_what_people_read_may_be_in_any_script(text: str) -> None:
    traits = json.dumps([{"trait_type": text, "value": text}], ensure_ascii=False)
    (row,) = rows_of(json.dumps(json_line(name=text, description=text, attributes=traits)), JSONL)
    assert (row.name, row.description, row.attributes) == (text, text, traits)
    data = AssetData(name=row.name, image_url=row.image_url, unique_name=False, description=row.description)
    assert data.name == text


@pytest.mark.parametrize("column", ["id", "user_uid", "collection_uid", "asset_external_id", "sale_price_in_usd", "image_url"])
def test_invisible_characters_are_refused_in_what_programs_read(column: str) -> None:
    ((_, name, _),) = mistakes(json.dumps(json_line(**{column: "12\u200d3"})), JSONL)
    assert name == column


@pytest.mark.parametrize(
    "address",
    [
        "https://img.example/ä.png",
        "HTTPS://IMG.EXAMPLE",
        "ipfs://Qm/1.png",
        "ar://x",
        "data:image/png;base64,AAAA",
        "https://img.example/" + "n" * 2_028,
    ],
)
def test_an_image_may_be_wherever_an_address_leads(address: str) -> None:
    assert mint_row("r1", image_url=address, external_url=address).image_url == address


def test_the_words_of_what_is_wrong_with_a_mint() -> None:
    lines: list[dict[str, Any]] = [
        {"name": "two\nlines"},
        {"name": "x" * 256},
        {"image_url": "https://img.example/a b.png"},
        {"image_url": " https://img.example/1.png"},
        {"image_url": "https://img.example/1\u200b.png"},
        {"image_url": "C:\\badges\\1.png"},
        {"image_url": "https://img.example/" + "n" * 2_029},
        {"external_url": "www.example.com"},
        {"external_url": ["https://example.com"]},
        {"description": "  "},
        {"description": {"en": "A badge"}},
        {"attributes": [{"trait_type": "Colour", "value": "blue"}]},
        {"attributes": {"Colour": "blue"}},
        {"attributes": "Colour: blue"},
        {"attributes": '[{"trait_type": "Colour", "value": 1, "value": 2}]'},
        {"sale_price_in_usd": 0},
        {"sale_price_in_usd": "-5"},
        {"sale_price_in_usd": "n/a"},
    ]
    text = "".join(json.dumps(json_line(id=f"r{number}", **changed)) + "\n" for number, changed in enumerate(lines))
    said("mints: what is wrong with a value", "\n".join(f"{name}: {told}" for _, name, told in mistakes(text, JSONL)))


def test_all_mistakes_of_a_line_are_told_together() -> None:
    found = mistakes(f"{HEADER.strip()},unique_name,attributes\nr1,1.1E+11,{COLLECTION},,https://img.example/1.png,no,x\n")
    assert [name for _, name, _ in found] == ["user_uid", "name", "unique_name", "attributes"]


def test_an_external_id_is_used_once() -> None:
    text = f"{HEADER.strip()},asset_external_id\n{ROW},a\n{ROW.replace('r1', 'r2')},a\n"
    assert [(line, name) for line, name, _ in mistakes(text)] == [(3, "asset_external_id")]


def test_a_missing_column_is_named_with_its_option() -> None:
    (told,) = [message for _, _, message in mistakes("id,user_uid,collection_uid,name\nr1,1,2,n\n")]
    assert "--image-url-column" in told


@pytest.mark.parametrize(
    ("title", "meant"),
    [
        ("atributes", "attributes"),
        ("attribute.Colour", "attributes"),
        ("attributes[0].value", "attributes"),
        ("description (optional)", "description"),
        ("salePriceInUsd", "sale_price_in_usd"),
        ("uniquename", "unique_name"),
        ("asset-external-ids", "asset_external_id"),
    ],
)
def test_a_misspelled_column_is_refused_and_the_one_that_is_meant_is_named(title: str, meant: str) -> None:
    result, found = checked(f"{HEADER.strip()},{title}\n{ROW},x\n")
    assert (result.rows, [(each.line, each.column, each.name) for each in found]) == (0, [(1, 6, meant)])
    line = json.dumps(json_line(**{title: "x"}))
    result, found = checked(line, JSONL)
    assert (result.rows, [(each.column, each.name) for each in found]) == (0, [(line.index(f'"{title}"') + 1, meant)])


@pytest.mark.parametrize("title", ["user_external_id", "image", "tier", "price", "", "collection_description"])
def test_a_column_that_is_like_none_that_is_missing_is_not_read(title: str) -> None:
    assert checked(f"{HEADER.strip()},{title or '?'}\n{ROW},x\n")[0].rows == 1
    assert checked(json.dumps(json_line(**{title: "x"})), JSONL)[0].rows == 1


def test_a_column_is_no_misspelling_of_one_that_is_there() -> None:
    assert checked(f"{HEADER.strip()},descriptions,description\n{ROW},x,y\n")[0].rows == 1
    assert checked(json.dumps(json_line(descriptions="x", description="y")), JSONL)[0].rows == 1
    layout = Layout(vendor=MINT, names={"asset_external_id": "badge"})
    assert checked(f"{HEADER.strip()},badge,asset_external_ids\n{ROW},x,y\n", layout)[0].rows == 1


def test_the_words_for_a_misspelled_column() -> None:
    ((_, _, told),) = mistakes(f"{HEADER.strip()},attribute.Colour,tier\n{ROW},x,y\n")
    said("mints: a misspelled column", told)


def test_equal_content_gives_equal_details_and_prices_are_compared_as_numbers() -> None:
    assert mint_row("r1", sale_price_in_usd="12.50").details == mint_row("r1", sale_price_in_usd=Decimal("12.5")).details
    assert mint_row("r1", sale_price_in_usd="012.5").details == mint_row("r1", sale_price_in_usd="12.5").details
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


def test_the_options_of_a_vendor_select_it() -> None:
    for vendor in ROW_TYPES:
        words = dict(zip(*[iter(options_of(vendor).split())] * 2, strict=True))
        assert vendor_of(words["--vendor"], words.get("--kind")) == vendor


def test_vendor_and_kind_name_what_the_ledger_holds() -> None:
    assert [vendor_of("original", None), vendor_of("original", "mint"), vendor_of(None, "mint")] == ["original", MINT, MINT]
    assert [vendor_of(None, None), vendor_of(None, "allocation"), vendor_of("enkash", "allocation")] == [
        None,
        "original",
        "enkash",
    ]
    with pytest.raises(ValueError, match=r"^--kind mint.* EnKash"):
        vendor_of("enkash", "mint")
