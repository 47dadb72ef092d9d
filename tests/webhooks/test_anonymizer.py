"""What is made up keeps its shape and nothing else; the same becomes the same."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards_core.json import loads
from webhooks.cli.capture.anonymizer import Anonymizer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_.0", max_size=6), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("324167489835", r"[1-9][0-9]{11}"),
        ("1.50", r"[1-9]\.[1-9]0"),
        ("-0.001", r"-0\.00[1-9]"),
        ("1e10", r"[1-9]e10"),
        ("UB2DG8MW5KBQ", r"[A-Z]{2}[0-9][A-Z]{2}[0-9][A-Z]{2}[0-9][A-Z]{3}"),
        ("0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045", r"0x[0-9a-f][0-9][a-f][A-F].*[0-9a-fA-F]{36}"),
        ("6f1d0a4e-9a55-4b0e-8b5f-2f6f3c1d9a10", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ("2023-08-10T14:07:14.494142Z", r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.494142Z"),
        ("2023-99-99T14:07:14+00:00", r"[0-9]{4}-[0-9]{2}-[0-9]{2}[A-Z][0-9]{2}:[0-9]{2}:[0-9]{2}\+[0-9]{2}:[0-9]{2}"),
        ("jane.doe+x@mail.getoriginal.com", r"[a-z]{4}\.[a-z]{3}\+[a-z]@[a-z]{4}\.[a-z]{11}\.example"),
        ("https://amoy.polygonscan.com:8443/tx?a=7", r"https://[a-z]{4}\.[a-z]{11}\.example:[0-9]{4}/[a-z]{2}\?[a-z]=[0-9]"),
        ("Dave Starbelly", r"[A-Z][a-z]{3} [A-Z][a-z]{8}"),
        ("दिवाली", r"[^a-z]+"),
    ],
)
def test_a_value_keeps_its_shape(text: str, shape: str) -> None:
    made = Anonymizer()
    assert re.fullmatch(shape, made.value(text))
    assert made.value(text) == made.value(text)


def test_no_letter_or_digit_of_a_made_up_value_is_the_real_one() -> None:
    for seed in range(256):
        made = Anonymizer(bytes([seed]))
        for real in ("324167489835", "1.5", "-0.7", "UB2DG8MW5KBQ", "Jane", "d8da6bf2"):
            pairs = zip(real, made.value(real), strict=True)
            assert [each for each, other in pairs if each == other and each not in "-0."] == []


def test_a_value_is_another_one_in_each_process() -> None:
    assert len({"324167489835", *(Anonymizer().value("324167489835") for _ in range(3))}) == 4


def test_times_keep_their_distance() -> None:
    content = json.loads(Anonymizer().body('["2023-08-01T11:24:36.5+00:00", "2023-08-01T11:24:46.5+00:00"]'))
    assert content[0][:10] == content[1][:10] or content[1][11:19] < content[0][11:19]
    assert content[0] != content[1]


def test_a_word_of_the_vendor_stays_and_what_only_stands_in_its_place_does_not() -> None:
    text = '{"event": "reward.allocated", "status": "Done", "chain_id": 80002, "network": "jane@mail", "type": "paid to Jane"}'
    content = json.loads(Anonymizer().body(text))
    assert (content["event"], content["status"], content["chain_id"]) == ("reward.allocated", "Done", 80002)
    assert "jane" not in json.dumps(content).casefold()


def test_a_name_of_a_member_that_is_an_id_is_made_up_as_the_id_is() -> None:
    content = json.loads(Anonymizer().body('{"324167489835": {"uid": "324167489835", "named": "x"}}'))
    ((name, member),) = content.items()
    assert name == member["uid"] != "324167489835"
    assert list(member) == ["uid", "named"]


def test_what_was_made_up_is_made_up_in_sentences_too() -> None:
    made = Anonymizer()
    content = json.loads(made.body('{"uid": "324167489835", "nonce": "n1x"}'))
    assert made.sentence("allocation 324167489835 is n1x.") == f"allocation {content['uid']} is n1x."
    assert made.sentence("n1x") == content["nonce"]


@pytest.mark.slow
@given(value=VALUES)
def test_whatever_is_made_up_is_json_of_the_same_shape(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    made = Anonymizer().body(text)
    assert skeleton(loads(made.encode())) == skeleton(loads(text.encode()))
    assert made.count("\n") == text.count("\n")


def skeleton(value: object) -> object:
    if isinstance(value, dict):
        return [skeleton(each) for each in value.values()]
    if isinstance(value, list):
        return [skeleton(each) for each in value]
    return value if value is None or isinstance(value, bool) else type(value).__name__
