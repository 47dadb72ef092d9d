"""The routes of Original for users and rewards; those for assets are beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vendor_sandboxes.original_asset_routes import AssetRoutes
from vendor_sandboxes.original_reads import Reads
from vendor_sandboxes.original_replies import Fields, Refused, client_error, created, no_match, not_found, success
from vendor_sandboxes.original_requests import Commit, Gate
from vendor_sandboxes.original_state import OriginalState, Payment, plain
from vendor_sandboxes.server import no_such_route

if TYPE_CHECKING:
    from decimal import Decimal

    from aiohttp import web

    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.original_auth import Credentials
    from vendor_sandboxes.original_users import User

_READ_AT = {"allocation": ("allocation",), "allocate": ("allocate",), "both": ("allocation", "allocate")}
_ASSET_PATHS = ("asset", "transfer", "burn", "deposit", "collection")


class Routes:
    """Handle requests; `commit` calls a function that changes the state, now or later, and returns the answer."""

    def __init__(
        self,
        state: OriginalState,
        options: OriginalOptions,
        credentials: Credentials,
        commit: Commit,
        clock: Callable[[], float],
    ) -> None:
        self._state = state
        self._options = options
        self._commit = commit
        self._gate = Gate(credentials)
        self._reads = Reads(state, options, clock)
        self._assets = AssetRoutes(state, options, self._reads, self._gate, commit)

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request; `path` is raw and below `/v1`."""
        parts = [unquote(part) if "%" in part else part for part in path[1:].split("/")]
        try:
            match parts:
                case ["user"]:
                    return await self._users(method, request, body)
                case ["user", uid] if uid:
                    self._gate.check_read(method, request)
                    return self._user(uid)
                case ["reward", *rest] if all(rest):
                    return await self._rewards(method, rest, request, body)
                case [first, *rest] if first in _ASSET_PATHS and all(rest):
                    return await self._assets.answer(method, parts, request, body)
                case _:
                    return no_such_route()
        except Refused as refusal:
            return refusal.reply()

    async def _users(self, method: str, request: web.BaseRequest, body: bytes) -> web.Response:
        if method == "POST":
            # The vendor's JavaScript SDK sends no body for a request without fields.
            fields = self._gate.fields(request, body, optional=True)
            email, external_id = fields.email("email"), fields.optional_text("user_external_id")
            fields.check()
            return await self._commit(partial(self._add_user, email, external_id))
        self._gate.check_read(method, request)
        query = request.rel_url.query
        found: User | None
        if "email" in query:
            found = self._state.users.by_email.get(query["email"])
        elif "user_external_id" in query:
            found = self._state.users.by_external_id.get(query["user_external_id"])
        else:
            raise client_error(400, "bad_request", "Give email or user_external_id.")
        return success(self._state.users.resource(found, self._options)) if found else no_match()

    def _add_user(self, email: str | None, external_id: str | None) -> User:
        user = self._state.add_user(email, external_id)
        if user is None:
            raise client_error(400, "bad_request", "User already exists.")
        return user

    def _user(self, uid: str) -> web.Response:
        user = self._state.users.by_uid.get(uid)
        if user is None:
            raise not_found("User")
        return success(self._state.users.resource(user, self._options))

    async def _rewards(self, method: str, rest: Sequence[str], request: web.BaseRequest, body: bytes) -> web.Response:
        reads_allocations = _READ_AT[self._options.read_path]
        match rest:
            case ["allocate"] if method == "POST":
                return await self._allocate(self._gate.fields(request, body))
            case ["claim"] if method == "POST":
                return await self._claim(self._gate.fields(request, body))
            case ["balance"]:
                self._gate.check_read(method, request)
                return self._balance(request)
            case ["claim"]:
                self._gate.check_read(method, request)
                return self._reads.several("claim", request)
            case ["claim", uid]:
                self._gate.check_read(method, request)
                return self._reads.one("claim", uid)
            case [word] if word in reads_allocations:
                self._gate.check_read(method, request)
                return self._reads.several("allocation", request)
            case [word, uid] if word in reads_allocations:
                self._gate.check_read(method, request)
                return self._reads.one("allocation", uid)
            case [uid]:
                # Also a list of allocations under the path that does not serve it.
                self._gate.check_read(method, request)
                return self._reads.one("reward", uid, lags=False)
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

    def _add_allocation(self, reward_uid: str, user_uid: str, amount: Decimal, nonce: str) -> Payment:
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

    def _add_claim(self, reward_uid: str, user_uid: str, to_address: str) -> Payment:
        self._check_known(reward_uid, user_uid)
        if self._options.strict:
            if self._state.claiming(user_uid):
                raise client_error(400, "bad_request", "A claim of this user is pending.")
            if not self._state.balance(reward_uid, user_uid):
                raise client_error(400, "bad_request", "There is nothing to claim.")
        return self._state.add_claim(reward_uid, user_uid, to_address)

    def _check_known(self, reward_uid: str, user_uid: str) -> None:
        reward = self._state.rewards.get(reward_uid)
        if reward is not None and not reward.done:
            raise client_error(400, "bad_request", "The reward is not deployed.")
        if self._options.strict:
            if reward is None:
                raise not_found("Reward")
            if user_uid not in self._state.users.by_uid:
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
