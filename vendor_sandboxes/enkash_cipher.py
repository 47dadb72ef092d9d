"""The vendor's body encryption: AES-128 in ECB mode with PKCS7 padding, the key from the client secret."""

from __future__ import annotations

import base64
import hashlib
import json

_BLOCK = 16


class BodyCipher:
    """Encrypt and decrypt bodies as `{"request": "<base64>"}`.

    Args:
        secret: The client secret.

    Raises:
        ModuleNotFoundError: `cryptography` is not installed.
    """

    def __init__(self, secret: str) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - no base dependency
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("encrypted bodies need cryptography: pip install 'rewards-async[encryption]'") from error

        key = hashlib.sha256(secret.encode()).digest()[:_BLOCK]
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - what the vendor documents

    def encrypt(self, plain: bytes) -> bytes:
        """Return the envelope around the encrypted body."""
        missing = _BLOCK - len(plain) % _BLOCK
        encryptor = self._cipher.encryptor()
        secret = encryptor.update(plain + bytes([missing]) * missing) + encryptor.finalize()
        return json.dumps({"request": base64.b64encode(secret).decode()}).encode()

    def decrypt(self, envelope: bytes) -> bytes:
        """Return the body inside an envelope.

        Raises:
            ValueError: it is none, or was encrypted with another secret.
        """
        match json.loads(envelope):
            case {"request": str(text)}:
                secret = base64.b64decode(text, validate=True)
            case _:
                raise ValueError('expected {"request": "<base64>"}')
        decryptor = self._cipher.decryptor()
        padded = decryptor.update(secret) + decryptor.finalize()
        if not padded or not 1 <= padded[-1] <= _BLOCK or padded[-padded[-1] :] != bytes([padded[-1]]) * padded[-1]:
            raise ValueError("expected PKCS7 padding")
        return padded[: -padded[-1]]
