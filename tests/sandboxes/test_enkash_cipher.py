"""The sandboxed EnKash encrypts bodies as the vendor's guide says."""

from __future__ import annotations

import json

import pytest

from vendor_sandboxes.enkash import BodyCipher

VECTOR_PLAIN = b'{"companyId":"CEK0TCW2W8","event":"REFERRAL_EVENT","requestId":"COIN_REQ1234567","userId":"EKQZVMQK"}'
VECTOR_SECRET = (
    "bkT7UhCGsk0ekWm1Q2ZCR7gLQrfvucsPcEVZR4R6KXc/8c7e+juN8jW+B4cwpL7Pv98Xp2gOV6XZckP9tn/1lMl6LhtBFuh4vKOvKC0rI3ikLeqScb3CJ5d+9MHNjYIM"
    "/P2MW0rXXExMAVNaGSNyNA=="
)


def test_cipher_agrees_with_the_vector() -> None:
    cipher = BodyCipher("demo-client-secret")
    assert json.loads(cipher.encrypt(VECTOR_PLAIN)) == {"request": VECTOR_SECRET}
    assert cipher.decrypt(json.dumps({"request": VECTOR_SECRET}).encode()) == VECTOR_PLAIN


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17])
def test_cipher_gives_back_bodies_of_every_length(length: int) -> None:
    cipher = BodyCipher("secret")
    assert cipher.decrypt(cipher.encrypt(b"x" * length)) == b"x" * length


@pytest.mark.parametrize(
    "envelope", [b"{}", b"[]", b'{"request": 1}', b'{"request": "%"}', b'{"request": ""}', b'{"request": "eA=="}', b"x"]
)
def test_cipher_refuses_what_is_no_envelope(envelope: bytes) -> None:
    with pytest.raises(ValueError):
        BodyCipher("secret").decrypt(envelope)


def test_cipher_refuses_what_was_encrypted_with_another_secret() -> None:
    with pytest.raises(ValueError):
        BodyCipher("secret").decrypt(BodyCipher("another").encrypt(b"{}"))
