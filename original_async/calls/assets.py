"""The calls about collections and the assets minted in them."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from original_async.calls.base import Calls, check_hook
from original_async.calls.pages import Listing, select_by_key
from original_async.calls.reading import read_accepted
from original_async.calls.reconciling import Rules
from original_async.models.assets import Asset, AssetData, AssetRequest, Collection
from original_async.models.edits import Edit, EditRequest, token_for
from rewards_core.http.messages import Effect
from rewards_core.json import dumps, number_of
from rewards_core.validation import check_amount, check_flag, check_id, check_instance, check_key

if TYPE_CHECKING:
    from collections.abc import Collection as Keys

    from original_async.calls.reading import BeforePage
    from rewards_core.operations import MaySend

MINT = Rules(
    call="create_asset",
    noun="asset",
    key="asset_external_id",
    about=("external",),
    advice=(
        "wait for this error with Completions.wait, or repeat the call with repeated=True, which looks for it; "
        "it is never sent twice"
    ),
    reuse="use each external id for one asset only",
    describe=lambda held: f"{held.name!r} in collection {held.collection_uid}",
    # nothing says that the vendor keeps external ids unique, so only its refusal of this one excludes that it was minted
    excludes=lambda asked, found, sure: sure and found.collection_uid == asked.collection_uid,
)
EDIT = Rules(
    call="edit_asset",
    noun="edit",
    key="edit",
    about=None,
    advice="wait for this error with Completions.wait, or repeat the call, which replaces the whole content",
)


class AssetCalls(Calls):
    """Mint assets, edit them, and read them and their collections."""

    async def get_collection(self, uid: str, *, timeout: float | None = None) -> Collection:
        """Read a collection; see https://docs.getoriginal.com/docs/get-collection-details.

        Args:
            uid: The collection's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such collection.
            VendorError: the call failed.
        """
        deadline = self._transport.deadline(timeout)
        return await self._reader.one("get_collection", Collection, check_id(uid, "uid"), deadline, "collection")

    async def create_asset(
        self,
        *,
        user_uid: str,
        collection_uid: str,
        asset_external_id: str,
        data: AssetData,
        sale_price_in_usd: str | int | Decimal | None = None,
        repeated: bool = False,
        timeout: float | None = None,
    ) -> Asset:
        """Mint an asset for a user; the blockchain confirms it later.

        Nothing documents that external ids are unique, so once a request may have arrived it is never sent again: there is no
        second mint. If the outcome is not known, or the vendor says that it knows the external id, the user's assets are searched
        for it; a fifth of the timeout, at most 5 s, is reserved for that. See https://docs.getoriginal.com/docs/create-asset-api.

        Args:
            user_uid: The user it is minted for.
            collection_uid: Its collection.
            asset_external_id: Your own id for it, 1 to 255 printable characters. Create it once, and store it before the call.
            data: What it is to show.
            sale_price_in_usd: Its price in US dollars, above 0, with at most 60 digits and 30 decimals. A float is refused.
            repeated: Whether an earlier call with this external id may have been sent, by any process, such as before a crash.
                Nothing is sent then: the asset is looked up, and `OutcomeUnknown` is raised if it does not show.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The asset, `pending`; or, if it was found by its external id, as it is now and with `recovered=True`.

        Raises:
            Conflict: the external id belongs to an asset with another name or collection; this call created nothing.
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing.
            RequestRejected: the vendor rejected the request; this call did nothing. Never with `repeated=True`.
            ConnectFailed: this call sent nothing.
            OutcomeUnknown: it may have been minted. Pass the error to `Completions.wait`. Its `request` is an `AssetRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
        """
        user_uid, collection_uid = check_id(user_uid, "user_uid"), check_id(collection_uid, "collection_uid")
        external_id = check_key(asset_external_id, "asset_external_id")
        content = check_instance(data, "data", AssetData).content(to_mint=True)
        body: dict[str, Any] = {"user_uid": user_uid, "asset_external_id": external_id, "collection_uid": collection_uid}
        price = None
        if sale_price_in_usd is not None:
            digits = check_amount(sale_price_in_usd, "sale_price_in_usd")
            price, body["sale_price_in_usd"] = Decimal(digits), number_of(digits)
        body["data"] = content
        repeated = check_flag(repeated, "repeated")

        def asked() -> AssetRequest:
            return AssetRequest(
                user_uid=user_uid,
                collection_uid=collection_uid,
                asset_external_id=external_id,
                name=data.name,
                scope=self._scope,
            )

        def build(created: dict[str, Any]) -> Asset:
            return Asset(
                uid=created["uid"],
                name=data.name,
                collection_uid=collection_uid,
                asset_external_id=external_id,
                is_minted=False,
                mint_for_user_uid=user_uid,
                sale_price_in_usd=price,
                scope=self._scope,
                raw=created,
            )

        async def look_up(deadline: float) -> Listing[Asset]:
            return await self._assets_by_external_id(user_uid, (external_id,), deadline)

        return await self._write(
            MINT,
            external_id,
            dumps(body),
            self._fixed_url("asset"),
            effect=Effect.BARE,
            asked=asked,
            build=build,
            look_up=look_up,
            repeated=repeated,
            send=not repeated,
            timeout=timeout,
        )

    async def edit_asset(self, uid: str, *, data: AssetData, timeout: float | None = None) -> Edit:
        """Replace everything an asset shows; the blockchain confirms it later.

        The vendor gives an edit no uid, so the client makes one: events about the asset concern it, and it is `done` once the
        asset is no longer being edited and shows the content. An edit that another one replaced before it was read is never seen
        as done. Only assets of an editable collection can be edited. See https://docs.getoriginal.com/docs/edit-asset.

        Args:
            uid: The asset's uid.
            data: What it is to show; `store_image_on_ipfs` is not sent.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The edit, `pending`; or, if the asset was found to show the content, `done` and with `recovered=True`.

        Raises:
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing.
            RequestRejected: the vendor rejected the request; this call did nothing.
            ConnectFailed: this call sent nothing.
            OutcomeUnknown: the asset may be edited. Pass the error to `Completions.wait`, or repeat the call. Its `request` is an
                `EditRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
        """
        uid = check_id(uid, "uid")
        content = check_instance(data, "data", AssetData).content(to_mint=False)
        request = EditRequest(asset_uid=uid, token=token_for(data), scope=self._scope)
        check_id(request.uid, "uid")

        def build(accepted: dict[str, Any]) -> Edit:
            return Edit(uid=request.uid, scope=self._scope, raw=accepted)

        async def look_up(deadline: float) -> Listing[Edit]:
            return Listing(found=[await self._read_edit(request.uid, deadline)])

        return await self._write(
            EDIT,
            request.uid,
            dumps({"data": content}),
            self._transport.url("asset", uid),
            effect=Effect.KEYED,
            method="PUT",
            read=read_accepted,
            asked=lambda: request,
            build=build,
            look_up=look_up,
            timeout=timeout,
        )

    async def get_asset(self, uid: str, *, timeout: float | None = None) -> Asset:
        """Read an asset; see https://docs.getoriginal.com/docs/get-asset-details.

        Args:
            uid: The asset's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such asset; one just created may not be readable yet.
            VendorError: the call failed.
        """
        return await self._reader.one("get_asset", Asset, check_id(uid, "uid"), self._transport.deadline(timeout), "asset")

    async def get_assets_by_user_uid(
        self, user_uid: str, *, before_page: BeforePage | None = None, timeout: float | None = None
    ) -> list[Asset]:
        """Read all assets of a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-assets-by-user-uid.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more assets than it shows.
            VendorError: the call failed.
        """
        user_uid, deadline = check_id(user_uid, "user_uid"), self._transport.deadline(timeout)
        check_hook(before_page, "before_page")
        listing = await self._reader.all("get_assets_by_user_uid", Asset, user_uid, deadline, "asset", before_page=before_page)
        return listing.all()

    async def find_asset(
        self, user_uid: str, *, asset_external_id: str, collection_uid: str | None = None, timeout: float | None = None
    ) -> Asset | None:
        """Find an asset by its external id, in the list of its user; one just created may not be listed yet.

        Args:
            user_uid: The user it was minted for.
            asset_external_id: The external id it was created with.
            collection_uid: Its collection; any if None.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Returns:
            The asset; None if a complete list does not show it.

        Raises:
            UnexpectedResponse: the list does not show it and is incomplete.
            VendorError: the call failed.
        """
        wanted = None if collection_uid is None else check_id(collection_uid, "collection_uid")
        user_uid, external_id = check_id(user_uid, "user_uid"), check_key(asset_external_id, "asset_external_id")
        listing = await self._assets_by_external_id(user_uid, (external_id,), self._transport.deadline(timeout))
        held = next((each for each in listing.found if wanted in {None, each.collection_uid}), None)
        if held is None:
            listing.all()
        return held

    async def _assets_by_external_id(
        self, user_uid: str, external_ids: Keys[str], deadline: float, **options: Any
    ) -> Listing[Asset]:
        select = partial(select_by_key, Asset, "asset_external_id", external_ids)
        return await self._reader.listing("find_asset", select, user_uid, deadline, "asset", **options)

    async def _read_edit(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Edit:
        asset = await self._reader.one("get_asset", Asset, uid.rpartition(":")[0], deadline, "asset", may_send=may_send)
        return Edit(uid=uid, asset=asset, scope=self._scope, raw=asset.raw)
