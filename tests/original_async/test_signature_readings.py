"""Every scheme by which a configured key may have made a signature is recognized; other digests have no reading."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import pickle
from collections.abc import Callable, Mapping

import pytest

from original_async import OriginalWebhooks
from original_async.signature import SIGNATURE_HEADER
from original_async.signature_readings import SignatureReader, SignatureReading
from rewards_core.errors import SignatureError
from tests.texts import said

KEYS = {"4o3vfxtcmo7b": "c2VjcmV0LW9mLXRlc3Rz", "ws7orr8kbho6": "00112233445566778899aabbccddeeff"}
FIRST, SECOND = KEYS
BODY = '{"event": "reward.allocated",  "data": {"name": "दिवाली", "amount": 1.50}, "sent_at": "2024-01-01"}\n'.encode()
PARSED = json.loads(BODY)


def digest(body: bytes = BODY, key: bytes = KEYS[FIRST].encode(), name: str = "sha256") -> bytes:
    return hmac.digest(key, body, name)


def pair(made: bytes = digest(), key_id: str = FIRST) -> str:
    return f"{key_id},{made.hex()}"


def read(value: str, header: str = SIGNATURE_HEADER, body: bytes = BODY, **headers: str) -> list[SignatureReading]:
    more = [(name.replace("_", "-"), each) for name, each in headers.items()]
    return SignatureReader(KEYS).read([(header, value), *more], body)


def accepted(headers: Mapping[str, str], body: bytes = BODY) -> bool:
    try:
        OriginalWebhooks(KEYS).verify(headers, body)
    except SignatureError:
        return False
    return True


def again(**options: object) -> bytes:
    return json.dumps(PARSED, **options).encode()  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [str.lower, str.upper])
def test_what_verify_accepts_reads_as_hex_over_the_raw_body_and_differs_in_nothing(write: Callable[[str], str]) -> None:
    value = f"{FIRST},{write(digest().hex())}"
    (reading,) = read(value)
    assert accepted({SIGNATURE_HEADER: value})
    assert (reading.names_key, reading.made_with, reading.known_key, reading.differs) == (FIRST, FIRST, True, ())
    said("a signature that verifies", str(reading.reads_as).replace(str(reading.written), "HEX"))


REJECTED = [
    f"{FIRST},{base64.b64encode(digest()).decode()}",
    f"{FIRST},{base64.urlsafe_b64encode(digest(BODY + b'')).decode().rstrip('=')}",
    pair(digest(), "ws7orr8kbho6"),
    pair(digest(), "unknown"),
    digest().hex(),
    f"sha256={digest().hex()}",
    f"t=1700000000,v1={digest(b'1700000000.' + BODY).hex()}",
    pair(digest(name="sha512")),
    pair(digest(name="sha1")),
    pair(digest(BODY.strip())),
    pair(digest(BODY + b"\n")),
    pair(digest(again(separators=(",", ":")))),
    pair(digest(again())),
    pair(digest(again(ensure_ascii=False))),
    pair(digest(again(sort_keys=True))),
    pair(digest(again(sort_keys=True, separators=(",", ":"), ensure_ascii=False))),
    pair(digest(again(indent=2, ensure_ascii=False))),
    pair(digest(json.dumps(PARSED["data"]).encode())),
    pair(digest(base64.b64encode(BODY))),
    pair(digest(hashlib.sha256(BODY).hexdigest().encode())),
    pair(digest(key=base64.b64decode(KEYS[FIRST]))),
    pair(digest(key=bytes.fromhex(KEYS[SECOND])), SECOND),
    pair(digest(b"2024-01-01." + BODY)),
]


def test_what_verify_rejects_though_a_key_made_it_is_read_and_its_differences_are_said() -> None:
    texts = []
    for value in REJECTED:
        (reading,) = read(value)
        assert not accepted({SIGNATURE_HEADER: value})
        assert reading.ours
        texts.append("; ".join(reading.differs))
    said("signature: what differs from the accepted scheme", "\n".join(texts))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_exact_number_is_written_again_with_all_its_digits(number: int) -> None:
    body = b'{"amount": 1.50, "big": 123456789012345678901.123456789012345678}'
    written = [
        b'{"amount":1.50,"big":123456789012345678901.123456789012345678}',
        b'{"amount":1.5,"big":1.2345678901234568e+20}',
        body,
    ]
    (reading,) = read(pair(digest(written[number])), body=body)
    assert reading.ours


def test_a_time_and_an_id_from_headers_may_stand_before_the_body() -> None:
    made = digest(b"msg_1.1700000000." + BODY)
    (reading,) = read(f"v1,{base64.b64encode(made).decode()}", webhook_id="msg_1", webhook_timestamp="1700000000")
    said("signature: an id and a time before the body", "; ".join(reading.differs))


def test_another_header_that_looks_like_a_signature_is_read_where_the_documented_one_is_missing() -> None:
    (reading,) = read(pair(), "X-Original-Hmac")
    said("signature: another header", "; ".join(reading.differs))
    assert [each.header for each in read(pair(), x_other_signature=pair())] == [SIGNATURE_HEADER]


def test_each_pair_is_read_by_itself_and_one_by_nobody_has_no_reading() -> None:
    readings = read(f"{pair()} other,{'a' * 64} {pair(digest(key=KEYS[SECOND].encode()), SECOND)}")
    assert [(each.names_key, each.known_key, each.made_with) for each in readings] == [
        (FIRST, True, FIRST),
        ("other", False, None),
        (SECOND, True, SECOND),
    ]
    assert readings[1].reads_as is None
    assert not readings[1].ours


@pytest.mark.parametrize(
    "value",
    ["", "  ", "a,b", ",", "=", f"{FIRST},", "x" * 8_000, f"{FIRST},{'g' * 64}", "ü," * 100, "a," + "A" * 42 + "=", "\udcff"],
)
def test_what_is_no_digest_of_a_key_has_no_reading(value: str) -> None:
    assert not any(reading.ours for reading in read(value))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 900 + b"]" * 900,
        b"[" * 262_144,
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        b"1" * 5_000,
        b"1e999999999",
        b'{"data": 1e400}',
    ],
)
def test_a_body_that_is_no_json_is_read_as_bytes_all_the_same(body: bytes) -> None:
    (reading,) = read(pair(digest(body)), body=body)
    assert reading.differs == ()
    (reading,) = read(pair(digest(body + b"\n")), body=body)
    assert reading.ours


def test_no_more_than_sixteen_digests_are_tried() -> None:
    assert len(read(" ".join(f"k{number},{number:064x}" for number in range(100)))) == 16


def test_a_secret_leaves_its_reader_in_no_way() -> None:
    reader = SignatureReader({"k": 'a"secret'})
    assert "secret" not in repr(reader).replace("SignatureReader", "")
    assert copy.copy(reader) is reader
    assert copy.deepcopy(reader) is reader
    with pytest.raises(TypeError):
        pickle.dumps(reader)
    assert reader.without_secrets('x a"secret y a\\"secret') == "x [a webhook secret] y [a webhook secret]"
    with pytest.raises(ValueError, match=" of k"):
        SignatureReader({"k": "with a\nbreak"})


def test_a_prefix_that_names_a_secret_may_be_none_of_it() -> None:
    keys = {"k": "whsec_" + base64.b64encode(b"0123456789abcdef").decode()}
    for key, words in ((b"0123456789abcdef", "decoded from base64"), (keys["k"][6:].encode(), "without its prefix")):
        (reading,) = SignatureReader(keys).read([(SIGNATURE_HEADER, f"k,{digest(key=key).hex()}")], BODY)
        assert words in reading.differs[0]
