"""The routes of Original for collections, assets, transfers, burns and deposits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vendor_sandboxes.original_replies import Fields, client_error, created, no_content, not_found, success
from vendor_sandboxes.original_resources import Asset, Burn, Content, Edit, Transfer
from vendor_sandboxes.original_users import CHAIN_ID, NETWORK
from vendor_sandboxes.server import no_such_route

if TYPE_CHECKING:
    from decimal import Decimal

    from aiohttp import web

    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.original_reads import Reads
    from vendor_sandboxes.original_requests import Commit, Gate
    from vendor_sandboxes.original_state import OriginalState


class AssetRoutes:
    """Handle the requests for assets and all that happens to them."""

    def __init__(self, state: OriginalState, options: OriginalOptions, reads: Reads, gate: Gate, commit: Commit) -> None:
        self._state = state
        self._assets = state.assets
        self._options = options
        self._reads = reads
        self._gate = gate
        self._commit = commit

    async def answer(self, method: str, parts: Sequence[str], request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request for one of these paths."""
        match parts:
            case ["asset"] if method == "POST":
                return await self._create(self._gate.fields(request, body))
            case ["transfer"] if method == "POST":
                return await self._transfer(self._gate.fields(request, body))
            case ["burn"] if method == "POST":
                return await self._burn(self._gate.fields(request, body))
            case ["asset", uid] if method == "PUT":
                return await self._edit(uid, self._gate.fields(request, body))
            case ["deposit"]:
                self._gate.check_read(method, request)
                return self._deposit(request)
            case ["asset" | "transfer" | "burn" as kind]:
                self._gate.check_read(method, request)
                return self._reads.several(kind, request)
            case ["asset" | "transfer" | "burn" as kind, uid]:
                self._gate.check_read(method, request)
                return self._reads.one(kind, uid)
            case ["collection", uid]:
                self._gate.check_read(method, request)
                return self._reads.one("collection", uid, lags=False)
            case _:
                return no_such_route()

    async def _create(self, fields: Fields) -> web.Response:
        user_uid, collection_uid = fields.text("user_uid"), fields.text("collection_uid")
        external_id, price = fields.text("asset_external_id"), fields.price("sale_price_in_usd")
        content = _content(fields, created=True)
        fields.check()
        self._assets.asked[external_id] += 1
        first = self._assets.by_external_id.get(external_id)
        if first is not None and self._options.duplicate_external_id == "replay":
            return created(first.uid)
        return await self._commit(partial(self._add_asset, collection_uid, user_uid, external_id, content, price))

    def _add_asset(self, collection_uid: str, user_uid: str, external_id: str, content: Content, price: Decimal | None) -> Asset:
        if external_id in self._assets.by_external_id and self._options.duplicate_external_id != "mint":
            raise client_error(400, "bad_request", "Asset with this asset_external_id already exists.")
        self._check_user(user_uid)
        self._check_deployed(collection_uid)
        self._check_name(content, collection_uid)
        return self._assets.add(collection_uid, user_uid, external_id, content, price)

    async def _edit(self, uid: str, fields: Fields) -> web.Response:
        content = _content(fields, created=False)
        fields.check()
        return await self._commit(partial(self._add_edit, uid, content), no_content)

    def _add_edit(self, uid: str, content: Content) -> Edit:
        asset = self._free_asset(uid, "edited")
        if not asset.collection.editable:
            raise client_error(400, "bad_request", "The assets of this collection cannot be edited.")
        self._check_name(content, asset.collection.uid, uid)
        return self._assets.add_edit(asset, content)

    async def _transfer(self, fields: Fields) -> web.Response:
        asset_uid, user_uid = fields.text("asset_uid"), fields.text("from_user_uid")
        to_address = fields.address("to_address")
        fields.check()
        return await self._commit(partial(self._add_transfer, asset_uid, user_uid, to_address))

    def _add_transfer(self, asset_uid: str, user_uid: str, to_address: str) -> Transfer:
        return self._assets.add_transfer(self._owned_asset(asset_uid, user_uid, "transferred"), user_uid, to_address)

    async def _burn(self, fields: Fields) -> web.Response:
        asset_uid, user_uid = fields.text("asset_uid"), fields.text("from_user_uid")
        fields.check()
        return await self._commit(partial(self._add_burn, asset_uid, user_uid))

    def _add_burn(self, asset_uid: str, user_uid: str) -> Burn:
        return self._assets.add_burn(self._owned_asset(asset_uid, user_uid, "burned"), user_uid)

    def _owned_asset(self, asset_uid: str, user_uid: str, word: str) -> Asset:
        self._check_user(user_uid)
        asset = self._free_asset(asset_uid, word)
        if asset.owner_uid != user_uid:
            raise client_error(400, "bad_request", "The asset is not in the wallet of this user.")
        return asset

    def _free_asset(self, uid: str, word: str) -> Asset:
        asset = self._assets.by_uid.get(uid)
        if asset is None:
            raise not_found("Asset")
        if not asset.transferable:
            raise client_error(400, "bad_request", f"The asset cannot be {word} now.")
        return asset

    def _check_user(self, uid: str) -> None:
        if self._options.strict and uid not in self._state.users.by_uid:
            raise not_found("User")

    def _check_deployed(self, collection_uid: str) -> None:
        collection = self._assets.collections.get(collection_uid)
        if collection is None:
            if self._options.strict:
                raise not_found("Collection")
        elif not collection.done:
            raise client_error(400, "bad_request", "The collection is not deployed.")

    def _check_name(self, content: Content, collection_uid: str, asset_uid: str = "") -> None:
        if content.unique_name and self._assets.name_is_taken(content.name, collection_uid, asset_uid):
            raise client_error(400, "bad_request", "An asset with this name already exists in the collection.")

    def _deposit(self, request: web.BaseRequest) -> web.Response:
        fields = Fields(request.rel_url.query)
        user_uid, collection_uid = fields.text("user_uid"), fields.optional_text("collection_uid")
        fields.check()
        self._check_user(user_uid)
        if collection_uid is not None:
            self._check_deployed(collection_uid)
        address = self._state.users.wallet(user_uid)
        told = {
            "network": NETWORK,
            "chain_id": CHAIN_ID,
            "wallet_address": address,
            "qr_code_data": f"ethereum:{address}@{CHAIN_ID}" if address else None,
        }
        return success(json.dumps(told))


def _content(fields: Fields, *, created: bool) -> Content:
    data = fields.inner("data")
    return Content(
        name=data.text("name"),
        unique_name=data.flag("unique_name"),
        image_url=data.text("image_url"),
        on_ipfs=data.flag("store_image_on_ipfs", optional=not created),
        description=data.optional_text("description"),
        external_url=data.optional_text("external_url"),
        attributes=data.attributes("attributes"),
    )
