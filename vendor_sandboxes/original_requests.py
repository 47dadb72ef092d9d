"""What every route of Original does with a request: check it, read it, and commit what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from vendor_sandboxes.original_replies import Fields, client_error, created, read_body

if TYPE_CHECKING:
    from aiohttp import web

    from vendor_sandboxes.original_auth import Credentials
    from vendor_sandboxes.original_operations import Operation
    from vendor_sandboxes.original_users import User


class Commit(Protocol):
    """Call a function that changes the state, now or later, and return the answer."""

    async def __call__(
        self, write: Callable[[], Operation | User], reply: Callable[[str], web.Response] = created, /
    ) -> web.Response:
        """Return the answer; `reply` makes it from the uid of what `write` returns."""
        ...


class Gate:
    """Let requests with credentials pass."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def check_read(self, method: str, request: web.BaseRequest) -> None:
        """Raise `Refused` unless this is a GET with credentials."""
        self._credentials.check(request.headers)
        if method != "GET":
            raise client_error(405, "method_not_allowed", f'Method "{method}" not allowed.')

    def fields(self, request: web.BaseRequest, body: bytes, *, optional: bool = False) -> Fields:
        """Return the fields of the body, or raise `Refused`; an `optional` body may have no bytes."""
        self._credentials.check(request.headers)
        return Fields(read_body(request, body) if body or not optional else {})
