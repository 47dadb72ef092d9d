"""Read allocations, claims, rewards and balances at Original, over the two documented read paths and over pages of lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from original_async.models import Allocation, Balance, Claim, Reward
from original_async.pages import Listing, Select, read_page, select_all, select_by_nonce
from rewards_core.errors import RequestRejected, UnexpectedResponse, VendorError
from rewards_core.json import decode, loads
from rewards_core.operations import DEFAULT_SCOPE, OperationStatus
from rewards_core.validation import is_id

if TYPE_CHECKING:
    from yarl import URL

    from rewards_core.http.messages import Answer
    from rewards_core.http.transport import Transport
    from rewards_core.operations import MaySend

T = TypeVar("T")
M = TypeVar("M", bound=Allocation | Claim)
BeforePage = Callable[[], Awaitable[object]]

READ_PATHS = ("allocation", "allocate")
MAX_LIST = 256 * 1024 * 1024
"""Bytes of all pages of one list together."""

_FIRST_PATHS = {"one": "allocation", "list": "allocate"}
_MAX_NEXT_PATHS = 10_000


class Lookup:
    """Read what one app holds at Original.

    Args:
        transport: Sends the requests.
        scope: The scope of the models returned.
        read_path: The path of allocations; None to find out which of the two the vendor serves.
    """

    def __init__(self, transport: Transport, scope: str, read_path: str | None) -> None:
        self._transport = transport
        self._scope = scope
        self._paths: dict[str, str] = {} if read_path is None else dict.fromkeys(_FIRST_PATHS, read_path)
        self._next_paths: dict[tuple[str, str], str] = {}

    async def allocation(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Allocation:
        """Read one allocation."""
        read = partial(self._one, Allocation, uid)
        return await self._at_read_path(
            "one", lambda path: self._get("get_allocation", read, deadline, path, uid, may_send=may_send), may_send, uid
        )

    async def allocations(self, user_uid: str, deadline: float, *, before_page: BeforePage | None = None) -> Listing[Allocation]:
        """Read all allocations to a user."""
        select = partial(select_all, list[Allocation])
        return await self._at_read_path(
            "list", lambda path: self._list("get_allocations_by_user_uid", select, deadline, path, user_uid, before_page)
        )

    async def allocations_by_nonce(
        self,
        user_uid: str,
        nonces: Collection[str],
        deadline: float,
        *,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
    ) -> Listing[Allocation]:
        """Read the allocations to a user under some nonces; failed ones come last, because they must not hide a paid one."""
        select = partial(select_by_nonce, nonces)
        listing: Listing[Allocation] = await self._at_read_path(
            "list",
            lambda path: self._list("find_allocation", select, deadline, path, user_uid, before_page, may_send),
            may_send,
            user_uid,
        )
        return evolve(listing, found=sorted(listing.found, key=lambda each: each.status is OperationStatus.FAILED))

    async def claim(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Claim:
        """Read one claim."""
        return await self._get("get_claim", partial(self._one, Claim, uid), deadline, "claim", uid, may_send=may_send)

    async def claims(self, user_uid: str, deadline: float) -> Listing[Claim]:
        """Read all claims of a user."""
        return await self._list("get_claims_by_user_uid", partial(select_all, list[Claim]), deadline, "claim", user_uid)

    async def reward(self, uid: str, deadline: float) -> Reward:
        """Read one reward contract."""
        return await self._get("get_reward", partial(_data_of, Reward), deadline, uid)

    async def balance(self, reward_uid: str, user_uid: str, deadline: float) -> Balance:
        """Read how many tokens of a reward a user holds."""
        query = {"reward_uid": reward_uid, "user_uid": user_uid}
        return await self._get("get_balance", partial(_data_of, Balance), deadline, "balance", query=query)

    def checked(self, model: M, uid: str) -> M:
        """Return a model in this app's scope.

        Raises:
            UnexpectedResponse: the model has another uid.
        """
        if model.uid != uid:
            raise UnexpectedResponse(f"data.uid: the answer is about an operation other than {uid}", path="data.uid")
        return self._scoped(model)

    async def _get(
        self,
        operation: str,
        read: Callable[[Answer], T],
        deadline: float,
        *parts: str,
        query: Mapping[str, str] | None = None,
        may_send: MaySend | None = None,
    ) -> T:
        url = self._transport.url("reward", *parts, query=query)
        return await self._transport.get(operation, url, read, deadline, may_send=may_send)

    async def _list(
        self,
        operation: str,
        select: Select,
        deadline: float,
        path: str,
        user_uid: str,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
    ) -> Listing[M]:
        """Read page after page.

        Raises:
            VendorError: the first page could not be read. A failure of a later one is the listing's `problem`.
        """
        held: dict[str, M] = {}  # by uid: an entry created meanwhile can push another one on to the next page
        uids: set[str] = set()
        asked: set[URL] = set()
        url = self._transport.url("reward", path, query={"user_uid": user_uid})
        left, total, pages = MAX_LIST, 0, 0
        problem: VendorError | None = None
        refused = False

        async def may_send_page() -> bool:
            nonlocal refused
            refused = may_send is not None and not await may_send()
            return not refused

        read = partial(read_page, select)
        while True:
            try:
                if asked and before_page is not None:
                    await before_page()
                    deadline = self._transport.deadline()
                page = await self._transport.get(
                    operation, url, read, deadline, max_reply=left, may_send=may_send and may_send_page
                )
            except VendorError as failure:
                if not asked:
                    raise
                if refused and before_page is not None:  # nothing was sent: wait for the page's next turn
                    continue
                problem = failure
                break
            held.update((each.uid, each) for each in page.found)
            problem = problem or page.problem
            uids |= page.uids
            left -= page.size
            total, pages = max(total, page.total), max(pages, page.pages)
            asked.add(url)
            following = None if page.link is None else self._transport.same_origin(page.link, url)
            if following is not None and following not in asked and left > 0:
                url = following
                continue
            if following is not None:
                problem = _incomplete("does not end")
            elif page.link is not None:
                problem = _incomplete("continues on another host, which is never called")
            elif page.more or total > len(uids) or pages > len(asked):
                counted = f"of {total}" if total > len(uids) else "and says that there are more"
                problem = _incomplete(f"shows {len(uids)} {counted}")
            break
        return Listing(found=[self._scoped(each) for each in held.values()], problem=problem)

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

    def _one(self, model: type[M], uid: str, answer: Answer) -> M:
        return self.checked(_data_of(model, answer), uid)

    def _scoped(self, model: M) -> M:
        return model if self._scope == DEFAULT_SCOPE else evolve(model, scope=self._scope)


def read_created(answer: Answer) -> dict[str, Any]:
    """Read the reply to a creation, which holds only the uid.

    Raises:
        UnexpectedResponse: it holds no uid.
    """
    value = loads(answer.body)
    data = value.get("data") if type(value) is dict and value.get("success") is not False else None
    if type(data) is not dict or not is_id(data.get("uid")):
        raise UnexpectedResponse("the reply holds no id of the new operation as data.uid", path="data.uid")
    return data


def _data_of(model: type[T], answer: Answer) -> T:
    return decode(answer.body, model, inside=("data",))


def _incomplete(why: str) -> UnexpectedResponse:
    return UnexpectedResponse(f"the list {why}. It is incomplete: an entry that it does not show may still exist.", path="data")
