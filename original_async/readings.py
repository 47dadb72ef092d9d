"""How a signature that arrived can be read, whether or not `verify` accepts it.

The vendor's pages name HMAC-SHA256 and show hex, but leave open over which bytes and with which form of the secret. `verify`
takes the nearest reading; this tries those that other vendors use, so that a first real delivery says which it is.
See https://docs.getoriginal.com/docs/verifying-webhooks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from attrs import frozen

from original_async.signature import SIGNATURE_HEADER
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import canonical, dumps, loads
from rewards_core.secrets import Secret, SecretHolder, shielded

_ALGORITHMS: Mapping[int, str] = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_MAX_DIGESTS = 16
_MAX_STAMPS = 4
_TELLING_NAMES = ("signature", "hmac", "digest")
_written_digest = re.compile(
    r'(?:(?P<label>[^\s,;=:"]{1,200})(?P<joint>[,=:]))?"?(?P<digest>[0-9A-Za-z+/_-]{27,128}={0,2})'
).finditer
_is_hex = re.compile(r"[0-9A-Fa-f]+").fullmatch
_stamp_beside = re.compile(r"\bt=([0-9]{9,13})\b").findall
_RAW = "the raw body"
_TEXT = "as text"


@frozen(kw_only=True)
class Reading:
    """How one digest of a delivery's signature reads.

    Attributes:
        header: The header it stands in.
        names_key: The key id before it, None where none stands there.
        known_key: Whether that key is configured.
        written: How its bytes are written, such as `"lower-case hex"`.
        made_with: The id of the key whose secret made it, None where no reading fits.
        reads_as: What was signed and with what, in words; None where no reading fits.
        differs: What `verify` expects otherwise, a sentence each; empty if the reading is the one it accepts.
    """

    header: str
    names_key: str | None
    known_key: bool
    written: str
    made_with: str | None = None
    reads_as: str | None = None
    differs: tuple[str, ...] = ()

    @property
    def ours(self) -> bool:
        """Whether a secret that is configured here made it, so that it comes from the vendor."""
        return self.made_with is not None


@frozen
class _Written:
    """A digest as it stands in a header."""

    header: str
    label: str | None
    joint: str
    digest: bytes
    written: str


class SignatureReader(SecretHolder):
    """Hold webhook secrets, and say how signatures read; no secret and no computed digest leaves it.

    Args:
        keys: Key id to webhook secret.

    Raises:
        ValueError: a secret cannot be one.
    """

    __slots__ = ("__forms", "__secrets")

    @shielded
    def __init__(self, keys: Mapping[str, str]) -> None:
        self.__secrets = {key_id: Secret(secret, f"webhook secret of {key_id}") for key_id, secret in keys.items()}
        self.__forms = {key_id: _forms_of(secret) for key_id, secret in keys.items()}

    @shielded
    def read(self, headers: Iterable[tuple[str, str]], body: bytes) -> list[Reading]:
        """Return how each digest of a delivery's signature reads, in the order in which they stand there.

        Args:
            headers: Names and values as they arrived, repeated ones too.
            body: The raw bytes.
        """
        items = [(name.lower(), value) for name, value in headers]
        digests = list(islice(_digests_in(items), _MAX_DIGESTS))
        fits: dict[int, tuple[str, str, str]] = {}
        for message, signed in _messages(items, body):
            for key_id, form, secret in self._secret_forms():
                for number, each in enumerate(digests):
                    if number not in fits and _made(each.digest, secret, signed):
                        fits[number] = (message, key_id, form)
            if len(fits) == len(digests):
                break
        return [self._reading(each, fits.get(number)) for number, each in enumerate(digests)]

    @shielded
    def without_secrets(self, text: str) -> str:
        """Return a text in which no secret stands, as it is or as it stands inside JSON."""
        for secret in self.__secrets.values():
            for written in {secret.reveal(), json.dumps(secret.reveal())[1:-1]}:
                text = text.replace(written, "[a webhook secret]")
        return text

    def __repr__(self) -> str:
        return f"<SignatureReader of {', '.join(self.__secrets)}>"

    def _secret_forms(self) -> Iterator[tuple[str, str, bytes]]:
        for key_id, forms in self.__forms.items():
            for form, secret in forms:
                yield key_id, form, secret

    def _reading(self, each: _Written, fit: tuple[str, str, str] | None) -> Reading:
        known = each.label in self.__secrets
        label = each.label if known or each.joint == "," else None
        if fit is None:
            return Reading(header=each.header, names_key=label, known_key=known, written=each.written)
        message, key_id, form = fit
        algorithm = _ALGORITHMS[len(each.digest)].upper()
        return Reading(
            header=each.header,
            names_key=label,
            known_key=known,
            written=each.written,
            made_with=key_id,
            reads_as=f"HMAC-{algorithm} of {message} with the secret of key {key_id} {form}, in {each.written}",
            differs=tuple(_differences(each, message, key_id, form, algorithm)),
        )


def _differences(each: _Written, message: str, key_id: str, form: str, algorithm: str) -> Iterator[str]:
    """Yield what `verify` expects otherwise."""
    if each.header != SIGNATURE_HEADER:
        yield f"it stands in the header {each.header}, not in {SIGNATURE_HEADER}"
    if each.label is None:
        yield 'it stands alone, not as "keyid,digest"'
    elif each.joint != ",":
        yield f'it is written as "name{each.joint}digest", not as "keyid,digest"'
    elif each.label != key_id:
        yield f"it names the key {each.label}, but the secret of key {key_id} made it"
    if algorithm != "SHA256":
        yield f"it is HMAC-{algorithm}, not HMAC-SHA256"
    if not each.written.endswith("hex"):
        yield f"it is written in {each.written}, not in hex"
    if message != _RAW:
        yield f"it is over {message}, not over {_RAW}"
    if form != _TEXT:
        yield f"the secret is taken {form}, not {_TEXT}"


def _made(digest: bytes, secret: bytes, signed: bytes) -> bool:
    return hmac.compare_digest(digest, hmac.digest(secret, signed, _ALGORITHMS[len(digest)]))


def _digests_in(items: Iterable[tuple[str, str]]) -> Iterator[_Written]:
    """Yield what can be a digest in the signature header; without that header, in those whose names say as much."""
    items = list(items)
    named = [item for item in items if item[0] == SIGNATURE_HEADER]
    for header, value in named or [item for item in items if any(word in item[0] for word in _TELLING_NAMES)]:
        for found in _written_digest(value):
            decoded = _decoded(found["digest"])
            if decoded is not None:
                yield _Written(header, found["label"], found["joint"] or "", *decoded)


def _decoded(text: str) -> tuple[bytes, str] | None:
    """Return the bytes of a digest and how they are written, None where it can be none."""
    if _is_hex(text) and len(text) // 2 in _ALGORITHMS and len(text) % 2 == 0:
        case = "lower-case" if text == text.lower() else "upper-case" if text == text.upper() else "mixed-case"
        return bytes.fromhex(text), f"{case} hex"
    url_safe = "-" in text or "_" in text
    padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
    decoded = _from_base64(padded)
    if decoded is None or len(decoded) not in _ALGORITHMS:
        return None
    return decoded, ("base64url" if url_safe else "base64") + ("" if padded == text else " without padding")


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return None


def _forms_of(secret: str) -> list[tuple[str, bytes]]:
    """Return the keys that a secret may mean: its text, or what it is the base64 or hex of."""
    forms = [(_TEXT, secret.encode("utf-8"))]
    bare = secret.partition("_")[2] if secret.startswith("whsec_") else secret
    if bare != secret:
        forms.append(("as text without its prefix", bare.encode("utf-8")))
    decoded = _from_base64(bare + "=" * (-len(bare.rstrip("=")) % 4 if not bare.endswith("=") else 0)) if bare.isascii() else None
    if decoded:
        forms.append(("decoded from base64", decoded))
    if _is_hex(bare) and len(bare) % 2 == 0:
        forms.append(("decoded from hex", bytes.fromhex(bare)))
    return forms


def _messages(items: list[tuple[str, str]], body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what may have been signed, the likeliest first, each with its name."""
    yield _RAW, body
    bare = body.removeprefix(b"\xef\xbb\xbf").strip()
    yield "the body without the white space around it", bare
    yield "the body and a line feed", body + b"\n"
    yield "the body and a carriage return with a line feed", body + b"\r\n"
    try:
        exact = loads(bare)
    except UnexpectedResponse:
        exact = None
    yield from _written_again("the body", exact, bare)
    if type(exact) is dict and "data" in exact:
        yield from _written_again("its member data", exact["data"], None)
    for stamp in islice(_stamps(items, exact), _MAX_STAMPS):
        text = stamp.encode("utf-8", "surrogateescape")
        for joint in (b".", b"", b":"):
            yield f"a time or id, {'nothing' if not joint else repr(joint.decode())} and the body", text + joint + body
        yield "'v0:', a time, ':' and the body", b"v0:" + text + b":" + body
        for other in islice(_ids(items), _MAX_STAMPS):
            joined = other.encode("utf-8", "surrogateescape") + b"." + text
            yield "an id, '.', a time, '.' and the body", joined + b"." + body
    yield "the base64 of the body", base64.b64encode(body)
    yield "the SHA-256 of the body in hex", hashlib.sha256(body).hexdigest().encode()


def _written_again(what: str, exact: Any, text: bytes | None) -> Iterator[tuple[str, bytes]]:
    """Yield a value as it may be written again after it was parsed, in the ways of several languages."""
    if exact is None:
        return
    yield f"{what} parsed and written again, compact", dumps(exact)
    yield f"{what} parsed and written again, compact, keys sorted", canonical(exact)
    try:
        value = json.loads(dumps(exact) if text is None else text)
    except RecursionError:
        return
    for order in (False, True):
        for blanks, separators in (("compact", (",", ":")), ("with spaces", (", ", ": "))):
            for escaped in (True, False):
                words = f"{blanks}{', keys sorted' if order else ''}{', beyond ASCII escaped' if escaped else ''}"
                signed = _quietly(value, separators=separators, sort_keys=order, ensure_ascii=escaped)
                yield f"{what} parsed and written again, {words}", signed
    yield f"{what} parsed and written again, indented by 2", _quietly(value, indent=2, ensure_ascii=False)


def _quietly(value: Any, **options: Any) -> bytes:
    """Return a value as JSON, nothing where it cannot be written."""
    try:
        return json.dumps(value, **options).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b""


def _stamps(items: Iterable[tuple[str, str]], content: Any) -> Iterator[str]:
    """Yield the times and ids of a delivery that may stand before its body where it is signed."""
    for name, value in items:
        if "timestamp" in name or name == "date":
            yield value
        if any(word in name for word in _TELLING_NAMES):
            yield from _stamp_beside(value)
    if type(content) is dict:
        yield from (content[name] for name in ("sent_at", "event_time") if isinstance(content.get(name), str))
    yield from _ids(items)


def _ids(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, value in items:
        if name.endswith("-id"):
            yield value
