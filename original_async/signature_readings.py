"""Find out how a signature was made, even one that `verify` rejects, so that a first real delivery shows the vendor's scheme.

The vendor's pages name HMAC-SHA256 and show hex, but leave open which bytes are signed and in which form the secret is used.
`verify` accepts the most natural scheme; this tries the schemes of other vendors as well. See
https://docs.getoriginal.com/docs/verifying-webhooks.
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

from attrs import evolve, frozen

from original_async.signature import SIGNATURE_HEADER
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import canonical, dumps, loads
from rewards_core.secrets import Secret, SecretHolder, shielded

_ALGORITHMS: Mapping[int, str] = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_MAX_DIGESTS = 16
_MAX_PREFIXES = 4
_SIGNATURE_WORDS = ("signature", "hmac", "digest")
_find_digests = re.compile(
    r'(?:(?P<label>[^\s,;=:"]{1,200})(?P<separator>[,=:]))?"?(?P<digest>[0-9A-Za-z+/_-]{27,128}={0,2})'
).finditer
_is_hex = re.compile(r"[0-9A-Fa-f]+").fullmatch
_find_timestamps = re.compile(r"\bt=([0-9]{9,13})\b").findall
_RAW = "the raw body"
_TEXT = "as text"


@frozen(kw_only=True)
class SignatureReading:
    """How one digest in a delivery's signature was made, as far as that can be found out.

    Attributes:
        header: The header that holds it.
        names_key: The key id before it, None if there is none.
        known_key: Whether that key is configured.
        written: Its encoding, such as `"lower-case hex"`.
        made_with: The id of the key whose secret made it, None if no scheme matches.
        reads_as: The scheme in words; None if none matches.
        differs: How the scheme differs from the one that `verify` accepts, a clause each; empty if it does not.
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
        """Whether a secret that is configured here made it, so that the delivery is genuine."""
        return self.made_with is not None


@frozen
class _Digest:
    header: str
    label: str | None
    separator: str
    value: bytes
    encoding: str


class SignatureReader(SecretHolder):
    """Find out how signatures were made, under some webhook secrets; no secret and no computed digest leaves the object.

    Args:
        keys: Webhook secrets by key id.

    Raises:
        ValueError: a secret is invalid.
    """

    __slots__ = ("__forms", "__secrets")

    @shielded
    def __init__(self, keys: Mapping[str, str]) -> None:
        self.__secrets = {key_id: Secret(secret, f"webhook secret of {key_id}") for key_id, secret in keys.items()}
        self.__forms = {key_id: _forms_of(secret) for key_id, secret in keys.items()}

    @shielded
    def read(self, headers: Iterable[tuple[str, str]], body: bytes) -> list[SignatureReading]:
        """Return how each digest of a delivery's signature was made, in the order of the headers.

        Args:
            headers: Names and values as they arrived, repeated ones included.
            body: The raw bytes.
        """
        items = [(name.lower(), value) for name, value in headers]
        digests = list(islice(_digests_in(items), _MAX_DIGESTS))
        matches: dict[int, tuple[str, str, str]] = {}
        for message, signed in _messages(items, body):
            for key_id, forms in self.__forms.items():
                for form, secret in forms:
                    for number, each in enumerate(digests):
                        if number not in matches and _made(each.value, secret, signed):
                            matches[number] = (message, key_id, form)
            if len(matches) == len(digests):
                break
        return [self._reading(each, matches.get(number)) for number, each in enumerate(digests)]

    @shielded
    def without_secrets(self, text: str) -> str:
        """Return a text with every secret replaced, also where it is escaped as in JSON."""
        for secret in self.__secrets.values():
            for written in {secret.reveal(), json.dumps(secret.reveal())[1:-1]}:
                text = text.replace(written, "[a webhook secret]")
        return text

    def __repr__(self) -> str:
        return f"<SignatureReader of {', '.join(self.__secrets)}>"

    def _reading(self, each: _Digest, match: tuple[str, str, str] | None) -> SignatureReading:
        known = each.label in self.__secrets
        label = each.label if known or each.separator == "," else None
        reading = SignatureReading(header=each.header, names_key=label, known_key=known, written=each.encoding)
        if match is None:
            return reading
        message, key_id, form = match
        algorithm = _ALGORITHMS[len(each.value)].upper()
        return evolve(
            reading,
            made_with=key_id,
            reads_as=f"HMAC-{algorithm} of {message} with the secret of key {key_id} {form}, in {each.encoding}",
            differs=tuple(_differences(each, message, key_id, form, algorithm)),
        )


def _differences(each: _Digest, message: str, key_id: str, form: str, algorithm: str) -> Iterator[str]:
    if each.header != SIGNATURE_HEADER:
        yield f"it is in the header {each.header}, not in {SIGNATURE_HEADER}"
    if each.label is None:
        yield 'it has no key id: the form is "keyid,digest"'
    elif each.separator != ",":
        yield f'it is written as "name{each.separator}digest", not as "keyid,digest"'
    elif each.label != key_id:
        yield f"it names the key {each.label}, but the secret of key {key_id} made it"
    if algorithm != "SHA256":
        yield f"it is HMAC-{algorithm}, not HMAC-SHA256"
    if not each.encoding.endswith("hex"):
        yield f"it is written in {each.encoding}, not in hex"
    if message != _RAW:
        yield f"it signs {message}, not {_RAW}"
    if form != _TEXT:
        yield f"the secret is used {form}, not {_TEXT}"


def _made(digest: bytes, secret: bytes, signed: bytes) -> bool:
    return hmac.compare_digest(digest, hmac.digest(secret, signed, _ALGORITHMS[len(digest)]))


def _digests_in(items: Iterable[tuple[str, str]]) -> Iterator[_Digest]:
    """Yield every possible digest in the signature header; if that is missing, in headers whose names suggest a signature."""
    items = list(items)
    named = [item for item in items if item[0] == SIGNATURE_HEADER]
    for header, value in named or [item for item in items if any(word in item[0] for word in _SIGNATURE_WORDS)]:
        for found in _find_digests(value):
            decoded = _decoded(found["digest"])
            if decoded is not None:
                yield _Digest(header, found["label"], found["separator"] or "", *decoded)


def _decoded(text: str) -> tuple[bytes, str] | None:
    """Return the bytes of a digest and their encoding, None if the text cannot be a digest."""
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
    """Return the keys that a secret may stand for: its text, or the bytes that it encodes in base64 or hex."""
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
    """Yield the messages that may have been signed, the likeliest first, each with its name."""
    yield _RAW, body
    bare = body.removeprefix(b"\xef\xbb\xbf").strip()
    yield "the body without surrounding white space", bare
    yield "the body and a line feed", body + b"\n"
    yield "the body, a carriage return and a line feed", body + b"\r\n"
    try:
        exact = loads(bare)
    except UnexpectedResponse:
        exact = None
    yield from _serialized("the body", exact, bare)
    if type(exact) is dict and "data" in exact:
        yield from _serialized("its member data", exact["data"], None)
    ids = [value for name, value in items if name.endswith("-id")]
    for prefix in islice(_prefixes(items, exact, ids), _MAX_PREFIXES):
        text = prefix.encode("utf-8", "surrogateescape")
        for separator in (b".", b"", b":"):
            yield f"a time or id, {separator.decode()!r} and the body", text + separator + body
        yield "'v0:', a time, ':' and the body", b"v0:" + text + b":" + body
        for other in ids[:_MAX_PREFIXES]:
            joined = other.encode("utf-8", "surrogateescape") + b"." + text
            yield "an id, '.', a time, '.' and the body", joined + b"." + body
    yield "the base64 of the body", base64.b64encode(body)
    yield "the SHA-256 of the body in hex", hashlib.sha256(body).hexdigest().encode()


def _serialized(what: str, exact: Any, text: bytes | None) -> Iterator[tuple[str, bytes]]:
    """Yield a value as several languages serialize it after parsing."""
    if exact is None:
        return
    yield f"{what} parsed and serialized, compact", dumps(exact)
    yield f"{what} parsed and serialized, compact, keys sorted", canonical(exact)
    try:
        value = json.loads(dumps(exact) if text is None else text)
    except RecursionError:
        return
    for order in (False, True):
        for blanks, separators in (("compact", (",", ":")), ("with spaces", (", ", ": "))):
            for escaped in (True, False):
                words = f"{blanks}{', keys sorted' if order else ''}{', non-ASCII escaped' if escaped else ''}"
                signed = _json(value, separators=separators, sort_keys=order, ensure_ascii=escaped)
                yield f"{what} parsed and serialized, {words}", signed
    yield f"{what} parsed and serialized, indented by 2", _json(value, indent=2, ensure_ascii=False)


def _json(value: Any, **options: Any) -> bytes:
    """Return a value as JSON, nothing if it is nested too deeply."""
    try:
        return json.dumps(value, **options).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b""


def _prefixes(items: Iterable[tuple[str, str]], content: Any, ids: Iterable[str]) -> Iterator[str]:
    """Yield the times and ids of a delivery that may precede its body in the signed message."""
    for name, value in items:
        if "timestamp" in name or name == "date":
            yield value
        if any(word in name for word in _SIGNATURE_WORDS):
            yield from _find_timestamps(value)
    if type(content) is dict:
        yield from (content[name] for name in ("sent_at", "event_time") if isinstance(content.get(name), str))
    yield from ids
