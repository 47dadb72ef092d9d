"""Server spans of the standalone listener: instrumentations of aiohttp see only applications, not its low-level server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from rewards_core.tracing import UNRECORDED, Span, recording, start_span
from webhooks.ingress.paths import path_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rewards_core.tracing import Attributes

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_HOST = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")


class Request(Protocol):
    """What a span says of a request."""

    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def raw_path(self) -> str: ...  # noqa: D102
    @property
    def scheme(self) -> str: ...  # noqa: D102
    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102


def request_span(request: Request) -> Span:
    """Return the server span of a request, whose parent is the sender's span."""
    if not recording():
        return UNRECORDED
    method = request.method if request.method in _METHODS else None
    host = _HOST.fullmatch(request.headers.get("Host", ""))
    attributes: Attributes = {
        "http.request.method": method or "_OTHER",
        "url.path": path_of(request.raw_path) or "",
        "url.scheme": request.scheme,
        "server.address": host and host[1].strip("[]"),
        "server.port": int(host[2]) if host and host[2] else None,
    }
    return start_span(method or "HTTP", attributes, kind="server", remote=request.headers)


def note_route(span: Span, request: Request, route: str) -> None:
    """Say which path of the listener a request is for."""
    if span is not UNRECORDED:
        span.note({"http.route": route})
        span.rename(f"{request.method if request.method in _METHODS else 'HTTP'} {route}")


def note_status(span: Span, status: int) -> None:
    """Say how a request was answered."""
    span.note({"http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))
