"""Read a page of an Original list: its entries, its next page, and whether it says that the list is incomplete.

No pagination is documented. Where an answer links a next page, the link is followed inside the same origin; where it says in any
other way that there is more than it shows, the list is incomplete, and an entry missing from it may still exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from attrs import frozen

from rewards_core.errors import UnexpectedResponse, VendorError
from rewards_core.json import loads, structure
from rewards_core.validation import is_id

if TYPE_CHECKING:
    from rewards_core.http.messages import Answer

T = TypeVar("T")
M = TypeVar("M")

_LIST_NAMES = ("results", "items", "data")
_PAGING_OBJECTS = frozenset({"pagination", "paging", "pageinfo", "page", "meta", "links"})
_NEXT_NAMES = frozenset({"next", "nextpage", "nexturl", "nextlink", "nextpageurl", "nexthref"})
_TOTAL_NAMES = frozenset({"count", "total", "totalcount", "totalitems", "totalresults", "totalrecords", "totalelements"})
_TOTAL_HEADERS = ("X-Total-Count", "X-Total")
_PAGE_COUNT_NAMES = frozenset({"pages", "totalpages", "numpages", "pagecount", "lastpage"})
_links = re.compile(r'<([^>]*)>((?:\s*;\s*[^;,="]+(?:=(?:"[^"]*"|[^;,"]*))?)*)').finditer
_relations = re.compile(r';\s*rel\s*=\s*"?([^";,]*)', re.IGNORECASE).findall


@frozen(kw_only=True)
class Listing(Generic[T]):
    """The entries of a list that were asked for, in the list's order, and why the list may be incomplete, if it may."""

    found: Sequence[T]
    problem: VendorError | None = None

    def all(self) -> list[T]:
        """Return the entries of a complete list.

        Raises:
            VendorError: the list may be incomplete.
        """
        if self.problem is not None:
            raise self.problem
        return list(self.found)


class Page(NamedTuple):
    """One answer: the entries asked for, the uids of all entries, and what it says about further pages."""

    found: Sequence[Any]
    problem: VendorError | None
    uids: frozenset[Any]
    size: int
    total: int
    pages: int
    link: str | None
    more: bool


Select: TypeAlias = "Callable[[Sequence[Any]], tuple[Sequence[Any], VendorError | None]]"
"""Parses the entries that are asked for, and returns why one that may belong to them cannot be read."""


def select_all(models: type[list[M]], entries: Sequence[Any]) -> tuple[list[M], None]:
    """Parse every entry.

    Raises:
        UnexpectedResponse: an entry cannot be read.
    """
    return structure(entries, models, path="data"), None


def select_by_key(
    model: type[M], name: str, keys: Collection[str], entries: Sequence[Any]
) -> tuple[list[M], UnexpectedResponse | None]:
    """Parse only the entries whose member `name` is one of the keys, so that an unreadable entry elsewhere does not hide them."""
    found: list[M] = []
    problem: UnexpectedResponse | None = None
    for entry in entries:
        if isinstance(entry, dict) and isinstance(key := entry.get(name), (str, int)) and str(key) in keys:
            if not is_id(entry.get("uid")):
                problem = UnexpectedResponse("an entry has a uid that cannot be asked for or stored", path="data.uid")
                continue
            try:
                found.append(structure(entry, model, path="data"))
            except UnexpectedResponse as unreadable:
                problem = unreadable
    return found, problem


def read_page(select: Select, answer: Answer) -> Page:
    """Read one page.

    Raises:
        UnexpectedResponse: the answer holds no list, or an entry that is asked for cannot be read.
    """
    body = loads(answer.body)
    envelope: Mapping[str, Any] = body if isinstance(body, dict) else {}
    objects: list[Mapping[str, Any]] = [envelope]
    entries = envelope.get("data", envelope.get("results"))
    if isinstance(entries, dict):
        objects.append(entries)
        entries = next((entries[name] for name in _LIST_NAMES if isinstance(entries.get(name), list)), None)
    if not isinstance(entries, list) or envelope.get("success") is False:
        raise UnexpectedResponse("the answer holds no list in data", path="data")
    members = [(_folded(name), value) for each in objects for name, value in each.items()]
    members += [
        (_folded(name), value)
        for outer, each in members
        if outer in _PAGING_OBJECTS and isinstance(each, dict)
        for name, value in each.items()
    ]
    links = [value.get("href", value) if isinstance(value, dict) else value for name, value in members if name in _NEXT_NAMES]
    link = next((value for value in links if value), None) or _next_in(answer.headers.get("Link", ""))
    found, problem = select(entries)
    totals = [_count(value) for name, value in members if name in _TOTAL_NAMES]
    return Page(
        found=found,
        problem=problem,
        uids=frozenset(uid for entry in entries if isinstance(entry, dict) and isinstance(uid := entry.get("uid"), str)),
        size=len(answer.body),
        total=max(*totals, *(_count(answer.headers.get(name)) for name in _TOTAL_HEADERS)),
        pages=max((_count(value) for name, value in members if name in _PAGE_COUNT_NAMES), default=0),
        link=link if isinstance(link, str) else None,
        more=(link is not None and not isinstance(link, str)) or any(_says_more(name, value) for name, value in members),
    )


def _says_more(name: str, value: object) -> bool:
    """Return whether a member says, in a way that cannot be followed, that there is more."""
    if name in _NEXT_NAMES or not value:
        return name in {"last", "islast", "islastpage"} and value is False
    return "next" in name or "more" in name or "truncated" in name


def _next_in(header: str) -> str | None:
    """Return the next page that a Link header names (RFC 8288)."""
    for found in _links(header):
        if any("next" in relation.lower().split() for relation in _relations(found[2])):
            return found[1]
    return None


def _folded(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _count(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if type(value) is int else 0
