"""How Original is asked how things stand, and what became of a nonce that was refused or never answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from original_async.models import ALLOCATION, CLAIM, Allocation, AllocationRequest, Balance, Claim, Reward
from original_async.pages import MAX_LIST, Listing, Select, incomplete, read_page, select_all, select_under
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    OutcomeUnknown,
    RequestRejected,
    RewardsError,
    UnexpectedResponse,
    VendorError,
)
from rewards_core.http.refusals import affirms_existence, names_other_fields
from rewards_core.json import decode, loads
from rewards_core.operations import DEFAULT_SCOPE, OperationStatus
from rewards_core.text import counted
from rewards_core.validation import is_id

if TYPE_CHECKING:
    from yarl import URL

    from rewards_core.http.messages import Answer
    from rewards_core.http.transport import Transport
    from rewards_core.operations import MaySend

T = TypeVar("T")
M = TypeVar("M", bound=Allocation | Claim)

MODELS: Mapping[str, type[Allocation | Claim]] = {ALLOCATION: Allocation, CLAIM: Claim}
READ_PATHS = ("allocation", "allocate")
_ASKED_FIRST = {"one": "allocation", "list": "allocate"}
_MAX_ASKED_NEXT = 10_000

LIST_LAG = 2.0
"""Seconds between two look-ups: a list may lag behind what was created."""
LOOK_UP_TIME = 0.5
"""Seconds that a second look-up must have."""
LONGEST_RESERVE = 5.0
"""Seconds that are kept for the look-up at most; otherwise a fifth of the call's time is."""

_ABOUT = ("nonce", "allocat")


ADVICE = (
    "wait for this error with Completions.wait, or repeat the call with the same nonce and repeated=True; "
    "never use another nonce for it"
)
"""What to do about a creation whose outcome is not known."""


class Lookup:
    """Look up what one app holds.

    Args:
        transport: What carries the calls.
        scope: The scope of every operation read.
        read_path: Where allocations are read, None to find out.
    """

    def __init__(self, transport: Transport, scope: str, read_path: str | None) -> None:
        self._transport = transport
        self._scope = scope
        self._settled: dict[str, str] = {} if read_path is None else dict.fromkeys(_ASKED_FIRST, read_path)
        self._asked_next: dict[tuple[str, str], str] = {}

    async def allocation(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Allocation:
        """Read one allocation."""
        read = partial(self._one, Allocation, uid)
        return await self._at_read_path(
            "one", lambda path: self._ask("get_allocation", read, deadline, path, uid, may_send=may_send), may_send, uid
        )

    async def allocations(
        self, user_uid: str, deadline: float, *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Listing[Allocation]:
        """Read all allocations to a user."""
        select = partial(select_all, list[Allocation])
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
        may_send: MaySend | None = None,
    ) -> Listing[Allocation]:
        """Read those allocations to a user that bear one of the nonces.

        Where there are several of one nonce, a failed one comes last: it must not hide that the tokens were allocated after all.
        """
        select = partial(select_under, nonces)
        listing: Listing[Allocation] = await self._at_read_path(
            "list",
            lambda path: self._list("find_allocation", select, deadline, path, user_uid, before_page, may_send),
            may_send,
            user_uid,
        )
        return evolve(listing, found=sorted(listing.found, key=lambda each: each.status is OperationStatus.FAILED))

    async def claim(self, uid: str, deadline: float, *, may_send: MaySend | None = None) -> Claim:
        """Read one claim."""
        return await self._ask("get_claim", partial(self._one, Claim, uid), deadline, "claim", uid, may_send=may_send)

    async def claims(self, user_uid: str, deadline: float) -> Listing[Claim]:
        """Read all claims of a user."""
        return await self._list("get_claims_by_user_uid", partial(select_all, list[Claim]), deadline, "claim", user_uid)

    async def reward(self, uid: str, deadline: float) -> Reward:
        """Read one reward contract."""
        return await self._ask("get_reward", partial(_inside_data, Reward), deadline, uid)

    async def balance(self, reward_uid: str, user_uid: str, deadline: float) -> Balance:
        """Read what a user holds of a reward."""
        query = {"reward_uid": reward_uid, "user_uid": user_uid}
        return await self._ask("get_balance", partial(_inside_data, Balance), deadline, "balance", query=query)

    def checked(self, model: M, uid: str) -> M:
        """Return a model in this app's scope.

        Raises:
            UnexpectedResponse: it is of another uid.
        """
        if model.uid != uid:
            raise UnexpectedResponse(f"data.uid: the answer is about another operation than {uid}", path="data.uid")
        return self._scoped(model)

    async def _ask(
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
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: MaySend | None = None,
    ) -> Listing[M]:
        """Ask for one page after the other.

        Raises:
            VendorError: the first page could not be read. What is wrong with a later one is the listing's `problem`.
        """
        held: dict[str, M] = {}  # by uid: what is created meanwhile can push an entry on to the next page
        uids: set[str] = set()
        asked: set[URL] = set()
        url = self._transport.url("reward", path, query={"user_uid": user_uid})
        left, total, pages = MAX_LIST, 0, 0
        unreadable: VendorError | None = None
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
            except VendorError as problem:
                if not asked:
                    raise
                if refused and before_page is not None:  # nothing was sent: the page is asked for in its next turn
                    continue
                return Listing(found=[self._scoped(each) for each in held.values()], problem=problem)
            held.update((each.uid, each) for each in page.found)
            unreadable = unreadable or page.problem
            uids |= page.uids
            left -= page.size
            total, pages = max(total, page.total), max(pages, page.pages)
            asked.add(url)
            following = None if page.link is None else self._transport.same_origin(page.link, url)
            if following is not None and following not in asked and left > 0:
                url = following
                continue
            why = None
            if following is not None:
                why = "goes on without an end"
            elif page.link is not None:
                why = "goes on at another host, which is not asked"
            elif page.more or total > len(uids) or pages > len(asked):
                why = f"shows {len(uids)} of {total if total > len(uids) else 'more'}"
            found = [self._scoped(each) for each in held.values()]
            return Listing(found=found, problem=unreadable if why is None else incomplete(why))

    async def _at_read_path(
        self, purpose: str, read: Callable[[str], Awaitable[T]], may_send: MaySend | None = None, about: str = ""
    ) -> T:
        """Read allocations where this vendor has them: until a path has shown any, a 404 or 405 asks under the other one.

        The documents name both. A list asked for under the wrong one may be caught by `/reward/{uid}`, so any 404 counts; a path
        that serves only creations answers 405. A caller that counts requests asks for one thing under one path now, and under the
        other one next time.
        """
        settled = self._settled.get(purpose)
        if settled is not None:
            return await read(settled)
        path = self._asked_next.get((purpose, about), _ASKED_FIRST[purpose])
        try:
            result = await read(path)
        except RequestRejected as problem:
            if problem.status not in {404, 405}:
                raise
            path = next(other for other in READ_PATHS if other != path)
            if may_send is not None:
                self._asked_next[purpose, about] = path
                if len(self._asked_next) > _MAX_ASKED_NEXT:
                    del self._asked_next[next(iter(self._asked_next))]
                raise
            result = await read(path)
        if not isinstance(result, Listing) or result.found:  # an empty list says little about where allocations are
            self._settled[purpose] = path
        return result

    def _one(self, model: type[M], uid: str, answer: Answer) -> M:
        return self.checked(_inside_data(model, answer), uid)

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
        raise UnexpectedResponse("the reply to a creation holds no id as data.uid", path="data.uid")
    return data


def _inside_data(model: type[T], answer: Answer) -> T:
    return decode(answer.body, model, inside=("data",))


async def reconcile(
    request: AllocationRequest,
    trouble: RequestRejected | OutcomeUnknown,
    *,
    repeated: bool,
    look_up: Callable[[], Awaitable[Listing[Allocation]]],
    started: float,
    deadline: float,
) -> Allocation:
    """Return the allocation that exists under the nonce, after a creation that did not end well.

    Args:
        request: What was asked for.
        trouble: How the creation ended: refused although every attempt was answered, or unknown.
        repeated: Whether an earlier call with the nonce may have been sent.
        look_up: Lists the user's allocations that bear the nonce.
        started: When the call began, in the running loop's time.
        deadline: When it must be over.

    Raises:
        Conflict: the nonce is held by an allocation with another reward or amount.
        RequestRejected: `trouble` itself: the vendor refused for another reason than that it knows the nonce, and nothing that
            was sent earlier may have arrived.
        OutcomeUnknown: an attempt or an earlier call may have arrived, or the vendor says that it knows the nonce, and the
            look-ups do not show it; or they prove nothing.
    """
    time = asyncio.get_running_loop().time
    sure = isinstance(trouble, RequestRejected) and not repeated
    looks = 1 if sure and not says_known(trouble) else 2
    for look in range(1, looks + 1):
        try:
            listing = await look_up()
        except RewardsError as problem:  # even one that was not sent must not hide what became of the creation
            trouble.elapsed = time() - started
            if look > 1:
                looks = 1
                break
            raise _unknown(request, trouble, f"looking it up failed ({_ended(problem)})") from problem
        for allocation in listing.found:
            if request.is_met_by(allocation):
                return evolve(allocation, recovered=True)
        trouble.elapsed = time() - started
        rival = _rival(request, listing.found, sure=sure)
        if rival is not None:
            raise _conflict(request, trouble, rival) from trouble
        if listing.problem is not None:
            told = f"the list of the user's allocations is incomplete ({_ended(listing.problem)})"
            raise _unknown(request, trouble, told) from listing.problem
        if look < looks:
            if deadline - time() < LIST_LAG + LOOK_UP_TIME:
                looks = look
                break
            await asyncio.sleep(LIST_LAG)
    if sure and not says_known(trouble):
        raise trouble
    told = f"{looks} look-up{'s' * (looks > 1)} did not show it"
    raise _unknown(request, trouble, told) from trouble


def says_known(refusal: VendorError) -> bool:
    """Return whether a refusal says that the nonce is known, so that its absence from a list proves nothing."""
    return not names_other_fields(refusal, about=_ABOUT) and affirms_existence(refusal, about=_ABOUT)


def _rival(request: AllocationRequest, held: Sequence[Allocation], *, sure: bool) -> Allocation | None:
    """Return what holds the nonce with other content.

    Whether a nonce counts for the app, for one reward or for one user is not documented: where something may have arrived, only
    an allocation of the same reward to the same user proves that what was asked for was not carried out.
    """
    asked = (request.reward_uid, request.to_user_uid)
    return next((each for each in held if sure or (each.reward_uid, each.to_user_uid) == asked), None)


def _ended(problem: RewardsError) -> str:
    """Return in a few words how a look-up ended."""
    if isinstance(problem, (ClientClosed, ConfigurationError, ConnectFailed)):
        return "it was not sent"
    status = getattr(problem, "status", None)
    if isinstance(problem, UnexpectedResponse) and (status is None or status < 300):
        return str(problem).partition("; ")[0] if status is None else "its answer cannot be read"
    return "no answer" if status is None else f"HTTP {status}"


def _conflict(request: AllocationRequest, trouble: VendorError, held: Allocation) -> Conflict:
    return Conflict(
        f"Original create_allocation: nonce {request.nonce!r} already belongs to allocation {held.uid} of {held.amount} from "
        f"{held.reward_uid}, not to {request.amount} from {request.reward_uid}; nothing was created by this call: "
        "use a nonce for one payout only",
        existing=held,
        **_facts(request, trouble),
    )


def _unknown(request: AllocationRequest, trouble: VendorError, told: str) -> OutcomeUnknown:
    if isinstance(trouble, RequestRejected):
        came = f"the vendor refused ({str(trouble).partition(': ')[2]})"
    else:
        answer = "no answer" if trouble.status is None else f"HTTP {trouble.status}"
        came = answer if trouble.attempts == 1 else f"{answer} in the last of {counted(trouble.attempts, 'attempt')}"
    return OutcomeUnknown(
        f"Original create_allocation: it is not known whether nonce {request.nonce!r} was carried out: {came}, and {told}; "
        "it may have been carried out",
        request=request,
        advice=ADVICE,
        **_facts(request, trouble),
    )


def _facts(request: AllocationRequest, trouble: VendorError) -> dict[str, Any]:
    return {
        "status": trouble.status,
        "code": trouble.code,
        "details": trouble.details,
        "request_id": trouble.request_id,
        "attempts": trouble.attempts,
        "elapsed": trouble.elapsed,
        "idempotency_key": request.nonce,
    }
