"""Read allocations at Original, over the two documented paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from original_async.calls.pages import Listing, Select, select_all, select_by_key
from original_async.models.rewards import Allocation
from rewards_core.errors import RequestRejected
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from original_async.calls.reading import BeforePage, Reader
    from rewards_core.operations import MaySend

T = TypeVar("T")

READ_PATHS = ("allocation", "allocate")

_FIRST_PATHS = {"one": "allocation", "list": "allocate"}
_MAX_NEXT_PATHS = 10_000


class AllocationReader:
    """Read allocations at the path that the vendor serves.

    Args:
        reader: Reads single objects and lists.
        read_path: The path of allocations; None to find out which of the two the vendor serves.
    """

    def __init__(self, reader: Reader, read_path: str | None) -> None:
        self._reader = reader
        self._paths: dict[str, str] = {} if read_path is None else dict.fromkeys(_FIRST_PATHS, read_path)
        self._next_paths: dict[tuple[str, str], str] = {}

    async def one(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Allocation:
        """Read one allocation."""

        async def read(path: str) -> Allocation:
            return await self._reader.one("get_allocation", Allocation, uid, deadline, "reward", path, may_send=may_send)

        return await self._at_read_path("one", read, may_send, uid)

    async def all(self, user_uid: str, deadline: float, *, before_page: BeforePage | None = None) -> Listing[Allocation]:
        """Read all allocations to a user."""
        select = partial(select_all, list[Allocation])
        return await self._list("get_allocations_by_user_uid", select, user_uid, deadline, before_page, None)

    async def by_nonce(
        self,
        user_uid: str,
        nonces: Collection[str],
        deadline: float,
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
    ) -> Listing[Allocation]:
        """Read the allocations to a user under some nonces; failed ones come last, because they must not hide a paid one."""
        select = partial(select_by_key, Allocation, "nonce", nonces)
        listing = await self._list("find_allocation", select, user_uid, deadline, before_page, may_send)
        return evolve(listing, found=sorted(listing.found, key=lambda each: each.status is OperationStatus.FAILED))

    async def _list(
        self,
        operation: str,
        select: Select,
        user_uid: str,
        deadline: float,
        before_page: BeforePage | None,
        may_send: MaySend | None,
    ) -> Listing[Allocation]:
        async def read(path: str) -> Listing[Any]:
            return await self._reader.listing(
                operation, select, user_uid, deadline, "reward", path, before_page=before_page, may_send=may_send
            )

        return await self._at_read_path("list", read, may_send, user_uid)

    async def _at_read_path(
        self, purpose: str, read: Callable[[str], Awaitable[T]], may_send: MaySend | None = None, about: str = ""
    ) -> T:
        """Read allocations at the path the vendor serves: until a path has shown any, a 404 or 405 is followed by the other path.

        The documents name both paths. A list at the wrong path may be routed to `/reward/{uid}`, so any 404 counts; a path that
        serves only creations answers 405. Where the caller counts requests (`may_send`), the other path is tried by the next
        call.
        """
        known = self._paths.get(purpose)
        if known is not None:
            return await read(known)
        path = self._next_paths.get((purpose, about), _FIRST_PATHS[purpose])
        try:
            result = await read(path)
        except RequestRejected as problem:
            if problem.status not in {404, 405}:
                raise
            path = next(other for other in READ_PATHS if other != path)
            if may_send is not None:
                self._next_paths[purpose, about] = path
                if len(self._next_paths) > _MAX_NEXT_PATHS:
                    del self._next_paths[next(iter(self._next_paths))]
                raise
            result = await read(path)
        if not isinstance(result, Listing) or result.found:  # an empty list may come from either path
            self._paths[purpose] = path
        return result
