"""How Original is asked how things stand, and how its answers become models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from original_async.lists import Listing, Page, Select, follow, read_page
from original_async.models import ALLOCATION, CLAIM, Allocation, Balance, Claim, Reward
from rewards_core.errors import RequestRejected, UnexpectedResponse
from rewards_core.http.calls import MAX_REPLY, Answer, Effect, Request
from rewards_core.json import decode, loads, structure
from rewards_core.operations import DEFAULT_SCOPE, OperationRef, OperationStatus
from rewards_core.validation import is_id

if TYPE_CHECKING:
    from yarl import URL

    from rewards_core.http.transport import Transport

T = TypeVar("T")
M = TypeVar("M", bound=Allocation | Claim)

MODELS: Mapping[str, type[Allocation | Claim]] = {ALLOCATION: Allocation, CLAIM: Claim}
READ_PATHS = ("allocation", "allocate")
_ASKED_FIRST = {"one": "allocation", "list": "allocate"}


class Reader:
    """Read what one app holds.

    Args:
        transport: What carries the calls.
        scope: The scope of every operation read.
        read_path: Where allocations are read, None to find out.
    """

    def __init__(self, transport: Transport, scope: str, read_path: str | None) -> None:
        self._transport = transport
        self._scope = scope
        self._settled: dict[str, str] = {} if read_path is None else dict.fromkeys(_ASKED_FIRST, read_path)

    async def allocation(self, uid: str, deadline: float) -> Allocation:
        """Read one allocation."""
        read = partial(self._one, Allocation, uid)
        return await self._at_read_path("one", lambda path: self._ask("get_allocation", read, deadline, path, uid))

    async def allocations(
        self, user_uid: str, deadline: float, *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Listing[Allocation]:
        """Read all allocations to a user."""
        select = partial(self._all, list[Allocation])
        return await self._at_read_path(
            "list", lambda path: self._list("get_allocations_by_user_uid", select, deadline, path, user_uid, before_page)
        )

    async def under_nonces(
        self,
        user_uid: str,
        nonces: Collection[str],
        deadline: float,
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
    ) -> Listing[Allocation]:
        """Read those allocations to a user that bear one of the nonces.

        Where there are several of one nonce, a failed one comes last: it must not hide that the tokens were allocated after all.
        """
        select = partial(self._bearing, nonces)
        listing: Listing[Allocation] = await self._at_read_path(
            "list", lambda path: self._list("find_allocation", select, deadline, path, user_uid, before_page)
        )
        return evolve(listing, found=sorted(listing.found, key=lambda each: each.status is OperationStatus.FAILED))

    async def claim(self, uid: str, deadline: float) -> Claim:
        """Read one claim."""
        return await self._ask("get_claim", partial(self._one, Claim, uid), deadline, "claim", uid)

    async def claims(self, user_uid: str, deadline: float) -> Listing[Claim]:
        """Read all claims of a user."""
        return await self._list("get_claims_by_user_uid", partial(self._all, list[Claim]), deadline, "claim", user_uid)

    async def reward(self, uid: str, deadline: float) -> Reward:
        """Read one reward contract."""
        return await self._ask("get_reward", partial(_inside_data, Reward), deadline, uid)

    async def balance(self, reward_uid: str, user_uid: str, deadline: float) -> Balance:
        """Read what a user holds of a reward."""
        query = {"reward_uid": reward_uid, "user_uid": user_uid}
        return await self._ask("get_balance", partial(_inside_data, Balance), deadline, "balance", query=query)

    def parse(self, ref: OperationRef, resource: Mapping[str, Any]) -> Allocation | Claim:
        """Build the model of a JSON object that should be a certain operation.

        Raises:
            UnexpectedResponse: it is no complete resource of that kind and uid.
        """
        model: Allocation | Claim = structure(resource, MODELS[ref.kind])
        return self._checked(model, ref.uid)

    async def _ask(
        self,
        operation: str,
        read: Callable[[Answer], T],
        deadline: float,
        *parts: str,
        query: Mapping[str, str] | None = None,
    ) -> T:
        return await self._get(operation, read, deadline, self._transport.url("reward", *parts, query=query))

    async def _list(
        self,
        operation: str,
        select: Select,
        deadline: float,
        path: str,
        user_uid: str,
        before_page: Callable[[], Awaitable[object]] | None = None,
    ) -> Listing[M]:
        first = self._transport.url("reward", path, query={"user_uid": user_uid})
        read = partial(read_page, select)

        async def ask(url: URL, limit: int) -> Page:
            until = deadline
            if before_page is not None and url != first:
                await before_page()
                until = self._transport.deadline()
            return await self._get(operation, read, until, url, max_reply=limit)

        return await follow(first, ask, self._transport.same_origin)

    async def _get(
        self, operation: str, read: Callable[[Answer], T], deadline: float, url: URL, *, max_reply: int = MAX_REPLY
    ) -> T:
        request = Request(
            operation=operation, method="GET", url=url, effect=Effect.READ, read=read, deadline=deadline, max_reply=max_reply
        )
        return await self._transport.call(request)

    async def _at_read_path(self, purpose: str, read: Callable[[str], Awaitable[T]]) -> T:
        """Read allocations where this vendor has them: until a path has shown any, a 404 or 405 asks under the other one.

        The documents name both. A list asked for under the wrong one may be caught by `/reward/{uid}`, so any 404 counts; a path
        that serves only creations answers 405.
        """
        settled = self._settled.get(purpose)
        if settled is not None:
            return await read(settled)
        path = _ASKED_FIRST[purpose]
        try:
            result = await read(path)
        except RequestRejected as problem:
            if problem.status not in {404, 405}:
                raise
            path = next(other for other in READ_PATHS if other != path)
            result = await read(path)
        if not isinstance(result, Listing) or result.found:  # an empty list says little about where allocations are
            self._settled[purpose] = path
        return result

    def _one(self, model: type[M], uid: str, answer: Answer) -> M:
        return self._checked(_inside_data(model, answer), uid)

    def _all(self, models: type[list[M]], entries: Sequence[Any]) -> tuple[list[M], None]:
        return [self._scoped(each) for each in structure(entries, models, path="data")], None

    def _bearing(self, nonces: Collection[str], entries: Sequence[Any]) -> tuple[list[Allocation], UnexpectedResponse | None]:
        """Read only the allocations of some nonces, so that an odd one elsewhere in the list does not hide them."""
        found: list[Allocation] = []
        problem: UnexpectedResponse | None = None
        for entry in entries:
            if isinstance(entry, dict) and isinstance(nonce := entry.get("nonce"), (str, int)) and str(nonce) in nonces:
                try:
                    found.append(self._scoped(structure(entry, Allocation, path="data")))
                except UnexpectedResponse as unreadable:
                    problem = unreadable
        return found, problem

    def _checked(self, model: M, uid: str) -> M:
        if model.uid != uid:
            raise UnexpectedResponse(f"data.uid: expected {uid}, got another; it speaks of another operation", path="data.uid")
        return self._scoped(model)

    def _scoped(self, model: M) -> M:
        return model if self._scope == DEFAULT_SCOPE else evolve(model, scope=self._scope)


def read_created(answer: Answer) -> dict[str, Any]:
    """Read the reply to a creation, which holds the uid alone.

    Raises:
        UnexpectedResponse: it holds none.
    """
    value = loads(answer.body)
    data = value.get("data") if type(value) is dict and value.get("success") is not False else None
    if type(data) is not dict or not is_id(data.get("uid")):
        raise UnexpectedResponse("expected an id as data.uid in the reply to a creation, got none", path="data.uid")
    return data


def _inside_data(model: type[T], answer: Answer) -> T:
    return decode(answer.body, model, inside=("data",))
