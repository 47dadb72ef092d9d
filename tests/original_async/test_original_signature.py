"""The signature: a test vector, and properties that hold for all input."""

from __future__ import annotations

import copy
import hmac
import pickle
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from original_async.signature import Keyring, sign
from rewards_core.errors import SignatureError

KEYS = {"4o3vfxtcmo7b": "webhook-secret-one", "ws7orr8kbho6": "webhook-secret-two"}
BODY = (
    b'{"data":{"app":{"uid":"UB2DG8MW5KBQ","name":"App name567","region":"EU","environment":"Development"},"asset":'
    b'{"uid":"xxxxxxxxxxxx","name":"Dave Starbelly","metadata":{"name":"Dave Starbelly","image":'
    b'"https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png","original_id":'
    b'"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx","org_image_url":'
    b'"https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png","attributes":'
    b'[{"trait_type":"Base","value":"Starfish"}]}}},"event":"asset.minted","event_time":'
    b'"2023-08-01T11:24:36.531141+00:00","sent_at":"2023-08-01T11:24:36.531141+00:00"}'
)
FIRST = "4o3vfxtcmo7b,e258341d9e4386e35b8670774385f6bef6ba71a84657b52abc73dbcd820d1776"
SECOND = "ws7orr8kbho6,96502baf076174b437c7422d0b0b6f4270590e5c7a2dc2cda60abad489587f8d"
HEADER = f"{FIRST} {SECOND}"

ring = Keyring(KEYS)


def signed(value: Any) -> Mapping[str, str]:
    return cast("Mapping[str, str]", {"x-webhook-signature": value})


def reason(headers: Any, body: Any = BODY, keys: Mapping[str, str] = KEYS) -> str:
    with pytest.raises(SignatureError) as caught:
        Keyring(keys).verify(headers, body)
    return caught.value.reason


def test_the_documented_recipe_gives_the_known_vector() -> None:
    assert sign(BODY, KEYS) == HEADER
    assert ring.sign(BODY) == HEADER


def test_the_vector_verifies_with_either_key() -> None:
    assert ring.verify(signed(HEADER), BODY) == "4o3vfxtcmo7b"
    assert Keyring({"ws7orr8kbho6": "webhook-secret-two"}).verify(signed(HEADER), BODY) == "ws7orr8kbho6"


@pytest.mark.parametrize("name", ["x-webhook-signature", "X-Webhook-Signature", "X-WEBHOOK-SIGNATURE"])
def test_header_names_are_compared_without_regard_to_case(name: str) -> None:
    assert ring.verify({"host": "example.com", name: HEADER}, BODY)
    assert ring.verify(CIMultiDict({name: HEADER}), BODY)


def test_a_mapping_of_another_kind_is_read_by_its_items() -> None:
    class Headers(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            return {"X-Webhook-Signature": HEADER}[name]

        def __iter__(self) -> Iterator[str]:
            return iter(["X-Webhook-Signature"])

        def __len__(self) -> int:
            return 1

    assert ring.verify(Headers(), BODY) == "4o3vfxtcmo7b"


def test_a_repeated_header_counts_as_one() -> None:
    assert (
        ring.verify(CIMultiDict([("X-Webhook-Signature", "nonsense"), ("x-webhook-signature", SECOND)]), BODY) == "ws7orr8kbho6"
    )
    assert ring.verify({"X-Webhook-Signature": "nonsense", "x-webhook-signature": SECOND}, BODY) == "ws7orr8kbho6"


def test_digests_in_upper_case_are_the_same_digests() -> None:
    key_id, digest = FIRST.split(",")
    assert ring.verify(signed(f"{key_id},{digest.upper()}"), BODY) == key_id


def test_an_id_in_another_case_is_another_id() -> None:
    assert reason(signed(FIRST.upper())) == "unknown_key"


def test_the_digest_of_another_key_is_refused() -> None:
    assert reason(signed("4o3vfxtcmo7b," + SECOND.split(",")[1])) == "mismatch"


def test_a_right_digest_under_an_unknown_id_is_refused() -> None:
    assert reason(signed("aaaaaaaaaaaa," + FIRST.split(",")[1])) == "unknown_key"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "missing"),
        ({"x-webhook-signatur": HEADER}, "missing"),
        (signed(""), "malformed"),
        (signed("   "), "malformed"),
        (signed("4o3vfxtcmo7b"), "malformed"),
        (signed("4o3vfxtcmo7b,"), "malformed"),
        (signed("," + "0" * 64), "malformed"),
        (signed("4o3vfxtcmo7b," + "0" * 63), "malformed"),
        (signed("4o3vfxtcmo7b," + "0" * 65), "malformed"),
        (signed("4o3vfxtcmo7b,0x" + "0" * 62), "malformed"),
        (signed("4o3vfxtcmo7b," + "\u0660" * 64), "malformed"),
        (signed("4o3vfxtcmo7b," + "0" * 63 + "\udcff"), "malformed"),
        (signed("4o3vfxtcmo7b," + "0" * 64), "mismatch"),
        (signed("aaaaaaaaaaaa," + "0" * 64), "unknown_key"),
        (signed(None), "malformed"),
        (signed(7), "malformed"),
        (signed(HEADER.encode()), "malformed"),
        (signed([HEADER]), "malformed"),
        (CIMultiDict(), "missing"),
        ({7: HEADER, None: HEADER, b"x-webhook-signature": HEADER}, "missing"),
        (None, "missing"),
        ([("x-webhook-signature", HEADER)], "missing"),
        (7, "missing"),
    ],
)
def test_every_refusal_says_its_reason(headers: Any, expected: str) -> None:
    assert reason(headers) == expected


@pytest.mark.parametrize("body", [None, BODY.decode(), 7, memoryview(BODY)[::2], {"data": 1}])
def test_a_body_that_is_no_bytes_is_malformed(body: Any) -> None:
    assert reason(signed(HEADER), body) == "malformed"


anything = st.one_of(
    st.none(),
    st.integers(),
    st.binary(),
    st.text(),
    st.text(alphabet=st.characters(codec=None, categories=["Cs", "Zs", "Nd", "Ll"])),
    st.lists(st.sampled_from([FIRST, SECOND, "4o3vfxtcmo7b,", ",", "a,b,c", "\x00", "é,é"])).map(" ".join),
    st.text().map(lambda tail: f"4o3vfxtcmo7b,{tail}"),
)


@pytest.mark.slow
@given(
    value=anything,
    body=st.one_of(st.binary(), st.none(), st.text()),
    name=st.sampled_from(["x-webhook-signature", "X-Webhook-Signature"]),
)
def test_whatever_arrives_only_a_signature_error_comes_out(value: Any, body: Any, name: str) -> None:
    with pytest.raises(SignatureError) as caught:
        ring.verify(cast("Any", {name: value}), body)
    assert caught.value.reason in {"missing", "malformed", "unknown_key", "mismatch"}
    assert "\n" not in str(caught.value)


@given(body=st.binary(max_size=300))
def test_what_is_signed_verifies(body: bytes) -> None:
    assert ring.verify(signed(ring.sign(body)), body) == "4o3vfxtcmo7b"


@given(bit=st.integers(0, len(BODY) * 8 - 1))
def test_any_flipped_bit_of_the_body_is_refused(bit: int) -> None:
    changed = bytearray(BODY)
    changed[bit // 8] ^= 1 << bit % 8
    assert reason(signed(HEADER), bytes(changed)) == "mismatch"


@given(bit=st.integers(0, 32 * 8 - 1))
def test_any_flipped_bit_of_the_digest_is_refused(bit: int) -> None:
    key_id, digest = FIRST.split(",")
    changed = bytearray(bytes.fromhex(digest))
    changed[bit // 8] ^= 1 << bit % 8
    assert reason(signed(f"{key_id},{changed.hex()}")) == "mismatch"


noise = st.sampled_from(
    ["aaaaaaaaaaaa," + "0" * 64, "4o3vfxtcmo7b," + "0" * 64, "4o3vfxtcmo7b,zz", "no-comma", ",", "é,é", "a,b,c", "\udcff,\udcff"]
)


@given(
    before=st.lists(noise),
    after=st.lists(noise),
    gap=st.sampled_from([" ", "  ", "\t", " \t ", ", ", ",", " , "]),
    second=st.booleans(),
)
def test_order_white_space_unknown_ids_and_malformed_pairs_do_not_matter(
    before: list[str], after: list[str], gap: str, second: bool
) -> None:
    pair = SECOND if second else FIRST
    assert ring.verify(signed(gap + gap.join([*before, pair, *after]) + gap), BODY) == pair.split(",")[0]


@pytest.mark.parametrize(
    ("headers", "ids"),
    [
        (signed(HEADER), ("4o3vfxtcmo7b", "ws7orr8kbho6")),
        (signed(f"{FIRST}, {SECOND}, {FIRST}"), ("4o3vfxtcmo7b", "ws7orr8kbho6")),
        (signed("aaaaaaaaaaaa," + "0" * 64), ("aaaaaaaaaaaa",)),
        (signed("aaaaaaaaaaaa," + "0" * 63), ()),
        (signed(None), ()),
        ({}, ()),
    ],
)
def test_only_a_pair_of_a_known_key_is_admitted_and_claimed_ids_are_told(headers: Any, ids: tuple[str, ...]) -> None:
    assert ring.admits(headers) is not KEYS.keys().isdisjoint(ids)
    with pytest.raises(SignatureError) as caught:
        ring.verify(headers, b"another body")
    assert caught.value.key_ids == ids


@pytest.mark.parametrize("value", [None, "no pairs", f"unknown,{'0' * 64}", FIRST])
def test_a_refused_signature_is_read_once(value: str | None) -> None:
    class Counted(CIMultiDict[str]):
        readings = 0

        def getall(self, *words: Any) -> Any:
            self.readings += 1
            return super().getall(*words)

    headers = Counted() if value is None else Counted({"x-webhook-signature": value})
    with pytest.raises(SignatureError):
        ring.verify(headers, b"another body")
    assert headers.readings == 1


def test_at_most_one_hmac_for_each_key_and_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bytes] = []
    digest = hmac.digest

    def counted(key: bytes, body: bytes, name: str) -> bytes:
        calls.append(key)
        return digest(key, body, name)

    monkeypatch.setattr(hmac, "digest", counted)
    wrong = " ".join(f"{key_id},{number:064x}" for number in range(50) for key_id in (*KEYS, "aaaaaaaaaaaa"))
    assert reason(CIMultiDict([("x-webhook-signature", wrong), ("x-webhook-signature", wrong)])) == "mismatch"
    assert sorted(calls) == [b"webhook-secret-one", b"webhook-secret-two"]


@pytest.mark.parametrize(
    ("keys", "error", "where"),
    [
        ({}, ValueError, "webhook keys: "),
        ({"": "secret"}, ValueError, "webhook keys: "),
        ({"two words": "secret"}, ValueError, "webhook keys: "),
        ({"a,b": "secret"}, ValueError, "webhook keys: "),
        ({"é": "secret"}, ValueError, "webhook keys: "),
        ({7: "secret"}, TypeError, "webhook key ids: "),
        ({"a": ""}, ValueError, "webhook secret of a: "),
        ({"a": "  \n"}, ValueError, "webhook secret of a: "),
        ({"a": b"secret"}, TypeError, "webhook secret of a: "),
        ({"a": None}, TypeError, "webhook secret of a: "),
        ({"a": "hidden-canary\udcff"}, ValueError, "webhook secret of a: "),
        ([("a", "secret")], TypeError, "webhook keys: "),
    ],
)
def test_keys_that_cannot_be_are_refused_at_construction(keys: Any, error: type[Exception], where: str) -> None:
    with pytest.raises(error, match=f"^{where}") as caught:
        Keyring(keys)
    assert "canary" not in str(caught.value)


def test_a_keyring_shows_its_ids_and_never_its_secrets() -> None:
    assert repr(ring) == "<Keyring of 4o3vfxtcmo7b, ws7orr8kbho6>"
    assert copy.copy(ring) is ring
    assert copy.deepcopy(ring) is ring
    with pytest.raises(TypeError):
        pickle.dumps(ring)
