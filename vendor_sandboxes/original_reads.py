"""Reading single operations of Original and lists of them, which may lag behind and come in pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vendor_sandboxes.original_replies import Fields, client_error, not_found, success
from vendor_sandboxes.server import json_reply

if TYPE_CHECKING:
    from aiohttp import web

    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.original_state import OriginalState


class Reads:
    """Read the operations of the state."""

    def __init__(self, state: OriginalState, options: OriginalOptions, clock: Callable[[], float]) -> None:
        self._state = state
        self._options = options
        self._clock = clock

    def one(self, kind: str, uid: str, *, lags: bool = True) -> web.Response:
        """Return the operation with this uid, or raise `Refused`; one that `lags` is unknown at first."""
        operation = self._state.operations[kind].get(uid)
        now = self._clock()
        if operation is None or (lags and operation.committed_at > now - self._options.read_lag):
            raise not_found(kind.capitalize())
        return success(operation.resource(self._options, now))

    def several(self, kind: str, request: web.BaseRequest) -> web.Response:
        """Return the operations of the user in the query, or raise `Refused`."""
        fields = Fields(request.rel_url.query)
        user_uid = fields.text("user_uid")
        fields.check()
        since = self._clock() - self._options.list_lag
        operations = [each for each in self._state.by_user[kind].get(user_uid, ()) if each.committed_at <= since]
        size = self._options.page_size
        if not size:
            return success(self._array(operations))
        page = _page_of(request)
        if page is None or (page > 1 and (page - 1) * size >= len(operations)):
            raise client_error(404, "not_found", "Invalid page.")
        place = {
            "count": len(operations),
            "next": str(request.url.update_query(page=page + 1)) if page * size < len(operations) else None,
            "previous": str(request.url.update_query(page=page - 1)) if page > 1 else None,
        }
        members, array = json.dumps(place)[1:-1], self._array(operations[(page - 1) * size : page * size])
        if self._options.page_shape == "inside":
            return success(f'{{{members}, "results": {array}}}')
        return json_reply(f'{{"success": true, {members}, "data": {array}}}')

    def _array(self, operations: Iterable[Any]) -> str:
        now = self._clock()
        return f"[{', '.join(operation.resource(self._options, now) for operation in operations)}]"


def _page_of(request: web.BaseRequest) -> int | None:
    text = request.rel_url.query.get("page", "1")
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII) else None
