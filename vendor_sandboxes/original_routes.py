"""The routes of Original."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vendor_sandboxes.original_replies import Fields, Refused, client_error, created, no_match, not_found, read_body, success
from vendor_sandboxes.original_state import Operation, OriginalState, User, plain
from vendor_sandboxes.server import json_reply, no_such_route

if TYPE_CHECKING:
    from decimal import Decimal

    from aiohttp import web

    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.original_auth import Credentials

_READ_AT = {"allocation": ("allocation",), "allocate": ("allocate",), "both": ("allocation", "allocate")}


class Routes:
    """Handle requests; `commit` calls a function that changes the state, now or later, and returns the answer."""

    def __init__(
        self,
        state: OriginalState,
        options: OriginalOptions,
        credentials: Credentials,
        commit: Callable[[Callable[[], Operation | User]], Awaitable[web.Response]],
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._options = options
        self._credentials = credentials
        self._commit = commit
        self._clock = clock

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request; `path` is raw and below `/v1`."""
        parts = [unquote(part) if "%" in part else part for part in path[1:].split("/")]
        try:
            match parts:
                case ["user"]:
                    return await self._users(method, request, body)
                case ["user", uid] if uid:
                    self._check_read(method, request)
                    return self._user(uid)
                case ["reward", *rest] if all(rest):
                    return await self._rewards(method, rest, request, body)
                case _:
                    return no_such_route()
        except Refused as refusal:
            return refusal.reply()

    def _check_read(self, method: str, request: web.BaseRequest) -> None:
        self._credentials.check(request.headers)
        if method != "GET":
            raise client_error(405, "method_not_allowed", f'Method "{method}" not allowed.')

    def _read_fields(self, request: web.BaseRequest, body: bytes) -> Fields:
        self._credentials.check(request.headers)
        return Fields(read_body(request, body))

    async def _users(self, method: str, request: web.BaseRequest, body: bytes) -> web.Response:
        if method == "POST":
            self._credentials.check(request.headers)
            # The vendor's JavaScript SDK sends no body for a request without fields.
            fields = Fields(read_body(request, body) if body else {})
            email, external_id = fields.email("email"), fields.optional_text("user_external_id")
            fields.check()
            return await self._commit(partial(self._add_user, email, external_id))
        self._check_read(method, request)
        query = request.rel_url.query
        found: User | None
        if "email" in query:
            found = self._state.users_by_email.get(query["email"])
        elif "user_external_id" in query:
            found = self._state.users_by_external_id.get(query["user_external_id"])
        else:
            raise client_error(400, "bad_request", "Give email or user_external_id.")
        return success(found.resource()) if found else no_match()

    def _add_user(self, email: str | None, external_id: str | None) -> User:
        user = self._state.add_user(email, external_id)
        if user is None:
            raise client_error(400, "bad_request", "User already exists.")
        return user

    def _user(self, uid: str) -> web.Response:
        user = self._state.users.get(uid)
        if user is None:
            raise not_found("User")
        return success(user.resource())

    async def _rewards(self, method: str, rest: Sequence[str], request: web.BaseRequest, body: bytes) -> web.Response:
        reads_allocations = _READ_AT[self._options.read_path]
        match rest:
            case ["allocate"] if method == "POST":
                return await self._allocate(self._read_fields(request, body))
            case ["claim"] if method == "POST":
                return await self._claim(self._read_fields(request, body))
            case ["balance"]:
                self._check_read(method, request)
                return self._balance(request)
            case ["claim"]:
                self._check_read(method, request)
                return self._list("claim", request)
            case ["claim", uid]:
                self._check_read(method, request)
                return self._one("claim", uid)
            case [word] if word in reads_allocations:
                self._check_read(method, request)
                return self._list("allocation", request)
            case [word, uid] if word in reads_allocations:
                self._check_read(method, request)
                return self._one("allocation", uid)
            case [uid]:
                # Also a list of allocations under the path that does not serve it.
                self._check_read(method, request)
                return self._reward(uid)
            case _:
                return no_such_route()

    async def _allocate(self, fields: Fields) -> web.Response:
        reward_uid, user_uid = fields.text("reward_uid"), fields.text("to_user_uid")
        amount, nonce = fields.amount("amount"), fields.text("nonce")
        fields.check()
        self._state.asked[nonce] += 1
        first = self._state.by_nonce.get(nonce)
        if first is not None and self._options.duplicate_nonce == "replay":
            return created(first.uid)
        return await self._commit(partial(self._add_allocation, reward_uid, user_uid, amount, nonce))

    def _add_allocation(self, reward_uid: str, user_uid: str, amount: Decimal, nonce: str) -> Operation:
        if nonce in self._state.by_nonce:
            status = self._options.known_nonce_status
            raise client_error(status, "conflict" if status == 409 else "bad_request", self._options.known_nonce_text)
        self._check_known(reward_uid, user_uid)
        return self._state.add_allocation(reward_uid, user_uid, amount, nonce)

    async def _claim(self, fields: Fields) -> web.Response:
        reward_uid, user_uid = fields.text("reward_uid"), fields.text("from_user_uid")
        to_address = fields.address("to_address")
        fields.check()
        return await self._commit(partial(self._add_claim, reward_uid, user_uid, to_address))

    def _add_claim(self, reward_uid: str, user_uid: str, to_address: str) -> Operation:
        self._check_known(reward_uid, user_uid)
        if self._options.strict:
            if self._state.claiming(user_uid):
                raise client_error(400, "bad_request", "A claim of this user is pending.")
            if not self._state.balance(reward_uid, user_uid):
                raise client_error(400, "bad_request", "There is nothing to claim.")
        return self._state.add_claim(reward_uid, user_uid, to_address)

    def _check_known(self, reward_uid: str, user_uid: str) -> None:
        if self._options.strict:
            if reward_uid not in self._state.rewards:
                raise not_found("Reward")
            if user_uid not in self._state.users:
                raise not_found("User")

    def _balance(self, request: web.BaseRequest) -> web.Response:
        fields = Fields(request.rel_url.query)
        reward_uid, user_uid = fields.text("reward_uid"), fields.text("user_uid")
        fields.check()
        if reward_uid not in self._state.rewards:
            raise not_found("Reward")
        amount = plain(self._state.balance(reward_uid, user_uid))
        written = amount if self._options.amounts == "number" else f'"{amount}"'
        return success(f'{{"reward_uid":{json.dumps(reward_uid)},"user_uid":{json.dumps(user_uid)},"amount":{written}}}')

    def _list(self, kind: str, request: web.BaseRequest) -> web.Response:
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

    def _array(self, operations: Iterable[Operation]) -> str:
        return f"[{', '.join(operation.resource(self._options.amounts) for operation in operations)}]"

    def _one(self, kind: str, uid: str) -> web.Response:
        operation = self._state.operations[kind].get(uid)
        if operation is None or operation.committed_at > self._clock() - self._options.read_lag:
            raise not_found(kind.capitalize())
        return success(operation.resource(self._options.amounts))

    def _reward(self, uid: str) -> web.Response:
        if uid not in self._state.rewards:
            raise not_found("Reward")
        return success(self._state.reward_resource(uid))


def _page_of(request: web.BaseRequest) -> int | None:
    text = request.rel_url.query.get("page", "1")
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text, re.ASCII) else None
