"""How `Completions` reads operations of every kind, finds them by their keys, and judges how they ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from attrs import evolve

from original_async.calls.assets import AssetCalls
from original_async.calls.base import check_hook
from original_async.calls.pages import Listing
from original_async.calls.rewards import RewardCalls
from original_async.calls.transfers import TransferCalls
from original_async.kinds import ALLOCATION, ASSET, BURN, CLAIM, COLLECTION, EDIT, REWARD, TRANSFER
from original_async.models.assets import Asset
from original_async.models.assets import Collection as AssetCollection
from original_async.models.edits import Edit
from original_async.models.rewards import Allocation, AllocationRequest, Claim, Reward
from original_async.models.transfers import Burn, Transfer
from original_async.refs import checked_ref
from original_async.settlement import REQUESTS, OriginalOperation, conclude
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import structure
from rewards_core.operations import KeyedRequest, OperationRef
from rewards_core.validation import check_id, check_iterable, check_methods, kind_of

if TYPE_CHECKING:
    from original_async.calls.reading import BeforePage
    from rewards_core.operations import Event, MaySend, Operation


class ReadCall(NamedTuple):
    """How the operations of one kind are read."""

    model: type[Any]
    call: str
    path: tuple[str, ...]


_READINGS: Mapping[str, ReadCall] = {
    ALLOCATION: ReadCall(Allocation, "get_allocation", ()),  # at one of two paths
    CLAIM: ReadCall(Claim, "get_claim", ("reward", "claim")),
    ASSET: ReadCall(Asset, "get_asset", ("asset",)),
    EDIT: ReadCall(Edit, "get_asset", ()),  # by its asset
    TRANSFER: ReadCall(Transfer, "get_transfer", ("transfer",)),
    BURN: ReadCall(Burn, "get_burn", ("burn",)),
    COLLECTION: ReadCall(AssetCollection, "get_collection", ("collection",)),
    REWARD: ReadCall(Reward, "get_reward", ("reward",)),
}
"""How the operations of each of `kinds.KINDS` are read."""


class OperationCalls(RewardCalls, AssetCalls, TransferCalls):
    """Operations of every kind, for `Completions`."""

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """Return the ref of an operation, of a ref (itself), or of a uid, which is taken as an allocation's.

        Raises:
            ValueError: the uid is invalid, or the operation belongs to another scope or is of another kind.
            TypeError: the argument is none of these.
        """
        if isinstance(operation, str):
            return OperationRef(self._scope, ALLOCATION, check_id(operation, "uid"))
        ref = operation if isinstance(operation, OperationRef) else getattr(operation, "ref", None)
        if not isinstance(ref, OperationRef):
            raise TypeError(f"operation: give an operation such as an Allocation, a ref or a uid, not {kind_of(operation)}.")
        if ref.scope != self._scope:
            raise ValueError(f"operation: {ref} is not of scope {self._scope!r}. Use the client of its scope.")
        return checked_ref(ref)

    async def read_operation(
        self, ref: OperationRef, *, may_send: MaySend | None = None, timeout: float | None = None
    ) -> OriginalOperation:
        """Read an operation by its ref.

        Args:
            ref: The operation.
            may_send: Awaited just before the request is sent. If it returns False, nothing is sent. With `may_send`, nothing is
                sent while the vendor wants all calls to pause, and nothing is sent twice except after a 401.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            ConnectFailed: nothing was sent.
            NotFound: there is no such operation; one just created may not be readable yet.
            VendorError: the call failed.
            ValueError: the operation belongs to another scope or is of another kind.
        """
        ref = self.ref_of(ref)
        check_hook(may_send, "may_send")
        deadline = self._transport.deadline(timeout)
        if ref.kind == ALLOCATION:
            return await self._allocations.one(ref.uid, deadline, may_send=may_send)
        if ref.kind == EDIT:
            return await self._read_edit(ref.uid, deadline, may_send=may_send)
        reading = _READINGS[ref.kind]
        operation: OriginalOperation = await self._reader.one(
            reading.call, reading.model, ref.uid, deadline, *reading.path, may_send=may_send
        )
        return operation

    @overload
    async def find_operations(
        self,
        requests: Sequence[AllocationRequest],
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
        timeout: float | None = None,
    ) -> Sequence[Allocation]: ...

    @overload
    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
        timeout: float | None = None,
    ) -> Sequence[OriginalOperation]: ...

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
        timeout: float | None = None,
    ) -> Sequence[Any]:
        """Find several operations of one kind and owner by their keys, with one list.

        Args:
            requests: What was asked for, as an `OutcomeUnknown` holds it; all of one kind and one owner.
            before_page: Awaited before each further page, which then has the client's whole `timeouts.total`.
            may_send: Awaited just before the request for a page is sent. If it returns False, the request is not sent: the first
                page then fails, and a further one waits for `before_page` again. With `may_send`, nothing is sent while the
                vendor wants all calls to pause, and no page is requested twice except after a 401.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            Every listed operation under one of the keys, with `recovered=True`. An operation missing here may still exist.

        Raises:
            UnexpectedResponse: the list is incomplete and shows none of the keys.
            VendorError: the call failed.
            ValueError: the requests are not of one kind and owner, or one is of another scope.
            TypeError: `requests` is not a list of requests.
        """
        check_hook(before_page, "before_page")
        check_hook(may_send, "may_send")
        requests = tuple(check_iterable(requests, "requests", "a list of requests such as AllocationRequest(...)"))
        for request in requests:
            check_methods(request, "requests", "a request such as AllocationRequest(...)", KeyedRequest)
            first = requests[0]
            if not isinstance(request, REQUESTS) or (request.scope, request.kind, request.owner) != (
                self._scope,
                first.kind,
                first.owner,
            ):
                raise ValueError(f"requests: give requests of one kind and one owner in scope {self._scope!r}, not {request!r}.")
        if not requests:
            return []
        keys = {request.key for request in requests}
        deadline = self._transport.deadline(timeout)
        listing = await self._find(requests[0], keys, deadline, before_page=before_page, may_send=may_send)
        return [evolve(operation, recovered=True) for operation in listing.found or listing.all()]

    async def _find(
        self,
        first: KeyedRequest,
        keys: Collection[str],
        deadline: float,
        *,
        before_page: BeforePage | None,
        may_send: MaySend | None,
    ) -> Listing[Any]:
        owner = first.owner
        if first.kind == EDIT:
            read = await self._read_edit(f"{owner}:{next(iter(keys))}", deadline, may_send=may_send)
            return Listing(found=[evolve(read, uid=f"{owner}:{key}") for key in keys])
        find: Mapping[str, Callable[..., Awaitable[Listing[Any]]]] = {
            ALLOCATION: self._allocations.by_nonce,
            ASSET: self._assets_by_external_id,
            TRANSFER: self._transfers_of_assets,
            BURN: self._burns_of_assets,
        }
        return await find[first.kind](owner, keys, deadline, before_page=before_page, may_send=may_send)

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> OriginalOperation:
        """Build the model of an operation from the vendor's JSON object, as stored or as found in an event.

        Args:
            ref: The operation that the object should describe; for an edit, the object is its asset.
            resource: The object, with its numbers parsed exactly.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
            ValueError: the operation belongs to another scope or is of another kind.
        """
        ref = self.ref_of(ref)
        if ref.kind == EDIT:
            edit = Edit(uid=ref.uid, scope=ref.scope, raw=resource)
            return evolve(edit, asset=self._reader.checked(structure(resource, Asset), edit.asset_uid))
        operation: OriginalOperation = self._reader.checked(structure(resource, _READINGS[ref.kind].model), ref.uid)
        return operation

    def operation_of(self, event: Event) -> OriginalOperation | None:
        """Return the operation, in its terminal status, that a webhook event carries.

        Args:
            event: The event that a handler received.

        Returns:
            The model; None if the event carries no complete one or belongs to another scope. Events of assets and collections
            carry none: read them by `event.ref.uid`.
        """
        if event.ref is None or event.resource is None:
            return None
        try:
            return self.parse_operation(event.ref, event.resource)
        except (UnexpectedResponse, ValueError):
            return None

    conclude = staticmethod(conclude)
