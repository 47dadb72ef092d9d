"""The encodings in which files of rows are saved: which one a file is in, and its bytes as UTF-8."""

from __future__ import annotations

import codecs
import io
import re
from typing import Any, BinaryIO

from attrs import frozen

ENCODINGS = ("utf-8", "utf-16", "windows-1252")
START = 1024
"""The bytes at the beginning that tell what a file is."""

CHUNK = 1 << 20
_MANY = 65_536
_foreign = re.compile("[\udc80-\udcff]").search  # a byte that is not UTF-8
_multibyte = re.compile(b"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}").search
_wide = re.compile("[^\x00-\x7f\udc80-\udcff]").search


@frozen
class Encoding:
    """The encoding of a file.

    Attributes:
        name: Its name, such as `UTF-16`.
        codec: Python's name of it.
        bom: The bytes to skip at the beginning.
        guessed: Whether another encoding would be possible too.
    """

    name: str
    codec: str
    bom: bytes = b""
    guessed: bool = False


_UTF8 = Encoding("UTF-8", "utf-8")
_WINDOWS = Encoding("Windows-1252", "cp1252")
_BY_BOM = (
    (codecs.BOM_UTF32_LE, Encoding("UTF-32", "")),
    (codecs.BOM_UTF32_BE, Encoding("UTF-32", "")),
    (codecs.BOM_UTF8, Encoding("UTF-8", "utf-8", codecs.BOM_UTF8)),
    (codecs.BOM_UTF16_LE, Encoding("UTF-16", "utf-16-le", codecs.BOM_UTF16_LE)),
    (codecs.BOM_UTF16_BE, Encoding("UTF-16", "utf-16-be", codecs.BOM_UTF16_BE)),
)


def plain_start(start: bytes) -> bytes:
    """Return the ASCII characters at the beginning of a file in whatever encoding."""
    found = _by_start(start)
    return start.removeprefix(found.bom if found else b"").replace(b"\0", b"")


def encoding_of(stream: BinaryIO, start: bytes, given: str | None) -> Encoding:
    """Return the encoding of a file.

    Windows-1252 is guessed if a byte is not UTF-8 and no character beyond ASCII is: in a file with both, the byte is damage.

    Args:
        stream: The bytes after `start`; none of them is taken. A stream that cannot go back is not read to guess.
        start: The first bytes of the file.
        given: The encoding that a person says it is in.

    Raises:
        ValueError: it is in an encoding that is not read, or not in the given one.
    """
    found = _by_start(start)
    if found is not None and not found.codec:
        raise ValueError(f"this file is in {found.name}: save it as UTF-8")
    if given is not None:
        return _given(given, found)
    if found is not None:
        return found
    maybe = not stream.seekable() or _may_be_utf8(stream, start)
    return _UTF8 if maybe else Encoding(_WINDOWS.name, _WINDOWS.codec, guessed=True)


def _given(given: str, found: Encoding | None) -> Encoding:
    if found is not None and found.name.casefold() != given:
        raise ValueError(f"this file is in {found.name}, not in {given}: omit --encoding")
    if given == "utf-16" and found is None:
        raise ValueError("this file is not in UTF-16: omit --encoding")
    return found or (_WINDOWS if given == "windows-1252" else _UTF8)


def _by_start(start: bytes) -> Encoding | None:
    """Return the encoding that a byte-order mark or the zeros between ASCII characters tell."""
    for bom, encoding in _BY_BOM:
        if start.startswith(bom):
            return encoding
    if start.startswith(b"\0\0") or start[1:4] == b"\0\0\0":
        return Encoding("UTF-32", "")
    pairs = len(start) // 2
    even, odd = (start[place : pairs * 2 : 2].count(0) for place in (0, 1))
    if max(even, odd) * 4 < pairs * 3 or min(even, odd) * 8 >= pairs:
        return None
    return Encoding("UTF-16", "utf-16-le" if odd > even else "utf-16-be")


def _may_be_utf8(stream: BinaryIO, start: bytes) -> bool:
    """Return whether a file is UTF-8, possibly damaged; read it to its end and go back."""
    at = stream.tell()
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    foreign = wide = False
    chunk = start
    while chunk and not wide:
        following = stream.read(CHUNK)
        text = decoder.decode(chunk, final=not following)
        if not text.isascii():
            foreign = foreign or _foreign(text) is not None
            wide = _wide(text) is not None
        chunk = following
    stream.seek(at)
    return wide or not foreign


def as_utf8(stream: BinaryIO, start: bytes, encoding: Encoding) -> BinaryIO:
    """Return the bytes of a file in UTF-8, without its byte-order mark; what cannot be decoded becomes bytes that are not UTF-8.

    Args:
        stream: The bytes after `start`.
        start: The bytes that were read before.
        encoding: Their encoding.
    """
    return io.BufferedReader(_Utf8(stream, start.removeprefix(encoding.bom), encoding.codec), _MANY)


def utf8_in_windows(line: bytes) -> tuple[int, str, str] | None:
    """Find a character of UTF-8 in a line that was read as Windows-1252: where it is, as what it was read, and what it is.

    Args:
        line: The line as `as_utf8` gives it.
    """
    if line.isascii():
        return None
    read = line.decode("utf-8", "surrogateescape")
    found = _multibyte(read.encode("cp1252", "surrogateescape"))
    if found is None:
        return None
    start, end = found.span()
    return len(read[:start].encode("utf-8", "surrogateescape")), read[start:end], found[0].decode("utf-8", "replace")


class _Utf8(io.RawIOBase):
    def __init__(self, stream: BinaryIO, start: bytes, codec: str) -> None:
        self._stream = stream
        self._start = start
        self._ready = b""
        self._ended = False
        self._errors = "surrogatepass" if codec.startswith("utf-16") else "surrogateescape"
        self._decoder: Any = None if codec == "utf-8" else codecs.getincrementaldecoder(codec)(self._errors)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while not self._ready and not self._ended:
            chunk = self._start or self._stream.read(_MANY)
            self._start = b""
            self._ended = not chunk
            self._ready = chunk if self._decoder is None else self._decoded(chunk)
        size = min(len(view), len(self._ready))
        view[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _decoded(self, chunk: bytes) -> bytes:
        try:
            text: str = self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError:  # the last character has only one of its two bytes
            return b"\xff"
        return text.encode("utf-8", self._errors)
