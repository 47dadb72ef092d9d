"""Lists of Original, page after page: what they show, and whether that is all there is.

No page is documented. Where an answer names a next page it is followed inside the same host; where it says in any other way that
there is more than it shows, the list is incomplete, and what is missing from it is no proof of anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from attrs import frozen

from original_async.models import Allocation, Claim
from rewards_core.errors import UnexpectedResponse, VendorError
from rewards_core.json import loads, structure

if TYPE_CHECKING:
    from rewards_core.http.messages import Answer

T = TypeVar("T")
M = TypeVar("M", bound=Allocation | Claim)

MAX_LIST = 256 * 1024 * 1024
"""Bytes of all pages of one list together."""

_LISTS = ("results", "items", "data")
_ASIDE = frozenset({"pagination", "paging", "pageinfo", "page", "meta", "links"})
_NEXT = frozenset({"next", "nextpage", "nexturl", "nextlink", "nextpageurl", "nexthref"})
_SHOWN_IN_ALL = frozenset({"count", "total", "totalcount", "totalitems", "totalresults", "totalrecords", "totalelements"})
_COUNTING_HEADERS = ("X-Total-Count", "X-Total")
_PAGES_IN_ALL = frozenset({"pages", "totalpages", "numpages", "pagecount", "lastpage"})
_link = re.compile(r'<([^>]*)>((?:\s*;\s*[^;,="]+(?:=(?:"[^"]*"|[^;,"]*))?)*)').finditer
_relations = re.compile(r';\s*rel\s*=\s*"?([^";,]*)', re.IGNORECASE).findall


@frozen(kw_only=True)
class Listing(Generic[T]):
    """What a list showed.

    Attributes:
        found: What was looked for, in the list's order.
        problem: Why the list is not known to be complete; None if it is.
    """

    found: Sequence[T]
    problem: VendorError | None = None

    def all(self) -> list[T]:
        """Return what was found in a complete list.

        Raises:
            VendorError: the list is not known to be complete.
        """
        if self.problem is not None:
            raise self.problem
        return list(self.found)


class Page(NamedTuple):
    """One answer: what was looked for in it, the uids of all it shows, and what it says about further pages."""

    found: Sequence[Any]
    problem: VendorError | None
    uids: frozenset[Any]
    size: int
    total: int
    pages: int
    link: str | None
    more: bool


Select: TypeAlias = "Callable[[Sequence[Any]], tuple[Sequence[Any], VendorError | None]]"
"""Makes of the entries of a list what is looked for, and says why an entry that may be it cannot be read."""


def select_all(models: type[list[M]], entries: Sequence[Any]) -> tuple[list[M], None]:
    """Read every entry.

    Raises:
        UnexpectedResponse: one of them cannot be read.
    """
    return structure(entries, models, path="data"), None


def select_under(nonces: Collection[str], entries: Sequence[Any]) -> tuple[list[Allocation], UnexpectedResponse | None]:
    """Read only the allocations of some nonces, so that an odd one elsewhere in the list does not hide them."""
    found: list[Allocation] = []
    problem: UnexpectedResponse | None = None
    for entry in entries:
        if isinstance(entry, dict) and isinstance(nonce := entry.get("nonce"), (str, int)) and str(nonce) in nonces:
            try:
                found.append(structure(entry, Allocation, path="data"))
            except UnexpectedResponse as unreadable:
                problem = unreadable
    return found, problem


def read_page(select: Select, answer: Answer) -> Page:
    """Read one page.

    Args:
        select: Makes of the entries what is looked for.
        answer: The vendor's reply.

    Raises:
        UnexpectedResponse: it holds no list, or `select` cannot make of it what all is.
    """
    body = loads(answer.body)
    envelope: Mapping[str, Any] = body if isinstance(body, dict) else {}
    told: list[Mapping[str, Any]] = [envelope]
    entries = envelope.get("data", envelope.get("results"))
    if isinstance(entries, dict):
        told.append(entries)
        entries = next((entries[name] for name in _LISTS if isinstance(entries.get(name), list)), None)
    if not isinstance(entries, list) or envelope.get("success") is False:
        raise UnexpectedResponse("the answer holds no list in data", path="data")
    said = [(_folded(name), value) for each in told for name, value in each.items()]
    said += [
        (_folded(name), value)
        for aside, each in said
        if aside in _ASIDE and isinstance(each, dict)
        for name, value in each.items()
    ]
    nexts = [value.get("href", value) if isinstance(value, dict) else value for name, value in said if name in _NEXT]
    link = next((value for value in nexts if value), None) or _next_in(answer.headers.get("Link", ""))
    found, problem = select(entries)
    counts = [_whole(value) for name, value in said if name in _SHOWN_IN_ALL]
    return Page(
        found=found,
        problem=problem,
        uids=frozenset(uid for entry in entries if isinstance(entry, dict) and isinstance(uid := entry.get("uid"), str)),
        size=len(answer.body),
        total=max(*counts, *(_whole(answer.headers.get(name)) for name in _COUNTING_HEADERS)),
        pages=max((_whole(value) for name, value in said if name in _PAGES_IN_ALL), default=0),
        link=link if isinstance(link, str) else None,
        more=(link is not None and not isinstance(link, str)) or any(_says_more(name, value) for name, value in said),
    )


def _says_more(name: str, value: object) -> bool:
    """Return whether a member of an answer says, in a way that cannot be followed, that there is more."""
    if name in _NEXT or not value:
        return name in {"last", "islast", "islastpage"} and value is False
    return "next" in name or "more" in name or "truncated" in name


def _next_in(header: str) -> str | None:
    """Return the next page that a Link header names (RFC 8288)."""
    for found in _link(header):
        if any("next" in relation.lower().split() for relation in _relations(found[2])):
            return found[1]
    return None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _whole(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if type(value) is int else 0


def incomplete(why: str) -> UnexpectedResponse:
    """Return the error of a list that does not show all."""
    return UnexpectedResponse(f"the list {why}; it is incomplete, and what it does not show may exist all the same", path="data")
