"""Responses written as bytes: they are short and repetitive, and assembling them with aiohttp is slow."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time

from webhooks.ingress.base import Reply, StreamReply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from aiohttp.abc import AbstractStreamWriter

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class _Sender(Protocol):
    async def send_bytes(self, data: bytes) -> None: ...
    async def send_stream(self, frames: AsyncGenerator[bytes, None]) -> None: ...


class PlainResponse(web.StreamResponse):
    """A response written in one piece, or frame by frame if it is a `StreamReply`."""

    def __init__(self, reply: Reply) -> None:
        # the base class's state is only for responses that are assembled piece by piece
        self._reply = reply
        self._keep_alive = not reply.close

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the whole response."""
        if not request.keep_alive:
            self._keep_alive = False
        sender, reply = cast("_Sender", request.protocol), self._reply
        await sender.send_bytes(response_bytes(reply, keep_alive=bool(self._keep_alive)))
        if isinstance(reply, StreamReply):
            await sender.send_stream(reply.frames)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the response has been sent."""


def response_bytes(reply: Reply, *, keep_alive: bool) -> bytes:
    """Return a response as it is sent over the wire, or the head of one that is streamed."""
    date = rfc822_formatted_time()
    if isinstance(reply, StreamReply):
        return _head(reply.status, date, None, reply.headers, keep_alive=False)
    if not reply.headers and not reply.body:
        return _without_body(reply.status, date, keep_alive)
    return _head(reply.status, date, len(reply.body), reply.headers, keep_alive) + reply.body


@lru_cache(maxsize=8)
def _without_body(status: int, date: str, keep_alive: bool) -> bytes:
    return _head(status, date, 0, {}, keep_alive)


def _head(status: int, date: str, length: int | None, headers: Mapping[str, str], keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\nDate: {date}\r\n"]
    if length is not None:
        lines.append(f"Content-Length: {length}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    lines.append("\r\n" if keep_alive else "Connection: close\r\n\r\n")
    return "".join(lines).encode("latin-1")
