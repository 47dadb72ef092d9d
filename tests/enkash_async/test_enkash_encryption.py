"""Encryption of bodies, compared with a vector of another implementation."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from base64 import b64encode

import pytest

from enkash_async import BodyCipher
from rewards_core.errors import UnexpectedResponse

SECRET = "demo-client-secret"
PLAIN = b'{"companyId":"CEK0TCW2W8","event":"REFERRAL_EVENT","requestId":"COIN_REQ1234567","userId":"EKQZVMQK"}'
ENCRYPTED = (
    "bkT7UhCGsk0ekWm1Q2ZCR7gLQrfvucsPcEVZR4R6KXc/8c7e+juN8jW+B4cwpL7Pv98Xp2gOV6XZckP9tn/1lMl6LhtBFuh4vKOvKC0rI3ikLeqScb3CJ5d+9MHN"
    "jYIM/P2MW0rXXExMAVNaGSNyNA=="
)


def test_the_vector_is_met_in_both_directions() -> None:
    cipher = BodyCipher(SECRET)

    assert json.loads(cipher.encrypt(PLAIN)) == {"request": ENCRYPTED}
    assert cipher.decrypt(json.dumps({"request": ENCRYPTED}).encode()) == PLAIN


@pytest.mark.parametrize("body", [b"", b"x", b"0123456789abcde", b"0123456789abcdef", b"\xff" * 100])
def test_what_was_encrypted_comes_back(body: bytes) -> None:
    cipher = BodyCipher(SECRET)

    assert cipher.decrypt(cipher.encrypt(body)) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"response_code": 1, "response_message": "no"}',
        b'{"request": 5}',
        b'{"request": "AAAA", "response_code": 0}',
    ],
)
def test_an_answer_in_plain_text_is_left_as_it_is(body: bytes) -> None:
    assert BodyCipher(SECRET).decrypt(body) == body


@pytest.mark.parametrize(
    "text",
    ["", "not base64!", "AAAA", b64encode(b"0" * 15).decode(), b64encode(b"0" * 16).decode(), ENCRYPTED[:-4]],
)
def test_what_was_not_encrypted_under_this_key_is_refused(text: str) -> None:
    with pytest.raises(UnexpectedResponse):
        BodyCipher(SECRET).decrypt(json.dumps({"request": text}).encode())


def test_another_secret_cannot_read_it() -> None:
    with pytest.raises(UnexpectedResponse):
        BodyCipher("another-secret").decrypt(json.dumps({"request": ENCRYPTED}).encode())


def test_without_the_extra_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)

    with pytest.raises(ImportError, match=r"pip install 'rewards-async\[encryption\]'"):
        BodyCipher(SECRET)


def test_a_cipher_neither_shows_nor_lends_its_key() -> None:
    cipher = BodyCipher(SECRET)

    assert repr(cipher) == "<BodyCipher: key hidden>"
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="BodyCipher"):
            leave(cipher)


def test_an_empty_secret_makes_no_key() -> None:
    with pytest.raises(ValueError, match="client_secret"):
        BodyCipher("")
