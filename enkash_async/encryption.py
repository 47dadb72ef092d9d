"""Encrypt bodies as EnKash's guide to Payouts describes: AES-128 in ECB mode under a key derived from the client secret.

ECB hides neither repetition nor tampering, so it does not replace TLS. It exists because EnKash may require it.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from typing import Any, NoReturn

from rewards_core.errors import UnexpectedResponse
from rewards_core.install_hint import install_hint
from rewards_core.json import dumps, loads
from rewards_core.secrets import Secret, shielded

BLOCK = 128
"""Bits of a block, and of the key."""


class BodyCipher:
    """Encrypt request bodies and decrypt answers.

    Args:
        client_secret: The client secret that EnKash issued.

    Raises:
        ImportError: the extra `encryption` is not installed.
        TypeError: the secret is not a str.
        ValueError: the secret is empty or was damaged by copying.
    """

    @shielded
    def __init__(self, client_secret: str | Secret) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - an extra
            from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415 - an extra
        except ImportError:
            raise ImportError(f"Encryption needs the package cryptography. Run {install_hint('encryption')}.") from None
        secret = client_secret if isinstance(client_secret, Secret) else Secret(client_secret, "client_secret")
        key = hashlib.sha256(secret.reveal().encode()).digest()[: BLOCK // 8]
        self._cipher: Cipher[Any] = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - the mode the vendor prescribes
        self._padding = PKCS7(BLOCK)

    def __repr__(self) -> str:
        return "<BodyCipher: key hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A BodyCipher cannot be copied or pickled: it holds a key. Create another one.")

    def encrypt(self, body: bytes) -> bytes:
        """Return a request body with these bytes, encrypted."""
        padder, encryptor = self._padding.padder(), self._cipher.encryptor()
        padded = padder.update(body) + padder.finalize()
        return dumps({"request": b64encode(encryptor.update(padded) + encryptor.finalize()).decode()})

    def decrypt(self, body: bytes) -> bytes:
        """Return the content of an encrypted body; a body of another form is returned unchanged.

        Raises:
            UnexpectedResponse: the body has the form but was not encrypted under this key.
        """
        try:
            reply = loads(body)
        except UnexpectedResponse:
            return body
        if not isinstance(reply, dict) or reply.keys() != {"request"} or not isinstance(reply["request"], str):
            return body
        decryptor, unpadder = self._cipher.decryptor(), self._padding.unpadder()
        try:
            padded = decryptor.update(b64decode(reply["request"], validate=True)) + decryptor.finalize()
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            pass
        raise UnexpectedResponse("request: it was encrypted under another secret. Check the client secret.", path="request")
