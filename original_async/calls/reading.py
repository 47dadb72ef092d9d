"""Read what one app holds at Original: single objects, and lists over all their pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import evolve

from original_async.calls.pages import Listing, Select, read_page, select_all
from rewards_core.errors import UnexpectedResponse, VendorError
from rewards_core.json import decode, loads
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import is_id

if TYPE_CHECKING:
    from yarl import URL

    from rewards_core.http.messages import Answer
    from rewards_core.http.transport import Transport
    from rewards_core.operations import MaySend

T = TypeVar("T")
M = TypeVar("M", bound=Any)
BeforePage = Callable[[], Awaitable[object]]

MAX_LIST = 256 * 1024 * 1024
"""Bytes of all pages of one list together."""


class Reader:
    """Read objects of one app.

    Args:
        transport: Sends the requests.
        scope: The scope of the models returned.
    """

    def __init__(self, transport: Transport, scope: str) -> None:
        self.transport = transport
        self.scope = scope

    def get(
        self,
        operation: str,
        read: Callable[[Answer], T],
        deadline: float,
        *path: str,
        query: Mapping[str, str] | None = None,
        may_send: MaySend | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Read what is at a path."""
        return self.transport.get(operation, self.transport.url(*path, query=query), read, deadline, may_send=may_send)

    def one(
        self, operation: str, model: type[M], uid: str, deadline: float, *path: str, may_send: MaySend | None = None
    ) -> Coroutine[Any, Any, M]:
        """Read the object of a uid, below a path.

        Raises:
            UnexpectedResponse: the answer is about another object.
        """
        return self.get(operation, partial(self._one, model, uid), deadline, *path, uid, may_send=may_send)

    async def all(
        self, operation: str, model: type[M], user_uid: str, deadline: float, *path: str, before_page: BeforePage | None = None
    ) -> Listing[M]:
        """Read all objects of a user."""
        select = partial(select_all, list[model])  # type: ignore[valid-type]
        return await self.listing(operation, select, user_uid, deadline, *path, before_page=before_page)

    async def listing(
        self,
        operation: str,
        select: Select,
        user_uid: str,
        deadline: float,
        *path: str,
        before_page: BeforePage | None = None,
        may_send: MaySend | None = None,
    ) -> Listing[Any]:
        """Read a user's list page after page.

        Raises:
            VendorError: the first page could not be read. A failure of a later one is the listing's `problem`.
        """
        transport = self.transport
        held: dict[str, Any] = {}  # by uid: an entry created meanwhile can push another one on to the next page
        uids: set[str] = set()
        asked: set[URL] = set()
        url = transport.url(*path, query={"user_uid": user_uid})
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
                    deadline = transport.deadline()
                page = await transport.get(operation, url, read, deadline, max_reply=left, may_send=may_send and may_send_page)
            except VendorError as failure:
                if not asked:
                    raise
                if refused and before_page is not None:  # nothing was sent: wait for the page's next turn
                    continue
                problem = failure
                break
            held.update((each.uid, each) for each in page.found)
            problem = problem or page.problem
            shows_more = not page.uids <= uids
            uids |= page.uids
            left -= page.size
            total, pages = max(total, page.total), max(pages, page.pages)
            asked.add(url)
            following = None if page.link is None else transport.same_origin(page.link, url)
            if following is not None and following not in asked and shows_more and left > 0:
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
        return Listing(found=[self.scoped(each) for each in held.values()], problem=problem)

    def checked(self, model: M, uid: str) -> M:
        """Return a model in this app's scope.

        Raises:
            UnexpectedResponse: the model has another uid.
        """
        if model.uid != uid:
            raise UnexpectedResponse(f"data.uid: the answer is about something other than {uid}", path="data.uid")
        return self.scoped(model)

    def scoped(self, model: M) -> M:
        """Return a model in this app's scope."""
        return model if self.scope == DEFAULT_SCOPE else evolve(model, scope=self.scope)

    def _one(self, model: type[M], uid: str, answer: Answer) -> M:
        return self.checked(data_of(model, answer), uid)


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


def read_accepted(answer: Answer) -> dict[str, Any]:
    """Read the reply to an edit, which holds nothing.

    Raises:
        UnexpectedResponse: it does not say that the edit was accepted.
    """
    value = loads(answer.body)
    if type(value) is not dict or value.get("success") is not True:
        raise UnexpectedResponse("the reply does not say success", path="success")
    return value


def data_of(model: type[T], answer: Answer) -> T:
    """Read the model inside the envelope.

    Raises:
        UnexpectedResponse: it is not there, or cannot be read.
    """
    return decode(answer.body, model, inside=("data",))


def data_or_none(model: type[T], answer: Answer) -> T | None:
    """Read the model inside the envelope, None if the vendor says that nothing matches: `{"success": false, "data": null}`.

    Raises:
        UnexpectedResponse: the answer is neither.
    """
    return decode(answer.body, model | None, inside=("data",))  # type: ignore[arg-type]


def _incomplete(why: str) -> UnexpectedResponse:
    return UnexpectedResponse(f"the list {why}. It is incomplete: an entry that it does not show may still exist.", path="data")
