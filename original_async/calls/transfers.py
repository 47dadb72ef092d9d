"""The calls that move assets: transfers, burns and deposits."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import evolve

from original_async.calls.base import Calls, M, check_hook
from original_async.calls.pages import Listing, select_by_key
from original_async.calls.reading import data_of
from original_async.calls.reconciling import Rules
from original_async.models.transfers import Burn, BurnRequest, Deposit, Transfer, TransferRequest, in_utc
from rewards_core.clock import loop_time
from rewards_core.http.messages import Effect
from rewards_core.json import dumps
from rewards_core.operations import OperationStatus
from rewards_core.validation import check_flag, check_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from yarl import URL

    from original_async.calls.reading import BeforePage
    from original_async.calls.reconciling import ComparableRequest

_ADVICE = (
    "wait for this error with Completions.wait, or repeat the call with repeated=True; "
    "while the asset moves, and once it has left, the vendor refuses to move it again"
)

CLOCKS_DIFFER = 1.0
"""Seconds by which times from different servers of the vendor may differ, rounding included."""
UNKNOWN_CLOCK = 60.0
"""Seconds by which this machine's clock may differ from the vendor's, as long as no answer has shown the vendor's time."""

TRANSFER = Rules(call="create_transfer", noun="transfer", key="asset", about=None, advice=_ADVICE)
BURN = Rules(call="create_burn", noun="burn", key="asset", about=None, advice=_ADVICE)


class TransferCalls(Calls):
    """Transfer and burn assets, and read where they can be deposited."""

    _clock: Callable[[], float]

    async def create_transfer(
        self,
        *,
        asset_uid: str,
        from_user_uid: str,
        to_address: str,
        repeated: bool = False,
        timeout: float | None = None,
    ) -> Transfer:
        """Move an asset to an external wallet; the blockchain confirms it later, or the vendor cancels it.

        The asset must be minted, transferable and owned by the user; see https://docs.getoriginal.com/docs/transfer-asset. While
        it moves and once it has moved, the vendor refuses a second transfer, so retries are safe. If the outcome is not known,
        the user's transfers are searched for one of the asset to this address that was created since the call began, by the
        vendor's clock.

        Args:
            asset_uid: The asset.
            from_user_uid: The user who owns it.
            to_address: The external wallet that receives it.
            repeated: Whether an earlier call for the same transfer may have been sent, by any process, such as before a crash. If
                the vendor refuses this one, any transfer of the asset to this address counts that was not cancelled, the newest
                first, however old it is.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The transfer, `pending`; or, if it was found, in its current status and with `recovered=True`.

        Raises:
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing.
            RequestRejected: the vendor rejected the request; this call did nothing. Never with `repeated=True`.
            ConnectFailed: this call sent nothing.
            OutcomeUnknown: the asset may be moving. Pass the error to `Completions.wait`. Its `request` is a `TransferRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
        """
        content = {
            "asset_uid": check_id(asset_uid, "asset_uid"),
            "from_user_uid": check_id(from_user_uid, "from_user_uid"),
            "to_address": check_id(to_address, "to_address"),
        }
        repeated = check_flag(repeated, "repeated")
        started, clock = loop_time(), self._clock()

        def asked() -> TransferRequest:
            return TransferRequest(**content, asked_at=None if repeated else self._earliest(started, clock), scope=self._scope)

        find, url = self._transfers_of_assets, self._fixed_url("transfer")
        return await self._move(TRANSFER, Transfer, url, content, asked, find, repeated=repeated, timeout=timeout)

    async def get_transfer(self, uid: str, *, timeout: float | None = None) -> Transfer:
        """Read one transfer; see https://docs.getoriginal.com/docs/get-transfer-details.

        Args:
            uid: The transfer's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such transfer; one just created may not be readable yet.
            VendorError: the call failed.
        """
        deadline = self._transport.deadline(timeout)
        return await self._reader.one("get_transfer", Transfer, check_id(uid, "uid"), deadline, "transfer")

    async def get_transfers_by_user_uid(
        self, user_uid: str, *, before_page: BeforePage | None = None, timeout: float | None = None
    ) -> list[Transfer]:
        """Read all transfers from a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-transfers-by-users.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more transfers than it shows.
            VendorError: the call failed.
        """
        user_uid, deadline = check_id(user_uid, "user_uid"), self._transport.deadline(timeout)
        check_hook(before_page, "before_page")
        listing = await self._reader.all(
            "get_transfers_by_user_uid", Transfer, user_uid, deadline, "transfer", before_page=before_page
        )
        return listing.all()

    async def create_burn(
        self, *, asset_uid: str, from_user_uid: str, repeated: bool = False, timeout: float | None = None
    ) -> Burn:
        """Destroy an asset for ever; the blockchain confirms it later.

        The asset must be minted, transferable and owned by the user; see https://docs.getoriginal.com/docs/burn-asset-api. An
        asset is burned only once, so retries are safe. If the outcome is not known, the user's burns are searched for the asset.

        Args:
            asset_uid: The asset.
            from_user_uid: The user who owns it.
            repeated: Whether an earlier call for the same burn may have been sent, by any process, such as before a crash.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The burn, `pending`; or, if it was found, in its current status and with `recovered=True`.

        Raises:
            Unauthorized, Forbidden, RateLimited: the vendor refused the caller; this call did nothing.
            RequestRejected: the vendor rejected the request; this call did nothing. Never with `repeated=True`.
            ConnectFailed: this call sent nothing.
            OutcomeUnknown: the asset may be burned. Pass the error to `Completions.wait`. Its `request` is a `BurnRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
        """
        content = {
            "asset_uid": check_id(asset_uid, "asset_uid"),
            "from_user_uid": check_id(from_user_uid, "from_user_uid"),
        }
        repeated = check_flag(repeated, "repeated")

        def asked() -> BurnRequest:
            return BurnRequest(**content, scope=self._scope)

        find, url = self._burns_of_assets, self._fixed_url("burn")
        return await self._move(BURN, Burn, url, content, asked, find, repeated=repeated, timeout=timeout)

    async def get_burn(self, uid: str, *, timeout: float | None = None) -> Burn:
        """Read one burn; see https://docs.getoriginal.com/docs/get-burn-details.

        Args:
            uid: The burn's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such burn; one just created may not be readable yet.
            VendorError: the call failed.
        """
        return await self._reader.one("get_burn", Burn, check_id(uid, "uid"), self._transport.deadline(timeout), "burn")

    async def get_burns_by_user_uid(
        self, user_uid: str, *, before_page: BeforePage | None = None, timeout: float | None = None
    ) -> list[Burn]:
        """Read all burns of a user, over all pages; an unknown user has none.

        See https://docs.getoriginal.com/docs/get-list-of-burns-details-by-users.

        Args:
            user_uid: The user.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            timeout: Seconds for this call including all pages, above 0; by default the client's `timeouts.total`.

        Raises:
            UnexpectedResponse: the list is incomplete: the vendor says that there are more burns than it shows.
            VendorError: the call failed.
        """
        user_uid, deadline = check_id(user_uid, "user_uid"), self._transport.deadline(timeout)
        check_hook(before_page, "before_page")
        listing = await self._reader.all("get_burns_by_user_uid", Burn, user_uid, deadline, "burn", before_page=before_page)
        return listing.all()

    async def get_deposit(self, user_uid: str, *, collection_uid: str | None = None, timeout: float | None = None) -> Deposit:
        """Read where assets can be sent to, so that a user of the app owns them.

        See https://docs.getoriginal.com/docs/deposit-asset.

        Args:
            user_uid: The user.
            collection_uid: The collection, which an app on several blockchains needs; the vendor refuses one not yet deployed.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such user or collection.
            VendorError: the call failed.
        """
        query = {"user_uid": check_id(user_uid, "user_uid")}
        if collection_uid is not None:
            query["collection_uid"] = check_id(collection_uid, "collection_uid")
        deadline = self._transport.deadline(timeout)
        return await self._reader.get("get_deposit", partial(data_of, Deposit), deadline, "deposit", query=query)

    async def _move(
        self,
        rules: Rules,
        model: Callable[..., M],
        url: URL,
        content: Mapping[str, str],
        asked: Callable[[], ComparableRequest],
        find: Callable[[str, Collection[str], float], Awaitable[Listing[M]]],
        *,
        repeated: bool,
        timeout: float | None,
    ) -> M:
        """Send what moves an asset away from its user."""

        def build(created: dict[str, Any]) -> M:
            return model(uid=created["uid"], status=OperationStatus.PENDING, scope=self._scope, raw=created, **content)

        async def look_up(deadline: float) -> Listing[M]:
            return await find(content["from_user_uid"], (content["asset_uid"],), deadline)

        return await self._write(
            rules,
            content["asset_uid"],
            dumps(content),
            url,
            effect=Effect.KEYED,
            asked=asked,
            build=build,
            look_up=look_up,
            repeated=repeated,
            timeout=timeout,
        )

    def _earliest(self, started: float, clock: float) -> datetime:
        """Return the earliest time that the vendor can give to what a call created, by when it began."""
        told = self._transport.vendor_time(started)
        return datetime.fromtimestamp(clock - UNKNOWN_CLOCK if told is None else told - CLOCKS_DIFFER, UTC)

    async def _transfers_of_assets(
        self, user_uid: str, asset_uids: Collection[str], deadline: float, **options: Any
    ) -> Listing[Transfer]:
        """Read a user's transfers of some assets, the newest first; cancelled ones last, because they must not hide another."""
        select = partial(select_by_key, Transfer, "asset_uid", asset_uids)
        listing = await self._reader.listing("find_transfer", select, user_uid, deadline, "transfer", **options)

        def rank(each: Transfer) -> tuple[bool, datetime]:
            return each.status is not OperationStatus.CANCELLED, in_utc(each.created_at)

        return evolve(listing, found=sorted(listing.found, key=rank, reverse=True))

    async def _burns_of_assets(
        self, user_uid: str, asset_uids: Collection[str], deadline: float, **options: Any
    ) -> Listing[Burn]:
        select = partial(select_by_key, Burn, "asset_uid", asset_uids)
        return await self._reader.listing("find_burn", select, user_uid, deadline, "burn", **options)
